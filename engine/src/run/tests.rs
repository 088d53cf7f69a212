//! The state machine alone: random projects, random histories, and the laws that every
//! one of them must keep.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

mod replays;

use proptest::prelude::*;

use super::*;
use crate::{
    Canvas, Kinds,
    canvas::Siblings,
    plan::{Amount, Retry, Rule, StartBefore},
    spec::{CompileOptions, Document, Task, Template, Tree},
};

/// How many cases a property is tried with; `PROPTEST_CASES` overrides it.
fn cases() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 1_000;
    }
    config.max_shrink_iters = 20_000;
    config
}

/// A task as numbers, so that a failing project shrinks.
#[derive(Clone, Debug)]
struct Shape {
    needs: u16,
    rule: u8,
    retries: u8,
    allow_failure: bool,
    delay: u8,
    expires: u8,
    body: u8,
    once: bool,
    condition: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    (any::<u16>(), 0..8_u8, 0..3_u8, any::<bool>(), 0..4_u8, 0..6_u8, 0..8_u8, 0..12_u8)
        .prop_map(
            |(needs, rule, retries, allow_failure, delay, expires, body, rare)| Shape {
                needs,
                rule,
                retries,
                allow_failure,
                delay,
                expires,
                body,
                once: rare == 0,
                condition: rare < 3,
            },
        )
}

fn project(shapes: &[Shape], fail_fast: bool, max_parallel: Option<u32>) -> Arc<Plan> {
    let mut document = Document::named("random");
    document.fail_fast = fail_fast;
    document.max_parallel = max_parallel;
    let mut inner = Task::new("second", "noop").needs(["first"]);
    inner.treatment.retry = Some(Retry { max_retries: 1, ..Retry::default() });
    document.templates = vec![Template {
        name: "pair".to_owned(),
        tasks: vec![Task::new("first", "noop"), inner, Task::new("lone", "noop")],
        ..Template::default()
    }];
    for (at, shape) in shapes.iter().enumerate() {
        let name = format!("t{at}");
        let mut task = Task::new(&name, "noop").needs(
            (0..at.min(16))
                .filter(|n| shape.needs >> n & 1 == 1)
                .map(|n| format!("t{n}")),
        );
        if !task.needs.is_empty() {
            task.rule = match shape.rule {
                0..=2 => Rule::AllSucceeded,
                3 => Rule::NoneFailed,
                4 => Rule::AllDone,
                5 => Rule::AnySucceeded,
                6 => Rule::AnyFailed,
                _ => Rule::AtLeast(Amount::Percent(50)),
            };
        }
        task.allow_failure = shape.allow_failure;
        match shape.body {
            0 => (task.kind, task.template) = (None, Some("pair".to_owned())),
            1 | 2 => {
                task.for_each =
                    Some(Tree::List(vec![Tree::Null; usize::from(shape.delay)]));
                task.window = (shape.body == 2).then_some(2);
                task.tolerate = Some(Amount::Count(1));
                if shape.once {
                    (task.kind, task.template) = (None, Some("pair".to_owned()));
                }
            }
            _ => {
                task.at_most_once = shape.once;
                task.delay = (shape.delay == 3).then_some(Duration::from_secs(5));
                if shape.expires == 0 {
                    task.start_before =
                        Some(StartBefore::Within(Duration::from_secs(8)));
                }
                if !shape.once {
                    task.treatment.retry = Some(Retry {
                        max_retries: shape.retries.into(),
                        delay: Duration::from_secs(3),
                        jitter: 0.5,
                        max_elapsed: (shape.expires == 1)
                            .then_some(Duration::from_secs(9)),
                        ..Retry::default()
                    });
                }
            }
        }
        if shape.condition {
            task.condition = Some("project.name == 'random'".to_owned());
        }
        document.tasks.push(task);
    }
    let compiled =
        document.compile(&CompileOptions::default()).expect("a valid project");
    Arc::new(compiled.plan)
}

/// A project in flight with its rows, as worker and store would keep them.
struct World {
    run: Run,
    rows: BTreeMap<StepNo, Fact>,
    header: Restored,
    now: Timestamp,
    /// Steps whose success was recorded: how often.
    succeeded: BTreeMap<StepNo, u32>,
    terminal: BTreeMap<StepNo, StepState>,
    began: bool,
    ticked: Timestamp,
    /// What steps become, and what they add to their group.
    bodies: [Arc<Plan>; 3],
    /// What the plan of the latest replay told, what was executed since, and how many steps
    /// there were then.
    foretold: BTreeSet<StepNo>,
    executed: BTreeSet<StepNo>,
    known: StepNo,
}

