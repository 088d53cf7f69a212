//! The filter of a list: `state:failed label:team=a since:24h kind:web.search name:nightly`.
//! Words of one sort widen for `state`, and narrow for `label`. What stands between double
//! quotes belongs to one word, blanks and all: `name:"my report"`; `\"` and `\\` stand for
//! themselves there.

use dandori::{Timestamp, run::ProjectState, spec::parse_duration, store::ListFilter};

use super::problem::Problem;

/// The longest filter, in bytes.
const LONGEST: usize = 4 * 1024;

/// Reads a filter.
pub(crate) fn filter(text: &str, now: Timestamp) -> Result<ListFilter, Problem> {
    let mut filter = ListFilter::default();
    if text.len() > LONGEST || text.contains('\0') {
        return Err(bad("it is too long, or holds a NUL"));
    }
    for word in words(text)? {
        let Some((key, value)) = word.split_once(':').filter(|(_, it)| !it.is_empty())
        else {
            return Err(bad(&format!("`{word}` is no `key:value`")));
        };
        match key {
            "state" => {
                let state = ProjectState::parse(value)
                    .ok_or_else(|| bad(&format!("there is no state `{value}`")))?;
                filter.states.push(state);
            }
            "label" => {
                let (name, value) = value.split_once('=').ok_or_else(|| {
                    bad(&format!("`{word}` is no `label:name=value`"))
                })?;
                filter.labels.push((name.to_owned(), value.to_owned()));
            }
            "since" => filter.since = Some(since(value, now)?),
            "kind" => filter.kind = Some(value.to_owned()),
            "name" => filter.name = Some(value.to_owned()),
            other => return Err(bad(&format!("there is no `{other}:`"))),
        }
    }
    Ok(filter)
}

/// The words of a filter, without their quotes.
fn words(text: &str) -> Result<Vec<String>, Problem> {
    let mut words = vec![];
    let mut word = String::new();
    let mut quoted = false;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => quoted = !quoted,
            '\\' if quoted => match letters.next() {
                Some(letter @ ('"' | '\\')) => word.push(letter),
                _ => return Err(bad("`\\` stands before `\"` or `\\` only")),
            },
            blank if blank.is_whitespace() && !quoted => {
                words.push(std::mem::take(&mut word));
            }
            letter => word.push(letter),
        }
    }
    if quoted {
        return Err(bad("a quote has no end"));
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    Ok(words)
}

/// A word of a filter, in quotes where it needs them.
pub(crate) fn word(key: &str, value: &str) -> String {
    let quotes = |letter: char| letter.is_whitespace() || letter == '"';
    match value.contains(quotes) {
        true => {
            let value = value.replace('\\', r"\\").replace('"', "\\\"");
            format!("{key}:\"{value}\"")
        }
        false => format!("{key}:{value}"),
    }
}

/// A duration before now, or a time.
fn since(value: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    if let Ok(ago) = parse_duration(value) {
        let micros = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
        return Ok(Timestamp::from_micros(now.as_micros().saturating_sub(micros)));
    }
    let unknown = || bad(&format!("`{value}` is no duration and no time"));
    Timestamp::parse(value).ok_or_else(unknown)
}

fn bad(detail: &str) -> Problem {
    Problem::bad_request("bad_filter", format!("the filter: {detail}")).help(
        "write words such as `state:failed label:team=a since:24h kind:http.request name:nightly`, with \
         quotes around blanks: `name:\"my report\"`",
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn words_are_read_and_others_are_refused() {
        let now = Timestamp::EPOCH.plus(Duration::from_secs(90_000));
        let text = "state:failed state:running label:a=b=c since:24h kind:k name:n";
        let read = filter(text, now).unwrap();
        assert_eq!(read.states, [ProjectState::Failed, ProjectState::Running]);
        assert_eq!(read.labels, [("a".to_owned(), "b=c".to_owned())]);
        assert_eq!(read.since, Some(Timestamp::EPOCH.plus(Duration::from_secs(3_600))));
        assert_eq!(
            (read.kind.as_deref(), read.name.as_deref()),
            (Some("k"), Some("n"))
        );
        for wrong in [
            "state",
            "state:",
            "state:done",
            "label:a",
            "since:soon",
            "x:y",
            "\0",
            "name:\"a",
            "name:\"a\\n\"",
        ] {
            assert!(filter(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn whatever_a_project_is_called_it_can_be_asked_for() {
        for name in
            ["nightly", "my report", "say \"hi\"", r"back\slash", r#"\" b"#, "日 本"]
        {
            let read = filter(&word("name", name), Timestamp::EPOCH).unwrap();
            assert_eq!(read.name.as_deref(), Some(name));
        }
    }
}
