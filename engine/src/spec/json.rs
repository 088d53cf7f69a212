//! Reading JSON: serde_json into a [`Tree`], duplicate keys refused.

use std::{collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{
    Diagnostic, Tree,
    number::parse_number,
    positions::{Position, Positions, Wanted},
    source::to_u32,
};

/// From so many keys on duplicates are looked for with a set.
const MANY_KEYS: usize = 16;

pub(super) fn read(text: &str) -> Result<Tree, Diagnostic> {
    let tree = serde_json::from_str(text).map_err(|error| from_serde(&error, text))?;
    check_numbers(text)?;
    Ok(tree)
}

const UNCLOSED: &str = "this text does not end on its line";

/// Turns the reader's words into a finding where the fault is, not where it was noticed.
fn from_serde(error: &serde_json::Error, text: &str) -> Diagnostic {
    let full = error.to_string();
    let mut message = full.split(" at line ").next().unwrap_or(&full).to_owned();
    let noticed = offset(text, error.line(), error.column());
    let (code, byte, help) = if message.starts_with("duplicate key") {
        ("duplicate_key", noticed, "keep one of them, or give it another name")
    } else if message.contains("recursion limit") {
        ("too_deep", noticed, "nest at most 128 levels")
    } else if message.contains("number out of range") {
        ("number_out_of_range", noticed, "write it as a text in quotes")
    } else if message.contains("trailing comma") {
        let comma = text[..noticed].rfind(',').unwrap_or(noticed);
        ("syntax", comma, "remove the comma after the last item")
    } else if message.contains("control character") {
        // The reader counts the end of the line in which the text does not end.
        if error.column() == 0 {
            UNCLOSED.clone_into(&mut message);
            let line =
                text[..noticed.saturating_sub(1)].rfind('\n').map_or(0, |n| n + 1);
            ("syntax", open_quote(&text[line..noticed]) + line, "close the quote")
        } else {
            let help = "write control characters in texts as escapes such as \\n";
            ("syntax", noticed, help)
        }
    } else if message.contains("EOF while parsing a string") {
        UNCLOSED.clone_into(&mut message);
        ("syntax", open_quote(text), "close the quote")
    } else if message.contains("EOF") {
        let last = text.trim_end().char_indices().last().map_or(0, |(at, _)| at);
        ("syntax", last, "the text ends too early: close what is open")
    } else {
        ("syntax", noticed, help_at(text.get(noticed..).unwrap_or_default()))
    };
    let mut diagnostic = Diagnostic::error(code, message).help(help);
    (diagnostic.line, diagnostic.column) = position(text, byte);
    diagnostic
}

/// The remedy for what stands where something else was expected.
fn help_at(rest: &str) -> &'static str {
    let word =
        rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    match rest.as_bytes().first() {
        Some(b'/' | b'#') => {
            "JSON has no comments: remove the comment, or write the document as YAML"
        }
        Some(b'\'') => "write keys and texts in double quotes",
        _ if word.eq_ignore_ascii_case("true") => "write `true`",
        _ if word.eq_ignore_ascii_case("false") => "write `false`",
        _ if ["none", "nil", "null", "undefined", "nan"]
            .contains(&&*word.to_ascii_lowercase()) =>
        {
            "write `null`"
        }
        Some(b'"') => "put a comma before it",
        _ => "write JSON: keys and texts in double quotes, commas between items",
    }
}

/// The byte that a line and a column of the reader mean; its columns are bytes.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let lines = text.match_indices('\n').map(|(at, _)| at + 1);
    let start =
        std::iter::once(0).chain(lines).nth(line.saturating_sub(1)).unwrap_or(0);
    let mut byte = (start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}

/// The quote that opens the text in which a piece of JSON ends.
fn open_quote(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut last) = (0, 0);
    while at < bytes.len() {
        if bytes[at] == b'"' {
            last = at;
            at = string_end(bytes, at);
        } else {
            at += 1;
        }
    }
    last
}

