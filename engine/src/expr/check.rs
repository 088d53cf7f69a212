//! [`check`]: an expression as its author sees it, before anything runs.
//!
//! The language looks up filters and tests only when it comes to them, which for a step
//! may be hours after the start; here they are looked up first.

use minijinja::ErrorKind;

use super::{
    compile, describe, engine,
    scan::{is_name_start, name_end, next_byte, skip_quoted},
};
use crate::plan::{did_you_mean, nearest};

/// The filters of the language, for suggestions.
const FILTERS: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "json",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "urlencode",
    "zip",
];

/// The tests of the language that have a name, for suggestions.
const TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "int",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "safe",
    "sameas",
    "sequence",
    "startingwith",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// Looks at the syntax of an expression, and at the filters and tests it names.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check(expression: &str) -> Result<(), Fault> {
    if let Err(error) = compile(expression) {
        let help = operator_help(expression)
            .unwrap_or_else(|| "see docs/expressions.md for the language".to_owned());
        return Err(Fault { message: describe(&error), help });
    }
    for (use_of, name) in uses(expression) {
        let (what, known) = match use_of {
            Use::Filter if !is_filter(name) => ("filter", FILTERS),
            Use::Test if !is_test(name) => ("test", TESTS),
            Use::Filter | Use::Test => continue,
        };
        let message = format!("there is no {what} `{name}`");
        let help = match nearest(name, known.iter().copied()) {
            Some(near) => did_you_mean(name, &near),
            None => format!("see docs/expressions.md for every {what}"),
        };
        return Err(Fault { message, help });
    }
    Ok(())
}

/// Whether a name is that of a filter.
pub fn is_filter(name: &str) -> bool {
    FILTERS.contains(&name)
        || !matches!(
            engine().empty_state().apply_filter(name, &[]),
            Err(error) if error.kind() == ErrorKind::UnknownFilter
        )
}

fn is_test(name: &str) -> bool {
    TESTS.contains(&name)
        || !matches!(
            engine().empty_state().perform_test(name, &[]),
            Err(error) if error.kind() == ErrorKind::UnknownTest
        )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Filter,
    Test,
}

/// The filters and tests that an expression names, in order.
fn uses(expression: &str) -> Vec<(Use, &str)> {
    let bytes = expression.as_bytes();
    let word_at = |at: usize| {
        let skipped = bytes[at..].iter().take_while(|b| b.is_ascii_whitespace());
        let start = at + skipped.count();
        let end = name_end(bytes, start);
        (&expression[start..end], end)
    };
    let mut found = vec![];
    let mut at = 0;
    let mut after_dot = false;
    while at < bytes.len() {
        let was_after_dot = std::mem::take(&mut after_dot);
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = skip_quoted(bytes, at, quote),
            b'|' => {
                let (name, end) = word_at(at + 1);
                if !name.is_empty() {
                    found.push((Use::Filter, name));
                }
                at = end.max(at + 1);
            }
            b'.' => {
                after_dot = true;
                at += 1;
            }
            byte if is_name_start(byte) => {
                let end = name_end(bytes, at);
                let is_test = &expression[at..end] == "is" && !was_after_dot;
                at = end;
                if is_test {
                    let (mut name, mut end) = word_at(at);
                    if name == "not" {
                        (name, end) = word_at(end);
                    }
                    if !name.is_empty() {
                        found.push((Use::Test, name));
                        at = end;
                    }
                }
            }
            byte if byte.is_ascii_digit() => at = name_end(bytes, at),
            _ => at += 1,
        }
    }
    found
}

/// The remedy for an operator of another language.
fn operator_help(expression: &str) -> Option<String> {
    let bytes = expression.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let pair = (bytes[at], bytes.get(at + 1).copied().unwrap_or(b' '));
        let help = match pair {
            (quote @ (b'"' | b'\''), _) => {
                at = skip_quoted(bytes, at, quote);
                continue;
            }
            (b'&', _) => "write `and` instead of `&&`",
            (b'|', b'|') => "write `or` instead of `||`",
            (b'=' | b'!', b'=') => {
                if bytes.get(at + 2) == Some(&b'=') {
                    "write `==` or `!=`: there is only one kind of equality"
                } else {
                    at += 2;
                    continue;
                }
            }
            (b'<' | b'>', b'=') => {
                at += 2;
                continue;
            }
            (b'=', _) => "write `==` to compare",
            (b'!', _) => "write `not` instead of `!`",
            (b'?', _) => "write `A if CONDITION else B` instead of `CONDITION ? A : B`",
            (b'$', _) if next_byte(bytes, at + 1) == Some(b'{') => {
                "expressions do not nest: write the name without `${{ }}`"
            }
            _ => {
                at += 1;
                continue;
            }
        };
        return Some(help.to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_filter_and_test_exists() {
        for name in FILTERS {
            let result = engine().empty_state().apply_filter(name, &[]);
            let unknown = result.is_err_and(|e| e.kind() == ErrorKind::UnknownFilter);
            assert!(!unknown, "{name}");
        }
        for name in TESTS {
            let result = engine().empty_state().perform_test(name, &[]);
            let unknown = result.is_err_and(|e| e.kind() == ErrorKind::UnknownTest);
            assert!(!unknown, "{name}");
        }
    }

    #[test]
    fn unknown_filters_and_tests_are_found_wherever_they_stand() {
        for (expression, help) in [
            ("x | uper", "`upper`"),
            ("x|default([])|lenght", "`length`"),
            ("a if b else (c | firts)", "`first`"),
            ("x is not defnied", "`defined`"),
            ("x is od", "`odd`"),
        ] {
            let fault = check(expression).unwrap_err();
            assert!(fault.help.contains(help), "{expression}: {fault:?}");
        }
        for expression in [
            "x | upper | default('a | b is c')",
            "x.is",
            "x is not none and y is divisibleby(3)",
            "{'is': 1}",
            "1 if a is defined else 2",
            "a ~ b | join(', ')",
        ] {
            assert_eq!(check(expression), Ok(()), "{expression}");
        }
    }

    #[test]
    fn an_expression_as_deep_as_allowed_fits_the_stack() {
        let names = crate::expr::Names::default();
        for (part, end) in [
            ("1+", "1"),
            ("not ", "x"),
            ("-", "1"),
            ("1 if true else ", "1"),
            ("[", ""),
        ] {
            let most = |count: usize| format!("{}{end}", part.repeat(count));
            let fits = most(crate::expr::MOST_PARTS / 2);
            let _ = check(&fits);
            let _ = crate::expr::evaluate(&fits, &names);
            assert!(check(&most(100_000)).is_err(), "{part}");
        }
        for (part, count) in [("|upper", 499), (".a", 499), ("[0]", 499), ("(1)", 499)]
        {
            let fits = format!("x{}", part.repeat(count));
            let _ = check(&fits);
            let _ = crate::expr::evaluate(&fits, &names);
        }
        assert_eq!(check(&format!("[{}1]", "1.5,".repeat(10_000))), Ok(()));
    }

    #[test]
    fn operators_of_other_languages_are_translated() {
        for (expression, help) in [
            ("a && b", "`and`"),
            ("a || b", "`or`"),
            ("!a", "`not`"),
            ("a = 'b'", "`==`"),
            ("a === b", "`==`"),
            ("a ? b : c", "else"),
            ("a <= b = c", "`==`"),
            ("'&&' +", "docs/expressions.md"),
        ] {
            let fault = check(expression).unwrap_err();
            assert!(fault.help.contains(help), "{expression}: {fault:?}");
        }
    }
}
