//! The run: the state machine of one project in flight. Pure.
//!
//! Owns every decision about states: trigger rules, retries, time, cancel, pause,
//! expansion, the end of a project. No clock, no I/O, no randomness, no runtime:
//! [`Run::apply`] takes an event and a time and returns [`Decisions`]. Live running,
//! recovery and reading use this one function; [`Run::restore`] folds the stored facts
//! through the same transitions.
//!
//! Invariant: after every committed prefix, `restore(rows)` equals the live run.

#![deny(clippy::wildcard_enum_match_arm)]

mod apply;
mod attempt;
mod change;
#[cfg(test)]
mod chart;
mod event;
mod expand;
mod grow;
mod halt;
mod order;
mod ready;
mod replay;
mod restore;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::{
    event::{
        Decisions, Event, Expansion, Fact, Illegal, Output, PastAttempt, Record,
        RecordKind,
    },
    expand::Place,
    grow::Source,
    order::SetBack,
    ready::ReadyQueue,
    replay::{Choice, Foretold, Replay},
    restore::Restored,
    state::{ProjectState, StepState, WaitReason},
};
use self::{expand::Fragment, grow::Joined};
use crate::{
    StepError, Timestamp,
    map::{Map, Set},
    plan::{Needs, Plan, Policy, Step, StepNo},
};

/// One project in flight.
#[derive(Clone, Debug)]
pub struct Run {
    plan: Arc<Plan>,
    nodes: Vec<Node>,
    fragments: Vec<Fragment>,
    /// Which fragment a step has become, or has added.
    expanded: Map<StepNo, usize>,
    /// Which steps have added members to a group, by its join.
    joins: Map<StepNo, Joined>,
    /// Steps that were ended because a sibling failed.
    halted: Set<StepNo>,
    /// Whether a failure may end steps that have nothing to do with it.
    may_halt: bool,
    /// How many bytes the plans have that handlers have made.
    grown_bytes: usize,
    /// Why steps wait; only for waiting ones.
    waits: Map<StepNo, Wait>,
    /// Why steps failed or were skipped.
    errors: Map<StepNo, StepError>,
    /// When waiting steps are due and ready ones expire.
    timers: BTreeSet<(Timestamp, StepNo)>,
    /// How many steps are in each state, by its position in [`StepState::ALL`].
    counts: [u32; StepState::COUNT],
    /// How many steps have not ended.
    open: u32,
    /// How many running steps hold a slot.
    busy: u32,
    /// How many steps failed without allowance.
    fatal: u32,
    state: ProjectState,
    /// Whether a user asked for the end.
    cancelling: bool,
    /// Whether the steps that had not started were ended (by cancel or `fail_fast`).
    stopped: bool,
    /// The time of the latest event; times in a run strictly rise.
    now: Timestamp,
    /// What jitter is seeded with beside step and attempt.
    seed: [u8; 16],
    /// While stored facts are folded: the steps whose fact is still to come. They were
    /// alive at this point of history, so a stop does not end them.
    folding: Option<Set<StepNo>>,
}

/// A step in flight. Kept small: a plan may have a million.
#[derive(Clone, Debug)]
struct Node {
    state: StepState,
    generation: u32,
    attempt: u32,
    failures: u32,
    crashes: u32,
    needs: Needs,
    /// When the state became so.
    at: Timestamp,
    began_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    /// When its needs (and delays) allowed it to start.
    ready_at: Timestamp,
}

/// Why and until when a step waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// For what.
    pub reason: WaitReason,
    /// Until when.
    pub until: Timestamp,
    /// Whether the step succeeds then, instead of becoming ready.
    pub completes: bool,
}

/// A step as others see it.
#[derive(Clone, Debug, PartialEq)]
pub struct StepView<'a> {
    /// Its state.
    pub state: StepState,
    /// Its generation, from 1.
    pub generation: u32,
    /// The latest attempt; 0 when none has started.
    pub attempt: u32,
    /// How many attempts failed.
    pub failures: u32,
    /// How many crashes it is charged with.
    pub crashes: u32,
    /// When the state became so.
    pub at: Timestamp,
    /// When the latest attempt started.
    pub started_at: Option<Timestamp>,
    /// Why it waits.
    pub wait: Option<Wait>,
    /// Why it failed or was skipped.
    pub error: Option<&'a StepError>,
}

