//! Reading values out of a [`Tree`] with diagnostics: types, unknown keys, ranges.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{Diagnostic, Path, Segment, Tree, parse_duration};
use crate::plan::{Problem, did_you_mean, nearest};

/// A place in a document, cheap to pass down: a path is made only when it is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    parent: Option<&'a Self>,
    segment: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Base(&'a Path),
    Key(&'a str),
    Name(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    pub(super) const ROOT: At<'static> = At { parent: None, segment: Step::Root };

    /// A place that was kept as a path.
    pub(super) const fn base(path: &'a Path) -> Self {
        At { parent: None, segment: Step::Base(path) }
    }

    pub(super) const fn key(&'a self, key: &'a str) -> Self {
        At { parent: Some(self), segment: Step::Key(key) }
    }

    pub(super) const fn name(&'a self, key: &'a str) -> Self {
        At { parent: Some(self), segment: Step::Name(key) }
    }

    pub(super) const fn index(&'a self, index: usize) -> Self {
        At { parent: Some(self), segment: Step::Index(index) }
    }

    pub(super) fn path(&self) -> Path {
        let mut segments = vec![];
        let mut at = Some(self);
        while let Some(place) = at {
            match place.segment {
                Step::Root => {}
                Step::Base(path) => segments.extend(path.0.iter().rev().cloned()),
                Step::Key(key) => segments.push(Segment::Key(key.to_owned())),
                Step::Name(key) => segments.push(Segment::KeyName(key.to_owned())),
                Step::Index(index) => segments.push(Segment::Index(index)),
            }
            at = place.parent;
        }
        segments.reverse();
        Path(segments)
    }
}

/// Collects diagnostics with their places, each once.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<(Diagnostic, Path)>,
    /// What was added, by hash: the steps of a template are looked at for every use.
    seen: HashSet<u64>,
    hidden: usize,
    /// The texts that `file('…')` stood for, by name.
    pub(super) files: BTreeMap<String, String>,
}

impl Findings {
    /// More than this is not read by anyone and only makes a broken document slow.
    const MOST: usize = 100;
    /// The code of the line that counts what is not shown.
    pub(super) const MORE: &str = "more_findings";

    pub(super) fn add(&mut self, diagnostic: Diagnostic, at: &At<'_>) {
        self.add_path(diagnostic, at.path());
    }

    pub(super) fn add_path(&mut self, diagnostic: Diagnostic, path: Path) {
        let mut hasher = DefaultHasher::new();
        (&diagnostic.code, &diagnostic.message, &path).hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return;
        }
        if self.is_full() {
            self.hidden += 1;
        } else {
            self.found.push((diagnostic, path));
        }
    }

    /// Whether further findings are not shown any more.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= Self::MOST
    }

    /// Counts findings that are not worth describing any more.
    pub(super) fn hide(&mut self, count: usize) {
        self.hidden += count;
    }

    /// The remedy for a misspelt name; looked for only while anyone will read it.
    pub(super) fn suggest<'n>(
        &self,
        name: &str,
        candidates: impl IntoIterator<Item = &'n str>,
    ) -> Option<String> {
        if self.found.len() >= Problem::SUGGESTED {
            return None;
        }
        nearest(name, candidates).map(|near| did_you_mean(name, &near))
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|(diagnostic, _)| diagnostic.is_error())
    }

    pub(super) fn into_found(mut self) -> Vec<(Diagnostic, Path)> {
        if self.hidden > 0 {
            // Once enough is found, whoever looks may stop looking.
            let message = format!("at least {} more findings", self.hidden);
            let diagnostic = Diagnostic::error(Self::MORE, message)
                .help("mend the ones shown first");
            self.found.push((diagnostic, Path::default()));
        }
        self.found
    }

    pub(super) fn wrong_type(&mut self, what: &str, value: &Tree, at: &At<'_>) {
        let help = match value {
            Tree::String(text) if what.contains("true or false") => {
                match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "true" => "write `true`".to_owned(),
                    "no" | "off" | "n" | "false" => "write `false`".to_owned(),
                    _ => format!("write {what}"),
                }
            }
            Tree::String(text) if what.contains("number") && is_number(text) => {
                format!("write {what}, without quotes")
            }
            _ => format!("write {what}"),
        };
        self.wrong_type_with(what, value, &help, at);
    }

    /// Refuses a value of a wrong type with a remedy of its own.
    pub(super) fn wrong_type_with(
        &mut self,
        what: &str,
        value: &Tree,
        help: &str,
        at: &At<'_>,
    ) {
        let message = format!("expected {what}, found {}", value.describe());
        self.add(Diagnostic::error("wrong_type", message).help(help), at);
    }

    /// Refuses a key that is not known, with the nearest one.
    pub(super) fn unknown_key(&mut self, key: &str, known: &[&str], at: &At<'_>) {
        let help = self
            .suggest(key, known.iter().copied())
            .unwrap_or_else(|| format!("known keys: {}", known.join(", ")));
        let message = format!("unknown key `{}`", shown(key));
        self.add(Diagnostic::error("unknown_key", message).help(help), &at.name(key));
    }

    pub(super) fn map<'t>(
        &mut self,
        value: &'t Tree,
        at: &At<'_>,
    ) -> &'t [(String, Tree)] {
        self.map_or(value, "write a mapping: `key: value`", at)
    }

    /// A mapping, or a finding with a remedy of its own.
    pub(super) fn map_or<'t>(
        &mut self,
        value: &'t Tree,
        help: &str,
        at: &At<'_>,
    ) -> &'t [(String, Tree)] {
        match value {
            Tree::Map(entries) => return entries,
            Tree::String(text) if let Some((key, rest)) = glued(text) => {
                let help = format!("put a space after the colon: `{key}: {rest}`");
                self.wrong_type_with("a mapping", value, &help, at);
            }
            other => self.wrong_type_with("a mapping", other, help, at),
        }
        &[]
    }

    pub(super) fn list<'t>(&mut self, value: &'t Tree, at: &At<'_>) -> &'t [Tree] {
        if let Tree::List(items) = value {
            return items;
        }
        self.wrong_type("a list", value, at);
        &[]
    }

    pub(super) fn text(&mut self, value: &Tree, at: &At<'_>) -> Option<String> {
        self.text_of("a text", value, at)
    }

    /// A text with a meaning, such as the name of a task.
    pub(super) fn text_of(
        &mut self,
        what: &str,
        value: &Tree,
        at: &At<'_>,
    ) -> Option<String> {
        let quoted = |text: String| format!("put quotes around it: `\"{text}\"`");
        let help = match value {
            Tree::String(text) => return Some(text.clone()),
            Tree::Number(number) => quoted(number.to_string()),
            Tree::Bool(value) => quoted(value.to_string()),
            Tree::Null | Tree::List(_) | Tree::Map(_) => format!("write {what}"),
        };
        self.wrong_type_with(what, value, &help, at);
        None
    }

    pub(super) fn boolean(&mut self, value: &Tree, at: &At<'_>) -> Option<bool> {
        if let Tree::Bool(value) = value {
            return Some(*value);
        }
        self.wrong_type("true or false", value, at);
        None
    }

    /// A whole number in a range.
    pub(super) fn integer(
        &mut self,
        value: &Tree,
        range: std::ops::RangeInclusive<i64>,
        at: &At<'_>,
    ) -> Option<i64> {
        let number = match value {
            Tree::Number(number) => number.as_i64(),
            _ => None,
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let what = match *range.end() {
            i64::MAX => format!("a whole number of at least {}", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        self.outside(&what, value, at);
        None
    }

    /// Refuses a number out of its range, or what is no number at all.
    fn outside(&mut self, what: &str, value: &Tree, at: &At<'_>) {
        let Tree::Number(number) = value else {
            return self.wrong_type(what, value, at);
        };
        let message = format!("expected {what}, found {number}");
        let help = format!("write {what}");
        self.add(Diagnostic::error("out_of_range", message).help(help), at);
    }

    pub(super) fn count(
        &mut self,
        value: &Tree,
        least: u32,
        at: &At<'_>,
    ) -> Option<u32> {
        self.integer(value, i64::from(least)..=1_000_000, at)
            .and_then(|number| u32::try_from(number).ok())
    }

    /// A number from 0 on.
    pub(super) fn decimal(
        &mut self,
        value: &Tree,
        range: std::ops::RangeInclusive<f64>,
        at: &At<'_>,
    ) -> Option<f64> {
        let number = match value {
            Tree::Number(number) => number.as_f64(),
            _ => None,
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let what = format!("a number from {} to {}", range.start(), range.end());
        self.outside(&what, value, at);
        None
    }

    pub(super) fn duration(
        &mut self,
        value: &Tree,
        at: &At<'_>,
    ) -> Option<std::time::Duration> {
        const SUCH_AS: &str = "write a duration such as `500ms`, `10s` or `1h30m`";
        let (message, help) = match value {
            Tree::String(text) => match parse_duration(text) {
                Ok(duration) => return Some(duration),
                // What is wrong and what to write instead are one sentence there.
                Err(message) => match message.split_once("; ") {
                    Some((wrong, help)) => (wrong.to_owned(), help.to_owned()),
                    None => (message, SUCH_AS.to_owned()),
                },
            },
            Tree::Number(number) if number.as_f64().is_some_and(|n| n >= 0.0) => {
                let help = format!("did you mean `{number}s`?");
                (format!("`{number}` has no unit"), help)
            }
            other => {
                self.wrong_type("a duration such as `10s`", other, at);
                return None;
            }
        };
        self.add(Diagnostic::error("bad_duration", message).help(help), at);
        None
    }
}

/// The beginning of a text of the document, for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn is_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok()
}

/// Splits `key:value`, which YAML reads as one text.
fn glued(text: &str) -> Option<(&str, &str)> {
    let (key, rest) = text.lines().next()?.split_once(':')?;
    let is_key = !key.is_empty()
        && key.len() <= 60
        && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let rest = rest.get(..rest.len().min(60)).unwrap_or_default();
    (is_key && !rest.is_empty() && !rest.starts_with("//")).then_some((key, rest))
}
