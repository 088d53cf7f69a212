//! Forks: a new project that shares the checkpoints of another one by reference, on the same
//! document with edits, or on a new version of it.
//!
//! On a new document a step is kept that has the same name and the same content: what it
//! does, its input, its conditions, and all of that of what it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Preview, ReplayOptions, ReplayPlan, ReplayStep, impossible};
use crate::{
    Error, Project, ProjectHandle, ProjectId, Snapshot, Timestamp,
    plan::{Action, Plan, StepNo},
    run::{Fact, Output, ProjectState, Restored, Run, StepState},
    spec::Compiled,
    store::{Fork, ForkLine, Kept, NewProject},
};

/// What a fork would do, to be looked at before it is made.
#[derive(Clone, Debug)]
pub struct ForkPlan {
    fork: Fork,
    now: Timestamp,
    /// To be looked at: the steps are those of the fork.
    pub preview: Preview,
}

impl ProjectHandle {
    /// Plans a fork: of the same document with the edits of a replay, or of a new one, which
    /// takes no options but a reason and consent.
    ///
    /// # Errors
    /// As [`ProjectHandle::plan_replay_of`]; [`Error::Invalid`] for a document with faults.
    pub async fn plan_fork(
        &self,
        options: &ReplayOptions,
        document: Option<&Project>,
    ) -> Result<ForkPlan, Error> {
        let snapshot = self.snapshot().await?;
        match document {
            None => self.fork_of_same(&snapshot, options).await,
            Some(document) => {
                let rest = ReplayOptions {
                    reason: options.reason.clone(),
                    repeat: options.repeat.clone(),
                    ..ReplayOptions::default()
                };
                if *options != rest {
                    let what = "a new document takes no choice and no edits: change it";
                    return Err(impossible(what.to_owned()));
                }
                let compiled = self.engine().compile(document)?;
                self.fork_of_new(&snapshot, options, compiled).await
            }
        }
    }

    /// Makes a fork as planned; an executing engine starts it.
    ///
    /// # Errors
    /// [`Error::PlanChanged`] when the base is not as the plan knew it,
    /// [`Error::NeedsConsent`] when steps need consent that nobody gave.
    pub async fn fork(&self, plan: ForkPlan) -> Result<Self, Error> {
        plan.preview.check_consent()?;
        let mut fork = plan.fork;
        fork.project.author = self.author().cloned();
        fork.who = self.who();
        let id = fork.project.id;
        if !self.engine().store().fork(Arc::new(fork), plan.now).await? {
            return Err(Error::PlanChanged(self.id()));
        }
        let engine = self.engine();
        if let Some(worker) = &engine.inner().worker {
            if !engine.inner().spreads {
                engine.check_project(id).await?;
            }
            // It is recorded, which is what was asked for: who asked need not wait until its
            // steps are read once more.
            worker.adopt_later(id);
        }
        Ok(engine.project(id))
    }

    /// What the project is a fork of, and its own forks: the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn lineage(&self) -> Result<Vec<ForkLine>, Error> {
        Ok(self.engine().store().lineage(self.id()).await?)
    }

    async fn fork_of_same(
        &self,
        snapshot: &Snapshot,
        options: &ReplayOptions,
    ) -> Result<ForkPlan, Error> {
        let plan: ReplayPlan = self.plan_from(snapshot, options).await?;
        let (row, reopening) = (&snapshot.stored.row, plan.reopening);
        let replay = reopening.replay;
        let (hash, bytes, kinds) = match reopening.plan {
            Some(changed) => (changed.hash, changed.bytes, changed.kinds),
            None => {
                let plan = snapshot.run.plan();
                let kinds = plan.kinds().into_iter().map(str::to_owned).collect();
                (plan.hash(), Arc::clone(plan.bytes()), kinds)
            }
        };
        let changed = replay.anew.iter().map(|(no, _)| *no);
        let pinned = replay.pinned.iter().map(|(no, ..)| *no);
        let changed =
            changed.chain(pinned).chain(replay.gone.iter().copied()).collect();
        let project = NewProject {
            plan_hash: hash,
            plan: bytes,
            kinds,
            steps: snapshot.run.plan().len(),
            inputs: reopening.inputs.unwrap_or_else(|| snapshot.stored.inputs.clone()),
            ..fresh(snapshot, plan.now)
        };
        let fork = Fork {
            project,
            base: self.id(),
            guard: plan.guard,
            kept: Kept::AllBut(changed),
            anew: replay.anew,
            pinned: replay.pinned,
            counts: replay.counts,
            next_no: row.next_no,
            began_at: row.began_at,
            who: String::new(),
            reason: options.reason.clone(),
        };
        Ok(ForkPlan { fork, now: plan.now, preview: plan.preview })
    }

    async fn fork_of_new(
        &self,
        snapshot: &Snapshot,
        options: &ReplayOptions,
        compiled: Compiled,
    ) -> Result<ForkPlan, Error> {
        let (row, run) = (&snapshot.stored.row, &snapshot.run);
        let now = self.quiet_at(snapshot, "replay or fork")?;
        let plan = Arc::new(compiled.plan);
        let inputs = Value::Object(compiled.inputs);
        let old: Value =
            serde_json::from_slice(&snapshot.stored.inputs).unwrap_or_default();
        let old = digests(run.plan(), &old);
        let matched: Vec<(StepNo, StepNo)> = digests(&plan, &inputs)
            .into_iter()
            .zip(0..)
            .filter_map(|(digest, no)| {
                let base = run.plan().find(&plan.step(no).name)?;
                let same = old[base as usize] == digest;
                let done = run.step_state(base) == StepState::Succeeded;
                (same && done).then_some((no, base))
            })
            .collect();
        // What became many, or another canvas, keeps its output alone.
        let became = |base: StepNo| {
            matches!(run.step(base).action, Action::ForEach(_))
                || run.children(base).next().is_some()
        };
        let mut kept = vec![];
        let mut pinned = vec![];
        for (no, base) in matched {
            if became(base) {
                let output = self.step(base).await?.output.unwrap_or_else(null);
                pinned.push((no, 1, output));
            } else {
                kept.push((no, base));
            }
        }
        let facts: BTreeMap<StepNo, &Fact> =
            snapshot.stored.facts.iter().map(|fact| (fact.no, fact)).collect();
        kept.retain(|(_, base)| facts.contains_key(base));
        let renumbered = kept.iter().map(|(no, base)| {
            let fact: &Fact = facts[base];
            Fact { no: *no, expansion: None, body: None, ..fact.clone() }
        });
        let given = pinned.iter().map(|(no, generation, output)| Fact {
            state: StepState::Succeeded,
            output: Some(Arc::clone(output)),
            ..Fact::set_back(*no, *generation, now)
        });
        let restored = Restored {
            state: ProjectState::Pending,
            began_at: row.began_at,
            cancelled_at: None,
            next_no: plan.len(),
        };
        let told = Run::foretold(&plan, renumbered.chain(given).collect(), &restored);
        let steps = steps(&plan, run, &told.runs, &told.ended);
        let again: BTreeSet<StepNo> = told
            .runs
            .iter()
            .filter_map(|no| run.plan().find(&plan.step(*no).name))
            .collect();
        let warnings = self.repeats(run, &again, run.plan(), options);
        let estimated_seconds = self.estimate(snapshot, &again).await?;
        let project = NewProject {
            name: compiled.name,
            plan_hash: plan.hash(),
            plan: Arc::clone(plan.bytes()),
            kinds: plan.kinds().into_iter().map(str::to_owned).collect(),
            steps: plan.len(),
            priority: compiled.priority,
            labels: compiled.labels,
            inputs: serde_json::to_vec(&inputs).unwrap_or_default().into(),
            ..fresh(snapshot, now)
        };
        let detail = format!("{:?}{}", plan.hash(), inputs);
        let guard = (row.plan_hash, row.last_event);
        let digest = super::digest(guard, &detail);
        let fork = Fork {
            project,
            base: self.id(),
            guard,
            kept: Kept::Renumbered(kept),
            anew: vec![],
            pinned,
            counts: told.counts,
            next_no: plan.len(),
            began_at: row.began_at,
            who: String::new(),
            reason: options.reason.clone(),
        };
        let preview = Preview { digest, steps, warnings, estimated_seconds };
        Ok(ForkPlan { fork, now, preview })
    }
}

