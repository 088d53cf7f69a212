//! Kinds and parameters with the eyes of their handlers.

use super::{
    Diagnostic, Path, Severity, Task, Tree, builder::Place, compile::Compiler,
    graph::from_problem, names::check_name, reader::At,
};
use crate::{
    Form, Handler, Parameter,
    canvas::Called,
    plan::{Problem, nearest},
};

impl Compiler<'_> {
    /// Looks at the kinds that have defaults.
    pub(super) fn check_kinds_of_defaults(&mut self) {
        let at = At::ROOT.key("defaults");
        let at = at.key("kinds");
        let document = self.document;
        for (kind, _) in &document.defaults.kinds {
            let here = at.name(kind);
            if let Some(kinds) = self.options.kinds
                && kinds.get(kind).is_none()
            {
                let message = format!("there is no kind `{kind}`");
                let help =
                    self.findings.suggest(kind, kinds.names()).unwrap_or_else(|| {
                        "remove the defaults of a kind that does not exist".to_owned()
                    });
                let found = Diagnostic::error("unknown_kind", message).help(help);
                let found = self.unless_foreign(found);
                self.findings.add(found, &here);
            }
            check_name(kind, &at, self.findings);
        }
    }

    /// Looks at kind and parameters of a task.
    pub(super) fn check_handler(&mut self, kind: &str, task: &Task, place: &Place) {
        let Some(kinds) = self.options.kinds else { return };
        let path = || place.at.key(&task.name);
        let Some(handler) = kinds.get(kind) else {
            let is_read = !self.findings.is_full();
            let problem = Problem::UnknownKind {
                step: task.name.clone(),
                kind: kind.to_owned(),
                nearest: is_read.then(|| nearest(kind, kinds.names())).flatten(),
            };
            let found = self.unless_foreign(from_problem(&problem));
            return self.findings.add_path(found, path().key("kind"));
        };
        if let Some(parameters) = handler.parameters() {
            self.check_names(kind, parameters, task, place);
        }
        if let Some(with) = &task.with {
            let value = serde_json::to_value(with).unwrap_or_default();
            if let Err(message) = handler.check(&value) {
                let (path, diagnostic) = refused(&**handler, message, with);
                let at = path_below(place.at.key(&task.name).key("with"), path);
                self.findings.add_path(diagnostic.task(task.name.clone()), at);
            }
        }
    }

    /// Looks at a call of a canvas: its kind, and whether its arguments fit.
    pub(super) fn check_call(&mut self, called: &Called<'_>) {
        let Some(kinds) = self.options.kinds else { return };
        let kind = &called.signature.kind;
        let Some(handler) = kinds.get(kind) else {
            let message = format!("there is no kind `{kind}`");
            let help =
                self.findings.suggest(kind, kinds.names()).unwrap_or_else(|| {
                    format!("known kinds: {}", kinds.names().join(", "))
                });
            let found = Diagnostic::error("unknown_kind", message).help(help);
            let found = self.unless_foreign(found);
            return self.findings.add_path(found, called.at.clone());
        };
        let names = called.kwargs.iter().copied();
        let form = if called.signature.whole { Form::Value } else { handler.form() };
        if let Err(message) = form.check(kind, called.args, names) {
            let (wrong, help) = match message.split_once("; ") {
                Some((wrong, help)) => (wrong.to_owned(), help.to_owned()),
                None => (message, "correct the arguments".to_owned()),
            };
            let found = Diagnostic::error("bad_arguments", wrong).help(help);
            return self.findings.add_path(found, called.at.clone());
        }
        if called.signature.whole {
            return;
        }
        let parameters = handler.parameters().unwrap_or_default();
        for (place, parameter) in parameters.iter().enumerate() {
            let name = &*parameter.name;
            if !parameter.required
                || place < called.args
                || called.kwargs.contains(&name)
            {
                continue;
            }
            let message = format!("`{kind}` needs the argument `{name}`");
            let help = format!("give it by position or under `kwargs:` as `{name}`");
            let found = Diagnostic::error("missing_parameter", message).help(help);
            self.findings.add_path(found, called.at.clone());
        }
        // Where nothing is passed on, the values are known as well as those of a task.
        let signature = called.signature;
        let own = (signature.args.len(), signature.kwargs.len());
        if own == (called.args, called.kwargs.len()) && !parameters.is_empty() {
            let names = parameters.iter().map(|it| it.name.to_string());
            let mut with: Vec<(String, Tree)> =
                names.zip(signature.args.iter().cloned()).collect();
            with.extend(signature.kwargs.iter().cloned());
            let with = Tree::Map(with);
            let value = serde_json::to_value(&with).unwrap_or_default();
            if let Err(message) = handler.check(&value) {
                let (_, found) = refused(&**handler, message, &with);
                self.findings.add_path(found, called.at.clone());
            }
        }
    }

    /// A kind that another worker may have is not wrong, only worth a look.
    fn unless_foreign(&self, found: Diagnostic) -> Diagnostic {
        match self.options.foreign_kinds {
            true => Diagnostic { severity: Severity::Warning, ..found },
            false => found,
        }
    }

    /// Compares the keys under `with:` with the declared parameters.
    fn check_names(
        &mut self,
        kind: &str,
        parameters: &[Parameter],
        task: &Task,
        place: &Place,
    ) {
        let path = || place.at.key(&task.name);
        let given = match &task.with {
            Some(Tree::Map(entries)) => entries.as_slice(),
            _ => &[],
        };
        for (key, _) in given {
            if parameters.iter().any(|parameter| parameter.name == *key) {
                continue;
            }
            let names = parameters.iter().map(|parameter| &*parameter.name);
            let help = self
                .findings
                .suggest(key, names)
                .unwrap_or_else(|| listed(kind, parameters));
            let message = format!("`{kind}` has no parameter `{key}`");
            let found = Diagnostic::error("unknown_parameter", message).help(help);
            self.findings.add_path(found, path().key("with").key_name(key));
        }
        for parameter in parameters.iter().filter(|parameter| parameter.required) {
            if given.iter().any(|(key, _)| *key == parameter.name) {
                continue;
            }
            let message = format!("`{kind}` needs the parameter `{}`", parameter.name);
            let help = format!("add `{}` under `with:`", parameter.name);
            let found = Diagnostic::error("missing_parameter", message).help(help);
            self.findings.add_path(found.task(task.name.clone()), path());
        }
    }
}

