//! [`Run::restore`]: from stored facts to a run, by the same transitions.
//!
//! Facts are folded in the order of their times, so that every rule is decided at the
//! same moment and in the same way as in the live run. Effects are discarded.

use std::sync::Arc;

use super::{Decisions, Fact, Node, ProjectState, Run, StepState, Wait, WaitReason};
use crate::{
    Timestamp,
    plan::{Plan, StepNo},
};

/// What is stored of a project beside its facts.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The state of the project row.
    pub state: ProjectState,
    /// When it began; `None` when it has not.
    pub began_at: Option<Timestamp>,
    /// When a user asked for the end, if so.
    pub cancelled_at: Option<Timestamp>,
    /// Step numbers below this are taken.
    pub next_no: StepNo,
}

/// A step number that no live expansion holds: left behind by a replay.
const DEAD: u32 = 0;

impl Run {
    /// Rebuilds the run that wrote these facts.
    pub fn restore(
        plan: Arc<Plan>,
        seed: [u8; 16],
        mut facts: Vec<Fact>,
        project: &Restored,
    ) -> Self {
        let mut run = Self::new(plan, seed);
        let Some(began_at) = project.began_at else { return run };
        run.state = ProjectState::Running;
        run.folding = Some(facts.iter().map(|fact| fact.no).collect());
        let mut ended = vec![];
        let mut decisions = Decisions::default();
        run.now = began_at;
        for no in 0..run.plan.len() {
            if run.plan.step(no).needs.is_empty() {
                run.decide(no, began_at, &mut ended, &mut decisions);
            }
        }
        run.settle(began_at, &mut ended, &mut decisions);
        facts.sort_by_key(|fact| (fact.at, fact.no));
        let mut cancelled_at = project.cancelled_at;
        for fact in &facts {
            if let Some(at) = cancelled_at.take_if(|at| *at <= fact.at) {
                run.cancel(at, &mut ended, &mut decisions);
            }
            if let Some(unfolded) = &mut run.folding {
                unfolded.remove(&fact.no);
            }
            run.recorded(fact, &mut ended, &mut decisions);
            run.settle(fact.at, &mut ended, &mut decisions);
        }
        run.folding = None;
        run.pad(project.next_no);
        if let Some(at) = cancelled_at {
            run.cancel(at, &mut ended, &mut decisions);
        }
        if project.state != ProjectState::Pending {
            run.state = project.state;
        }
        run
    }

    fn cancel(
        &mut self,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        self.now = self.now.max(at);
        self.cancelling = true;
        self.stop(at, ended, decisions);
        self.settle(at, ended, decisions);
    }

    /// Applies one stored fact.
    fn recorded(
        &mut self,
        fact: &Fact,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        self.now = self.now.max(fact.at);
        if fact.no >= self.len() || self.is_dead(fact.no) {
            return;
        }
        if self.step_state(fact.no).is_terminal() {
            // A row of an older time decided otherwise; only a damaged store does that.
            tracing::error!(
                no = fact.no,
                "a stored row contradicts the rows before it"
            );
            return;
        }
        let node = &mut self.nodes[fact.no as usize];
        node.generation = fact.generation;
        node.attempt = fact.attempt;
        node.failures = fact.failures;
        node.crashes = fact.crashes;
        node.began_at = fact.began_at;
        node.started_at = fact.started_at;
        if let Some(error) = &fact.error {
            self.errors.insert(fact.no, error.clone());
        }
        match fact.state {
            StepState::Blocked => self.begin_anew(fact, ended, decisions),
            StepState::Ready => {
                self.leave_wait(fact.no);
                self.enter(fact.no, StepState::Ready, fact.at);
            }
            StepState::Running => {
                self.leave_wait(fact.no);
                self.enter(fact.no, StepState::Running, fact.at);
                match (fact.expansion, &fact.body) {
                    (Some(expansion), Some(body)) => {
                        self.pad(expansion.first);
                        let body = Arc::clone(body);
                        self.become_canvas(fact.no, body, fact.at, ended, decisions);
                    }
                    (Some(expansion), None) => {
                        self.pad(expansion.first);
                        let (no, items) = (fact.no, expansion.items);
                        self.add_items(no, items, ended, decisions, fact.at);
                        if items == 0 {
                            self.close_parent(no, fact.at, ended, decisions);
                        }
                    }
                    (None, _) => self.busy += 1,
                }
            }
            StepState::Waiting => {
                self.leave_wait(fact.no);
                let reason = fact.wait.unwrap_or(WaitReason::Timer);
                let until = fact.until.unwrap_or(fact.at);
                let completes = reason == WaitReason::Timer;
                self.enter(fact.no, StepState::Waiting, fact.at);
                self.waits.insert(fact.no, Wait { reason, until, completes });
                self.timers.insert((until, fact.no));
            }
            StepState::Succeeded
            | StepState::Failed
            | StepState::UpstreamFailed
            | StepState::Skipped
            | StepState::Cancelled
            | StepState::Quarantined => {
                self.end(fact.no, fact.state, fact.at, ended);
                if let (Some(expansion), Some(body)) = (fact.expansion, &fact.body) {
                    self.pad(expansion.first);
                    if self.join_members(fact.no, Arc::clone(body)).is_some() {
                        self.slide(fact.no, ended, decisions, fact.at);
                    }
                }
            }
        }
    }

    /// A replay set the step back: what its needs decide stands, but delays count from
    /// the replay.
    fn begin_anew(
        &mut self,
        fact: &Fact,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        let no = fact.no;
        // What its needs say was put off until its own row.
        if self.step_state(no) == StepState::Blocked {
            self.decide(no, fact.at, ended, decisions);
        }
        if matches!(self.step_state(no), StepState::Ready | StepState::Waiting) {
            self.leave_wait(no);
            self.timers.retain(|(_, step)| *step != no);
            self.allow(no, fact.at, decisions);
        }
    }

    fn leave_wait(&mut self, no: StepNo) {
        if let Some(wait) = self.waits.remove(&no) {
            self.timers.remove(&(wait.until, no));
        }
    }

    /// Takes step numbers that a set-back expansion once had out of use.
    fn pad(&mut self, next_no: StepNo) {
        while self.len() < next_no {
            let mut node = Node::new(0);
            node.state = StepState::Skipped;
            node.generation = DEAD;
            self.nodes.push(node);
        }
    }

    /// Whether a step number is out of use.
    pub fn is_dead(&self, no: StepNo) -> bool {
        self.nodes[no as usize].generation == DEAD
    }

    /// The steps that are in use.
    pub fn steps_in_use(&self) -> impl Iterator<Item = StepNo> + '_ {
        (0..self.len()).filter(|no| !self.is_dead(*no))
    }
}
