//! [`nearest`]: what a misspelt name was probably meant to be.

/// Finds the candidate that `name` was probably meant to be.
///
/// Upper and lower case count as the same. A candidate that begins like the whole name,
/// or the other way round, is as good as one slip of the pen; among equally good ones
/// the longest common beginning wins, since people err more towards the end of a word.
pub fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    // Bounded: a suggestion is a courtesy and must not make a large error slow.
    const LOOKED_AT: usize = 2_000;
    const CELLS: usize = 100_000;
    const CALL: usize = 100;
    const LONGEST: usize = 200;
    if name.len() > LONGEST {
        return None;
    }
    let wanted: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
    let length = wanted.len();
    let limit = 1 + length / 3;
    let mut cells = 0;
    let mut best: Option<((usize, usize, usize), &str)> = None;
    for candidate in candidates.into_iter().take(LOOKED_AT) {
        let lower: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        let count = lower.len();
        let common = wanted.iter().zip(&lower).take_while(|(a, b)| a == b).count();
        let begins = common >= 3 && common == length.min(count);
        if !begins && length.abs_diff(count) > limit {
            continue;
        }
        // A common beginning and a common end cost nothing and are not compared.
        let ends = wanted[common..].iter().rev().zip(lower[common..].iter().rev());
        let end = ends.take_while(|(a, b)| a == b).count();
        let own: String = wanted[common..length - end].iter().collect();
        let other: String = lower[common..count - end].iter().collect();
        cells += CALL + (length - common - end) * (count - common - end);
        if cells > CELLS {
            break;
        }
        let mut distance = strsim::osa_distance(&own, &other);
        if begins {
            distance = distance.min(1);
        } else if distance > limit || distance >= length.max(count) {
            continue;
        }
        let rank = (distance, usize::MAX - common, count);
        if best.is_none_or(|(known, other)| (rank, candidate) < (known, other)) {
            best = Some((rank, candidate));
        }
    }
    best.map(|(_, candidate)| candidate.to_owned())
}

/// Proposes `nearest` instead of `name`. Letters that only look like the right ones are
/// named, because nobody can see them.
pub(crate) fn did_you_mean(name: &str, nearest: &str) -> String {
    let strange = name.chars().find(|c| !c.is_ascii() && !nearest.contains(*c));
    match strange {
        Some(c) if nearest.is_ascii() => {
            let code = u32::from(c);
            format!("did you mean `{nearest}`? the `{c}` in `{name}` is U+{code:04X}")
        }
        _ => format!("did you mean `{nearest}`?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_a_reader_would_choose() {
        for (name, candidates, expected) in [
            ("max_retry", vec!["max_delay", "max_retries", "retry_on"], "max_retries"),
            ("api", vec!["app", "API"], "API"),
            ("time", vec!["title", "timeout", "use"], "timeout"),
            ("desc", vec!["type", "default", "description"], "description"),
            ("http.requst", vec!["http.request", "http"], "http.request"),
            ("need", vec!["kind", "needs", "use"], "needs"),
            ("fecth", vec!["fetch", "fetch-all"], "fetch"),
            ("report-finel", vec!["report", "report-final"], "report-final"),
        ] {
            assert_eq!(nearest(name, candidates).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_name_like_no_other_has_no_nearest() {
        assert_eq!(nearest("always", ["inputs", "tasks", "needs"]), None);
        assert_eq!(nearest("ab", ["xy"]), None);
        assert_eq!(nearest(&"a".repeat(100_000), ["a"]), None);
    }

    #[test]
    fn letters_that_look_alike_are_named() {
        assert!(did_you_mean("d\u{430}ta", "data").contains("U+0430"));
        assert_eq!(did_you_mean("dta", "data"), "did you mean `data`?");
    }
}