/// The reader has turned numbers into values already; this looks at how they were
/// written. Only long ones can have lost something.
fn check_numbers(text: &str) -> Result<(), Diagnostic> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = string_end(bytes, at),
            b'-' | b'0'..=b'9' => {
                let start = at;
                while at < bytes.len()
                    && matches!(
                        bytes[at],
                        b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'
                    )
                {
                    at += 1;
                }
                if at - start > 15 && parse_number(&text[start..at]).is_none() {
                    let mut diagnostic = out_of_range(&text[start..at]);
                    (diagnostic.line, diagnostic.column) = position(text, start);
                    return Err(diagnostic);
                }
            }
            _ => at += 1,
        }
    }
    Ok(())
}

pub(super) fn out_of_range(number: &str) -> Diagnostic {
    let shown: String = number.chars().take(40).collect();
    let message = format!("the number {shown} would lose digits");
    Diagnostic::error("number_out_of_range", message)
        .help("write it as a text in quotes")
}

fn position(text: &str, byte: usize) -> (u32, u32) {
    let before = &text[..byte];
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (to_u32(line), to_u32(column))
}

/// The position after the text that starts with a quote at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// Finds the places of values in a text that was read before.
pub(super) fn find(text: &str, positions: &mut Positions) {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut cursor = Cursor { text, byte: 0, line: 1, column: 1 };
    // Each collection that is open, and how many values it had so far.
    let mut open: Vec<(Wanted, usize)> = vec![];
    let mut key: Option<(Wanted, Position)> = None;
    while at < bytes.len() && !positions.is_complete() {
        match bytes[at] {
            b'\n' => {
                cursor.next_line(at + 1);
                at += 1;
                continue;
            }
            b'}' | b']' => {
                open.pop();
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | b':' | b',' => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let here = cursor.advance(at);
        let is_collection = matches!(bytes[at], b'{' | b'[');
        let end = match bytes[at] {
            b'{' | b'[' => at + 1,
            b'"' => string_end(bytes, at),
            _ => {
                let rest = bytes[at..].iter();
                let is_end = |byte: &&u8| matches!(**byte, b',' | b'}' | b']' | b'\n');
                at + rest.take_while(|byte| !is_end(byte)).count()
            }
        };
        let parent = open.last().and_then(|(parent, _)| *parent);
        if bytes[at] == b'"' && next_byte(bytes, end) == Some(b':') {
            let name = || serde_json::from_str::<String>(&text[at..end]);
            let wanted = parent.and_then(|_| positions.key(parent, &name().ok()?));
            key = Some((wanted, here));
            at = end;
            continue;
        }
        let (wanted, key_at) = match (key.take(), open.last_mut()) {
            (Some((wanted, key_at)), _) => (wanted, Some(key_at)),
            (None, Some((parent, count))) => {
                *count += 1;
                (positions.item(*parent, *count - 1), None)
            }
            (None, None) => (Some(0), None),
        };
        positions.keep(wanted, here, is_collection, key_at);
        if is_collection {
            open.push((wanted, 0));
        }
        at = end;
    }
}

/// A place that moves forward, so that a document of one long line is counted once.
struct Cursor<'t> {
    text: &'t str,
    byte: usize,
    line: usize,
    column: usize,
}

impl Cursor<'_> {
    fn advance(&mut self, byte: usize) -> Position {
        self.column += self.text[self.byte..byte].chars().count();
        self.byte = byte;
        (to_u32(self.line), to_u32(self.column))
    }

    fn next_line(&mut self, byte: usize) {
        self.line += 1;
        self.column = 1;
        self.byte = byte;
    }
}

fn next_byte(bytes: &[u8], mut at: usize) -> Option<u8> {
    while at < bytes.len() && bytes[at].is_ascii_whitespace() {
        at += 1;
    }
    bytes.get(at).copied()
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Tree::Null, Tree::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = vec![];
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map: Vec<(String, Tree)> = vec![];
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let known = if map.len() < MANY_KEYS {
                map.iter().any(|(name, _)| *name == key)
            } else {
                if seen.is_empty() {
                    seen.extend(map.iter().map(|(name, _)| name.clone()));
                }
                !seen.insert(key.clone())
            };
            if known {
                let shown: String = key.chars().take(60).collect();
                return Err(A::Error::custom(format!("duplicate key `{shown}`")));
            }
            map.push((key, entries.next_value()?));
        }
        Ok(Tree::Map(map))
    }
}
