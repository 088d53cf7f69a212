//! The laws of the canvas: whatever is nested in whatever, it ends, and as a small
//! interpreter says.

use std::time::Duration;

use dandori::{
    Canvas, Engine, Error, Project, ProjectView,
    canvas::{Marks, Shape, Siblings, Signature},
    plan::Amount,
    run::ProjectState,
};
use dandori_examples::calculator;
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngSeed, TestRunner},
};
use serde_json::{Value, json};

/// How many expressions are tried.
fn cases() -> usize {
    let full = std::env::var_os("DANDORI_FULL").is_some();
    let said = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    if full { 10_000 } else { said.unwrap_or(1_000) }
}

/// What an expression comes to.
#[derive(Clone, Debug, PartialEq)]
enum End {
    Value(Value),
    Skipped,
    Failed,
}

/// The list of a group while it is computed.
struct Group {
    /// How many tolerant groups are around a member.
    tolerant: u32,
    /// What members have added.
    added: Vec<End>,
}

/// The meaning of a canvas in two pages: nothing of it runs, everything is computed.
#[derive(Default)]
struct Interpreter {
    /// Whether a failure counts for the project.
    failed: bool,
    /// Whether one may count: it depends on which of two members ends first.
    maybe: bool,
    /// How many tolerant groups are around.
    tolerant: u32,
}

impl Interpreter {
    /// The end of an expression, whose value stands in the list of `group`.
    fn expression(
        &mut self,
        canvas: &Canvas,
        passed: &[Value],
        group: Option<&mut Group>,
    ) -> End {
        let end = match &canvas.shape {
            Shape::Call(signature) => self.call(signature, passed, group),
            Shape::Chain(items) => self.chain(items, passed, group),
            Shape::Group(members) => self.group(members, &canvas.marks, passed),
            Shape::Chord { header, body } => {
                match self.group(header, &canvas.marks, passed) {
                    End::Value(list) => self.expression(body, &[list], group),
                    other => other,
                }
            }
            Shape::Map { items, .. } => {
                End::Value(items.iter().map(|it| json!([it])).collect())
            }
            Shape::Starmap { items, .. } => End::Value(json!(items)),
            Shape::Chunks { items, size, .. } => {
                End::Value(items.chunks(*size).map(|part| json!(part)).collect())
            }
        };
        let tolerant = std::mem::take(&mut self.tolerant);
        let (callbacks, value) = match &end {
            End::Value(value) => (&canvas.marks.on_success, value.clone()),
            End::Failed => (&canvas.marks.on_failure, json!("the record")),
            End::Skipped => (&vec![], Value::Null),
        };
        for callback in callbacks {
            self.expression(callback, std::slice::from_ref(&value), None);
        }
        self.tolerant = tolerant;
        end
    }

