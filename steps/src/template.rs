//! `template.render`: text from a template and values.
//!
//! Owns the limits of a rendering. The result is text and is never expanded again; nothing
//! is escaped for HTML unless the template says `|e`.

use std::{
    io::{self, Write},
    sync::Arc,
};

use async_trait::async_trait;
use dandori::{Context, Handler, Outcome, Parameter, StepError};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    contract::{Contract, NAME, TEXT, exactly_one, invalid, read_input, static_text},
    file::{self, Root},
};

/// Instructions of a rendering: some tenths of a second of work.
const FUEL: u64 = 10_000_000;

/// The longest text: an output cannot be larger.
const MAX_TEXT: usize = 16 * 1024 * 1024;

/// Handler of `template.render`.
#[derive(Debug)]
pub(crate) struct Render {
    contract: Contract,
    root: Arc<Root>,
}

impl Render {
    pub(crate) fn new(root: Arc<Root>) -> Self {
        let contract = Contract::new([
            Parameter::optional("template", TEXT),
            Parameter::optional("file", NAME),
            Parameter::optional("values", r#"{"type":"object"}"#),
        ])
        .gives(r#"{"type":"object","required":["text"],"properties":{"text":{"type":"string"}}}"#);
        Self { contract, root }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    template: Option<String>,
    file: Option<String>,
    #[serde(default)]
    values: Map<String, Value>,
}

#[async_trait]
impl Handler for Render {
    fn kind(&self) -> &'static str {
        "template.render"
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.contract.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.contract.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.contract.check(with)?;
        exactly_one(with, "template", "file")?;
        if let Some(path) = static_text(with, "file") {
            file::check_path(path)?;
        }
        if let Some(source) = static_text(with, "template") {
            environment()
                .template_from_named_str("template", source)
                .map_err(|error| format!("`template`: {error}"))?;
        }
        Ok(())
    }

    async fn run(&self, _ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: Input = read_input(input)?;
        let root = Arc::clone(&self.root);
        file::blocking(move || {
            let (name, source) = match (input.template, input.file) {
                (Some(source), None) => ("template".to_owned(), source),
                (None, Some(path)) => {
                    let source = file::read_text(&root, &path)?;
                    (path, source)
                }
                _ => return Err(invalid("give `template` or `file`")),
            };
            let text = render(&name, &source, &input.values)?;
            Outcome::done(&json!({ "text": text }))
        })
        .await
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment
}

fn render(
    name: &str,
    source: &str,
    values: &Map<String, Value>,
) -> Result<String, StepError> {
    let environment = environment();
    let template = environment.template_from_named_str(name, source);
    let template = template.map_err(|error| explain(&error))?;
    let mut text = Capped::default();
    let rendered =
        template.render_captured_to(minijinja::value::Serde(values), &mut text);
    if text.full {
        let message = format!("the text is longer than {MAX_TEXT} bytes");
        return Err(StepError::fail("too_large", message));
    }
    rendered.map_err(|error| explain(&error))?;
    String::from_utf8(text.bytes).map_err(|error| StepError::fail("template", error))
}

fn explain(error: &minijinja::Error) -> StepError {
    if error.kind() == ErrorKind::OutOfFuel {
        return StepError::fail("template", "the template does too much work");
    }
    StepError::fail("template", error)
}

/// A buffer that refuses to grow without end.
#[derive(Default)]
struct Capped {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > MAX_TEXT {
            self.full = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fill_a_template_and_missing_ones_are_refused() {
        let values = json!({ "name": "段取り", "html": "<b>", "list": [1, 2] });
        let values = values.as_object().unwrap();
        let text = render("t.html", "{{ name }} {{ html }} {{ list|length }}", values);
        assert_eq!(text.unwrap(), "段取り <b> 2");
        let error = render("t", "{{ missing }}", values).unwrap_err();
        assert_eq!((error.code.as_ref(), error.retry_after_ms), ("template", None));
    }

    #[test]
    fn a_template_cannot_work_without_end() {
        let deep = "{% for a in range(9999) %}{% for b in range(9999) %}\
                    {% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        let error = render("t", deep, &Map::new()).unwrap_err();
        assert!(error.message.contains("too much work"), "{error}");
    }
}
