//! Names of tasks, templates and inputs: 1–200 characters, NFC, nothing that the names
//! of steps use themselves (`/`, `[`, `]`).

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::{
    Diagnostic,
    reader::{At, Findings},
};

/// The most characters a name may have.
pub const MAX_NAME: usize = 200;

/// Looks at a name whose key stands at `at`.
pub(super) fn check_name(name: &str, at: &At<'_>, findings: &mut Findings) {
    // The usual name is decided by one look at its bytes.
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'[' | b']' | b'/');
    if !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(plain) {
        return;
    }
    if let Some((message, help)) = fault(name) {
        let shown: String = name
            .chars()
            .take(40)
            .map(|c| if c.is_control() { '�' } else { c })
            .collect();
        let diagnostic =
            Diagnostic::error("bad_name", format!("the name `{shown}` {message}"));
        findings.add(diagnostic.help(help).task(shown), &at.name(name));
    }
}

/// What is wrong with a name, and the remedy.
pub(crate) fn fault(name: &str) -> Option<(&'static str, String)> {
    let keep_title = "put the full text into `title:` and shorten the name";
    if name.is_empty() {
        return Some(("is empty", "give it a name of 1 to 200 characters".to_owned()));
    }
    if name.chars().count() > MAX_NAME {
        return Some(("has more than 200 characters", keep_title.to_owned()));
    }
    if name.chars().any(|c| c.is_control() || c == '\u{feff}') {
        return Some(("holds a control character", "remove it".to_owned()));
    }
    if name.contains(['[', ']', '/']) {
        let help = "`/`, `[` and `]` are used in the names of steps; write `-` instead";
        return Some(("holds `/`, `[` or `]`", help.to_owned()));
    }
    if name.trim() != name {
        return Some(("begins or ends with a space", "remove the space".to_owned()));
    }
    if !is_nfc(name) {
        let normal: String = name.nfc().collect();
        let help = format!("write it in composed form (NFC): `{normal}`");
        return Some(("is not in Unicode normal form NFC", help));
    }
    None
}