    fn call(
        &mut self,
        signature: &Signature,
        passed: &[Value],
        group: Option<&mut Group>,
    ) -> End {
        let own = signature.args.iter().map(|arg| json!(arg));
        let passed = passed.iter().filter(|_| !signature.immutable).cloned();
        let args: Vec<Value> = passed.chain(own).collect();
        let kwarg = |name: &str| {
            let found = signature.kwargs.iter().find(|(key, _)| key == name);
            json!(found.map(|(_, value)| value))
        };
        let has = |name: &str| signature.options.iter().any(|(key, _)| key == name);
        match signature.kind.as_str() {
            _ if has("start_before") => End::Skipped,
            "fail" => self.fail(),
            "flaky" => End::Value(json!("late")),
            "expand" => {
                let canvas = Canvas::from_json(&kwarg("canvas").to_string()).unwrap();
                if !runs(&canvas) {
                    return self.fail();
                }
                let passed: Vec<Value> =
                    args.into_iter().filter(|value| !value.is_null()).collect();
                self.tolerant += 1;
                let end = self.expression(&canvas, &passed, group);
                self.tolerant -= 1;
                if end == End::Failed { self.fail() } else { end }
            }
            "add_to_chord" => {
                let members: Vec<Canvas> = kwarg("members")
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|member| Canvas::from_json(&member.to_string()).unwrap())
                    .collect();
                let Some(group) = group.filter(|_| members.iter().any(runs)) else {
                    return self.fail();
                };
                let around = std::mem::replace(&mut self.tolerant, group.tolerant);
                let tolerant = group.tolerant;
                let mut further = Group { tolerant, added: vec![] };
                let mut slots = vec![];
                self.members(&members, &[], &mut slots, &mut further);
                self.tolerant = around;
                group.added.append(&mut slots);
                group.added.append(&mut further.added);
                End::Value(args.first().cloned().unwrap_or_default())
            }
            _ => End::Value(json!(args)),
        }
    }

    fn fail(&mut self) -> End {
        self.failed |= self.tolerant == 0;
        End::Failed
    }

    fn chain(
        &mut self,
        items: &[Canvas],
        passed: &[Value],
        mut group: Option<&mut Group>,
    ) -> End {
        let mut passed = passed.to_vec();
        let mut begun = false;
        let none = Marks::default();
        let is_nothing = |item: &Canvas| match &item.shape {
            Shape::Group(inner) | Shape::Chain(inner) => {
                inner.is_empty() && item.marks == none
            }
            _ => false,
        };
        let last = items.iter().rposition(|item| !is_nothing(item));
        for (at, item) in items.iter().enumerate() {
            if is_nothing(item) {
                if matches!(item.shape, Shape::Group(_)) && !begun && passed.is_empty()
                {
                    passed = vec![json!([])];
                }
                continue;
            }
            let group = group.take_if(|_| Some(at) == last);
            match self.expression(item, &passed, group) {
                End::Value(value) => passed = vec![value],
                other => return other,
            }
            begun = true;
        }
        End::Value(passed.first().cloned().unwrap_or_default())
    }

    fn group(&mut self, members: &[Canvas], marks: &Marks, passed: &[Value]) -> End {
        let failed_before = self.failed;
        self.tolerant += u32::from(marks.tolerate.is_some());
        let mut group = Group { tolerant: self.tolerant, added: vec![] };
        let mut slots = vec![];
        self.members(members, passed, &mut slots, &mut group);
        slots.append(&mut group.added);
        self.tolerant -= u32::from(marks.tolerate.is_some());
        let failed = slots.iter().filter(|slot| **slot == End::Failed).count();
        let most =
            |amount: Amount| amount.at_most_of(u32::try_from(slots.len()).unwrap());
        let most = marks.tolerate.map_or(0, most) as usize;
        if failed > most {
            if marks.siblings == Siblings::Cancel && self.tolerant > 0 {
                // What callbacks of members come to depends on which was quicker.
                self.maybe |= self.failed && !failed_before;
                self.failed = failed_before;
            }
            return match marks.tolerate {
                None => End::Failed,
                Some(_) => self.fail(),
            };
        }
        let value = |slot| match slot {
            End::Value(value) => value,
            End::Failed => json!({ "error": {} }),
            End::Skipped => Value::Null,
        };
        End::Value(slots.into_iter().map(value).collect())
    }

    fn members(
        &mut self,
        members: &[Canvas],
        passed: &[Value],
        slots: &mut Vec<End>,
        group: &mut Group,
    ) {
        for member in members {
            match &member.shape {
                Shape::Group(inner) if member.marks == Marks::default() => {
                    self.members(inner, passed, slots, group);
                }
                _ => slots.push(self.expression(member, passed, Some(group))),
            }
        }
    }
}

/// Whether an expression holds a call.
fn runs(canvas: &Canvas) -> bool {
    let own = match &canvas.shape {
        Shape::Call(_) => true,
        Shape::Chain(items) | Shape::Group(items) => items.iter().any(runs),
        Shape::Chord { header, body } => header.iter().any(runs) || runs(body),
        Shape::Map { items, .. } => !items.is_empty(),
        Shape::Starmap { items, .. } | Shape::Chunks { items, .. } => !items.is_empty(),
    };
    own || canvas.marks.on_success.iter().chain(&canvas.marks.on_failure).any(runs)
}

