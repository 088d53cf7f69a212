//! Words on a drawing: cleaned of what harms, measured and cut.
//!
//! Owns the treatment that is the same for every format. Each format escapes for its
//! own syntax what comes from here.

use unicode_width::UnicodeWidthChar;

use super::GraphNode;

/// Removes what could break a line, a document or the direction of reading.
///
/// Line breaks and tabs become spaces. The joiners U+200C and U+200D stay: scripts and
/// emoji are written with them.
pub(super) fn clean(text: &str) -> String {
    let kept = text.chars().filter_map(|c| match c {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
        c if c.is_control() => None,
        // Marks, embeddings, overrides and isolates of direction; invisible characters.
        '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' => None,
        '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => None,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => None,
        // Not characters at all, and forbidden in XML.
        '\u{fffe}' | '\u{ffff}' => None,
        c => Some(c),
    });
    let kept: String = kept.collect();
    kept.trim().to_owned()
}

/// The cleaned name of a node, which is never empty.
pub(super) fn name(node: &GraphNode) -> String {
    let name = clean(&node.name);
    if name.is_empty() { "(unnamed)".to_owned() } else { name }
}

/// A cleaned optional text, `None` if nothing is left of it.
pub(super) fn some(text: Option<&str>) -> Option<String> {
    text.map(clean).filter(|text| !text.is_empty())
}

/// The words of a state: `upstream_failed` is read as "upstream failed".
pub(super) fn state(node: &GraphNode) -> Option<String> {
    some(node.state.as_deref()).map(|state| state.replace('_', " "))
}

/// The columns that a character takes in a picture.
///
/// Signs such as `①` or `…` are of ambiguous width and drawn wide by Japanese fonts; a
/// box must have room for them. Letters of other alphabets are ambiguous as well, but
/// no common font draws those wide.
fn columns_of(c: char) -> usize {
    let width = if c < '\u{2000}' { c.width() } else { c.width_cjk() };
    width.unwrap_or(0)
}

/// The columns that a text takes in a picture.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Cuts a text to at most `most` columns, marking the cut with an ellipsis.
pub(super) fn cut(text: &str, most: usize) -> String {
    if columns(text) <= most {
        return text.to_owned();
    }
    let room = most.saturating_sub(columns_of('…'));
    let mut used = 0;
    let mut kept = String::new();
    for c in text.chars() {
        used += columns_of(c);
        if used > room {
            break;
        }
        kept.push(c);
    }
    kept.truncate(kept.trim_end().len());
    kept.push('…');
    kept
}

/// The width in pixels of a text in a proportional font of the given size.
///
/// The shares are those of wide system fonts (DejaVu Sans), so that the box fits
/// whatever font the reader has.
pub(super) fn pixels(text: &str, size: f64) -> f64 {
    let share = |c: char| match (columns_of(c), c) {
        (0, _) => 0.0,
        (1, 'A'..='Z' | 'm' | 'w' | '@' | '%') => 0.76,
        (1, 'f' | 'i' | 'j' | 'l' | 'r' | 't' | '.' | ',' | ' ') => 0.4,
        (1, _) => 0.61,
        (_, _) => 1.0,
    };
    text.chars().map(share).sum::<f64>() * size
}

/// Names as a list, of which at most five are written out.
pub(super) fn list<'a>(
    nodes: impl ExactSizeIterator<Item = &'a GraphNode>,
) -> Option<String> {
    /// Enough to find the way; a step may have a hundred thousand needs.
    const MOST: usize = 5;
    let count = nodes.len();
    let mut parts: Vec<_> = nodes.take(MOST).map(|node| cut(&name(node), 40)).collect();
    if count > MOST {
        parts.push(format!("+{} more", count - MOST));
    }
    (count > 0).then(|| parts.join(", "))
}
