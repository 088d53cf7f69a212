//! Compiles and runs a jq filter within bounds.
//!
//! Owns the functions a filter has: those of jq, without the environment of the worker,
//! without writing to its terminal, and with every endless generator counted. Knows no
//! threads and no time: it is told to stop by a token.

use std::cell::Cell;

use dandori::StepError;
use jaq_core::{
    Ctx, DataT, Error, Exn, Filter, Lut, Native, ValXs, Vars,
    box_iter::box_once,
    compile::Compiler,
    data::HasLut,
    load::{self, Arena, File, Loader},
    native::{Fun, bome, run as native, v},
};
use jaq_json::{Val, read};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::recursion;

/// More results are a loop without end.
const MAX_RESULTS: usize = 100_000;

/// How often generators may turn; a list of so many numbers still fits into memory.
const MAX_TURNS: u64 = 10_000_000;

/// The longest result in bytes: an output cannot be larger.
const MAX_RESULT: usize = 16 * 1024 * 1024;

/// The generators of jq that may never end, each passing through the counter. They hide
/// the ones of the standard library from what follows.
const COUNTED: &str = "
    def __range($from; $to; $by): range($from; $to; $by);
    def range($from; $to; $by): __range($from; $to; $by) | __turn;
    def range(from; to): range(from; to; 1);
    def range(to): range(0; to);
    def repeat(f): def rec: f, (__turn | rec); rec;
    def recurse(f): def rec: ., (f | __turn | rec); rec;
    def recurse: recurse(.[]?);
    def recurse(f; cond): recurse(f | select(cond));
    def while(cond; update):
        def rec: if cond then ., (update | __turn | rec) else empty end; rec;
    def until(cond; update):
        def rec: if cond then . else update | __turn | rec end; rec;
    def combinations($n): [limit($n; repeat(.))] | combinations;
";

/// Kinds of data that a bounded filter works on.
struct Bounded;

/// What a running filter sees of the outside.
#[derive(Clone)]
struct Bounds<'a> {
    lut: &'a Lut<Bounded>,
    stop: &'a CancellationToken,
    turns_left: &'a Cell<u64>,
}

impl DataT for Bounded {
    type V<'a> = Val;
    type Data<'a> = Bounds<'a>;
}

impl<'a> HasLut<'a, Bounded> for Bounds<'a> {
    fn lut(&self) -> &'a Lut<Bounded> {
        self.lut
    }
}

impl Bounds<'_> {
    fn turn(&self) -> Result<(), Error<Val>> {
        let Some(left) = self.turns_left.get().checked_sub(1) else {
            return Err(Error::str("the filter turns without end"));
        };
        self.turns_left.set(left);
        if self.stop.is_cancelled() {
            return Err(Error::str("told to stop"));
        }
        Ok(())
    }
}

/// Whether a filter can be run.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn check(text: &str) -> Result<(), String> {
    compile(text).map(|_| ())
}

/// Runs a filter over a JSON text.
pub(super) fn run(
    text: &str,
    input: &str,
    stop: &CancellationToken,
) -> Result<Box<RawValue>, StepError> {
    run_within(MAX_TURNS, text, input, stop)
}

fn run_within(
    turns: u64,
    text: &str,
    input: &str,
    stop: &CancellationToken,
) -> Result<Box<RawValue>, StepError> {
    let filter =
        compile(text).map_err(|error| StepError::fail("invalid_filter", error))?;
    let failed = |reason: &dyn std::fmt::Display| StepError::fail("transform", reason);
    let input = read::parse_single(input.as_bytes()).map_err(|error| failed(&error))?;
    let turns_left = Cell::new(turns);
    let bounds = Bounds { lut: &filter.lut, stop, turns_left: &turns_left };
    let context = Ctx::<Bounded>::new(bounds.clone(), Vars::new([]));
    let mut results = vec![];
    let mut length = 0;
    for result in filter.id.run((context, input)) {
        let result = result.map_err(|error| match error.get_err() {
            Ok(error) => failed(&error),
            Err(_) => failed(&"the filter ends outside of its label"),
        })?;
        bounds.turn().map_err(|error| failed(&error))?;
        let json = result.to_string();
        length += json.len() + 1;
        if results.len() == MAX_RESULTS {
            return Err(failed(&format!(
                "the filter has more than {MAX_RESULTS} results"
            )));
        }
        if length > MAX_RESULT {
            let message = format!("the result is larger than {MAX_RESULT} bytes");
            return Err(StepError::fail("too_large", message));
        }
        results.push(json);
    }
    let json = match results.len() {
        0 => "null".to_owned(),
        1 => results.remove(0),
        _ => format!("[{}]", results.join(",")),
    };
    // jq knows values that JSON does not, such as bytes and not-a-number; reading the
    // value also finds one that is nested too deeply for those who come after.
    serde_json::from_str::<serde_json::Value>(&json)
        .and_then(|_| RawValue::from_string(json))
        .map_err(|error| failed(&format!("the result is not JSON: {error}")))
}

