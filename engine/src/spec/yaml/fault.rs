//! What is wrong with YAML that cannot be read: the parser's words, the likely cause and
//! its place, which is often a line before the one where the parser gave up.

use granit_parser::ErrorKind;

use super::{at, too_deep_here};
use crate::spec::{Diagnostic, positions::Position, source::to_u32};

const INDENTATION: &str =
    "check the indentation, and write `key: value` with a space after the colon";

/// Turns an error of the parser into a finding with the likely remedy. `bracket` is the
/// innermost bracket that is open.
pub(super) fn explain(
    kind: &ErrorKind,
    here: Position,
    bracket: Option<Position>,
    text: &str,
) -> Diagnostic {
    let message = kind.to_string();
    let line = line(text, here.0);
    if let Err(diagnostic) = check_spaces(line.trim_start_matches(' '), here) {
        return diagnostic;
    }
    let found = |help: &str, here| {
        at(Diagnostic::error("syntax", message.clone()).help(help), here)
    };
    if *kind == ErrorKind::RecursionLimitExceeded {
        return too_deep_here(message, here);
    }
    if is_tab(kind) || line.trim_start_matches(' ').starts_with('\t') {
        return found("indent with spaces, not tabs", here);
    }
    match kind {
        ErrorKind::UnknownAnchor | ErrorKind::MissingAnchorOrAliasName => {
            let help = "put quotes around a value that begins with `*` or `&`, or define \
                        the anchor before it is used";
            return found(help, here);
        }
        ErrorKind::UnknownQuotedScalarEscape
        | ErrorKind::InvalidQuotedScalarHexEscape
        | ErrorKind::InvalidUnicodeEscape => {
            return found("write a backslash as `\\\\`, or use single quotes", here);
        }
        ErrorKind::UnexpectedCharacter { character } => {
            let help =
                format!("put quotes around a value that begins with `{character}`");
            return found(&help, here);
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar
        | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            let help = "close the quote at the end of the value; write `''` for a quote \
                        in single quotes, `\\\"` in double ones";
            return found(help, here);
        }
        ErrorKind::UnclosedQuotedScalar | ErrorKind::InvalidQuotedScalarIndent => {
            return found("close the quote", here);
        }
        _ => {}
    }
    if let Some(open) = bracket.or_else(|| unclosed(kind, here)) {
        let before = self::line(text, open.0);
        if line.contains("${{") || before.contains("${{") {
            let help = "put quotes around a value that holds `${{ }}`";
            return found(help, if line.contains("${{") { here } else { open });
        }
        let help = "close the bracket, and put commas between items";
        if here.0 > open.0 {
            // What follows on later lines was never meant to be inside.
            let message = "this bracket is not closed where its line ends";
            return at(Diagnostic::error("syntax", message).help(help), open);
        }
        return found(help, here);
    }
    if *kind == ErrorKind::MappingValueNotAllowed {
        let column = here.1.saturating_sub(1) as usize;
        let before: String = line.chars().take(column).collect();
        if before.contains(": ") {
            let message = "a second `: ` on the line reads as a key inside the value";
            let help = "put quotes around a value that holds `: `";
            return at(Diagnostic::error("syntax", message).help(help), here);
        }
        if let Some(place) = line_without_colon(text, here.0, line) {
            let message = "the line is neither a key nor part of a value";
            let help = "write `key: value`, with a colon after the key";
            return at(Diagnostic::error("syntax", message).help(help), place);
        }
    }
    if line.contains(": {{") {
        return found("write `\"${{ … }}\"`, with a `$` and in quotes", here);
    }
    if line.contains("${{") {
        return found("put quotes around a value that holds `${{ }}`", here);
    }
    found(INDENTATION, here)
}

/// Refuses spaces that are not plain ones at the beginning of a line: they look like
/// indentation and are letters to the parser.
pub(super) fn check_spaces(text: &str, here: Position) -> Result<(), Diagnostic> {
    let first = text.chars().next();
    let Some(space) = first.filter(|c| {
        !c.is_ascii() && (c.is_whitespace() || matches!(c, '\u{200b}' | '\u{feff}'))
    }) else {
        return Ok(());
    };
    let code = u32::from(space);
    let message = format!("the line is indented with U+{code:04X}, not with spaces");
    let help = "indent with plain spaces; the others come from copied text";
    Err(at(Diagnostic::error("syntax", message).help(help), here))
}

fn is_tab(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::TabInPlainScalar
    )
}

/// The place of a bracket that the parser missed before it told of any event.
fn unclosed(kind: &ErrorKind, here: Position) -> Option<Position> {
    let is_flow = matches!(
        kind,
        ErrorKind::UnclosedFlowCollection { .. }
            | ErrorKind::MisplacedFlowCollectionEnd
            | ErrorKind::MismatchedFlowCollectionEnd { .. }
            | ErrorKind::ExpectedFlowMappingSeparator
            | ErrorKind::ExpectedFlowSequenceSeparator
            | ErrorKind::InvalidFlowScalarIndent
            | ErrorKind::InvalidColonPlacement
    );
    is_flow.then_some(here)
}

/// The line before, where it has the same indentation and is no `key: value`.
fn line_without_colon(text: &str, number: u32, line: &str) -> Option<Position> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let before = number.checked_sub(1).filter(|before| *before > 0)?;
    let candidate = self::line(text, before);
    let content = candidate.trim();
    let is_key = !content.contains(':') && !content.starts_with(['#', '-']);
    let fits = is_key && !content.is_empty();
    (fits && indentation(candidate) == indentation(line))
        .then(|| (before, to_u32(indentation(candidate) + 1)))
}

fn line(text: &str, number: u32) -> &str {
    text.lines().nth(number.saturating_sub(1) as usize).unwrap_or_default()
}
