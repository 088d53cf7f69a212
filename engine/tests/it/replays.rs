//! Replays of chosen steps, with edits: what the plan tells is what happens, nothing stale is
//! seen, and the end is that of a fresh project with the same edits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use dandori::{
    Context, Engine, Error, Handler, Limits, Outcome, ProjectHandle, ReplayOptions,
    StepError, handler_fn,
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    backend::{Database, figure, on_both},
    stage::{Stage, ended, yaml},
};

/// What was executed: the step, its input, in the order of starts.
type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// A pure function of its input, but for the steps that are broken now.
fn mix(seen: &Seen, broken: &Arc<Mutex<BTreeSet<String>>>) -> impl Handler + use<> {
    let (seen, broken) = (Arc::clone(seen), Arc::clone(broken));
    handler_fn("mix", move |ctx: Context, input: Value| {
        seen.lock().unwrap().push((ctx.step().to_owned(), input.clone()));
        let fails = broken.lock().unwrap().contains(ctx.step());
        async move {
            match fails {
                true => Err(StepError::fail("broken", "for now")),
                false => Ok(json!({ "of": fingerprint(&input.to_string()) })),
            }
        }
    })
}

fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3) >> 1
    })
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn some(&mut self, of: usize, one_in: usize) -> BTreeSet<String> {
        (0..of).filter(|_| self.roll(one_in) == 0).map(|n| format!("t{n}")).collect()
    }
}

/// A project of pure tasks: constants by task, and pins instead of some of them.
struct Graph {
    needs: Vec<BTreeSet<usize>>,
    constants: BTreeMap<String, Value>,
    uses_input: BTreeSet<String>,
    input: u64,
    pins: BTreeMap<String, Value>,
}

impl Graph {
    fn roll(dice: &mut Dice) -> Self {
        let size = 3 + dice.roll(10);
        let needs =
            (0..size).map(|n| (0..n).filter(|_| dice.roll(3) == 0).collect()).collect();
        let constants = (0..size).map(|n| (format!("t{n}"), json!(n))).collect();
        let uses_input = dice.some(size, 4);
        Self { needs, constants, uses_input, input: 1, pins: BTreeMap::new() }
    }

    fn document(&self) -> Value {
        let tasks = self.needs.iter().enumerate().map(|(n, needs)| {
            let name = format!("t{n}");
            let ups: Vec<String> = needs
                .iter()
                .map(|up| format!("${{{{ tasks.t{up}.output }}}}"))
                .collect();
            let needs: Vec<String> = needs.iter().map(|up| format!("t{up}")).collect();
            let given = self.uses_input.contains(&name).then_some("${{ inputs.x }}");
            let constant = &self.constants[&name];
            let task = match self.pins.get(&name) {
                Some(pin) => json!({ "kind": "given", "with": { "value": pin } }),
                // An edited input is data: it sees nothing else.
                None if constant.is_object() => {
                    json!({ "kind": "mix", "needs": needs, "with": constant })
                }
                None => json!({ "kind": "mix", "needs": needs,
                    "with": { "constant": constant, "ups": ups, "x": given } }),
            };
            (name, task)
        });
        let tasks: serde_json::Map<String, Value> = tasks.collect();
        json!({ "inputs": { "x": { "default": self.input } }, "tasks": tasks })
    }
}

async fn submit(engine: &Engine, graph: &Graph) -> ProjectHandle {
    let document = graph.document().to_string();
    engine.submit(dandori::Project::from_json(&document).unwrap()).await.unwrap()
}

async fn outputs(project: &ProjectHandle) -> BTreeMap<String, String> {
    let view = ended(project).await;
    let output = |it: &dandori::StepDetails| {
        let output = it.output.as_ref().map_or("none", |it| it.get());
        (it.name.clone(), format!("{} {output}", it.state))
    };
    view.steps.iter().map(output).collect()
}

/// Options for a graph, and the graph as it is edited by them.
fn options(dice: &mut Dice, graph: &mut Graph, failed: bool) -> ReplayOptions {
    let size = graph.needs.len();
    let mut options = ReplayOptions::default();
    match dice.roll(if failed { 4 } else { 3 }) {
        0 => options.all = true,
        1 => options.from = dice.some(size, 4).into_iter().collect(),
        2 => options.kinds = vec!["mix".to_owned()],
        _ => {}
    }
    // The rest is mended only where it is chosen.
    options.failed = failed;
    for name in dice.some(size, 6) {
        let input = json!({ "edited": name });
        options.inputs.insert(name.clone(), input.clone());
        graph.constants.insert(name, input);
    }
    for name in dice.some(size, 8) {
        options.inputs.remove(&name);
        let pin = json!({ "pinned": dice.roll(9) });
        options.pins.insert(name.clone(), pin.clone());
        graph.pins.insert(name, pin);
    }
    if dice.roll(3) == 0 {
        graph.input = 2;
        options.project_inputs.insert("x".to_owned(), json!(2));
    }
    options
}

