//! Replay: an ended (or paused) project runs chosen steps again and keeps the rest. First a
//! plan, to be looked at; then the plan is applied, if the project is still as it was.
//!
//! What is edited changes the plan of the project or its inputs, never a rule: the state
//! machine knows of edits as little as of the document. Old attempts stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use crate::{
    Error, ProjectHandle, ProjectId, Snapshot, Timestamp,
    plan::{Action, Edit, Plan, Scope, StepNo},
    project::REQUEST_WAIT,
    run::{Choice, Output, ProjectState, Replay, Run, StepState},
    spec::{Diagnostic, parse_duration},
    store::{ListFilter, Reopening, ReplayLine},
};

/// How often it is looked whether a project was given back.
const POLL: Duration = Duration::from_millis(20);

/// How many other projects are looked at for how long a kind takes.
const HISTORY: u32 = 3;

/// What a replay is asked for. Nothing at all is: what failed, and what depends on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayOptions {
    /// Failed steps, and what depends on them: so where nothing else is chosen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Every step.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// These steps, and what depends on them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// These steps; what depends on them keeps what it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// The steps of these kinds, and what depends on them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// The steps with all of these labels, and what depends on them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Inputs of steps from now on, as data: nothing in them is an expression.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Value>,
    /// Inputs of the project from now on. Steps that name one run again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub project_inputs: BTreeMap<String, Value>,
    /// Outputs of steps that do not run: replaced, or of a step that is done otherwise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, Value>,
    /// Limits of steps from now on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Limits>,
    /// Steps that may run again although that may repeat an effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repeat: Vec<String>,
    /// Why, for the history.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Limits of a step; durations as in documents, such as `30s`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How often it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// How long it waits before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_delay: Option<String>,
    /// After which time an attempt is told to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_timeout: Option<String>,
    /// After which time it is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// What a replay would do, to be looked at before it is applied.
#[derive(Clone, Debug)]
pub struct ReplayPlan {
    project: ProjectId,
    guard: ([u8; 32], i64),
    reopening: Reopening,
    now: Timestamp,
    /// Names what was asked for and the state of the project that the plan was made for.
    pub digest: String,
    /// Every step with what happens to it.
    pub steps: Vec<ReplayStep>,
    /// What is worth a second look.
    pub warnings: Vec<ReplayWarning>,
    /// How long it takes, by how long the same steps and kinds took: without waits for slots
    /// and retries. `None` where nothing is known of a kind.
    pub estimate: Option<Duration>,
}

/// What a replay does with one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayStep {
    /// The step.
    pub name: String,
    /// `reuse`, `run` or `skip`.
    pub action: &'static str,
    /// Why.
    pub reason: String,
}

/// Something about a step that is worth a second look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayWarning {
    /// `repeats` (an effect may happen twice: it needs consent) or `stale` (it keeps a result
    /// that was made of another one).
    pub code: &'static str,
    /// The step.
    pub step: String,
    /// In a sentence.
    pub message: String,
    /// Whether the replay is refused unless the step is named under `repeat`.
    pub needs_consent: bool,
}

impl ReplayPlan {
    /// The steps that need consent and were not named.
    pub fn unconsented(&self) -> Vec<String> {
        let needed = self.warnings.iter().filter(|it| it.needs_consent);
        needed.map(|it| it.step.clone()).collect()
    }

    /// Consents to everything that needs it.
    pub fn consent(&mut self) {
        for warning in &mut self.warnings {
            warning.needs_consent = false;
        }
    }
}

impl Serialize for ReplayPlan {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut plan = serializer.serialize_struct("ReplayPlan", 4)?;
        plan.serialize_field("digest", &self.digest)?;
        plan.serialize_field("steps", &self.steps)?;
        plan.serialize_field("warnings", &self.warnings)?;
        let seconds = self.estimate.map(|estimate| estimate.as_secs_f64());
        plan.serialize_field("estimated_seconds", &seconds)?;
        plan.end()
    }
}

impl ProjectHandle {
    /// Plans to run again the failed steps of an ended project and what depends on them.
    ///
    /// # Errors
    /// As [`ProjectHandle::plan_replay_of`].
    pub async fn plan_replay(&self) -> Result<ReplayPlan, Error> {
        self.plan_replay_of(&ReplayOptions::default()).await
    }

