//! The inputs of a project: what is given, checked against what is declared.

use super::{
    Diagnostic, Document, Tree,
    reader::{At, Findings},
};

/// Resolves the inputs: `given` goes over the document's `with:`, that over defaults.
pub(super) fn resolve_inputs(
    document: &Document,
    given: &[(String, Tree)],
    findings: &mut Findings,
) -> serde_json::Map<String, serde_json::Value> {
    let root = At::ROOT;
    let at_with = root.key("with");
    for (values, at) in [(document.with.as_slice(), &at_with), (given, &root)] {
        for (name, value) in values {
            let Some(input) = document.inputs.iter().find(|input| input.name == *name)
            else {
                let diagnostic = Diagnostic::error(
                    "unknown_input",
                    format!("unknown input `{name}`"),
                );
                let names = document.inputs.iter().map(|input| input.name.as_str());
                let help = findings
                    .suggest(name, names)
                    .unwrap_or_else(|| format!("declare `{name}` under `inputs:`"));
                findings.add(diagnostic.help(help), &at.name(name));
                continue;
            };
            if !input.kind.admits(value) {
                let what =
                    format!("a value of type {} for `{name}`", input.kind.as_str());
                findings.wrong_type(&what, value, &at.key(name));
            }
        }
    }
    let mut inputs = serde_json::Map::new();
    for input in &document.inputs {
        let find = |values: &[(String, Tree)]| {
            values
                .iter()
                .find(|(name, _)| *name == input.name)
                .map(|(_, value)| value.clone())
        };
        match find(given)
            .or_else(|| find(&document.with))
            .or_else(|| input.default.clone())
        {
            Some(value) => {
                let value = serde_json::to_value(&value).unwrap_or_default();
                inputs.insert(input.name.clone(), value);
            }
            None => {
                let message = format!("the input `{}` has no value", input.name);
                let help = format!(
                    "give it with `--input {0}=…`, under `with:`, or a `default`",
                    input.name
                );
                let diagnostic = Diagnostic::error("missing_input", message).help(help);
                findings.add(diagnostic, &root.key("inputs").name(&input.name));
            }
        }
    }
    inputs
}
