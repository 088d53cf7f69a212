//! Replay: an ended (or paused) project runs chosen steps again and keeps the rest. First a
//! plan, to be looked at; then the plan is applied, if the project is still as it was.
//!
//! What is edited changes the plan of the project or its inputs, never a rule: the state
//! machine knows of edits as little as of the document. Old attempts stay.

mod asked;
mod estimate;
mod fork;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::asked::Asked;
pub use self::fork::ForkPlan;
use crate::{
    Error, ProjectHandle, ProjectId, Snapshot, Timestamp,
    plan::{Action, Plan, StepNo},
    project::REQUEST_WAIT,
    run::{ProjectState, Replay, Run, StepState},
    spec::Diagnostic,
    store::{ChangedPlan, Reopening, ReplayLine},
};

/// How often it is looked whether a project was given back.
const POLL: Duration = Duration::from_millis(20);

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
    /// Steps that run again go on from the checkpoints inside them, instead of from their
    /// beginning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_checkpoints: bool,
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
    /// To be looked at.
    pub preview: Preview,
}

/// What a replay or a fork would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// Names what was asked for and the state of the project that the plan was made for.
    pub digest: String,
    /// Every step with what happens to it.
    pub steps: Vec<ReplayStep>,
    /// What is worth a second look.
    pub warnings: Vec<ReplayWarning>,
    /// How long it takes, in seconds, by how long the same steps and kinds took: without
    /// waits for slots and retries. `None` where nothing is known of a kind.
    pub estimated_seconds: Option<f64>,
}

/// What a replay does with one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayStep {
    /// The step.
    pub name: String,
    /// `reuse`, `run` or `skip`.
    pub action: Cow<'static, str>,
    /// Why.
    pub reason: String,
}

/// Something about a step that is worth a second look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayWarning {
    /// `repeats` (an effect may happen twice: it needs consent) or `stale` (it keeps a result
    /// that was made of another one).
    pub code: Cow<'static, str>,
    /// The step.
    pub step: String,
    /// In a sentence.
    pub message: String,
    /// Whether the replay is refused unless the step is named under `repeat`.
    pub needs_consent: bool,
}

impl Preview {
    /// How many steps `reuse`, `run` or `skip`.
    pub fn count(&self, action: &str) -> usize {
        self.steps.iter().filter(|step| step.action == action).count()
    }

    /// The steps that need consent and were not named.
    pub fn unconsented(&self) -> Vec<String> {
        let needed = self.warnings.iter().filter(|it| it.needs_consent);
        needed.map(|it| it.step.clone()).collect()
    }

    /// # Errors
    /// [`Error::NeedsConsent`] when steps need consent that nobody gave.
    fn check_consent(&self) -> Result<(), Error> {
        let missing = self.unconsented();
        if missing.is_empty() { Ok(()) } else { Err(Error::NeedsConsent(missing)) }
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
        self.plan_from(&snapshot, options).await
    }

    async fn plan_from(
        &self,
        snapshot: &Snapshot,
        options: &ReplayOptions,
    ) -> Result<ReplayPlan, Error> {
        let (row, run) = (&snapshot.stored.row, &snapshot.run);
        let now = self.quiet_at(snapshot, "replay or fork")?;
        let asked = Asked::read(options, run, &snapshot.stored.inputs)?;
        if asked.choice.seeds.is_empty() && asked.choice.pins.is_empty() {
            return Err(self.illegal(snapshot, "a replay of failed steps"));
        }
        let plan = match asked.edits.is_empty() {
            true => None,
            false => Some(run.plan().edited(&asked.edits).map_err(impossible)?),
        };
        let plan = plan.map(std::sync::Arc::new);
        let next = plan.as_ref().unwrap_or(run.plan());
        let rows = &snapshot.stored.facts;
        let only = asked.choice.only;
        let replay = run.plan_replay(asked.choice, rows, &row.restored(), next, now);
        let steps = steps(run, &replay, options);
        let mut warnings = self.repeats(run, &replay.runs, next, options);
        if only {
            warnings.extend(stale(run, &replay));
        }
        let estimated_seconds = self.estimate(snapshot, &replay.runs).await?;
        let detail = serde_json::to_string(options).unwrap_or_default();
        let guard = (row.plan_hash, row.last_event);
        let digest = digest(guard, &detail);
        let reopening = Reopening {
            replay,
            plan: plan.map(|plan| ChangedPlan {
                hash: plan.hash(),
                bytes: std::sync::Arc::clone(plan.bytes()),
                kinds: plan.kinds().into_iter().map(str::to_owned).collect(),
            }),
            inputs: asked.inputs,
            keep_checkpoints: options.keep_checkpoints,
            who: String::new(),
            author: None,
            reason: options.reason.clone(),
            detail,
        };
        let preview = Preview { digest, steps, warnings, estimated_seconds };
        Ok(ReplayPlan { project: self.id(), guard, reopening, now, preview })
    }