on_both! {
    async fn the_plan_is_what_happens_and_the_end_is_that_of_a_fresh_project(backend) {
        let (seen, broken) = (Seen::default(), Arc::<Mutex<BTreeSet<String>>>::default());
        let given = handler_fn("given", async |_: Context, input: Value| {
            Ok(input["value"].clone())
        });
        let database = Database::fresh(backend);
        let builder = database.builder().handler(mix(&seen, &broken)).handler(given);
        let engine = builder.start().await.unwrap();
        let (mut replays, mut runs, mut kept) = (0, 0, 0);
        for seed in 0..200 {
            let dice = &mut Dice(seed);
            let mut graph = Graph::roll(dice);
            *broken.lock().unwrap() = dice.some(graph.needs.len(), 5);
            let project = submit(&engine, &graph).await;
            let failed = ended(&project).await.state.as_str() == "failed";
            broken.lock().unwrap().clear();
            let options = options(dice, &mut graph, failed);
            seen.lock().unwrap().clear();
            let plan = match project.plan_replay_of(&options).await {
                Ok(plan) => plan,
                // Nothing was chosen.
                Err(Error::Illegal { .. }) if !failed => continue,
                Err(error) => panic!("{seed}: {error} {options:?}"),
            };
            let told = |action: &str| -> BTreeSet<String> {
                let steps = plan.preview.steps.iter().filter(|step| step.action == action);
                steps.map(|step| step.name.clone()).collect()
            };
            let (told_runs, told_reuse) = (told("run"), told("reuse"));
            project.replay(plan).await.unwrap();
            let end = outputs(&project).await;
            let executed: BTreeSet<String> =
                seen.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(executed, told_runs, "{seed}: what ran and what was told: {options:?}");
            assert!(executed.is_disjoint(&told_reuse), "{seed}");
            // Nobody saw what is not so any more.
            for (name, input) in seen.lock().unwrap().iter() {
                let n: usize = name[1..].parse().unwrap();
                for (up, saw) in graph.needs[n].iter().zip(input["ups"].as_array().into_iter().flatten()) {
                    assert_eq!(end[&format!("t{up}")], format!("succeeded {saw}"), "{seed}: {name}");
                }
            }
            replays += 1;
            runs += executed.len();
            kept += told_reuse.len();
            let fresh = submit(&engine, &graph).await;
            assert_eq!(end, outputs(&fresh).await, "{seed}: {options:?}");
        }
        let what = format!("random replays on {backend:?}: steps run as told; kept; stale; unlike a fresh project");
        figure("replay 1", &what, format!("{replays}: {runs}; {kept}; 0; 0"));
        engine.shutdown().await;
    }

    async fn whoever_waits_again_after_a_replay_hears_of_the_new_end(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
        stage.next().await.succeed(json!(1));
        assert_eq!(project.ended().await.unwrap().state.as_str(), "succeeded");
        let from = ReplayOptions { from: vec!["a".to_owned()], ..ReplayOptions::default() };
        let plan = project.plan_replay_of(&from).await.unwrap();
        project.replay(plan).await.unwrap();
        let call = stage.next().await;
        let waiting = tokio::spawn(async move { project.wait().await });
        assert_eq!(call.ctx.generation(), 2);
        call.succeed(json!(2));
        let view = waiting.await.unwrap().unwrap();
        assert_eq!(view.output.unwrap().get(), r#"{"a":2}"#);
        engine.shutdown().await;
    }

    async fn a_paused_project_is_replayed_once_nothing_runs(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "tasks: {a: {kind: work}, b: {kind: work, needs: [a]}, c: {kind: work, needs: [b]}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        stage.next().await.succeed(json!(1));
        let b = stage.next().await;
        project.pause().await.unwrap();
        let from = ReplayOptions { from: vec!["a".to_owned()], ..ReplayOptions::default() };
        let running = project.plan_replay_of(&from).await.unwrap_err();
        assert_eq!(running.code(), "illegal_state", "b still runs");
        let fork = project.plan_fork(&ReplayOptions::default(), Some(&yaml(document))).await;
        assert_eq!(fork.unwrap_err().code(), "illegal_state", "b still runs");
        b.succeed(json!(2));
        stage.until_step(&project, "b", "succeeded").await;
        let plan = project.plan_replay_of(&from).await.unwrap();
        // Whoever has it gives it back by itself.
        project.replay(plan).await.unwrap();
        for (step, generation) in [("a", 2), ("b", 2), ("c", 1)] {
            let call = stage.next().await;
            assert_eq!((call.step(), call.ctx.generation()), (step, generation));
            call.succeed(json!(3));
        }
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn only_chosen_steps_run_and_what_is_stale_is_told(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "tasks: {a: {kind: work}, b: {kind: work, needs: [a]}, c: {kind: work, needs: [b]}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        for n in 0..3 {
            stage.next().await.succeed(json!(n));
        }
        ended(&project).await;
        let options = ReplayOptions { only: vec!["a".to_owned()], ..ReplayOptions::default() };
        let plan = project.plan_replay_of(&options).await.unwrap();
        let actions: Vec<_> =
            plan.preview.steps.iter().map(|it| format!("{} {}", it.action, it.name)).collect();
        assert_eq!(actions, ["run a", "reuse b", "reuse c"]);
        let warnings: Vec<_> = plan.preview.warnings.iter().map(|it| (&*it.code, &*it.step)).collect();
        assert_eq!(warnings, [("stale", "b")]);
        let refused = ReplayOptions { all: true, ..options.clone() };
        let refused = project.plan_replay_of(&refused).await.unwrap_err();
        assert_eq!(refused.code(), "invalid_document");
        project.replay(plan).await.unwrap();
        let call = stage.next().await;
        assert_eq!((call.step(), call.ctx.generation()), ("a", 2));
        call.succeed(json!("new"));
        let view = ended(&project).await;
        assert_eq!(view.steps[0].output.as_ref().unwrap().get(), "\"new\"");
        assert_eq!(view.output.unwrap().get(), r#"{"c":2}"#);
        assert!(stage.is_quiet().await);
        engine.shutdown().await;
    }

    async fn limits_and_inputs_are_edited_and_the_history_tells_who_and_why(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "tasks: {a: {kind: work, with: {n: 1}}, b: {kind: work, needs: [a]}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        stage.next().await.fail(StepError::retry("timeout", "late"));
        ended(&project).await;
        let limits = Limits {
            max_retries: Some(1),
            retry_delay: Some("10s".to_owned()),
            ..Limits::default()
        };
        let options = ReplayOptions {
            inputs: [("a".to_owned(), json!({ "text": "${{ not an expression" }))].into(),
            limits: [("a".to_owned(), limits)].into(),
            reason: "the service is up again".to_owned(),
            ..ReplayOptions::default()
        };
        let plan = project.plan_replay_of(&options).await.unwrap();
        project.replay(plan).await.unwrap();
        let call = stage.next().await;
        assert_eq!(call.input, json!({ "text": "${{ not an expression" }));
        call.fail(StepError::retry("timeout", "late"));
        stage.until_step(&project, "a", "waiting").await;
        stage.clock.advance(std::time::Duration::from_secs(11));
        let call = stage.next().await;
        assert_eq!((call.ctx.attempt(), call.ctx.generation()), (2, 2));
        call.succeed(json!(1));
        stage.next().await.succeed(json!(2));
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        let history = project.replays().await.unwrap();
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].reason, "the service is up again");
        assert_eq!(history[0].detail["inputs"]["a"]["text"], "${{ not an expression");
        let events = project.events(history[0].event - 1).await.unwrap();
        assert_eq!(events[0].kind, "project.replayed");
        let unknown = ReplayOptions {
            inputs: [("x".to_owned(), json!(1))].into(),
            ..ReplayOptions::default()
        };
        assert_eq!(project.plan_replay_of(&unknown).await.unwrap_err().code(), "not_found");
        engine.shutdown().await;
    }

    async fn what_may_have_an_effect_twice_needs_consent(backend) {
        let stage = Stage::on(backend);
        let engine = stage.builder().handler(Once).start().await.unwrap();
        let document = "tasks: {a: {kind: work, at_most_once: true}, b: {kind: once, needs: [a]}, \
                        c: {kind: once, needs: [b]}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        stage.next().await.succeed(json!(1));
        assert_eq!(ended(&project).await.state.as_str(), "failed");
        let options = ReplayOptions { all: true, ..ReplayOptions::default() };
        let plan = project.plan_replay_of(&options).await.unwrap();
        // One that never ran has no effect yet.
        assert_eq!(plan.preview.unconsented(), ["a", "b"]);
        let refused = project.replay(plan).await.unwrap_err();
        assert_eq!(refused.code(), "needs_consent");
        let repeat = vec!["a".to_owned(), "b".to_owned()];
        let options = ReplayOptions { repeat, ..options };
        let plan = project.plan_replay_of(&options).await.unwrap();
        assert_eq!((plan.preview.unconsented().len(), plan.preview.warnings.len()), (0, 2));
        project.replay(plan).await.unwrap();
        stage.next().await.succeed(json!(2));
        ended(&project).await;
        engine.shutdown().await;
    }
}

/// A kind that may not be repeated, and fails.
struct Once;

#[async_trait]
impl Handler for Once {
    fn kind(&self) -> &'static str {
        "once"
    }

    fn is_idempotent(&self, _with: &Value) -> bool {
        false
    }

    async fn run(&self, _: Context, _: &RawValue) -> Result<Outcome, StepError> {
        Err(StepError::fail("broken", "for good"))
    }
}
