//! Numbers in documents: those that survive being read and written, in both formats.

use serde_json::Number;

/// Reads a JSON number. `None`: it would not come back the same.
pub(super) fn parse_number(text: &str) -> Option<Number> {
    let number: Number = serde_json::from_str(text).ok()?;
    if number.is_i64() || number.is_u64() {
        return Some(number);
    }
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    // An f64 holds every decimal of 15 significant digits.
    if digits <= 15 {
        return Some(number);
    }
    (significant(text) == significant(&number.to_string())).then_some(number)
}

/// The significant digits of a decimal, without sign, point, exponent and outer zeros.
fn significant(text: &str) -> String {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_would_change_are_refused() {
        for good in
            ["0", "-1", "18446744073709551615", "0.1", "1e3", "3.141592653589793"]
        {
            assert!(parse_number(good).is_some(), "{good}");
        }
        for bad in [
            "18446744073709551616",
            "3.14159265358979323846",
            "1e400",
            "0.12345678901234567890",
        ] {
            assert!(parse_number(bad).is_none(), "{bad}");
        }
    }
}
