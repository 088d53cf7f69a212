//! Reading YAML 1.2: events of a YAML parser into a [`Tree`], within a budget.
//!
//! Core schema with strict booleans (`no` is a text, as in YAML 1.2), numbers that mean
//! one thing only, no merge keys, no tags but those of the core schema. Built with a
//! stack of its own, so that nesting cannot overflow the machine's.

use std::collections::{HashMap, HashSet};

use granit_parser::{
    Event, Marker, Options, Parser, ScalarStyle, Span, StructureStyle, options,
};

mod fault;

use super::{
    Diagnostic, Tree,
    json::out_of_range,
    number::parse_number,
    positions::{Position, Positions, Wanted},
    source::{Limits, to_u32},
};

/// Values that uses of anchors may add beside what grows with the text.
const FREE_EXPANSION: usize = 10_000;
/// From so many keys on duplicates are looked for with a set.
const MANY_KEYS: usize = 16;

/// A collection under construction.
struct Open {
    anchor: usize,
    at: Position,
    /// Whether it is written in brackets.
    is_flow: bool,
    kind: Kind,
}

enum Kind {
    List(Vec<Tree>),
    Map {
        entries: Vec<(String, Tree)>,
        key: Option<String>,
        seen: HashMap<String, u32>,
    },
}

struct Builder<'l> {
    limits: &'l Limits,
    stack: Vec<Open>,
    anchors: HashMap<usize, Tree>,
    /// Anchors that are still being built: a use of one would contain itself.
    building: HashSet<usize>,
    aliases: usize,
    /// Values that uses of anchors may still add.
    budget: usize,
    root: Option<Tree>,
}

pub(super) fn read(text: &str, limits: &Limits) -> Result<Tree, Diagnostic> {
    guard_flow_depth(text, limits.depth)?;
    let mut builder = Builder {
        limits,
        stack: vec![],
        anchors: HashMap::new(),
        building: HashSet::new(),
        aliases: 0,
        budget: FREE_EXPANSION + text.len() / 16,
        root: None,
    };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, parser_options(limits.depth)) {
        let (event, span) = event.map_err(|error| {
            let here = position(error.marker());
            fault::explain(error.kind(), here, builder.open_bracket(), text)
        })?;
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                let found = Diagnostic::error(
                    "several_documents",
                    "a second YAML document begins here",
                );
                return Err(at(
                    found.help("keep one document in a file"),
                    position(&span.start),
                ));
            }
        }
        builder.event(event, &span)?;
    }
    builder.root.ok_or_else(|| {
        let help = "write a project with `tasks:`";
        at(
            Diagnostic::error("empty_document", "the document is empty").help(help),
            (1, 1),
        )
    })
}

