//! Finds `${{ … }}` in texts, and the names that an expression refers to.
//!
//! Only quotes and brackets are understood here; the language itself is minijinja's.

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Text that stands for itself.
    Text(std::borrow::Cow<'a, str>),
    /// An expression, trimmed.
    Expression(&'a str),
}

/// A `${{` without its `}}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`${{{{` without `}}}}`")]
pub struct Unclosed {
    /// Where it stands, in bytes from the start of the text.
    pub at: usize,
}

/// Splits a text into expressions and what stands between them. `$${{` is a literal
/// `${{`.
///
/// # Errors
/// [`Unclosed`] when an expression does not end.
pub fn split(text: &str) -> Result<Vec<Part<'_>>, Unclosed> {
    let mut parts = vec![];
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${{") {
        if rest[..at].ends_with('$') {
            literal.push_str(&rest[..at - 1]);
            literal.push_str("${{");
            rest = &rest[at + 3..];
            continue;
        }
        literal.push_str(&rest[..at]);
        let inner = &rest[at + 3..];
        let offset = text.len() - rest.len() + at;
        let end = expression_end(inner).ok_or(Unclosed { at: offset })?;
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal).into()));
        }
        parts.push(Part::Expression(inner[..end].trim()));
        rest = &inner[end + 2..];
    }
    literal.push_str(rest);
    if !literal.is_empty() || parts.is_empty() {
        parts.push(Part::Text(literal.into()));
    }
    Ok(parts)
}

/// Finds the `}}` that ends an expression: not inside quotes, not closing a mapping.
fn expression_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut braces = 0_u32;
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, b'{') => braces += 1,
            (None, b'}') if braces > 0 => braces -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

/// A use of a name in an expression: `tasks.fetch`, `tasks['a-b']`, `params`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The first name, such as `tasks`.
    pub root: &'a str,
    /// Where it stands, in bytes from the start of the expression.
    pub at: usize,
    /// The name below it, where it is written out.
    pub member: Option<String>,
    /// The name below that one: for `tasks.fetch.output` this is `output`.
    pub field: Option<String>,
    /// What follows `-` directly, where a name with a hyphen was probably meant:
    /// for `tasks.a-b.output` this is `a-b`.
    pub hyphenated: Option<&'a str>,
    /// Whether it is called like a function: `file('notes.md')`.
    pub called: bool,
}

/// Lists the names that stand at the head of a path, in order, with duplicates.
pub fn references(expression: &str) -> Vec<Reference<'_>> {
    let mut found = vec![];
    let bytes = expression.as_bytes();
    let mut at = 0;
    let mut after_dot = false;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = skip_quoted(bytes, at, quote),
            byte if is_name_start(byte) => {
                let end = name_end(bytes, at);
                if !after_dot {
                    found.push(reference(expression, at, end));
                }
                at = end;
                after_dot = false;
                continue;
            }
            byte if byte.is_ascii_digit() => {
                at = name_end(bytes, at);
                after_dot = false;
                continue;
            }
            b'.' => {
                after_dot = true;
                at += 1;
                continue;
            }
            _ => at += 1,
        }
        after_dot = false;
    }
    found
}

fn reference(expression: &str, start: usize, end: usize) -> Reference<'_> {
    let bytes = expression.as_bytes();
    let (member, after) = member(expression, end);
    let mut hyphenated = None;
    if bytes.get(end) == Some(&b'.') && bytes.get(after) == Some(&b'-') {
        let mut tail = after;
        while tail < bytes.len() && (bytes[tail] == b'-' || is_name(bytes[tail])) {
            tail += 1;
        }
        hyphenated = Some(&expression[end + 1..tail]);
    }
    Reference {
        root: &expression[start..end],
        at: start,
        field: member.as_ref().and_then(|_| self::member(expression, after).0),
        member,
        hyphenated,
        called: next_byte(bytes, end) == Some(b'('),
    }
}

/// The member that is taken at `at`, as `.name` or `['name']`, and where it ends.
fn member(expression: &str, at: usize) -> (Option<String>, usize) {
    let bytes = expression.as_bytes();
    match bytes.get(at) {
        Some(b'.') => {
            let end = name_end(bytes, at + 1);
            let name = (end > at + 1).then(|| expression[at + 1..end].to_owned());
            (name, end)
        }
        Some(b'[') => {
            let inner = expression[at + 1..].trim_start();
            let open = expression.len() - inner.len();
            let Some(quote @ (b'"' | b'\'')) = bytes.get(open).copied() else {
                return (None, at);
            };
            let close = skip_quoted(bytes, open, quote);
            let text = expression.get(open + 1..close.saturating_sub(1));
            let end = match next_byte(bytes, close) {
                Some(b']') => close + expression[close..].find(']').unwrap_or(0) + 1,
                _ => close,
            };
            (text.map(|text| text.replace('\\', "")), end)
        }
        _ => (None, at),
    }
}

/// The first byte from `at` on that is not a space.
pub(super) fn next_byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at..)?.iter().find(|byte| !byte.is_ascii_whitespace()).copied()
}

/// How many operators, members, calls and brackets an expression has, at most.
pub(super) fn parts(expression: &str) -> usize {
    let bytes = expression.as_bytes();
    let (mut at, mut parts) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at = skip_quoted(bytes, at, quote);
                continue;
            }
            byte if is_name_start(byte) => {
                let end = name_end(bytes, at);
                let word = &expression[at..end];
                let joins = ["and", "or", "not", "is", "in", "if", "else"];
                parts += usize::from(joins.contains(&word));
                at = end;
                continue;
            }
            byte if byte.is_ascii_digit() => {
                at = name_end(bytes, at);
                // The point of a number is no member.
                let is_point = bytes.get(at) == Some(&b'.')
                    && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
                at += usize::from(is_point);
                continue;
            }
            b',' | b':' | b')' | b']' | b'}' => {}
            byte if byte.is_ascii_whitespace() => {}
            _ => parts += 1,
        }
        at += 1;
    }
    parts
}

/// The position after the quoted text that starts at `at`.
pub(super) fn skip_quoted(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

pub(super) fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_name(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit()
}

pub(super) fn name_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && is_name(bytes[at]) {
        at += 1;
    }
    at
}
