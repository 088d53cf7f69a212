//! [`Owned`]: one project in the hands of this worker, and the part of the next commit
//! that it has gathered.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use minijinja::Value;
use tokio_util::sync::CancellationToken;

use super::{bind::Surroundings, outputs::Outputs};
use crate::{
    ProjectId, SessionId, Timestamp,
    plan::{Plan, StepNo},
    run::{Decisions, Fact, Output, ProjectState, ReadyQueue, Record, Run},
    store::{Adopted, Header, Mail, Part, ProjectRow},
};

/// One project in the hands of this worker.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) run: Run,
    pub(super) queue: ReadyQueue,
    pub(super) outputs: Outputs,
    pub(super) around: Surroundings,
    pub(super) row: ProjectRow,
    pub(super) running: HashMap<StepNo, Running>,
    /// Ready joins and expansions that a pause holds.
    pub(super) held_instant: Vec<StepNo>,
    /// Steps whose outputs are being read, and whether the project's own are.
    pub(super) fetching: HashSet<StepNo>,
    pub(super) closing: bool,
    /// Whether the outputs of the last tasks are more than a project output may be.
    pub(super) outputs_too_large: bool,
    /// Whether only messages are applied, and nothing starts here.
    pub(super) steered: bool,
    /// Steps whose start is written before it happens, because one of them may have ended
    /// the process before this one.
    pub(super) careful: HashSet<StepNo>,
    /// Whether it is wanted again once it has ended: a replay was quicker.
    pub(super) again: bool,
    /// The time under which it stands among the timers of the worker.
    pub(super) armed: Option<Timestamp>,
    /// How many steps were started: fair share among projects.
    pub(super) served: u64,
    pub(super) pending: Pending,
    /// What the commit in flight holds of this project.
    pub(super) in_flight: Option<Carry>,
}

/// A running attempt.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) attempt: u32,
    /// Fires when the project wants it to stop.
    pub(super) stop: CancellationToken,
}

/// What the next commit will hold of a project, and what follows it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    facts: Vec<Fact>,
    /// Where the fact of a step stands: a later one replaces it.
    places: HashMap<StepNo, usize>,
    attempts: Vec<crate::run::PastAttempt>,
    pub(super) records: Vec<Record>,
    mail: Vec<i64>,
    output: Option<Output>,
    reason: Option<String>,
    pub(super) carry: Carry,
}

/// What is carried out once the commit is durable.
#[derive(Debug, Default)]
pub(super) struct Carry {
    pub(super) ready: Vec<StepNo>,
    pub(super) launch: Vec<StepNo>,
    pub(super) stop: Vec<StepNo>,
    pub(super) finished: Option<ProjectState>,
    pub(super) upto: i64,
    pub(super) mail: Vec<i64>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.records.is_empty() && self.mail.is_empty()
    }

    /// Whether the effects of a message are in it.
    pub(super) fn mail_is_known(&self, id: i64) -> bool {
        self.mail.contains(&id)
    }

    /// How many transitions it holds.
    pub(super) fn size(&self) -> usize {
        self.facts.len().max(usize::from(!self.is_empty()))
    }
}

impl Owned {
    pub(super) fn new(
        adopted: &Adopted,
        plan: Arc<Plan>,
        session: SessionId,
    ) -> Result<Self, serde_json::Error> {
        let stored = &adopted.project;
        let seed = *stored.row.id.uuid().as_bytes();
        let run =
            Run::restore(plan, seed, stored.facts.clone(), &stored.row.restored());
        let inputs: Value = serde_json::from_slice(&stored.inputs)?;
        Ok(Self {
            queue: ReadyQueue::default(),
            outputs: Outputs::default(),
            around: Surroundings {
                id: stored.row.id,
                name: stored.row.name.clone(),
                inputs,
                session,
            },
            row: stored.row.clone(),
            running: HashMap::new(),
            held_instant: vec![],
            fetching: HashSet::new(),
            closing: false,
            outputs_too_large: false,
            steered: false,
            careful: HashSet::new(),
            again: false,
            armed: None,
            served: 0,
            pending: Pending::default(),
            in_flight: None,
            run,
        })
    }

