//! Expressions: `${{ … }}` in documents, minijinja's language, deterministic, with fuel.
//!
//! Owns finding expressions in texts, evaluating them against [`Names`], and listing what
//! they refer to. No I/O: the caller looks up what [`references`] lists.

mod check;
mod names;
mod scan;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use minijinja::{
    Environment as Engine, Error as JinjaError, ErrorKind, Expression,
    UndefinedBehavior, Value,
};
use serde_json::value::RawValue;

pub use self::{
    check::{Fault, check, is_filter},
    names::{Names, json},
    scan::{Part, Reference, Unclosed, references, split},
};
use crate::{StepError, plan::Dynamic};

/// What an evaluation may cost, in instructions of the expression machine.
const FUEL: u64 = 200_000;

/// The longest expression, in bytes.
const LONGEST: usize = 64 * 1024;

/// The most operators and members in an expression. The language nests one level for
/// each, on the stack of whoever looks at it.
const MOST_PARTS: usize = 500;

/// The longest evaluated value, in bytes of JSON.
pub const MAX_VALUE: usize = 16 * 1024 * 1024;

fn failed(message: impl std::fmt::Display) -> StepError {
    StepError::fail("expression", message)
}

fn engine() -> &'static Engine<'static> {
    static ENGINE: OnceLock<Engine<'static>> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut engine = Engine::new();
        engine.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        engine.set_fuel(Some(FUEL));
        engine.set_recursion_limit(64);
        // Null passes `default`: the output of an allowed failure is null.
        engine.add_filter("default", |value: Value, other: Option<Value>| {
            if value.is_undefined() || value.is_none() {
                other.unwrap_or_else(|| Value::from(""))
            } else {
                value
            }
        });
        engine.add_filter("json", |value: Value| {
            serde_json::to_string(&value).map_err(|error| {
                JinjaError::new(ErrorKind::BadSerialization, error.to_string())
            })
        });
        // What differs between two evaluations, or writes elsewhere, has no place here.
        engine.remove_global("debug");
        engine
    })
}

/// Compiles an expression that is not too long and not too deep.
fn compile(expression: &str) -> Result<Expression<'_, '_>, JinjaError> {
    let refused = |message: String| JinjaError::new(ErrorKind::SyntaxError, message);
    if expression.len() > LONGEST {
        return Err(refused(format!("the expression is over {LONGEST} bytes")));
    }
    if scan::parts(expression) > MOST_PARTS {
        let message = format!("the expression has over {MOST_PARTS} operators");
        return Err(refused(message));
    }
    engine().compile_expression(expression)
}

/// The names that an expression takes from its surroundings, unsorted.
pub fn roots(expression: &str) -> Vec<String> {
    compile(expression)
        .map(|compiled| compiled.undeclared_variables(false).into_iter().collect())
        .unwrap_or_default()
}

/// Evaluates one expression.
///
/// # Errors
/// `expression`, permanent: it would fail again.
pub fn evaluate(expression: &str, names: &Names) -> Result<Value, StepError> {
    let compiled = compile(expression).map_err(|error| failed(describe(&error)))?;
    let value = compiled
        .eval(names.root())
        .map_err(|error| failed(format!("{} in `{expression}`", describe(&error))))?;
    if value.is_undefined() {
        let message =
            format!("`{expression}` is undefined; `| default(…)` gives it a value");
        return Err(failed(message));
    }
    Ok(value)
}

/// Evaluates a condition: the value must be a boolean.
///
/// # Errors
/// `expression`, permanent: it would fail again.
pub fn condition(expression: &str, names: &Names) -> Result<bool, StepError> {
    let value = evaluate(expression, names)?;
    bool::try_from(value.clone())
        .map_err(|_| failed(format!("`{expression}` is {value}, not true or false")))
}

/// Evaluates all expressions in a JSON value. A text that is only one expression becomes
/// its value; inside other text, texts appear as they are and other values as JSON.
///
/// # Errors
/// `expression`, permanent: it would fail again.
pub fn render(dynamic: &Dynamic, names: &Names) -> Result<Box<RawValue>, StepError> {
    let value = if dynamic.has_expressions() {
        let mut value = dynamic.value();
        render_value(&mut value, names)?;
        value
    } else {
        return Ok(dynamic.raw().to_owned());
    };
    let raw = serde_json::value::to_raw_value(&value).map_err(failed)?;
    if raw.get().len() > MAX_VALUE {
        return Err(failed(format!("the value is over {MAX_VALUE} bytes")));
    }
    Ok(raw)
}

/// Documents nest at most 128 deep, so this recursion is bounded.
fn render_value(value: &mut serde_json::Value, names: &Names) -> Result<(), StepError> {
    match value {
        serde_json::Value::String(text) if text.contains("${{") => {
            *value = render_text(text, names)?;
        }
        serde_json::Value::Array(items) => {
            for item in items {
                render_value(item, names)?;
            }
        }
        serde_json::Value::Object(entries) => {
            for (_, item) in entries.iter_mut() {
                render_value(item, names)?;
            }
        }
        serde_json::Value::String(_)
        | serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_) => {}
    }
    Ok(())
}

fn render_text(text: &str, names: &Names) -> Result<serde_json::Value, StepError> {
    let parts = split(text).map_err(failed)?;
    if let [Part::Expression(expression)] = parts.as_slice() {
        return to_json(&evaluate(expression, names)?);
    }
    let mut out = String::with_capacity(text.len());
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(&text),
            Part::Expression(expression) => {
                match to_json(&evaluate(expression, names)?)? {
                    serde_json::Value::String(text) => out.push_str(&text),
                    other => out.push_str(&other.to_string()),
                }
            }
        }
        if out.len() > MAX_VALUE {
            return Err(failed(format!("the text is over {MAX_VALUE} bytes")));
        }
    }
    Ok(serde_json::Value::String(out))
}

fn to_json(value: &Value) -> Result<serde_json::Value, StepError> {
    serde_json::to_value(value).map_err(failed)
}

/// An error of the expression language as a lower-case fragment.
fn describe(error: &JinjaError) -> String {
    let mut text = error.kind().to_string();
    if let Some(detail) = error.detail() {
        text = format!("{text}: {detail}");
    }
    text
}
