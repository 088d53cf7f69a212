//! [`Contract`]: the parameters of a kind, and the check of what is known before a run.
//!
//! Owns the one rule for expressions: a value that holds `${{` is known only at run time
//! and is passed over. Unknown and missing keys are refused by the engine, which reads
//! the same parameters.

use std::fmt;

use dandori::{Parameter, StepError, parse_input};
use jsonschema::Validator;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// The schema of any text.
pub(crate) const TEXT: &str = r#"{"type":"string"}"#;
/// The schema of a text that is not empty.
pub(crate) const NAME: &str = r#"{"type":"string","minLength":1}"#;
/// The schema of a truth value.
pub(crate) const TRUTH: &str = r#"{"type":"boolean"}"#;
/// The schema of an object whose values are texts.
pub(crate) const TEXTS: &str =
    r#"{"type":"object","additionalProperties":{"type":"string"}}"#;

/// The parameters of a kind with their schemas compiled once.
pub(crate) struct Contract {
    parameters: Vec<Parameter>,
    validators: Vec<Option<Validator>>,
    output: &'static str,
}

impl Contract {
    /// Compiles the schemas.
    pub(crate) fn new<const N: usize>(parameters: [Parameter; N]) -> Self {
        let compile = |parameter: &Parameter| {
            if parameter.schema.is_empty() {
                return None;
            }
            let schema = serde_json::from_str(&parameter.schema);
            let schema: Value =
                schema.expect("the schema of a ready-made kind is JSON");
            let validator = jsonschema::validator_for(&schema);
            Some(validator.expect("the schema of a ready-made kind is valid"))
        };
        let validators = parameters.iter().map(compile).collect();
        Self { parameters: parameters.into(), validators, output: "true" }
    }

    /// Says what the output looks like, as a JSON Schema.
    pub(crate) fn gives(mut self, output: &'static str) -> Self {
        self.output = output;
        self
    }

    /// Returns the schema of the output.
    pub(crate) fn output(&self) -> &str {
        self.output
    }

    /// Returns the parameters in order.
    pub(crate) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Refuses values of a wrong type.
    pub(crate) fn check(&self, with: &Value) -> Result<(), String> {
        for (parameter, validator) in self.parameters.iter().zip(&self.validators) {
            let (Some(value), Some(validator)) =
                (with.get(parameter.name.as_ref()), validator)
            else {
                continue;
            };
            if has_expression(value) {
                continue;
            }
            if let Some(error) = validator.iter_errors(value).next() {
                return Err(format!(
                    "`{}{}`: {error}",
                    parameter.name,
                    error.instance_path()
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Contract").field(&self.parameters).finish()
    }
}

/// Whether a value is known only at run time.
pub(crate) fn has_expression(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${{"),
        Value::Array(items) => items.iter().any(has_expression),
        Value::Object(entries) => entries
            .iter()
            .any(|(key, value)| key.contains("${{") || has_expression(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Returns a text that is known before the run.
pub(crate) fn static_text<'w>(with: &'w Value, name: &str) -> Option<&'w str> {
    with.get(name).filter(|value| !has_expression(value)).and_then(Value::as_str)
}

/// Refuses a `with:` that has both or none of two keys. Without any `with:` at all the
/// engine has the better words.
pub(crate) fn exactly_one(with: &Value, one: &str, other: &str) -> Result<(), String> {
    if !with.is_object() {
        return Ok(());
    }
    match (with.get(one).is_some(), with.get(other).is_some()) {
        (true, true) => Err(format!("give `{one}` or `{other}`, not both")),
        (false, false) => Err(format!("give `{one}` or `{other}`")),
        (true, false) | (false, true) => Ok(()),
    }
}

/// Reads the input of an attempt; null stands for no arguments.
pub(crate) fn read_input<T: DeserializeOwned>(
    input: &RawValue,
) -> Result<T, StepError> {
    if input.get().trim() == "null" {
        return serde_json::from_str("{}")
            .map_err(|error| StepError::fail("invalid_input", error));
    }
    parse_input(input)
}

/// Reads an optional JSON value of which null is one: `Option` takes null for absent.
pub(crate) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// An input that no further attempt makes better.
pub(crate) fn invalid(reason: impl fmt::Display) -> StepError {
    StepError::fail("invalid_input", reason)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn static_values_are_checked_and_expressions_are_not() {
        let contract = Contract::new([
            Parameter::required(
                "argv",
                r#"{"type":"array","items":{"type":"string"}}"#,
            ),
            Parameter::optional("any", ""),
        ]);
        assert_eq!(
            contract.check(&json!({"argv": ["a", "${{ b }}"], "any": 5})),
            Ok(())
        );
        assert_eq!(contract.check(&json!({"argv": "${{ inputs.argv }}"})), Ok(()));
        let refused = contract.check(&json!({"argv": ["a", 5]})).unwrap_err();
        assert!(refused.starts_with("`argv/1`: 5 is not of type"), "{refused}");
    }

    #[test]
    fn exactly_one_of_two_keys_is_accepted() {
        assert!(exactly_one(&json!({"a": 1}), "a", "b").is_ok());
        assert!(exactly_one(&json!({"a": 1, "b": 1}), "a", "b").is_err());
        assert!(exactly_one(&json!({}), "a", "b").is_err());
    }
}