    pub(super) fn id(&self) -> ProjectId {
        self.row.id
    }

    /// Whether anything of this project runs, or waits to be written.
    pub(super) fn is_busy(&self) -> bool {
        !self.running.is_empty() || self.in_flight.is_some() || !self.pending.is_empty()
    }

    /// Tells every running attempt to stop.
    pub(super) fn stop_all(&self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
    }

    /// Adds decisions to the part.
    pub(super) fn record(&mut self, decisions: Decisions) {
        let pending = &mut self.pending;
        for fact in decisions.facts {
            if let Some(output) = &fact.output {
                self.outputs.insert(fact.no, Arc::clone(output));
            }
            match pending.places.get(&fact.no).copied() {
                Some(place) => {
                    let old = std::mem::replace(&mut pending.facts[place], fact);
                    let new = &mut pending.facts[place];
                    new.output = new.output.take().or(old.output);
                    new.expansion = new.expansion.or(old.expansion);
                }
                None => {
                    pending.places.insert(fact.no, pending.facts.len());
                    pending.facts.push(fact);
                }
            }
        }
        pending.attempts.extend(decisions.attempts);
        pending.records.extend(decisions.records);
        pending.carry.ready.extend(decisions.ready);
        pending.carry.stop.extend(decisions.stop);
        pending.carry.finished = decisions.finished.or(pending.carry.finished);
    }

    pub(super) fn launch_after_commit(&mut self, no: StepNo) {
        self.pending.carry.launch.push(no);
    }

    pub(super) fn consume(&mut self, mail: &Mail) {
        self.pending.mail.push(mail.id);
    }

    /// Whether the commit in flight holds the effects of a message.
    pub(super) fn mail_in_flight(&self, id: i64) -> bool {
        self.in_flight.as_ref().is_some_and(|carry| carry.mail.contains(&id))
    }

    pub(super) fn close(&mut self, output: Option<Output>, reason: Option<String>) {
        self.pending.output = output;
        self.pending.reason = reason;
    }

    /// Takes the part for a commit; what follows it is kept until the commit ends.
    pub(super) fn take_part(&mut self, session: SessionId) -> Part {
        let pending = std::mem::take(&mut self.pending);
        let finished = self.run.state().is_terminal();
        let began = |record: &Record| {
            (record.kind == crate::run::RecordKind::ProjectStarted).then_some(record.at)
        };
        let cancelled = |record: &Record| {
            let kind = crate::run::RecordKind::ProjectCancelRequested;
            (record.kind == kind).then_some(record.at)
        };
        self.row.began_at =
            self.row.began_at.or_else(|| pending.records.iter().find_map(began));
        self.row.cancelled_at = self
            .row
            .cancelled_at
            .or_else(|| pending.records.iter().find_map(cancelled));
        // A late message to an ended project changes neither its end nor its reason.
        let finished_at =
            finished.then(|| self.row.finished_at.unwrap_or_else(|| self.run.now()));
        self.row.finished_at = finished_at;
        self.row.reason = pending.reason.or(self.row.reason.take());
        let part = Part {
            project: self.id(),
            session,
            epoch: self.row.epoch,
            from: self.row.last_event,
            facts: pending.facts,
            attempts: pending.attempts,
            records: pending.records,
            mail: pending.mail,
            header: Header {
                state: self.run.state(),
                reason: self.row.reason.clone(),
                next_no: self.run.len(),
                counts: self.run.counts(),
                began_at: self.row.began_at,
                cancelled_at: self.row.cancelled_at,
                finished_at,
            },
            output: pending.output,
        };
        let mut carry = pending.carry;
        carry.upto = part.upto();
        carry.mail.clone_from(&part.mail);
        self.in_flight = Some(carry);
        part
    }
}
