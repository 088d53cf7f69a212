//! Text for terminals: cells measured in columns, times, values without surprises.

use std::{io::Write as _, time::Duration};

use dandori::{Timestamp, spec::format_duration};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Prints data on stdout. Whoever stops reading has read enough; that it cannot be written
/// at all is an error, and what is recorded stays.
pub(super) fn print_data(text: &str, line: bool) {
    let mut stdout = anstream::stdout().lock();
    let end = if line { "\n" } else { "" };
    let written = write!(stdout, "{text}{end}").and_then(|()| stdout.flush());
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            std::process::exit(0);
        }
        Err(error) => {
            anstream::eprintln!("error[output]: stdout: {error}");
            std::process::exit(5);
        }
    }
}

/// Removes what would steer the terminal, or turn the direction of what follows around: names
/// and errors come from anywhere.
pub(super) fn clean(text: &str) -> String {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let steers = |c: char| (c.is_control() && c != '\n') || turns(c);
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// One line of a text.
pub(super) fn one_line(text: &str) -> String {
    clean(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Cuts a text to so many columns.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut width = 0;
    for c in text.chars() {
        width += c.width().unwrap_or(0);
        if width + 1 > columns {
            break;
        }
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// Prints a list with a line that names its columns.
pub(super) fn print_table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) {
    let head = head.map(str::to_owned).to_vec();
    let rows = rows.into_iter().map(|row| row.to_vec());
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    print_data(&table(&all), false);
}

/// Lays out rows in columns; a Japanese character takes two.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|at| {
            rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.width()).max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if at + 1 < row.len() {
                line.push_str(&" ".repeat(widths[at] - cell.width() + 2));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How long ago, in one unit.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(at).as_secs();
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3_600 => format!("{}m ago", seconds / 60),
        3_600..86_400 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// A duration for people: never more than two units.
pub(super) fn took(from: Option<Timestamp>, to: Option<Timestamp>) -> String {
    let (Some(from), Some(to)) = (from, to) else { return String::new() };
    let time = to.since(from);
    let rounded = if time < Duration::from_secs(1) {
        Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    } else if time < Duration::from_secs(60) {
        return format!("{:.1}s", time.as_secs_f64());
    } else {
        Duration::from_secs(time.as_secs())
    };
    if rounded.is_zero() { "<1ms".to_owned() } else { format_duration(rounded) }
}

/// How this program was called, for commands that are ready to paste.
pub(super) fn program() -> String {
    let called = std::env::args().next().filter(|name| !name.is_empty());
    quote(&called.unwrap_or_else(|| "dandori".to_owned()))
}

/// Quotes a word for the shell where it needs that.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if word.chars().all(plain) && !word.is_empty() {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The time of day of an event.
pub(super) fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(11..19).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn japanese_cells_line_up() {
        let rows = vec![
            vec!["段取り".to_owned(), "x".to_owned()],
            vec!["a".to_owned(), "y".to_owned()],
        ];
        assert_eq!(table(&rows), "段取り  x\na       y\n");
    }

    #[test]
    fn texts_are_cut_by_columns_and_cannot_steer_the_terminal() {
        assert_eq!(cut("段取りの術", 5), "段取…");
        assert_eq!(clean("a\u{1b}[31mb"), "a\u{fffd}[31mb");
    }
}