impl World {
    fn new(plan: Arc<Plan>) -> Self {
        let next_no = plan.len();
        let header = Restored {
            state: ProjectState::Pending,
            began_at: None,
            cancelled_at: None,
            next_no,
        };
        let run = Run::new(plan, [7; 16]);
        Self {
            run,
            rows: BTreeMap::new(),
            header,
            now: Timestamp::from_micros(1_000),
            succeeded: BTreeMap::new(),
            terminal: BTreeMap::new(),
            began: false,
            ticked: Timestamp::EPOCH,
            foretold: BTreeSet::new(),
            executed: BTreeSet::new(),
            known: 0,
            bodies: bodies(),
        }
    }

    fn begin(&mut self) {
        let decisions = self.run.begin(self.now);
        self.header.began_at = Some(self.now);
        self.began = true;
        self.commit(decisions);
    }

    fn commit(&mut self, decisions: Decisions) {
        for record in &decisions.records {
            if record.kind == RecordKind::ProjectCancelRequested {
                self.header.cancelled_at = Some(record.at);
            }
        }
        for fact in decisions.facts {
            if fact.state == StepState::Succeeded {
                *self.succeeded.entry(fact.no).or_default() += 1;
            }
            match self.rows.get_mut(&fact.no) {
                Some(row) => {
                    let expansion = fact.expansion.or(row.expansion);
                    let body = fact.body.clone().or_else(|| row.body.clone());
                    *row = Fact { expansion, body, ..fact };
                }
                None => drop(self.rows.insert(fact.no, fact)),
            }
        }
        self.header.state = self.run.state();
        self.header.next_no = self.run.len();
        self.check();
    }

    fn apply(&mut self, event: Event) {
        if matches!(event, Event::Tick) {
            self.ticked = self.now;
        }
        // A late or doubled event may be refused, but must not change anything.
        if let Ok(decisions) = self.run.apply(event, self.now) {
            self.commit(decisions);
        }
    }

    /// What the rows fold to, at the time to which the live run was brought.
    fn restored(&self) -> Run {
        let facts = self.rows.values().cloned().collect();
        let mut run =
            Run::restore(Arc::clone(self.run.plan()), [7; 16], facts, &self.header);
        let decisions =
            run.apply(Event::Tick, self.ticked).expect("time always passes");
        assert!(decisions.is_empty(), "what a timer wrote is in the rows");
        run
    }

    /// The laws that hold after every commit.
    fn check(&mut self) {
        let run = &self.run;
        assert_eq!(
            canonical(&self.restored()),
            canonical(run),
            "restore(rows) is the live run"
        );
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for no in run.steps_in_use() {
            let state = run.step_state(no);
            *counts.entry(state.as_str()).or_default() += 1;
            if let Some(before) = self.terminal.get(&no) {
                assert_eq!(*before, state, "terminal is final: {}", run.name(no));
            }
            if state.is_terminal() {
                self.terminal.insert(no, state);
            }
            // A replay keeps what it was told to keep, whatever its needs do meanwhile.
            let kept = self.known > 0 && !self.executed.contains(&no);
            if matches!(state, StepState::Running | StepState::Succeeded)
                && !kept
                && run.step(no).rule != Rule::AnySucceeded
                && run.step(no).rule != Rule::AnyFailed
                && !matches!(run.step(no).rule, Rule::AtLeast(_))
            {
                let open =
                    run.needs(no).filter(|need| !run.step_state(*need).is_terminal());
                assert_eq!(
                    open.count(),
                    0,
                    "{} started before its needs",
                    run.name(no)
                );
            }
        }
        assert_eq!(counts, run.counts(), "counts equal a recount");
        assert!(self.succeeded.values().all(|times| *times == 1), "one result a step");
        let busy = run.running_steps().count();
        assert_eq!(run.busy() as usize, busy, "running steps hold a slot each");
        if let Some(most) = run.plan().max_parallel() {
            assert!(run.busy() <= most, "max_parallel is kept");
        }
    }