impl Run {
    /// A project that has not begun. `seed` is the project's id.
    pub fn new(plan: Arc<Plan>, seed: [u8; 16]) -> Self {
        let nodes: Vec<Node> =
            plan.steps().iter().map(|step| Node::new(step.needs.len())).collect();
        let open = plan.len();
        let may_halt = plan.fail_fast() || plan.steps().iter().any(Step::may_halt);
        let mut counts = [0; StepState::COUNT];
        counts[StepState::Blocked as usize] = open;
        Self {
            plan,
            nodes,
            fragments: vec![],
            expanded: Map::default(),
            joins: Map::default(),
            halted: Set::default(),
            may_halt,
            grown_bytes: 0,
            waits: Map::default(),
            errors: Map::default(),
            timers: BTreeSet::new(),
            counts,
            open,
            busy: 0,
            fatal: 0,
            state: ProjectState::Pending,
            cancelling: false,
            stopped: false,
            now: Timestamp::EPOCH,
            seed,
            folding: None,
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The state of the project.
    pub fn state(&self) -> ProjectState {
        self.state
    }

    /// Whether the project was told to stop and still has running steps.
    pub fn is_stopping(&self) -> bool {
        self.stopped && !self.state.is_terminal()
    }

    /// Whether a user asked for the end.
    pub fn is_cancelling(&self) -> bool {
        self.cancelling
    }

    /// The number of steps, children included.
    #[expect(clippy::cast_possible_truncation, reason = "step numbers are u32")]
    pub fn len(&self) -> StepNo {
        self.nodes.len() as StepNo
    }

    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many steps are in a state.
    pub fn count(&self, state: StepState) -> u32 {
        self.counts[state as usize]
    }

    /// How many steps are in each state that any is in.
    pub fn counts(&self) -> BTreeMap<&'static str, u32> {
        StepState::ALL
            .iter()
            .map(|state| (state.as_str(), self.count(*state)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Whether all steps have ended but the project is not closed yet.
    pub fn is_complete(&self) -> bool {
        self.open == 0 && !self.state.is_terminal()
    }

    /// Whether the project will not succeed when it closes.
    pub fn will_fail(&self) -> bool {
        self.cancelling || self.fatal > 0
    }

    /// Whether another step may start now, as far as the project decides.
    pub fn may_start(&self) -> bool {
        self.state == ProjectState::Running
            && !self.stopped
            && self.plan.max_parallel().is_none_or(|most| self.busy < most)
    }

    /// How many running steps hold a slot.
    pub fn busy(&self) -> u32 {
        self.busy
    }

    /// The time of the latest event.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// When the next timer is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The state of a step.
    pub fn step_state(&self, no: StepNo) -> StepState {
        self.nodes[no as usize].state
    }

    /// A step as others see it.
    pub fn view(&self, no: StepNo) -> StepView<'_> {
        let node = &self.nodes[no as usize];
        StepView {
            state: node.state,
            generation: node.generation,
            attempt: node.attempt,
            failures: node.failures,
            crashes: node.crashes,
            at: node.at,
            started_at: node.started_at,
            wait: self.waits.get(&no).copied(),
            error: self.errors.get(&no),
        }
    }

    /// What a step is in its plan.
    pub fn step(&self, no: StepNo) -> &Step {
        let (plan, local) = self.local(no);
        plan.step(local)
    }

    /// The policy of a step.
    pub fn policy(&self, no: StepNo) -> &Policy {
        let (plan, local) = self.local(no);
        plan.policy(local)
    }

    /// The order among ready steps: higher priority, longer remaining path, lower number.
    pub fn rank(&self, no: StepNo) -> (i32, u32, std::cmp::Reverse<StepNo>) {
        (self.policy(no).priority, self.remaining(no), std::cmp::Reverse(no))
    }

    /// The needs of a step that failed and are the reason why it did not run.
    pub fn failed_needs(&self, no: StepNo) -> Vec<StepNo> {
        self.needs(no)
            .filter(|need| {
                matches!(
                    self.step_state(*need),
                    StepState::Failed
                        | StepState::UpstreamFailed
                        | StepState::Quarantined
                )
            })
            .collect()
    }

    /// All steps that are ready, for a fresh [`ReadyQueue`].
    pub fn ready_steps(&self) -> impl Iterator<Item = StepNo> + '_ {
        (0..self.len()).filter(|no| self.step_state(*no) == StepState::Ready)
    }

    /// All steps that are recorded as running.
    pub fn running_steps(&self) -> impl Iterator<Item = StepNo> + '_ {
        (0..self.len()).filter(|no| {
            self.step_state(*no) == StepState::Running
                && !self.expanded.contains_key(no)
        })
    }
}

impl Node {
    fn new(needs: usize) -> Self {
        let total = u32::try_from(needs).unwrap_or(u32::MAX);
        Self {
            state: StepState::Blocked,
            generation: 1,
            attempt: 0,
            failures: 0,
            crashes: 0,
            needs: Needs { total, ..Needs::default() },
            at: Timestamp::EPOCH,
            began_at: None,
            started_at: None,
            ready_at: Timestamp::EPOCH,
        }
    }
}
