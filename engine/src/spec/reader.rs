//! Reading values out of a [`Tree`] with diagnostics: types, unknown keys, ranges.

use super::{Diagnostic, Path, Segment, Tree, parse_duration};
use crate::plan::nearest;

/// A place in a document, cheap to pass down: a path is made only when it is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    parent: Option<&'a At<'a>>,
    segment: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Name(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    pub(super) const ROOT: At<'static> = At { parent: None, segment: Step::Root };

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

/// Collects diagnostics with their places.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<(Diagnostic, Path)>,
    hidden: usize,
}

impl Findings {
    /// More than this is not read by anyone and only makes a broken document slow.
    const MOST: usize = 100;

    pub(super) fn add(&mut self, diagnostic: Diagnostic, at: &At<'_>) {
        self.add_path(diagnostic, at.path());
    }

    pub(super) fn add_path(&mut self, diagnostic: Diagnostic, path: Path) {
        if self.found.len() < Self::MOST {
            self.found.push((diagnostic, path));
        } else {
            self.hidden += 1;
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|(diagnostic, _)| diagnostic.is_error())
    }

    pub(super) fn into_found(mut self) -> Vec<(Diagnostic, Path)> {
        if self.hidden > 0 {
            let message = format!("{} more findings are not shown", self.hidden);
            let diagnostic = Diagnostic::error("more_findings", message)
                .help("mend the ones shown first");
            self.found.push((diagnostic, Path::default()));
        }
        self.found
    }

    pub(super) fn wrong_type(&mut self, what: &str, value: &Tree, at: &At<'_>) {
        let message = format!("expected {what}, found {}", value.describe());
        let mut diagnostic = Diagnostic::error("wrong_type", message);
        if let (true, Tree::String(text)) = (what.contains("true or false"), value) {
            let lower = text.to_ascii_lowercase();
            diagnostic = match lower.as_str() {
                "yes" | "on" | "y" => diagnostic.help("write `true`"),
                "no" | "off" | "n" => diagnostic.help("write `false`"),
                _ => diagnostic.help(format!("write {what}")),
            };
        } else {
            diagnostic = diagnostic.help(format!("write {what}"));
        }
        self.add(diagnostic, at);
    }

    /// Refuses a key that is not known, with the nearest one.
    pub(super) fn unknown_key(&mut self, key: &str, known: &[&str], at: &At<'_>) {
        let mut diagnostic =
            Diagnostic::error("unknown_key", format!("unknown key `{key}`"));
        diagnostic = match nearest(key, known.iter().copied()) {
            Some(name) => diagnostic.help(format!("did you mean `{name}`?")),
            None => diagnostic.help(format!("known keys: {}", known.join(", "))),
        };
        self.add(diagnostic, &at.name(key));
    }

    pub(super) fn map<'t>(
        &mut self,
        value: &'t Tree,
        at: &At<'_>,
    ) -> &'t [(String, Tree)] {
        if let Tree::Map(entries) = value {
            return entries;
        }
        self.wrong_type("a mapping", value, at);
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
        if let Tree::String(text) = value {
            return Some(text.clone());
        }
        self.wrong_type("a text", value, at);
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
        if matches!(value, Tree::Number(_)) {
            let diagnostic =
                Diagnostic::error("out_of_range", format!("expected {what}"));
            self.add(diagnostic.help(format!("write {what}")), at);
        } else {
            self.wrong_type(&what, value, at);
        }
        None
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
        self.wrong_type(&what, value, at);
        None
    }

    pub(super) fn duration(
        &mut self,
        value: &Tree,
        at: &At<'_>,
    ) -> Option<std::time::Duration> {
        let message = match value {
            Tree::String(text) => match parse_duration(text) {
                Ok(duration) => return Some(duration),
                Err(message) => message,
            },
            Tree::Number(number) => {
                let help = format!("did you mean `{number}s`?");
                let diagnostic = Diagnostic::error(
                    "bad_duration",
                    format!("`{number}` has no unit"),
                );
                self.add(diagnostic.help(help), at);
                return None;
            }
            other => {
                self.wrong_type("a duration such as `10s`", other, at);
                return None;
            }
        };
        let help = "write a duration such as `500ms`, `10s` or `1h30m`";
        self.add(Diagnostic::error("bad_duration", message).help(help), at);
        None
    }
}
