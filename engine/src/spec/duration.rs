//! Durations in documents: `500ms`, `10s`, `1h30m`. A bare number is refused, because
//! nobody can tell whether it means seconds or milliseconds.

use std::time::Duration;

/// Units in milliseconds, longest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration such as `500ms`, `10s`, `1.5s` or `1h30m`.
///
/// # Errors
/// A sentence about what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{text}` is not a duration; write one such as `500ms`, `10s` or `1h30m`"
        )
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0.0_f64;
    let mut last = usize::MAX;
    while !rest.is_empty() {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters =
            rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = UNITS.iter().position(|(unit, _)| *unit == &rest[..letters]);
        let Some(unit) = unit else {
            if rest.is_empty() {
                return Err(format!("`{text}` has no unit; did you mean `{text}s`?"));
            }
            return Err(wrong());
        };
        if last != usize::MAX && unit <= last {
            return Err(wrong());
        }
        last = unit;
        rest = &rest[letters..];
        #[expect(clippy::cast_precision_loss, reason = "the units are small")]
        let factor = UNITS[unit].1 as f64;
        total += number * factor;
    }
    Duration::try_from_secs_f64(total / 1_000.0)
        .ok()
        .filter(|duration| duration.as_secs() <= 100 * 366 * 86_400)
        .ok_or_else(|| format!("`{text}` is longer than a hundred years"))
}

/// Writes a duration the way documents spell it.
pub fn format_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, millis) in UNITS {
        if left >= millis {
            text.push_str(&format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write_the_same() {
        for text in ["500ms", "10s", "1h30m", "2d", "1m500ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1_500));
    }

    #[test]
    fn other_texts_are_refused_with_a_remedy() {
        for text in ["", "s", "1", "1 hour", "30m1h", "1x", "-1s", "1s1s", "1e9d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("60").unwrap_err().contains("`60s`"));
    }
}
