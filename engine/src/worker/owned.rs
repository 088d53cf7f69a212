//! [`Owned`]: one project in the hands of this worker, and the part of the next commit
//! that it has gathered.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use minijinja::Value;
use tokio::time::Instant;

use super::{bind::Surroundings, leash::Leash, outputs::Outputs};
use crate::{
    ProjectId, SessionId, Timestamp,
    handler::Kinds,
    map::{Map, Set},
    plan::{Plan, StepNo},
    run::{
        Decisions, Event, Fact, Output, ProjectState, ReadyQueue, Record, RecordKind,
        Run, StepState,
    },
    store::{
        Adopted, Consumed, Header, Letters, Mail, NewProject, Offer, Part, ProjectRow,
        StoredProject,
    },
};

/// One project in the hands of this worker.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(super) run: Run,
    pub(super) queue: ReadyQueue,
    pub(super) outputs: Outputs,
    /// Which steps have a row, or get one with the commit in flight.
    pub(super) stored: Vec<bool>,
    pub(super) around: Surroundings,
    pub(super) row: ProjectRow,
    pub(super) running: Map<StepNo, Leash>,
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
    pub(super) careful: Set<StepNo>,
    /// Whether the process before this one has died with it.
    pub(super) is_careful: bool,
    /// Whether it is wanted again once it has ended: a replay was quicker.
    pub(super) again: bool,
    /// The time under which it stands among the timers of the worker.
    pub(super) armed: Option<Timestamp>,
    /// How many steps it had when it was taken, for the bound on all.
    pub(super) weight: usize,
    /// How many steps were started: fair share among projects.
    pub(super) served: u64,
    /// Ready steps of a queue or kind that this worker does not run, by both.
    pub(super) foreign: BTreeMap<(String, String), ReadyQueue>,
    /// Steps that are offered to other workers, or run there.
    pub(super) offers: Map<StepNo, OfferState>,
    /// Messages that wait until offers are taken back, and failures that may end steps
    /// which are offered.
    pub(super) held: Vec<Mail>,
    pub(super) held_events: Vec<Event>,
    /// Whether its letters are being read, and whether they are to be read once more.
    pub(super) reading: bool,
    pub(super) read_again: bool,
    /// Rises when letters were consumed: what was read before is out of date.
    pub(super) consumptions: u64,
    /// While steps run elsewhere: when its letters are read next, and how long to wait then.
    pub(super) poll: Option<(Instant, Duration)>,
    /// Whether its last commit has freed the row.
    pub(super) freed: bool,
    /// Since when nothing has happened.
    pub(super) idle_since: Option<Instant>,
    pub(super) pending: Pending,
    /// Where the fact of a step stands in it, from 1: a later one replaces it.
    pub(super) places: Vec<u32>,
    /// Whether its place in the line may have changed.
    pub(super) moved: bool,
    /// Up to which time of the run all is written.
    pub(super) written: Timestamp,
    /// What the commit in flight holds of this project.
    pub(super) in_flight: Option<Carry>,
}

/// Where an offered step stands, as far as its owner knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferState {
    /// In the next commit.
    Pending,
    /// Durable, or on its way there.
    Sent,
    /// To be taken back, if nobody was quicker.
    Withdrawing,
    /// Somebody runs it.
    Taken,
}

/// What the next commit will hold of a project, and what follows it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    facts: Vec<Fact>,
    attempts: Vec<crate::run::PastAttempt>,
    pub(super) records: Vec<Record>,
    mail: Vec<i64>,
    consumed: Vec<Consumed>,
    pub(super) offers: Vec<Offer>,
    pub(super) withdraw: Vec<StepNo>,
    stop_claims: Vec<StepNo>,
    output: Option<Output>,
    reason: Option<String>,
    pub(super) carry: Carry,
}

/// What is carried out once the commit is durable.
#[derive(Debug, Default)]
pub(super) struct Carry {
    pub(super) ready: Vec<StepNo>,
    /// Up to which time of the run all is written then.
    pub(super) until: Timestamp,
    /// The steps of which an attempt has failed.
    pub(super) failed: Vec<StepNo>,
    /// Whether there are facts of more than the work of pure steps.
    pub(super) matters: bool,
    pub(super) launch: Vec<StepNo>,
    pub(super) stop: Vec<StepNo>,
    pub(super) finished: Option<ProjectState>,
    pub(super) upto: i64,
    pub(super) mail: Vec<i64>,
    pub(super) consumed: Vec<Consumed>,
    pub(super) withdraw: Vec<StepNo>,
}