    /// Plans a replay of an ended project, or of a paused one in which nothing runs.
    ///
    /// # Errors
    /// [`Error::Illegal`] when the state of the project does not allow it or nothing is to be
    /// done, [`Error::NotFound`] for an unknown step, [`Error::Invalid`] for an edit that is
    /// not possible.
    pub async fn plan_replay_of(
        &self,
        options: &ReplayOptions,
    ) -> Result<ReplayPlan, Error> {
        let snapshot = self.snapshot().await?;
        let (row, run) = (&snapshot.stored.row, &snapshot.run);
        let illegal = |wanted| Error::Illegal {
            project: self.id(),
            state: row.state.as_str(),
            wanted,
        };
        let quiet = row.state == ProjectState::Paused && is_quiet(&snapshot);
        if !row.state.is_terminal() && !quiet {
            return Err(illegal("replay"));
        }
        let asked = Asked::read(options, run, &snapshot.stored.inputs)?;
        if asked.choice.seeds.is_empty() && asked.choice.pins.is_empty() {
            return Err(illegal("a replay of failed steps"));
        }
        let plan = match asked.edits.is_empty() {
            true => None,
            false => Some(run.plan().edited(&asked.edits).map_err(impossible)?),
        };
        let plan = plan.map(std::sync::Arc::new);
        let next = plan.as_ref().unwrap_or(run.plan());
        // After everything that happened before, whatever the clock says.
        let after = Timestamp::from_micros(run.now().as_micros() + 1);
        let now = self.engine().now().max(after);
        let rows = &snapshot.stored.facts;
        let only = asked.choice.only;
        let replay = run.plan_replay(asked.choice, rows, &row.restored(), next, now);
        let steps = steps(run, &replay, options);
        let warnings = self.warnings(run, &replay, next, options, only);
        let estimate = self.estimate(&snapshot, &replay).await?;
        let detail = serde_json::to_string(options).unwrap_or_default();
        let guard = (row.plan_hash, row.last_event);
        let digest = digest(guard, &detail);
        let reopening = Reopening {
            replay,
            plan: plan.map(|plan| {
                let kinds = plan.kinds().into_iter().map(str::to_owned).collect();
                (plan.hash(), std::sync::Arc::clone(plan.bytes()), kinds)
            }),
            inputs: asked.inputs,
            who: String::new(),
            author: None,
            reason: options.reason.clone(),
            detail,
        };
        let project = self.id();
        Ok(ReplayPlan {
            project,
            guard,
            reopening,
            now,
            digest,
            steps,
            warnings,
            estimate,
        })
    }

    /// Applies a replay plan; an executing engine starts it.
    ///
    /// # Errors
    /// [`Error::PlanChanged`] when the project is not as the plan knew it,
    /// [`Error::NeedsConsent`] when steps need consent that nobody gave.
    pub async fn replay(&self, plan: ReplayPlan) -> Result<(), Error> {
        let missing = plan.unconsented();
        if !missing.is_empty() {
            return Err(Error::NeedsConsent(missing));
        }
        let mut reopening = plan.reopening;
        reopening.author = self.author().cloned();
        reopening.who = match &reopening.author {
            Some(author) => author.who.clone(),
            None => std::env::var("USER").unwrap_or_default(),
        };
        let (store, now) = (self.engine().store(), plan.now);
        let asked = tokio::time::Instant::now();
        while !store.replay(plan.project, plan.guard, reopening.clone(), now).await? {
            // A paused project is given back by whoever has it, as soon as nothing runs.
            let row = self.row().await?;
            let held = row.state == ProjectState::Paused && row.session.is_some();
            if !held || asked.elapsed() > REQUEST_WAIT {
                return Err(Error::PlanChanged(self.id()));
            }
            tokio::time::sleep(POLL).await;
        }
        self.engine().execute(self.id()).await
    }