fn parser_options(depth: usize) -> Options {
    options! {
        emit_comments: false,
        block_nesting_limit: depth + 2,
        flow_nesting_limit: depth + 2,
        simple_key_max_lookahead: 4096,
    }
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Diagnostic> {
        let here = position(&span.start);
        match event {
            Event::Scalar(value, style, anchor, tag) => {
                let is_key = self.expects_key();
                if is_key && style == ScalarStyle::Plain {
                    fault::check_spaces(&value, here)?;
                }
                let tag = tag.map(|tag| tag.to_string());
                let tree = scalar(&value, style, tag.as_deref(), is_key, here)?;
                self.keep_anchor(anchor, &tree, here)?;
                self.value(tree, here)
            }
            Event::SequenceStart(style, anchor, tag) => {
                check_tag(tag.map(|tag| tag.to_string()).as_deref(), "seq", here)?;
                self.open(anchor, here, style, Kind::List(vec![]))
            }
            Event::MappingStart(style, anchor, tag) => {
                check_tag(tag.map(|tag| tag.to_string()).as_deref(), "map", here)?;
                let kind =
                    Kind::Map { entries: vec![], key: None, seen: HashMap::new() };
                self.open(anchor, here, style, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else { return Ok(()) };
                let tree = match open.kind {
                    Kind::List(items) => Tree::List(items),
                    Kind::Map { entries, .. } => Tree::Map(entries),
                };
                self.building.remove(&open.anchor);
                self.keep_anchor(open.anchor, &tree, open.at)?;
                self.value(tree, open.at)
            }
            Event::Alias(anchor) => {
                self.aliases += 1;
                if self.aliases > self.limits.aliases {
                    return Err(too_many("uses of anchors", self.limits.aliases, here));
                }
                let Some(tree) = self.anchors.get(&anchor).cloned() else {
                    let message = "this anchor contains itself";
                    let help = "write the value out";
                    return Err(at(
                        Diagnostic::error("alias_cycle", message).help(help),
                        here,
                    ));
                };
                self.spend(&tree, here)?;
                self.value(tree, here)
            }
            _ => Ok(()),
        }
    }

    /// The innermost bracket that is still open.
    fn open_bracket(&self) -> Option<Position> {
        self.stack.last().filter(|open| open.is_flow).map(|open| open.at)
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.stack.last(),
            Some(Open { kind: Kind::Map { key: None, .. }, .. })
        )
    }

    fn open(
        &mut self,
        anchor: usize,
        here: Position,
        style: StructureStyle,
        kind: Kind,
    ) -> Result<(), Diagnostic> {
        if self.expects_key() {
            let message = "a key must be a text";
            let in_braces = self.open_bracket().is_some();
            let help = if in_braces && matches!(kind, Kind::Map { .. }) {
                "write `\"${{ … }}\"`: an expression has a `$` and stands in quotes"
            } else {
                "write a plain key, in quotes where it begins with `[` or `{`"
            };
            return Err(at(Diagnostic::error("complex_key", message).help(help), here));
        }
        if self.stack.len() >= self.limits.depth {
            return Err(too_deep(self.limits.depth, here));
        }
        if anchor != 0 {
            self.building.insert(anchor);
        }
        let is_flow = style == StructureStyle::Flow;
        self.stack.push(Open { anchor, at: here, is_flow, kind });
        Ok(())
    }

    /// Keeps the value of an anchor; the copy counts as what its uses would add.
    fn keep_anchor(
        &mut self,
        anchor: usize,
        tree: &Tree,
        here: Position,
    ) -> Result<(), Diagnostic> {
        if anchor != 0 {
            if self.anchors.len() >= self.limits.aliases {
                return Err(too_many("anchors", self.limits.aliases, here));
            }
            self.spend(tree, here)?;
            self.anchors.insert(anchor, tree.clone());
        }
        Ok(())
    }

    fn spend(&mut self, tree: &Tree, here: Position) -> Result<(), Diagnostic> {
        let mut stack = vec![tree];
        while let Some(tree) = stack.pop() {
            // A long text weighs as much as the values it could have been.
            let weight = match tree {
                Tree::String(text) => 1 + text.len() / 64,
                Tree::Map(entries) => {
                    1 + entries.iter().map(|(key, _)| key.len() / 64).sum::<usize>()
                }
                Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::List(_) => 1,
            };
            self.budget = self.budget.checked_sub(weight).ok_or_else(|| {
                let message = "the anchors of this document expand to too many values";
                let help = "write the values out, or use a template";
                at(Diagnostic::error("alias_expansion", message).help(help), here)
            })?;
            match tree {
                Tree::List(items) => stack.extend(items),
                Tree::Map(entries) => {
                    stack.extend(entries.iter().map(|(_, value)| value))
                }
                Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::String(_) => {}
            }
        }
        Ok(())
    }

    fn value(&mut self, tree: Tree, here: Position) -> Result<(), Diagnostic> {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(tree);
            return Ok(());
        };
        match &mut open.kind {
            Kind::List(items) => items.push(tree),
            Kind::Map { entries, key, seen } => match key.take() {
                Some(name) => entries.push((name, tree)),
                None => {
                    let Tree::String(name) = tree else {
                        let message = "a key must be a text";
                        let help = "put quotes around the key";
                        return Err(at(
                            Diagnostic::error("complex_key", message).help(help),
                            here,
                        ));
                    };
                    *key = Some(unique(name, entries, seen, here)?);
                }
            },
        }
        Ok(())
    }
}