/// A new project like the base.
fn fresh(snapshot: &Snapshot, now: Timestamp) -> NewProject {
    let row = &snapshot.stored.row;
    NewProject {
        id: ProjectId::fresh(),
        name: row.name.clone(),
        plan_hash: row.plan_hash,
        plan: Arc::clone(snapshot.run.plan().bytes()),
        steps: 0,
        priority: row.priority,
        inputs: snapshot.stored.inputs.clone(),
        labels: snapshot.stored.labels.clone(),
        // It is no submission: no key leads to it.
        fingerprint: [0; 32],
        created_at: now,
        owner: None,
        kinds: vec![],
        author: None,
    }
}

fn null() -> Output {
    Output::from(serde_json::value::RawValue::NULL.to_owned())
}

/// What happens to every step of the new document.
fn steps(
    plan: &Plan,
    run: &Run,
    runs: &BTreeSet<StepNo>,
    ended: &BTreeSet<StepNo>,
) -> Vec<ReplayStep> {
    let describe = |no: StepNo| {
        let name = plan.step(no).name.clone();
        let base = run.plan().find(&name);
        let (action, reason) = match base {
            _ if ended.contains(&no) => {
                ("reuse", "it is the same, and succeeded".to_owned())
            }
            _ if !runs.contains(&no) => {
                ("skip", "its needs do not let it run".to_owned())
            }
            None => ("run", "it is new".to_owned()),
            Some(base) if run.step_state(base) != StepState::Succeeded => {
                ("run", format!("it is {}", run.step_state(base)))
            }
            Some(_) => ("run", "it, or what it depends on, is another one".to_owned()),
        };
        ReplayStep { name, action: action.into(), reason }
    };
    (0..plan.len()).map(describe).collect()
}

/// The digest of each step with all that it depends on.
fn digests(plan: &Plan, inputs: &Value) -> Vec<[u8; 32]> {
    let mut digests = vec![[0; 32]; plan.len() as usize];
    for no in plan.order() {
        let step = plan.step(*no);
        let mut digest = Sha256::new();
        feed(&mut digest, &step.name, inputs);
        feed(&mut digest, &step.action, inputs);
        feed(&mut digest, &step.rule, inputs);
        for condition in &step.conditions {
            feed(&mut digest, &condition.expression, inputs);
        }
        for scope in plan.scopes_of(*no) {
            feed(&mut digest, scope, inputs);
        }
        for need in &step.needs {
            digest.update(digests[*need as usize]);
        }
        digests[*no as usize] = digest.finalize().into();
    }
    digests
}

/// Adds a part of a step, and the inputs of the project where it may name one.
fn feed<T: Serialize>(digest: &mut Sha256, part: &T, inputs: &Value) {
    let text = serde_json::to_string(part).unwrap_or_default();
    if text.contains("inputs") {
        digest.update(inputs.to_string());
    }
    digest.update(text.len().to_le_bytes());
    digest.update(text);
}