    /// Who replayed the project, and why: the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn replays(&self) -> Result<Vec<ReplayLine>, Error> {
        Ok(self.engine().store().replays(self.id()).await?)
    }

    fn warnings(
        &self,
        run: &Run,
        replay: &Replay,
        plan: &Plan,
        options: &ReplayOptions,
        only: bool,
    ) -> Vec<ReplayWarning> {
        let mut warnings = vec![];
        let kinds = self.engine().kinds();
        for no in &replay.runs {
            let Action::Run { kind, with, .. } = &run.step(*no).action else {
                continue;
            };
            let view = run.view(*no);
            if view.attempt == 0 && view.generation <= 1 {
                continue;
            }
            let with = match run.parent(*no) {
                None => match &plan.step(*no).action {
                    Action::Run { with, .. } => with.as_ref(),
                    Action::Pass { .. } | Action::Join { .. } | Action::ForEach(_) => {
                        None
                    }
                },
                Some(_) => with.as_ref(),
            };
            let with = with.map_or(Value::Null, crate::plan::Dynamic::value);
            let why = if run.policy(*no).at_most_once {
                "it is to run at most once, and has run"
            } else if kinds.get(kind).is_some_and(|it| !it.is_idempotent(&with)) {
                "what it does may happen a second time"
            } else {
                continue;
            };
            let step = run.name(*no);
            warnings.push(ReplayWarning {
                code: "repeats",
                message: format!("`{step}` runs again: {why}"),
                needs_consent: !options.repeat.contains(&step),
                step,
            });
        }
        let changed: BTreeSet<StepNo> = replay
            .runs
            .iter()
            .copied()
            .chain(replay.pinned.iter().map(|(no, ..)| *no))
            .collect();
        let keeps = |no: &StepNo| {
            run.step_state(*no) == StepState::Succeeded
                && !changed.contains(no)
                && !replay.ends.contains(no)
        };
        for no in run.steps_in_use().filter(|no| only && keeps(no)) {
            let Some(need) = run.needs(no).find(|need| changed.contains(need)) else {
                continue;
            };
            let (step, need) = (run.name(no), run.name(need));
            warnings.push(ReplayWarning {
                code: "stale",
                message: format!("`{step}` keeps what it made of the old `{need}`"),
                needs_consent: false,
                step,
            });
        }
        warnings
    }

    /// The longest way through what runs, by how long it took before.
    async fn estimate(
        &self,
        snapshot: &Snapshot,
        replay: &Replay,
    ) -> Result<Option<Duration>, Error> {
        let run = &snapshot.run;
        let mut known = durations(run);
        let runs = |no: &StepNo| matches!(run.step(*no).action, Action::Run { .. });
        let kinds: BTreeSet<&str> = replay
            .runs
            .iter()
            .filter(|no| runs(no))
            .map(|no| run.step(*no).kind())
            .collect();
        for kind in kinds {
            if known.contains_key(kind) {
                continue;
            }
            let filter = ListFilter {
                kind: Some(kind.to_owned()),
                limit: HISTORY,
                ..ListFilter::default()
            };
            for row in self.engine().list(&filter).await? {
                let other = self.engine().project(row.id).snapshot().await?;
                if let Some(taken) = durations(&other.run).remove(kind) {
                    known.insert(kind.to_owned(), taken);
                    break;
                }
            }
            if !known.contains_key(kind) {
                return Ok(None);
            }
        }
        let mut ends: BTreeMap<StepNo, Duration> = BTreeMap::new();
        let mut longest = Duration::ZERO;
        for no in in_order_of_needs(run, &replay.runs) {
            let begins = run.needs(no).filter_map(|need| ends.get(&need)).max();
            let view = run.view(no);
            let own = match view.state {
                StepState::Succeeded => {
                    view.started_at.map(|began| view.at.since(began))
                }
                StepState::Blocked
                | StepState::Ready
                | StepState::Running
                | StepState::Waiting
                | StepState::Failed
                | StepState::UpstreamFailed
                | StepState::Skipped
                | StepState::Cancelled
                | StepState::Quarantined => None,
            };
            let of_kind = || known.get(run.step(no).kind()).copied();
            let takes = own.or_else(of_kind).unwrap_or_default();
            let end = begins.copied().unwrap_or_default() + takes;
            longest = longest.max(end);
            ends.insert(no, end);
        }
        Ok(Some(longest))
    }
}

/// Whether nothing of a project runs, here or elsewhere.
fn is_quiet(snapshot: &Snapshot) -> bool {
    snapshot.run.running_steps().next().is_none() && snapshot.stored.claims.is_empty()
}

fn impossible(message: String) -> Error {
    Error::Invalid(vec![Diagnostic::error("bad_edit", message)])
}