fn unique(
    name: String,
    entries: &[(String, Tree)],
    seen: &mut HashMap<String, u32>,
    here: Position,
) -> Result<String, Diagnostic> {
    let known = if entries.len() < MANY_KEYS {
        entries.iter().any(|(key, _)| *key == name)
    } else {
        if seen.is_empty() {
            seen.extend(entries.iter().map(|(key, _)| (key.clone(), 0)));
        }
        seen.insert(name.clone(), here.0).is_some()
    };
    if known {
        let shown: String = name.chars().take(60).collect();
        let found =
            Diagnostic::error("duplicate_key", format!("duplicate key `{shown}`"));
        return Err(at(found.help("keep one of them, or give it another name"), here));
    }
    if name == "<<" {
        let found =
            Diagnostic::error("unsupported_merge", "merge keys (`<<`) are not read");
        return Err(at(
            found.help("write the keys out, or use `defaults:` or a template"),
            here,
        ));
    }
    Ok(name)
}

/// What a scalar means. Keys are texts, whatever they look like.
fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&str>,
    is_key: bool,
    here: Position,
) -> Result<Tree, Diagnostic> {
    let tag = match tag {
        None | Some("!") => None,
        Some(tag) => match core_tag(tag) {
            Some(core @ ("str" | "int" | "float" | "bool" | "null")) => Some(core),
            _ => return Err(bad_tag(tag, here)),
        },
    };
    let plain = style == ScalarStyle::Plain && tag != Some("str");
    if is_key || !(plain || tag.is_some_and(|tag| tag != "str")) {
        return Ok(Tree::String(text.to_owned()));
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Tree::Null),
        "true" | "True" | "TRUE" => return Ok(Tree::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Tree::Bool(false)),
        ".inf" | ".Inf" | ".INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
        | ".NAN" => {
            return Err(at(out_of_range(text), here));
        }
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(Tree::String(text.to_owned()));
    }
    let radix = match digits.get(..2) {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        _ => None,
    };
    if let Some(radix) = radix {
        let number = i64::from_str_radix(&digits[2..], radix).ok();
        let negative = text.starts_with('-');
        return Ok(match number {
            Some(number) => {
                Tree::Number(if negative { -number } else { number }.into())
            }
            None => Tree::String(text.to_owned()),
        });
    }
    if !is_decimal(digits) {
        return Ok(Tree::String(text.to_owned()));
    }
    let whole = digits.split(['.', 'e', 'E']).next().unwrap_or_default();
    if whole.len() > 1 && whole.starts_with('0') {
        let found = Diagnostic::error(
            "ambiguous_number",
            format!("`{text}` begins with a zero"),
        );
        return Err(at(found.help("put it in quotes, or drop the zero"), here));
    }
    // JSON wants a digit on both sides of the point.
    let mut json = text.strip_prefix('+').unwrap_or(text).to_owned();
    if digits.starts_with('.') {
        json = json.replacen('.', "0.", 1);
    }
    if json.ends_with('.') {
        json.push('0');
    }
    let json = json.replace(".e", ".0e").replace(".E", ".0E");
    parse_number(&json).map(Tree::Number).ok_or_else(|| at(out_of_range(text), here))
}

/// Whether a text is a decimal: digits, at most one point, at most one exponent.
fn is_decimal(digits: &str) -> bool {
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let all_digits =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let good_mantissa = match mantissa.split_once('.') {
        Some((whole, part)) => {
            (whole.is_empty() || all_digits(whole))
                && (part.is_empty() || all_digits(part))
                && !(whole.is_empty() && part.is_empty())
        }
        None => all_digits(mantissa),
    };
    let good_exponent = exponent.is_none_or(|exponent| {
        all_digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))
    });
    good_mantissa && good_exponent
}