    /// When a replay or a fork of a project that has ended, or is paused and quiet, happens:
    /// after everything that happened before, whatever the clock says.
    pub(crate) fn quiet_at(
        &self,
        snapshot: &Snapshot,
        wanted: &'static str,
    ) -> Result<Timestamp, Error> {
        let state = snapshot.stored.row.state;
        let is_quiet = state == ProjectState::Paused
            && snapshot.run.running_steps().next().is_none()
            && snapshot.stored.claims.is_empty();
        if !state.is_terminal() && !is_quiet {
            return Err(self.illegal(snapshot, wanted));
        }
        let after = Timestamp::from_micros(snapshot.run.now().as_micros() + 1);
        Ok(self.engine().now().max(after))
    }

    fn illegal(&self, snapshot: &Snapshot, wanted: &'static str) -> Error {
        let state = snapshot.stored.row.state.as_str();
        Error::Illegal { project: self.id(), state, wanted }
    }

    /// Applies a replay plan; an executing engine starts it.
    ///
    /// # Errors
    /// [`Error::PlanChanged`] when the project is not as the plan knew it,
    /// [`Error::NeedsConsent`] when steps need consent that nobody gave.
    pub async fn replay(&self, plan: ReplayPlan) -> Result<(), Error> {
        plan.preview.check_consent()?;
        let mut reopening = plan.reopening;
        reopening.author = self.author().cloned();
        reopening.who = self.who();
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

    /// In whose name it is asked.
    fn who(&self) -> String {
        match self.author() {
            Some(author) => author.who.clone(),
            None => std::env::var("USER").unwrap_or_default(),
        }
    }

    /// Steps that run again although they have run, and may have had an effect.
    fn repeats(
        &self,
        run: &Run,
        runs: &BTreeSet<StepNo>,
        plan: &Plan,
        options: &ReplayOptions,
    ) -> Vec<ReplayWarning> {
        let mut warnings = vec![];
        let kinds = self.engine().kinds();
        for no in runs {
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
                code: "repeats".into(),
                message: format!("`{step}` runs again: {why}"),
                needs_consent: !options.repeat.contains(&step),
                step,
            });
        }
        warnings
    }
}

/// Steps that keep a result which was made of another one.
fn stale(run: &Run, replay: &Replay) -> Vec<ReplayWarning> {
    let given = replay.pinned.iter().map(|(no, ..)| *no);
    let changed: BTreeSet<StepNo> = replay.runs.iter().copied().chain(given).collect();
    let keeps = |no: &StepNo| {
        run.step_state(*no) == StepState::Succeeded
            && !changed.contains(no)
            && !replay.ends.contains(no)
    };
    let warn = |no: StepNo| {
        let need = run.needs(no).find(|need| changed.contains(need))?;
        let (step, need) = (run.name(no), run.name(need));
        Some(ReplayWarning {
            code: "stale".into(),
            message: format!("`{step}` keeps what it made of the old `{need}`"),
            needs_consent: false,
            step,
        })
    };
    run.steps_in_use().filter(keeps).filter_map(warn).collect()
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
        ReplayStep { name, action: action.into(), reason }
    };
    run.in_document_order().into_iter().map(describe).collect()
}

/// Whether a step is inside of one that is made anew.
fn is_inside(run: &Run, replay: &Replay, no: StepNo) -> bool {
    std::iter::successors(run.parent(no), |parent| run.parent(*parent))
        .any(|parent| replay.set_back.steps.contains(&parent))
}