    /// Does one thing that may happen now.
    fn step(&mut self, choice: u16) {
        self.now = self.now.plus(Duration::from_millis(100));
        let what = choice % 16;
        let pick = usize::from(choice / 16);
        if !self.began {
            return self.begin();
        }
        if self.run.is_complete() {
            return self.apply(Event::Closed { error: None });
        }
        match what {
            0 if pick.is_multiple_of(40) => return self.apply(Event::Cancel),
            0 if pick % 40 < 6 => return self.apply(Event::Pause),
            1 if pick.is_multiple_of(3) => {
                let waits =
                    |no: &StepNo| self.run.step_state(*no) == StepState::Waiting;
                let waiting: Vec<StepNo> = (0..self.run.len()).filter(waits).collect();
                let no = waiting.get(pick % waiting.len().max(1)).copied();
                return self.apply(Event::RetryNow { no });
            }
            1 => return self.apply(Event::Resume),
            2 => {
                self.now = self.now.plus(Duration::from_secs(4));
                return self.apply(Event::Tick);
            }
            3 if pick.is_multiple_of(4) => {
                // The process dies: what ran is lost, and the next one goes on from rows.
                self.run = self.restored();
                for no in self.run.running_steps().collect::<Vec<_>>() {
                    self.apply(Event::Lost {
                        no,
                        charged: pick.is_multiple_of(8),
                        limit: 2,
                    });
                }
                return;
            }
            _ => {}
        }
        let running: Vec<StepNo> = self.run.running_steps().collect();
        let ready: Vec<StepNo> = self.run.ready_steps().collect();
        if what < 10 && !ready.is_empty() && self.run.may_start() {
            let no = ready[pick % ready.len()];
            return self.start(no, pick);
        }
        let Some(no) = running.get(pick % running.len().max(1)).copied() else {
            self.now = self.now.plus(Duration::from_secs(1));
            return self.apply(Event::Tick);
        };
        let attempt = self.run.view(no).attempt;
        let event = match pick % 9 {
            8 if self.run.len() < 120 => {
                let member = self.run.group_of(no).is_some() && pick.is_multiple_of(2);
                let contained = self.run.policy(no).contained;
                let which = usize::from(member) + usize::from(member && contained);
                let body = Arc::clone(&self.bodies[which]);
                Event::Grew { no, attempt, body, output: member.then(output) }
            }
            0 | 1 => Event::Failed {
                no,
                attempt,
                error: StepError::retry("timeout", "late"),
            },
            2 => Event::Failed {
                no,
                attempt,
                error: StepError::fail("broken", "for good"),
            },
            3 => {
                let until = self.now.plus(Duration::from_secs(2));
                Event::Deferred { no, attempt, until, output: output() }
            }
            4 if pick.is_multiple_of(3) => {
                Event::Failed { no, attempt, error: StepError::cancelled() }
            }
            _ => Event::Succeeded { no, attempt, output: output() },
        };
        // The same report twice: the second one must be refused.
        self.apply(event.clone());
        self.apply(event);
    }

    fn start(&mut self, no: StepNo, pick: usize) {
        self.executed.insert(no);
        if !self.run.step(no).conditions.is_empty() && pick.is_multiple_of(5) {
            return self.apply(Event::ConditionFalse { no });
        }
        let items = match &self.run.step(no).action {
            crate::plan::Action::Run { .. } => {
                return self.apply(Event::Started { no });
            }
            crate::plan::Action::Pass { tolerate: Some(most), .. }
                if self.run.failed_members(no)
                    > most.at_most_of(self.run.member_count(no)) =>
            {
                let error = StepError::fail("members_failed", "too many");
                return self.apply(Event::Failed { no, attempt: 1, error });
            }
            crate::plan::Action::Join { .. } | crate::plan::Action::Pass { .. } => {
                return self.apply(Event::Succeeded {
                    no,
                    attempt: 1,
                    output: output(),
                });
            }
            crate::plan::Action::ForEach(for_each) => for_each.items.value(),
        };
        let items =
            u32::try_from(items.as_array().map_or(0, Vec::len)).expect("few items");
        self.apply(Event::Expanded { no, items, list: output() });
    }

    /// Lets everything end well from here on.
    fn finish(&mut self) {
        self.apply(Event::Resume);
        for _ in 0..5_000 {
            if self.run.state().is_terminal() {
                return;
            }
            self.now = self.now.plus(Duration::from_secs(1));
            if self.run.is_complete() {
                self.apply(Event::Closed { error: None });
                continue;
            }
            self.apply(Event::Tick);
            let ready: Vec<StepNo> = self.run.ready_steps().collect();
            for no in ready {
                if self.run.step_state(no) == StepState::Ready && self.run.may_start() {
                    self.start(no, 1);
                }
            }
            for no in self.run.running_steps().collect::<Vec<_>>() {
                let attempt = self.run.view(no).attempt;
                self.apply(Event::Succeeded { no, attempt, output: output() });
            }
        }
        panic!("the project hangs: {:?}", self.run.counts());
    }
}