/// What the expressions of a project see beside its steps.
pub(super) fn surroundings(
    stored: &StoredProject,
    session: SessionId,
) -> Result<Surroundings, serde_json::Error> {
    let inputs: Value = serde_json::from_slice(&stored.inputs)?;
    let (id, name) = (stored.row.id, stored.row.name.clone());
    Ok(Surroundings { id, name, inputs, session })
}

fn stored_rows(facts: &[Fact]) -> Vec<bool> {
    let mut stored = vec![];
    facts.iter().for_each(|fact| set_stored(&mut stored, fact.no));
    stored
}

fn is_stored(stored: &[bool], no: StepNo) -> bool {
    stored.get(no as usize).is_some_and(|stored| *stored)
}

fn set_stored(stored: &mut Vec<bool>, no: StepNo) {
    let at = no as usize;
    if at >= stored.len() {
        stored.resize((at + 1).next_power_of_two(), false);
    }
    stored[at] = true;
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.facts.is_empty()
            && self.records.is_empty()
            && self.mail.is_empty()
            && self.consumed.is_empty()
            && self.offers.is_empty()
            && self.withdraw.is_empty()
            && self.stop_claims.is_empty()
    }

    /// Whether it holds facts and history of steps only.
    pub(super) fn is_nothing_but_steps(&self) -> bool {
        self.attempts.is_empty()
            && self.mail.is_empty()
            && self.consumed.is_empty()
            && self.offers.is_empty()
            && self.withdraw.is_empty()
            && self.stop_claims.is_empty()
            && self.output.is_none()
            && self.reason.is_none()
    }

    /// Whether it holds a failure of a step.
    pub(super) fn has_failure(&self, no: StepNo) -> bool {
        self.facts.iter().any(|fact| fact.no == no && fact.failures > 0)
    }

    /// How many letters it consumes.
    pub(super) fn letters(&self) -> usize {
        self.mail.len() + self.consumed.len()
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
        Ok(Self {
            queue: ReadyQueue::default(),
            outputs: Outputs::default(),
            stored: stored_rows(&stored.facts),
            around: surroundings(stored, session)?,
            row: stored.row.clone(),
            running: Map::default(),
            held_instant: vec![],
            fetching: HashSet::new(),
            closing: false,
            outputs_too_large: false,
            steered: false,
            careful: Set::default(),
            is_careful: false,
            again: false,
            armed: None,
            weight: 0,
            served: 0,
            foreign: BTreeMap::new(),
            offers: Map::default(),
            held: vec![],
            held_events: vec![],
            reading: false,
            read_again: false,
            consumptions: 0,
            poll: None,
            freed: false,
            idle_since: None,
            pending: Pending::default(),
            places: vec![],
            moved: false,
            in_flight: None,
            written: run.now(),
            run,
        })
    }

    /// A project as its submission has just recorded it for a session.
    pub(super) fn born(
        new: &NewProject,
        plan: Arc<Plan>,
        session: SessionId,
    ) -> Option<Self> {
        let row = ProjectRow {
            id: new.id,
            name: new.name.clone(),
            state: ProjectState::Pending,
            reason: None,
            priority: new.priority,
            plan_hash: new.plan_hash,
            session: Some(session.uuid()),
            epoch: 1,
            loads: 1,
            last_event: 1,
            mail: 0,
            next_no: new.steps,
            counts: BTreeMap::new(),
            created_at: new.created_at,
            began_at: None,
            cancelled_at: None,
            finished_at: None,
            charged: false,
            writes: 0,
            adoptions: 1,
        };
        let project = StoredProject {
            row,
            inputs: Arc::clone(&new.inputs),
            labels: new.labels.clone(),
            output: None,
            facts: vec![],
            claims: vec![],
        };
        let adopted = Adopted { project, letters: Letters::default() };
        Self::new(&adopted, plan, session).ok()
    }

    pub(super) fn id(&self) -> ProjectId {
        self.row.id
    }

    /// The row of a project that has ended, as its last commit has written it.
    pub(super) fn ended_row(&self) -> ProjectRow {
        let counts = self.run.counts().into_iter();
        ProjectRow {
            state: self.run.state(),
            session: None,
            loads: 0,
            next_no: self.run.len(),
            counts: counts.map(|(state, count)| (state.to_owned(), count)).collect(),
            charged: false,
            ..self.row.clone()
        }
    }

    /// Whether anything of this project runs, or waits to be written.
    pub(super) fn is_busy(&self) -> bool {
        !self.running.is_empty()
            || self.in_flight.is_some()
            || !self.pending.is_empty()
            || !self.held_events.is_empty()
    }

    /// Tells every running attempt to stop.
    pub(super) fn stop_all(&self) {
        self.running.values().for_each(Leash::stop);
    }

    /// Whether another step may start, here or elsewhere: open offers count, because they
    /// may be taken at any moment. A message that waits for offers to come back stops the
    /// project already.
    pub(super) fn may_start(&self) -> bool {
        if !self.held.is_empty() || !self.held_events.is_empty() {
            return false;
        }
        let most = self.run.plan().max_parallel();
        let below = |most| self.run.busy() + self.offered() < most;
        self.run.may_start() && most.is_none_or(below)
    }

    /// Whether an event may end steps that others may be running right now: then it waits
    /// until it is known which they are.
    pub(super) fn must_hold(&self, event: &Event) -> bool {
        matches!(event, Event::Failed { .. } | Event::Lost { .. })
            && self.run.may_halt()
            && self.offers.values().any(|state| *state != OfferState::Taken)
    }

    /// How many offered steps are not counted as running.
    fn offered(&self) -> u32 {
        let ready = |no: &&StepNo| self.run.step_state(**no) == StepState::Ready;
        u32::try_from(self.offers.keys().filter(ready).count()).unwrap_or(u32::MAX)
    }

    /// Adds decisions to the part. Gives back the steps that may start at once.
    pub(super) fn record(
        &mut self,
        mut decisions: Decisions,
        kinds: &Kinds,
    ) -> Vec<StepNo> {
        let ahead = self.go_ahead(&decisions.facts, &mut decisions.ready, kinds);
        let pending = &mut self.pending;
        for fact in decisions.facts {
            if let Some(output) = &fact.output {
                self.outputs.insert(fact.no, Arc::clone(output));
            }
            let at = fact.no as usize;
            if at >= self.places.len() {
                self.places.resize((at + 1).max(self.run.len() as usize), 0);
            }
            match (self.places[at] as usize).checked_sub(1) {
                Some(place) => {
                    let old = std::mem::replace(&mut pending.facts[place], fact);
                    let new = &mut pending.facts[place];
                    new.output = new.output.take().or(old.output);
                    new.expansion = new.expansion.or(old.expansion);
                    new.body = new.body.take().or(old.body);
                }
                None => {
                    pending.facts.push(fact);
                    self.places[at] =
                        u32::try_from(pending.facts.len()).unwrap_or(u32::MAX);
                }
            }
        }
        pending.attempts.extend(decisions.attempts);
        pending.records.extend(decisions.records);
        pending.carry.ready.extend(decisions.ready);
        for no in decisions.stop {
            // What runs elsewhere is stopped through its claim, in the same commit.
            match self.offers.contains_key(&no) {
                true => pending.stop_claims.push(no),
                false => pending.carry.stop.push(no),
            }
        }
        pending.carry.finished = decisions.finished.or(pending.carry.finished);
        ahead
    }

    pub(super) fn launch_after_commit(&mut self, no: StepNo) {
        self.pending.carry.launch.push(no);
    }

    pub(super) fn consume(&mut self, mail: &Mail) {
        self.pending.mail.push(mail.id);
    }

    pub(super) fn consume_outcome(&mut self, consumed: Consumed) {
        self.pending.consumed.push(consumed);
    }

    /// Stops a claim whose step has ended without it.
    pub(super) fn stop_claim(&mut self, no: StepNo) {
        self.pending.stop_claims.push(no);
    }

    /// Whether the effects of a message are on their way to the store.
    pub(super) fn knows_mail(&self, id: i64) -> bool {
        self.pending.mail.contains(&id)
            || self.held.iter().any(|mail| mail.id == id)
            || self.in_flight.as_ref().is_some_and(|carry| carry.mail.contains(&id))
    }

    /// Whether the outcome of a claim is on its way to the store.
    pub(super) fn knows_outcome(&self, outcome: &Consumed) -> bool {
        self.pending.consumed.contains(outcome)
            || self
                .in_flight
                .as_ref()
                .is_some_and(|carry| carry.consumed.contains(outcome))
    }

    pub(super) fn close(&mut self, output: Option<Output>, reason: Option<String>) {
        self.pending.output = output;
        self.pending.reason = reason;
    }

    /// Whether a fact is only the first start of an attempt that ends at once.
    fn is_brief(&self, fact: &Fact) -> bool {
        fact.state == StepState::Running
            && (fact.attempt, fact.crashes) == (1, 0)
            && !is_stored(&self.stored, fact.no)
            && self.running.get(&fact.no).is_some_and(Leash::is_brief)
    }

    /// Whether nothing waits to be written but starts of attempts that end at once: their
    /// results will be written instead.
    pub(super) fn has_only_brief_starts(&self) -> bool {
        let Pending { facts, records, carry, .. } = &self.pending;
        let starts = |record: &Record| {
            matches!(record.kind, RecordKind::StepStarted | RecordKind::ProjectStarted)
        };
        !facts.is_empty()
            && records.len() <= facts.len() + 1
            && self.pending.is_nothing_but_steps()
            && (carry.ready.is_empty()
                && carry.launch.is_empty()
                && carry.stop.is_empty())
            && facts.iter().all(|fact| self.is_brief(fact))
            && records.iter().all(starts)
    }

    /// Leaves starts of attempts that end at once for the next part: each would be a row that
    /// is written twice. The history tells them in their order all the same.
    fn hold_back(&mut self, pending: &mut Pending) {
        let held: Vec<Fact> =
            pending.facts.extract_if(.., |fact| self.is_brief(fact)).collect();
        if held.is_empty() {
            return;
        }
        for (place, fact) in (1..).zip(&held) {
            self.places[fact.no as usize] = place;
        }
        self.pending.facts = held;
    }

    /// Takes the part for a commit; what follows it is kept until the commit ends.
    pub(super) fn take_part(&mut self, session: SessionId, all: bool) -> Part {
        let mut pending = std::mem::take(&mut self.pending);
        pending.facts.iter().for_each(|fact| self.places[fact.no as usize] = 0);
        // What a message stops or holds is recorded as it is.
        if !all && pending.mail.is_empty() && self.run.state() == ProjectState::Running
        {
            self.hold_back(&mut pending);
        }
        // The next part is likely to be of the same size.
        self.pending.facts.reserve(pending.facts.len());
        self.pending.records.reserve(pending.records.len());
        let known = |fact: &Fact| is_stored(&self.stored, fact.no);
        pending.facts.sort_by_key(known);
        let inserts = pending.facts.partition_point(|fact| !known(fact));
        for fact in &pending.facts[..inserts] {
            set_stored(&mut self.stored, fact.no);
        }
        let finished = self.run.state().is_terminal();
        let began = |record: &Record| {
            (record.kind == RecordKind::ProjectStarted).then_some(record.at)
        };
        let cancelled = |record: &Record| {
            let kind = RecordKind::ProjectCancelRequested;
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
            writes: self.row.writes,
            facts: pending.facts,
            inserts,
            attempts: pending.attempts,
            records: pending.records,
            mail: pending.mail,
            consumed: pending.consumed,
            offers: pending.offers,
            withdraw: pending.withdraw,
            stop: pending.stop_claims,
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
        carry.until = self.run.now();
        let failed = |fact: &&Fact| fact.failures > 0;
        carry.failed = part.facts.iter().filter(failed).map(|fact| fact.no).collect();
        carry.upto = part.upto();
        carry.mail.clone_from(&part.mail);
        carry.consumed.clone_from(&part.consumed);
        carry.withdraw.clone_from(&part.withdraw);
        for offer in &part.offers {
            self.offers.insert(offer.no, OfferState::Sent);
        }
        self.idle_since = None;
        self.outputs.leave();
        self.in_flight = Some(carry);
        part
    }
}