/// Any expression, at most `depth` deep.
fn canvas(depth: u32) -> BoxedStrategy<Canvas> {
    let leaf = prop_oneof![
        6 => (0..10, any::<bool>()).prop_map(|(n, immutable)| {
            let call = Canvas::call("collect", [json!(n)]);
            if immutable { call.immutable() } else { call }
        }),
        1 => Just(Canvas::call("fail", [])),
        1 => Just(Canvas::call("collect", [json!("too late")])
            .option("start_before", &json!("2020-01-01T00:00:00Z"))),
        1 => Just(Canvas::call("flaky", [json!("late"), json!(1)])
            .immutable()
            .option("retry", &json!({ "max_retries": 1, "delay": "1ms" }))),
        1 => (0_usize..5, 1_usize..3, 0..3).prop_map(|(count, size, which)| {
            let items: Vec<Vec<_>> = (0..count)
                .map(|n| vec![dandori::spec::Tree::from(&json!(n))])
                .collect();
            let kind = "collect".to_owned();
            Canvas::new(match which {
                0 => Shape::Map { kind, items: items.concat() },
                1 => Shape::Starmap { kind, items },
                _ => Shape::Chunks { kind, items, size },
            })
        }),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = || canvas(depth - 1);
    let items = || prop::collection::vec(canvas(depth - 1), 0..4);
    let amount = prop_oneof![
        3 => Just(None),
        1 => (0_u32..3).prop_map(|count| Some(Amount::Count(count))),
        1 => Just(Some(Amount::Percent(50))),
    ];
    let siblings =
        prop_oneof![4 => Just(Siblings::Finish), 1 => Just(Siblings::Cancel)];
    let shape = prop_oneof![
        3 => leaf,
        1 => (inner(), any::<bool>()).prop_map(|(canvas, immutable)| {
            let call = Canvas::call("expand", []).kwarg("canvas", &json!(canvas));
            if immutable { call.immutable() } else { call }
        }),
        1 => prop::collection::vec(canvas(depth - 1), 1..3)
            .prop_map(|members| Canvas::call("add_to_chord", []).kwarg("members", &json!(members))),
        3 => items().prop_map(Canvas::chain),
        3 => (items(), amount.clone(), siblings.clone()).prop_map(|(members, amount, siblings)| {
            let group = Canvas::group(members).siblings(siblings);
            amount.into_iter().fold(group, Canvas::tolerate)
        }),
        3 => (items(), inner(), amount, siblings).prop_map(|(header, body, amount, siblings)| {
            let chord = Canvas::chord(header, body).siblings(siblings);
            amount.into_iter().fold(chord, Canvas::tolerate)
        }),
    ];
    let callback = prop_oneof![
        8 => Just(None),
        1 => Just(Some(Canvas::call("collect", []))),
        1 => Just(Some(Canvas::call("fail", []).label("a", "b"))),
        1 => Just(Some(Canvas::group([Canvas::call("collect", []), Canvas::call("collect", [])]))),
    ];
    (shape, callback.clone(), callback)
        .prop_map(|(canvas, success, failure)| {
            let canvas = success.into_iter().fold(canvas, Canvas::on_success);
            failure.into_iter().fold(canvas, Canvas::on_failure)
        })
        .boxed()
}

/// What went wrong of an error slot is told by other tests.
fn without_errors(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(without_errors).collect(),
        Value::Object(entries) if entries.contains_key("error") => {
            json!({ "error": {} })
        }
        other => other,
    }
}

async fn judge(
    engine: &Engine,
    canvas: &Canvas,
    cancelled: bool,
) -> Result<(), String> {
    let text = serde_json::to_string(canvas).unwrap();
    let read = Canvas::from_json(&text).map_err(|error| error.to_string())?;
    if read != *canvas {
        return Err("it is read as something else".to_owned());
    }
    let project = Project::from_canvas("law", canvas.clone());
    let handle = engine.submit(project).await.map_err(|error| error.to_string())?;
    if cancelled {
        match handle.cancel().await {
            Ok(_) | Err(Error::Illegal { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), handle.wait()).await;
    let view: ProjectView =
        ended.map_err(|_| "it hangs")?.map_err(|error| error.to_string())?;
    if let Some(step) = view.steps.iter().find(|step| !step.state.is_terminal()) {
        return Err(format!("{} is {}", step.name, step.state));
    }
    if view.state == ProjectState::Cancelled {
        return if cancelled { Ok(()) } else { Err("it is cancelled".to_owned()) };
    }
    let mut interpreter = Interpreter::default();
    let end = interpreter.expression(canvas, &[], None);
    if interpreter.maybe && !interpreter.failed && view.state == ProjectState::Failed {
        return Ok(());
    }
    let expected = match (interpreter.failed, end) {
        (true, _) => (ProjectState::Failed, None),
        (false, End::Value(value)) => (ProjectState::Succeeded, Some(value)),
        (false, _) => (ProjectState::Succeeded, Some(Value::Null)),
    };
    let output = view.output.map(|it| serde_json::from_str(it.get()).unwrap());
    let got = (view.state, output.map(without_errors));
    if got == expected {
        Ok(())
    } else {
        Err(format!("{got:?} instead of {expected:?}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_canvas_ends_as_the_interpreter_says() {
    let engine = calculator().temporary().concurrency(64).start().await.unwrap();
    let seed =
        std::env::var("PROPTEST_RNG_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    let config = Config { rng_seed: RngSeed::Fixed(seed), ..Config::default() };
    let mut runner = TestRunner::new(config);
    let strategy = (canvas(5), prop::bool::weighted(0.125));
    let mut left = cases();
    while left > 0 {
        let batch = left.min(50);
        left -= batch;
        let mut tasks = vec![];
        for _ in 0..batch {
            let (canvas, cancelled) = strategy.new_tree(&mut runner).unwrap().current();
            let engine = engine.clone();
            tasks.push(tokio::spawn(async move {
                let wrong = judge(&engine, &canvas, cancelled).await.err();
                wrong.map(|wrong| {
                    format!("{wrong}\n{}", serde_json::to_string(&canvas).unwrap())
                })
            }));
        }
        let mut wrong = vec![];
        for task in tasks {
            wrong.extend(task.await.unwrap());
        }
        wrong.sort_by_key(String::len);
        assert!(
            wrong.is_empty(),
            "seed {seed}: {} wrong, such as {}",
            wrong.len(),
            wrong[0]
        );
    }
    engine.shutdown().await;
}
