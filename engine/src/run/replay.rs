//! Replay: which steps of an ended project run again, and which rows that sets back.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Fact, ProjectState, Restored, Run, SetBack, StepState};
use crate::{Timestamp, plan::StepNo};

/// What a replay does, before it is done.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// The steps it was asked for.
    pub seeds: BTreeSet<StepNo>,
    /// Everything that is not as it was.
    pub set_back: SetBack,
    /// Rows that start anew, with their next generation.
    pub anew: Vec<(StepNo, u32)>,
    /// Rows of children whose list is made anew: they go.
    pub gone: Vec<StepNo>,
    /// Steps by state once it is applied.
    pub counts: BTreeMap<&'static str, u32>,
}

impl Run {
    /// The steps that a replay of what failed begins with. A failure that its task allows
    /// or a `for_each` tolerated is no reason.
    pub fn failed_steps(&self) -> BTreeSet<StepNo> {
        self.steps_in_use()
            .filter(|no| {
                match self.step_state(*no) {
                    // A step that became others fails because of them.
                    _ if self.became_others(*no) => false,
                    // It follows from a need, which is asked itself.
                    StepState::Cancelled if self.has_cancelled_need(*no) => false,
                    // What a sibling ended counts as that does.
                    StepState::Cancelled if !self.halted.contains(no) => true,
                    StepState::Cancelled
                    | StepState::Failed
                    | StepState::Quarantined => !self.is_tolerated(*no),
                    StepState::Blocked
                    | StepState::Ready
                    | StepState::Running
                    | StepState::Waiting
                    | StepState::Succeeded
                    | StepState::UpstreamFailed
                    | StepState::Skipped => false,
                }
            })
            .collect()
    }

    /// Plans to run `seeds` and what depends on them again. `rows` are the stored facts,
    /// `project` what is stored beside them.
    pub fn plan_replay(
        &self,
        seeds: BTreeSet<StepNo>,
        rows: &[Fact],
        project: &Restored,
        now: Timestamp,
    ) -> Replay {
        let set_back = self.set_back(&seeds.iter().copied().collect::<Vec<_>>());
        let mut replay = Replay { seeds, ..Replay::default() };
        for row in rows.iter().filter(|row| set_back.steps.contains(&row.no)) {
            let parent = self.parent(row.no);
            if parent.is_some_and(|parent| set_back.steps.contains(&parent)) {
                replay.gone.push(row.no);
                continue;
            }
            // Children take the generation of their parent: it must be a new one for
            // each of them, and for theirs.
            let mut generation = row.generation;
            let mut inside = vec![row.no];
            while let Some(no) = inside.pop() {
                generation = generation.max(self.view(no).generation);
                inside.extend(self.children(no));
            }
            replay.anew.push((row.no, generation + 1));
        }
        replay.set_back = set_back;
        let reopened =
            Restored { state: ProjectState::Pending, cancelled_at: None, ..*project };
        let fold = |replay: &Replay| {
            let rows = replay.apply(rows, now);
            Self::restore(Arc::clone(&self.plan), self.seed, rows, &reopened)
        };
        let next = fold(&replay);
        // A step without a row may start now because of needs that ended long ago: its
        // delay and its expiry count from the replay, so it needs a row that says so.
        let mut late = vec![];
        let known: BTreeSet<StepNo> = rows.iter().map(|row| row.no).collect();
        let in_use = |no: &&StepNo| **no < next.len() && !next.is_dead(**no);
        for no in replay.set_back.steps.iter().filter(in_use) {
            let policy = next.policy(*no);
            let timed = policy.start_before.is_some() || !policy.delay.is_zero();
            let waits =
                matches!(next.step_state(*no), StepState::Ready | StepState::Waiting);
            if timed && waits && !known.contains(no) {
                late.push((*no, next.view(*no).generation + 1));
            }
        }
        replay.counts = match late.is_empty() {
            true => next.counts(),
            false => {
                replay.anew.append(&mut late);
                fold(&replay).counts()
            }
        };
        replay
    }

    /// Whether it is cancelled because a sibling failed, it or what it became.
    fn ended_by_sibling(&self, no: StepNo) -> bool {
        let value = self.results(no).next();
        self.halted.contains(&no) || value.is_some_and(|it| self.halted.contains(&it))
    }

    fn has_cancelled_need(&self, no: StepNo) -> bool {
        self.needs(no).any(|need| self.step_state(need) == StepState::Cancelled)
    }

    /// Whether the failure of a step counts for nothing outside.
    fn is_tolerated(&self, no: StepNo) -> bool {
        let mut at = no;
        loop {
            if self.policy(at).allow_failure {
                return true;
            }
            let Some(judge) = self.judge(at) else { return false };
            match self.step_state(judge) {
                StepState::Succeeded => return true,
                // It was ended before it could judge; by a sibling: others judge that.
                StepState::Cancelled if !self.ended_by_sibling(judge) => return false,
                StepState::Blocked
                | StepState::Ready
                | StepState::Running
                | StepState::Waiting
                | StepState::Failed
                | StepState::UpstreamFailed
                | StepState::Skipped
                | StepState::Cancelled
                | StepState::Quarantined => at = judge,
            }
        }
    }

    /// Who decides whether the failure of a step counts: the nearest group around it that
    /// tolerates some, or the step whose child it is.
    fn judge(&self, no: StepNo) -> Option<StepNo> {
        if !self.policy(no).contained {
            return None;
        }
        let mut seen = BTreeSet::from([no]);
        let mut steps = VecDeque::from([no]);
        let mut dependents = vec![];
        while let Some(at) = steps.pop_front() {
            self.dependents_into(at, &mut dependents);
            for dependent in dependents.drain(..) {
                if self.tolerates(dependent, at) {
                    return Some(dependent);
                }
                if seen.insert(dependent) {
                    steps.push_back(dependent);
                }
            }
        }
        self.parent(no)
    }

    /// The step that a step is a child of.
    pub fn parent(&self, no: StepNo) -> Option<StepNo> {
        match self.place(no) {
            super::Place::Plan => None,
            super::Place::Child { parent, .. } => Some(parent),
        }
    }
}

impl Replay {
    /// The rows as they are once the replay is applied.
    pub fn apply(&self, rows: &[Fact], now: Timestamp) -> Vec<Fact> {
        let gone: BTreeSet<StepNo> = self.gone.iter().copied().collect();
        let anew: BTreeMap<StepNo, u32> = self.anew.iter().copied().collect();
        let kept = rows
            .iter()
            .filter(|row| !gone.contains(&row.no) && !anew.contains_key(&row.no));
        let again =
            anew.iter().map(|(no, generation)| Fact::set_back(*no, *generation, now));
        kept.cloned().chain(again).collect()
    }
}

impl Fact {
    /// The row of a step that a replay set back.
    pub fn set_back(no: StepNo, generation: u32, at: Timestamp) -> Self {
        Self {
            no,
            generation,
            attempt: 0,
            failures: 0,
            crashes: 0,
            state: StepState::Blocked,
            at,
            began_at: None,
            started_at: None,
            until: None,
            wait: None,
            output: None,
            error: None,
            expansion: None,
            body: None,
        }
    }
}