fn compile(text: &str) -> Result<Filter<Bounded>, String> {
    recursion::refuse(text)?;
    let counted = load::parse(COUNTED, |parser| parser.defs())
        .expect("the counted generators are jq");
    let definitions =
        jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs()).chain(counted);
    let arena = Arena::default();
    let modules = Loader::new(definitions)
        .load(&arena, File { code: text, path: () })
        .map_err(|_| "it holds a part that cannot be loaded".to_owned())?;
    Compiler::default().with_funs(functions()).compile(modules).map_err(|errors| {
        let names = errors.iter().flat_map(|(_, undefined)| undefined);
        let names: Vec<_> = names
            .map(|(name, what)| format!("the {} `{name}` is unknown", what.as_str()))
            .collect();
        names.join(", ")
    })
}

/// The functions of jq, without those that reach outside.
fn functions() -> impl Iterator<Item = Fun<Bounded>> {
    const OUTSIDE: [&str; 4] = ["env", "halt", "debug_empty", "stderr_empty"];
    let inside = jaq_core::funs::<Bounded>()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs())
        .filter(|(name, ..)| !OUTSIDE.contains(name));
    // The standard library calls these by name, so that they must exist.
    let instead: [Fun<Bounded>; 5] = [
        native(("env", v(0), |_| bome(Err(Error::str("`env` is not available"))))),
        native(("halt", v(1), |_| bome(Err(Error::str("`halt` is not available"))))),
        native(("debug_empty", v(0), |_| Box::new(std::iter::empty()))),
        native(("stderr_empty", v(0), |_| Box::new(std::iter::empty()))),
        turn(),
    ];
    inside.chain(instead)
}

/// The counter: passes its input on, also as a path, until it has been passed too often.
fn turn() -> Fun<Bounded> {
    let native = Native::new(|cv| pass(cv)).with_paths(|cv| pass(cv)).with_update(
        |(ctx, value), update| match ctx.data().turn() {
            Ok(()) => update(value),
            Err(error) => box_once(Err(Exn::from(error))),
        },
    );
    ("__turn", v(0), native)
}

fn pass<'a, T: 'a>((ctx, value): (Ctx<'a, Bounded>, T)) -> ValXs<'a, T, Val> {
    box_once(ctx.data().turn().map(|()| value).map_err(Exn::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jq(filter: &str, input: &str) -> Result<String, StepError> {
        let stop = CancellationToken::new();
        run_within(10_000, filter, input, &stop).map(|json| json.get().to_owned())
    }

    #[test]
    fn one_result_is_the_value_several_are_a_list_and_none_is_null() {
        for (filter, input, expected) in [
            (".a", r#"{"a":1}"#, "1"),
            (".[]", "[1,2]", "[1,2]"),
            ("[.[]]", "[1,2]", "[1,2]"),
            ("empty", "1", "null"),
            (".[]", "[]", "null"),
            (
                "map(.title) | join(\"、\")",
                r#"[{"title":"段"},{"title":"取"}]"#,
                "\"段、取\"",
            ),
            ("[range(3)]", "null", "[0,1,2]"),
            ("[recurse(if . < 3 then . + 1 else empty end)]", "1", "[1,2,3]"),
            ("[limit(2; repeat(.))]", "7", "[7,7]"),
            ("until(. > 9; . * 2)", "1", "16"),
            ("[while(. < 9; . * 2)]", "1", "[1,2,4,8]"),
            ("recurse |= .", "[1]", "[1]"),
            ("[paths]", r#"{"a":[1]}"#, r#"[["a"],["a",0]]"#),
            ("walk(if type == \"number\" then . + 1 else . end)", "[1,[2]]", "[2,[3]]"),
            ("flatten", "[1,[2,[3]]]", "[1,2,3]"),
            ("def f(g): [g, g]; f(.+1)", "1", "[2,2]"),
            ("reduce .[] as [$a, $b] (0; . + $a * $b)", "[[1,2],[3,4]]", "14"),
            (".", "12345678901234567890123", "12345678901234567890123"),
        ] {
            let result = jq(filter, input);
            assert_eq!(result.as_deref(), Ok(expected), "{filter}");
        }
    }

    #[test]
    fn filters_reach_nothing_outside() {
        for filter in ["env", "env.PATH", "halt", "\"x\" | halt_error", "input", "$ENV"]
        {
            let error = jq(filter, "null").unwrap_err();
            assert!(
                matches!(error.code.as_ref(), "invalid_filter" | "transform"),
                "{error}"
            );
        }
        assert_eq!(jq("stderr", "1").as_deref(), Ok("1"));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(jq("foo", "1").unwrap_err().message.contains("`foo`"));
        for filter in ["", ".[", "{", "1 +", "import \"a\" as a; 1", "include \"a\"; 1"]
        {
            assert!(check(filter).is_err(), "{filter:?}");
        }
        assert_eq!(jq("error(\"why\")", "1").unwrap_err().code, "transform");
        assert_eq!(jq("nan", "1").as_deref().ok(), None);
    }

    #[test]
    fn filters_without_end_are_stopped() {
        for filter in ["last(repeat(1))", "[range(0; 1e12)] | length", "def f: f; f"] {
            assert!(jq(filter, "null").is_err(), "{filter}");
        }
        assert!(jq("range(0; 1; 0)", "null").is_err());
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(run("last(repeat(1))", "null", &stop).is_err());
    }
}