/// Names what was asked for and what it was asked of.
fn digest((plan, last_event): ([u8; 32], i64), detail: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(plan);
    digest.update(last_event.to_le_bytes());
    digest.update(detail);
    let digest = digest.finalize();
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The mean time of successes by kind.
fn durations(run: &Run) -> BTreeMap<String, Duration> {
    let mut sums: BTreeMap<&str, (Duration, u32)> = BTreeMap::new();
    for no in run.steps_in_use() {
        let view = run.view(no);
        if let (StepState::Succeeded, Some(began)) = (view.state, view.started_at) {
            let sum = sums.entry(run.step(no).kind()).or_default();
            *sum = (sum.0 + view.at.since(began), sum.1 + 1);
        }
    }
    sums.into_iter()
        .map(|(kind, (sum, count))| (kind.to_owned(), sum / count))
        .collect()
}

/// Steps, each after those of them that it needs.
fn in_order_of_needs(run: &Run, steps: &BTreeSet<StepNo>) -> Vec<StepNo> {
    let mut order = vec![];
    let mut seen = BTreeSet::new();
    for no in steps {
        let mut stack = vec![(*no, false)];
        while let Some((no, entered)) = stack.pop() {
            if entered {
                order.push(no);
            } else if seen.insert(no) {
                stack.push((no, true));
                let open = |need: &StepNo| steps.contains(need) && !seen.contains(need);
                stack.extend(run.needs(no).filter(open).map(|need| (need, false)));
            }
        }
    }
    order
}

/// What happens to every step, in document order.
fn steps(run: &Run, replay: &Replay, options: &ReplayOptions) -> Vec<ReplayStep> {
    let pinned: BTreeSet<StepNo> = replay.pinned.iter().map(|(no, ..)| *no).collect();
    let gone: BTreeSet<StepNo> = replay.gone.iter().copied().collect();
    let describe = |no: StepNo| {
        let (name, state) = (run.name(no), run.step_state(no));
        let (action, reason) = if pinned.contains(&no) {
            ("reuse", "its output is given".to_owned())
        } else if gone.contains(&no)
            || replay.set_back.steps.contains(&no) && is_inside(run, replay, no)
        {
            ("skip", "its list or canvas is made anew".to_owned())
        } else if replay.runs.contains(&no) {
            let reason = if options.inputs.contains_key(&name) {
                "its input is another one".to_owned()
            } else if replay.seeds.contains(&no) {
                format!("it is {state}")
            } else if replay.set_back.steps.contains(&no) {
                "it depends on a step that runs".to_owned()
            } else {
                format!("it is {state}, and may run now")
            };
            ("run", reason)
        } else if replay.ends.contains(&no) {
            ("run", "it ends again with what it became".to_owned())
        } else if state == StepState::Succeeded && !replay.set_back.touches(no) {
            ("reuse", format!("it is {state}"))
        } else {
            match state {
                StepState::Failed | StepState::Quarantined | StepState::Cancelled => {
                    ("reuse", format!("it stays {state}"))
                }
                StepState::Succeeded
                | StepState::Blocked
                | StepState::Ready
                | StepState::Running
                | StepState::Waiting
                | StepState::UpstreamFailed
                | StepState::Skipped => ("skip", format!("it is {state}")),
            }
        };
        ReplayStep { name, action, reason }
    };
    run.in_document_order().into_iter().map(describe).collect()
}

/// Whether a step is inside of one that is made anew.
fn is_inside(run: &Run, replay: &Replay, no: StepNo) -> bool {
    std::iter::successors(run.parent(no), |parent| run.parent(*parent))
        .any(|parent| replay.set_back.steps.contains(&parent))
}

/// What was asked for, by the numbers of the steps.
struct Asked {
    choice: Choice,
    edits: BTreeMap<StepNo, Edit>,
    inputs: Option<std::sync::Arc<[u8]>>,
}

impl Asked {
    fn read(options: &ReplayOptions, run: &Run, inputs: &[u8]) -> Result<Self, Error> {
        let find = |name: &String| {
            run.find(name).ok_or_else(|| Error::NotFound {
                wanted: name.clone(),
                reason: "the project has no such step",
            })
        };
        let mut edits: BTreeMap<StepNo, Edit> = BTreeMap::new();
        let of_plan = |name: &String| {
            let no = find(name)?;
            match run.parent(no) {
                None => Ok(no),
                Some(parent) => {
                    let parent = run.name(parent);
                    let what = format!(
                        "`{name}` was made by `{parent}`: edit that, or pin its output"
                    );
                    Err(impossible(what))
                }
            }
        };
        for (name, input) in &options.inputs {
            edits.entry(of_plan(name)?).or_default().input = Some(input.clone());
        }
        let edited: BTreeSet<StepNo> = edits.keys().copied().collect();
        for (name, limits) in &options.limits {
            limits.add_to(name, edits.entry(of_plan(name)?).or_default())?;
        }
        for name in &options.repeat {
            find(name)?;
        }
        let mut pins = BTreeMap::new();
        for (name, value) in &options.pins {
            let raw: Box<RawValue> = crate::to_raw(value)
                .map_err(|error| impossible(format!("`{name}`: {error}")))?;
            pins.insert(find(name)?, Output::from(raw));
        }
        let mut seeds = BTreeSet::new();
        for name in options.from.iter().chain(&options.only) {
            seeds.insert(find(name)?);
        }
        let only = !options.only.is_empty();
        let others = options.all
            || options.failed
            || !(options.from.is_empty()
                && options.kinds.is_empty()
                && options.labels.is_empty());
        if only && others {
            return Err(impossible(
                "`only` stands alone: nothing else is chosen".into(),
            ));
        }
        for no in run.steps_in_use() {
            let is_run = matches!(run.step(no).action, Action::Run { .. });
            let labels = &run.policy(no).labels;
            let labelled = !options.labels.is_empty()
                && options
                    .labels
                    .iter()
                    .all(|(name, value)| labels.get(name) == Some(value));
            if options.all
                || is_run
                    && options.kinds.iter().any(|kind| kind == run.step(no).kind())
                || is_run && labelled
            {
                seeds.insert(no);
            }
        }
        if options.failed || !(only || others) {
            seeds.extend(run.failed_steps());
        }
        let (inputs, named) = project_inputs(options, run, inputs)?;
        if !only {
            seeds.extend(edited);
            seeds.extend(named);
        }
        seeds.retain(|no| !pins.contains_key(no));
        Ok(Self { choice: Choice { seeds, pins, only }, edits, inputs })
    }
}

impl Limits {
    fn add_to(&self, step: &str, edit: &mut Edit) -> Result<(), Error> {
        let time = |text: &Option<String>| {
            let parsed = text.as_deref().map(parse_duration).transpose();
            parsed.map_err(|error| impossible(format!("`{step}`: {error}")))
        };
        edit.max_retries = self.max_retries;
        edit.retry_delay = time(&self.retry_delay)?;
        edit.soft = time(&self.soft_timeout)?;
        edit.hard = time(&self.timeout)?;
        if let (Some(soft), Some(hard)) = (edit.soft, edit.hard)
            && soft > hard
        {
            let what = format!("`{step}`: the soft time limit is over the hard one");
            return Err(impossible(what));
        }
        Ok(())
    }
}

/// The inputs of the project as they are to be, and the steps that may see a difference.
fn project_inputs(
    options: &ReplayOptions,
    run: &Run,
    stored: &[u8],
) -> Result<(Option<std::sync::Arc<[u8]>>, Vec<StepNo>), Error> {
    if options.project_inputs.is_empty() {
        return Ok((None, vec![]));
    }
    let mut inputs: serde_json::Map<String, Value> = serde_json::from_slice(stored)
        .map_err(|error| impossible(error.to_string()))?;
    let mut changed = vec![];
    for (name, value) in &options.project_inputs {
        let Some(input) = inputs.get_mut(name) else {
            return Err(impossible(format!("the project has no input `{name}`")));
        };
        if input != value {
            *input = value.clone();
            changed.push(name.as_str());
        }
    }
    let plan = run.plan();
    // By its text: one that only looks like it runs again for nothing, and none is missed.
    let mentions = |text: String| {
        text.contains("inputs") && changed.iter().any(|name| text.contains(name))
    };
    let sees = |no: &StepNo| {
        let step = plan.step(*no);
        let scopes = plan.scopes_of(*no).any(|scope| match scope {
            Scope::Template { params: Some(params), .. } => {
                mentions(params.raw().get().to_owned())
            }
            Scope::Template { params: None, .. } | Scope::Root | Scope::Item => false,
        });
        scopes || mentions(serde_json::to_string(step).unwrap_or_default())
    };
    let named = (0..plan.len()).filter(sees).collect();
    let bytes = serde_json::to_vec(&inputs).unwrap_or_default();
    Ok((Some(bytes.into()), named))
}
