//! The laws of the canvas: whatever is nested in whatever, it ends, and as a small
//! interpreter says.

use std::time::Duration;

use dandori::{
    Canvas, Engine, Error, Project, ProjectView,
    canvas::{Marks, Shape},
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

/// The meaning of a canvas in a page: nothing of it runs, everything is computed.
#[derive(Default)]
struct Interpreter {
    /// Whether a failure counts for the project.
    failed: bool,
    /// How many tolerant groups are around.
    tolerant: u32,
}

impl Interpreter {
    fn expression(&mut self, canvas: &Canvas, passed: &[Value]) -> End {
        let end = match &canvas.shape {
            Shape::Call(signature) => {
                let own = signature.args.iter().map(|arg| json!(arg));
                let passed = passed.iter().filter(|_| !signature.immutable).cloned();
                let args: Vec<Value> = passed.chain(own).collect();
                let has =
                    |name: &str| signature.options.iter().any(|(key, _)| key == name);
                match signature.kind.as_str() {
                    _ if has("start_before") => End::Skipped,
                    "fail" => self.fail(),
                    "flaky" => End::Value(json!("late")),
                    _ => End::Value(json!(args)),
                }
            }
            Shape::Chain(items) => self.chain(items, passed),
            Shape::Group(members) => self.group(members, &canvas.marks, passed),
            Shape::Chord { header, body } => {
                let marks =
                    Marks { tolerate: canvas.marks.tolerate, ..Marks::default() };
                match self.group(header, &marks, passed) {
                    End::Value(list) => self.expression(body, &[list]),
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
            self.expression(callback, std::slice::from_ref(&value));
        }
        self.tolerant = tolerant;
        end
    }

    fn fail(&mut self) -> End {
        self.failed |= self.tolerant == 0;
        End::Failed
    }

    fn chain(&mut self, items: &[Canvas], passed: &[Value]) -> End {
        let mut passed = passed.to_vec();
        let mut begun = false;
        let none = Marks::default();
        for item in items {
            match &item.shape {
                Shape::Group(members) if members.is_empty() && item.marks == none => {
                    if !begun && passed.is_empty() {
                        passed = vec![json!([])];
                    }
                    continue;
                }
                Shape::Chain(inner) if inner.is_empty() && item.marks == none => {
                    continue;
                }
                _ => {}
            }
            match self.expression(item, &passed) {
                End::Value(value) => passed = vec![value],
                other => return other,
            }
            begun = true;
        }
        End::Value(passed.first().cloned().unwrap_or_default())
    }

    fn group(&mut self, members: &[Canvas], marks: &Marks, passed: &[Value]) -> End {
        self.tolerant += u32::from(marks.tolerate.is_some());
        let mut slots = vec![];
        self.members(members, passed, &mut slots);
        self.tolerant -= u32::from(marks.tolerate.is_some());
        let failed = slots.iter().filter(|slot| **slot == End::Failed).count();
        let most =
            |amount: Amount| amount.at_most_of(u32::try_from(slots.len()).unwrap());
        match marks.tolerate {
            None if failed > 0 => return End::Failed,
            Some(amount) if failed > most(amount) as usize => return self.fail(),
            _ => {}
        }
        let value = |slot| match slot {
            End::Value(value) => value,
            End::Failed => json!({ "error": {} }),
            End::Skipped => Value::Null,
        };
        End::Value(slots.into_iter().map(value).collect())
    }

    fn members(&mut self, members: &[Canvas], passed: &[Value], slots: &mut Vec<End>) {
        for member in members {
            match &member.shape {
                Shape::Group(inner) if member.marks == Marks::default() => {
                    self.members(inner, passed, slots);
                }
                _ => slots.push(self.expression(member, passed)),
            }
        }
    }
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
    let shape = prop_oneof![
        3 => leaf,
        3 => items().prop_map(Canvas::chain),
        3 => (items(), amount.clone()).prop_map(|(members, amount)| {
            let group = Canvas::group(members);
            amount.into_iter().fold(group, Canvas::tolerate)
        }),
        3 => (items(), inner(), amount).prop_map(|(header, body, amount)| {
            let chord = Canvas::chord(header, body);
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
    let end = interpreter.expression(canvas, &[]);
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
