//! Reading JSON: serde_json into a [`Tree`], duplicate keys refused.

use std::{collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{
    Diagnostic, Tree, number::parse_number, positions::Positions, source::to_u32,
};

/// From so many keys on duplicates are looked for with a set.
const MANY_KEYS: usize = 16;

pub(super) fn read(text: &str) -> Result<Tree, Diagnostic> {
    let tree = serde_json::from_str(text).map_err(|error| from_serde(&error))?;
    check_numbers(text)?;
    Ok(tree)
}

fn from_serde(error: &serde_json::Error) -> Diagnostic {
    let full = error.to_string();
    let message = full.split(" at line ").next().unwrap_or(&full).to_owned();
    let (code, help) = if message.starts_with("duplicate key") {
        ("duplicate_key", "keep one of them")
    } else if message.contains("recursion limit") {
        ("too_deep", "nest at most 128 levels")
    } else if message.contains("number out of range") {
        ("number_out_of_range", "write it as a text in quotes")
    } else if message.contains("EOF") {
        ("syntax", "the text ends too early: close what is open")
    } else if message.contains("trailing comma") {
        ("syntax", "remove the comma after the last item")
    } else if message.contains("control character") {
        ("syntax", "write control characters in texts as escapes such as \\n")
    } else {
        ("syntax", "write JSON: keys and texts in double quotes, commas between items")
    };
    let mut diagnostic = Diagnostic::error(code, message).help(help);
    diagnostic.line = to_u32(error.line().max(1));
    diagnostic.column = to_u32(error.column().max(1));
    diagnostic
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

/// Finds the places of all values of a text that was read before.
pub(super) fn positions(text: &str) -> Positions {
    let mut positions = Positions::default();
    let bytes = text.as_bytes();
    let (mut at, mut line, mut line_start) = (0, 1_usize, 0);
    let mut open: Vec<usize> = vec![];
    let mut key: Option<(String, (u32, u32))> = None;
    while at < bytes.len() {
        let here = |at: usize, line: usize, line_start: usize| {
            (to_u32(line), to_u32(text[line_start..at].chars().count() + 1))
        };
        match bytes[at] {
            b'\n' => {
                line += 1;
                line_start = at + 1;
                at += 1;
            }
            b'{' | b'[' => {
                let place = here(at, line, line_start);
                open.push(positions.add(open.last().copied(), key.take(), place));
                at += 1;
            }
            b'}' | b']' => {
                open.pop();
                at += 1;
            }
            b'"' => {
                let end = string_end(bytes, at);
                let place = here(at, line, line_start);
                let follows = next_byte(bytes, end);
                if follows == Some(b':') {
                    let name: String =
                        serde_json::from_str(&text[at..end]).unwrap_or_default();
                    key = Some((name, place));
                } else {
                    positions.add(open.last().copied(), key.take(), place);
                }
                at = end;
            }
            b' ' | b'\t' | b'\r' | b':' | b',' => at += 1,
            _ => {
                positions.add(
                    open.last().copied(),
                    key.take(),
                    here(at, line, line_start),
                );
                while at < bytes.len()
                    && !matches!(bytes[at], b',' | b'}' | b']' | b'\n')
                {
                    at += 1;
                }
            }
        }
    }
    positions
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
