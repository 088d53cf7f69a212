//! Refuses filters that define a function which calls itself.
//!
//! Such a function can turn for ever without passing the counter, or take more stack than
//! there is, which would end the whole worker. The generators of jq cover its uses.

use jaq_core::{
    load::{
        lex::{Lexer, StrPart},
        parse::{BinaryOp, Parser, Pattern, Term},
    },
    path::Part,
};

/// Looks through a filter.
///
/// # Errors
/// A sentence that says what is wrong, also where the filter cannot be read at all.
pub(super) fn refuse(filter: &str) -> Result<(), String> {
    let tokens = Lexer::new(filter).lex().map_err(|errors| {
        let (expected, rest) =
            errors.first().map_or(("more", ""), |e| (e.0.as_str(), e.1));
        unreadable(expected, rest)
    })?;
    let term =
        Parser::new(&tokens).parse(|parser| parser.term()).map_err(|errors| {
            let found = errors.first().and_then(|error| error.1);
            let expected = errors.first().map_or("more", |error| error.0.as_str());
            unreadable(expected, found.map_or("", |token| token.0))
        })?;
    visit(&term, &mut vec![])
}

fn unreadable(expected: &str, rest: &str) -> String {
    let found: String = rest.chars().take(20).collect();
    let found =
        if found.is_empty() { "the end".to_owned() } else { format!("`{found}`") };
    format!("expected {expected}, found {found}")
}

/// Walks a term; `open` holds the functions whose bodies we are inside of.
fn visit<'s>(
    term: &Term<&'s str>,
    open: &mut Vec<(&'s str, usize)>,
) -> Result<(), String> {
    match term {
        Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Var(_) => {
            Ok(())
        }
        Term::Str(_, parts) => parts.iter().try_for_each(|part| match part {
            StrPart::Term(term) => visit(term, open),
            StrPart::Str(_) | StrPart::Char(_) => Ok(()),
        }),
        Term::Arr(inner) => inner.iter().try_for_each(|term| visit(term, open)),
        Term::Obj(entries) => entries.iter().try_for_each(|(key, value)| {
            visit(key, open)?;
            value.iter().try_for_each(|term| visit(term, open))
        }),
        Term::Neg(inner) | Term::Label(_, inner) => visit(inner, open),
        Term::BinOp(left, operator, right) => {
            visit(left, open)?;
            if let BinaryOp::Pipe(Some(pattern)) = operator {
                visit_pattern(pattern, open)?;
            }
            visit(right, open)
        }
        Term::Fold(_, source, pattern, parts) => {
            visit(source, open)?;
            visit_pattern(pattern, open)?;
            parts.iter().try_for_each(|term| visit(term, open))
        }
        Term::TryCatch(tried, caught) => {
            visit(tried, open)?;
            caught.iter().try_for_each(|term| visit(term, open))
        }
        Term::IfThenElse(branches, otherwise) => {
            for (condition, then) in branches {
                visit(condition, open)?;
                visit(then, open)?;
            }
            otherwise.iter().try_for_each(|term| visit(term, open))
        }
        Term::Def(definitions, rest) => {
            for definition in definitions {
                open.push((definition.name, definition.args.len()));
                visit(&definition.body, open)?;
                open.pop();
            }
            visit(rest, open)
        }
        Term::Call(name, arguments) => {
            if open.contains(&(*name, arguments.len())) {
                return Err(format!("the function `{name}` calls itself"));
            }
            arguments.iter().try_for_each(|term| visit(term, open))
        }
        Term::Path(start, path) => {
            visit(start, open)?;
            path.0.iter().try_for_each(|(part, _)| match part {
                Part::Index(index) => visit(index, open),
                Part::Range(from, to) => {
                    from.iter().chain(to).try_for_each(|term| visit(term, open))
                }
            })
        }
    }
}

fn visit_pattern<'s>(
    pattern: &Pattern<&'s str>,
    open: &mut Vec<(&'s str, usize)>,
) -> Result<(), String> {
    match pattern {
        Pattern::Var(_) => Ok(()),
        Pattern::Arr(inner) => inner.iter().try_for_each(|p| visit_pattern(p, open)),
        Pattern::Obj(entries) => entries.iter().try_for_each(|(key, inner)| {
            visit(key, open)?;
            visit_pattern(inner, open)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_call_themselves_are_refused() {
        for filter in [
            "def f: f; f",
            "def f: 1 + f; f",
            "def f: def g: f; g; f",
            "def f($n): [f($n - 1)]; f(3)",
            "{a: (def f: .[f]; f)}",
            "\"\\(def f: -f; f)\"",
        ] {
            let refused = refuse(filter).unwrap_err();
            assert_eq!(refused, "the function `f` calls itself", "{filter}");
        }
        for filter in
            ["def f: 1; f", "def f(g): g | g; f(f(.))", "def f: 1; def f($a): f; f(2)"]
        {
            assert_eq!(refuse(filter), Ok(()), "{filter}");
        }
    }
}