fn listed(kind: &str, parameters: &[Parameter]) -> String {
    let names: Vec<&str> = parameters.iter().map(|p| &*p.name).collect();
    if names.is_empty() {
        return format!("`{kind}` takes no parameters: remove `with:`");
    }
    format!("parameters: {}", names.join(", "))
}

/// The part of the value that a handler refuses, and the finding.
///
/// A handler begins with the parameter it means, as `name` or `name/0/key`, and may say
/// after a semicolon what to write instead.
fn refused<'m>(
    handler: &dyn Handler,
    message: String,
    with: &'m Tree,
) -> (Vec<Segment<'m>>, Diagnostic) {
    let named = message.strip_prefix('`').and_then(|rest| rest.split_once('`'));
    let (place, value) = meant(with, named.map_or("", |(named, _)| named));
    // A semicolon in backquotes belongs to what is quoted.
    let is_plain = |at: &usize| message[..*at].matches('`').count().is_multiple_of(2);
    let semicolon = message.match_indices("; ").map(|(at, _)| at).find(is_plain);
    let (wrong, help) = match semicolon {
        Some(at) => (message[..at].to_owned(), message[at + 2..].to_owned()),
        None => {
            let parameters = handler.parameters().unwrap_or_default();
            let parameter = match place.as_slice() {
                [Segment::Key(name)] => parameters.iter().find(|p| p.name == **name),
                _ => None,
            };
            let help = parameter
                .and_then(|parameter| wanted(parameter, value))
                .unwrap_or_else(|| match place.first() {
                    Some(Segment::Key(name)) => {
                        format!("correct the value of `{name}`")
                    }
                    _ => listed(handler.kind(), parameters),
                });
            (message, help)
        }
    };
    (place, Diagnostic::error("bad_parameter", wrong).help(help))
}

/// Finds the part of `with:` that a handler means: named by its place, or by its text.
fn meant<'m>(with: &'m Tree, named: &str) -> (Vec<Segment<'m>>, &'m Tree) {
    let mut place = vec![];
    let mut value = with;
    for part in named.split('/') {
        let (segment, next) = match value {
            Tree::Map(entries) => match entries.iter().find(|(key, _)| key == part) {
                Some((key, next)) => (Segment::Key(key), next),
                None => break,
            },
            Tree::List(items) => {
                let index = part.parse::<usize>().ok();
                match index.and_then(|index| Some((index, items.get(index)?))) {
                    Some((index, next)) => (Segment::Index(index), next),
                    None => break,
                }
            }
            Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::String(_) => break,
        };
        place.push(segment);
        value = next;
    }
    if let (true, Tree::Map(entries)) = (place.is_empty(), with) {
        let is_meant =
            |value: &Tree| matches!(value, Tree::String(text) if text == named);
        if let Some((key, next)) = entries.iter().find(|(_, value)| is_meant(value)) {
            return (vec![Segment::Key(key)], next);
        }
    }
    (place, value)
}

enum Segment<'m> {
    Key(&'m str),
    Index(usize),
}

fn path_below(path: Path, segments: Vec<Segment<'_>>) -> Path {
    segments.into_iter().fold(path, |path, segment| match segment {
        Segment::Key(key) => path.key(key),
        Segment::Index(index) => path.index(index),
    })
}

/// What to write for a parameter whose value has a wrong type, from its schema.
fn wanted(parameter: &Parameter, value: &Tree) -> Option<String> {
    let schema: serde_json::Value = serde_json::from_str(&parameter.schema).ok()?;
    let (what, fits) = match schema.get("type")?.as_str()? {
        "string" => ("a text", matches!(value, Tree::String(_))),
        "number" => ("a number", matches!(value, Tree::Number(_))),
        "integer" => {
            ("a whole number", matches!(value, Tree::Number(n) if !n.is_f64()))
        }
        "boolean" => ("true or false", matches!(value, Tree::Bool(_))),
        "array" => ("a list", matches!(value, Tree::List(_))),
        "object" => ("a mapping", matches!(value, Tree::Map(_))),
        _ => return None,
    };
    if fits {
        return None;
    }
    Some(match (what, value) {
        ("a text", Tree::Number(number)) => {
            format!("put quotes around it: `\"{number}\"`")
        }
        ("a text", Tree::Bool(value)) => format!("put quotes around it: `\"{value}\"`"),
        _ => format!("write {what}"),
    })
}