fn core_tag(tag: &str) -> Option<&str> {
    tag.strip_prefix("tag:yaml.org,2002:").or_else(|| tag.strip_prefix("!!"))
}

fn check_tag(tag: Option<&str>, core: &str, here: Position) -> Result<(), Diagnostic> {
    match tag {
        None | Some("!") => Ok(()),
        Some(tag) if core_tag(tag) == Some(core) => Ok(()),
        Some(tag) => Err(bad_tag(tag, here)),
    }
}

fn bad_tag(tag: &str, here: Position) -> Diagnostic {
    let shown: String = tag.chars().take(60).collect();
    let found =
        Diagnostic::error("unsupported_tag", format!("the tag `{shown}` is not read"));
    at(found.help("remove the tag; write plain values"), here)
}

fn too_many(what: &str, limit: usize, here: Position) -> Diagnostic {
    let message = format!("more than {limit} {what}");
    let help = "write the values out, or use a template";
    at(Diagnostic::error("too_many_aliases", message).help(help), here)
}

fn too_deep(limit: usize, here: Position) -> Diagnostic {
    too_deep_here(format!("the document nests deeper than {limit} levels"), here)
}

fn too_deep_here(message: String, here: Position) -> Diagnostic {
    at(Diagnostic::error("too_deep", message).help("flatten the value"), here)
}

/// Refuses endless opening brackets before the parser keeps a token for each.
fn guard_flow_depth(text: &str, limit: usize) -> Result<(), Diagnostic> {
    // Only brackets in a row are counted: inside texts they mean nothing.
    let (mut run, mut line) = (0, 1);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => run += 1,
            b'\n' => line += 1,
            b' ' => {}
            _ => run = 0,
        }
        if run > limit.max(64) * 4 {
            return Err(too_deep(limit, (line, 1)));
        }
    }
    Ok(())
}

/// Finds the places of values; stops where the text cannot be read.
pub(super) fn find(text: &str, positions: &mut Positions) {
    /// A collection that is open.
    struct Open {
        wanted: Wanted,
        is_map: bool,
        /// Of a mapping: the key that waits for its value.
        key: Option<(Wanted, Position)>,
        /// Of a list: how many values it had so far.
        count: usize,
    }
    /// What was read does not nest deeper than this.
    const DEPTH: usize = 1_000;
    let mut open: Vec<Open> = vec![];
    for event in Parser::new_from_str_with_options(text, parser_options(DEPTH)) {
        let Ok((event, span)) = event else { return };
        if positions.is_complete() {
            return;
        }
        let here = position(&span.start);
        let (text, is_map) = match event {
            Event::Scalar(value, ..) => (Some(value), None),
            Event::Alias(_) => (None, None),
            Event::SequenceStart(..) => (None, Some(false)),
            Event::MappingStart(..) => (None, Some(true)),
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
                continue;
            }
            _ => continue,
        };
        let (wanted, key_at) = match open.last_mut() {
            None => (Some(0), None),
            Some(open) if !open.is_map => {
                open.count += 1;
                (positions.item(open.wanted, open.count - 1), None)
            }
            Some(open) => match open.key.take() {
                Some((wanted, key_at)) => (wanted, Some(key_at)),
                None => {
                    let name = text.as_deref().unwrap_or_default();
                    open.key = Some((positions.key(open.wanted, name), here));
                    continue;
                }
            },
        };
        positions.keep(wanted, here, is_map.is_some(), key_at);
        if let Some(is_map) = is_map {
            open.push(Open { wanted, is_map, key: None, count: 0 });
        }
    }
}

fn position(marker: &Marker) -> Position {
    (to_u32(marker.line()), to_u32(marker.col() + 1))
}

fn at(mut diagnostic: Diagnostic, (line, column): Position) -> Diagnostic {
    diagnostic.line = line;
    diagnostic.column = column;
    diagnostic
}