/// A group whose members end one another, one that tolerates, callbacks, a lone member.
fn bodies() -> [Arc<Plan>; 3] {
    let call = || Canvas::call("noop", []);
    let cancelling = Canvas::group([call(), Canvas::chain([call(), call()])])
        .siblings(Siblings::Cancel)
        .on_failure(call());
    let tolerating = Canvas::group([call().on_success(call()), call(), call()])
        .siblings(Siblings::Cancel)
        .tolerate(Amount::Count(1));
    let kinds = &Kinds::default();
    let policy = &Policy::default();
    let canvas = Canvas::chain([cancelling, tolerating, call()]).on_success(call());
    let body = crate::spec::expansion(&canvas, &[], policy, kinds, true);
    let members = [call(), Canvas::chain([call(), call()]).on_failure(call())];
    let judged = Policy { contained: true, ..Policy::default() };
    let judged = crate::spec::members(&members, &judged, kinds, true);
    let members = crate::spec::members(&members, policy, kinds, true);
    [body, members, judged].map(|plan| Arc::new(plan.expect("a valid canvas")))
}

fn output() -> Output {
    Arc::from(serde_json::value::RawValue::NULL.to_owned())
}

/// Everything about a run that may matter later.
fn canonical(run: &Run) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {:?} busy {} open {} fatal {} cancelling {} stopped {}",
        run.state,
        run.counts(),
        run.busy,
        run.open,
        run.fatal,
        run.cancelling,
        run.stopped
    )];
    for no in run.steps_in_use() {
        let node = &run.nodes[no as usize];
        let view = run.view(no);
        let expires = (view.attempt == 0 && !view.state.is_terminal())
            .then(|| run.policy(no).start_before.map(|_| node.ready_at));
        lines.push(format!(
            "{} {:?} needs {:?} expires {expires:?} children {:?}",
            run.name(no),
            view,
            if view.state == StepState::Blocked { Some(node.needs) } else { None },
            run.children(no),
        ));
    }
    let live: BTreeSet<_> = run
        .timers
        .iter()
        .filter(|(due, no)| run.waits.get(no).is_some_and(|wait| wait.until == *due))
        .collect();
    lines.push(format!("{live:?}"));
    lines
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_history_keeps_the_laws_and_ends(
        shapes in prop::collection::vec(shape(), 1..9),
        moves in prop::collection::vec(any::<u16>(), 0..80),
        fail_fast in prop::bool::weighted(0.2),
        max_parallel in prop::option::weighted(0.3, 1..4_u32),
        chosen in prop::collection::vec(any::<u16>(), 0..4),
    ) {
        let mut world = World::new(project(&shapes, fail_fast, max_parallel));
        for choice in moves {
            world.step(choice);
        }
        if !world.began {
            world.begin();
        }
        world.finish();
        if world.replay() {
            world.finish();
            let left = world.run.failed_steps();
            let left: Vec<_> = left.iter().map(|no| (world.run.name(*no), world.run.view(*no))).collect();
            prop_assert!(left.is_empty(), "everything was run again: {left:?}");
        }
        for pick in chosen {
            let choice = world.choice(pick);
            if choice.seeds.is_empty() && choice.pins.is_empty() {
                continue;
            }
            world.replay_chosen(choice);
            world.finish();
            // What its plan told, and what a list was made of that is not known before.
            let known = world.known;
            let ran: BTreeSet<StepNo> =
                world.executed.iter().copied().filter(|no| *no < known).collect();
            prop_assert_eq!(&ran, &world.foretold);
        }
    }

    #[test]
    fn a_verdict_never_changes_with_the_needs_that_end_later(
        ends in prop::collection::vec(0..5_u8, 1..8),
        rule in 0..6_u8,
        amount in 1..8_u32,
    ) {
        let rule = match rule {
            0 => Rule::AllSucceeded,
            1 => Rule::NoneFailed,
            2 => Rule::AllDone,
            3 => Rule::AnySucceeded,
            4 => Rule::AnyFailed,
            _ => Rule::AtLeast(Amount::Count(amount.min(u32::try_from(ends.len()).unwrap()))),
        };
        let total = u32::try_from(ends.len()).unwrap();
        let mut needs = Needs { total, ..Needs::default() };
        let mut decided = None;
        for end in ends {
            match end {
                0 => needs.succeeded += 1,
                1 => needs.allowed += 1,
                2 => needs.failed += 1,
                3 => needs.skipped += 1,
                _ => needs.cancelled += 1,
            }
            let verdict = rule.verdict(&needs);
            if let Some(decided) = decided {
                prop_assert_eq!(decided, verdict, "{:?} {:?}", rule, needs);
            } else if verdict != crate::plan::Verdict::Wait {
                decided = Some(verdict);
            }
        }
        prop_assert!(decided.is_some(), "a rule decides at the latest when all needs ended");
    }
}
