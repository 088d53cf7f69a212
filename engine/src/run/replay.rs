//! Replay: which steps of an ended project run again, and which rows that sets back.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Event, Fact, Output, ProjectState, Restored, Run, SetBack, StepState};
use crate::{
    StepError, Timestamp,
    plan::{Action, Plan, StepNo},
};

/// What a replay is asked for.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The steps it begins with.
    pub seeds: BTreeSet<StepNo>,
    /// Steps that do not run and have these outputs.
    pub pins: BTreeMap<StepNo, Output>,
    /// Whether what depends on these stays as it is.
    pub only: bool,
}

/// What a replay does, before it is done.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// The steps it was asked for.
    pub seeds: BTreeSet<StepNo>,
    /// Everything that is not as it was.
    pub set_back: SetBack,
    /// Rows that start anew, with their next generation.
    pub anew: Vec<(StepNo, u32)>,
    /// Rows that have an output without having run, with their next generation.
    pub pinned: Vec<(StepNo, u32, Output)>,
    /// Rows of children whose list is made anew: they go.
    pub gone: Vec<StepNo>,
    /// The steps that will run if every step succeeds and every condition is true. What a
    /// list or a canvas will hold is not known before.
    pub runs: BTreeSet<StepNo>,
    /// The steps that end again because of these: what they became runs.
    pub ends: BTreeSet<StepNo>,
    /// Steps by state once it is applied.
    pub counts: BTreeMap<&'static str, u32>,
}

/// What rows will lead to if everything ends well.
#[derive(Clone, Debug, Default)]
pub struct Foretold {
    /// Steps by state before anything happens.
    pub counts: BTreeMap<&'static str, u32>,
    /// The steps that will run.
    pub runs: BTreeSet<StepNo>,
    /// The steps that have ended already.
    pub ended: BTreeSet<StepNo>,
}

impl Run {
    /// Folds the rows of a project that goes on, and tells what will run.
    pub fn foretold(plan: &Arc<Plan>, rows: Vec<Fact>, project: &Restored) -> Foretold {
        let mut run = Self::restore(Arc::clone(plan), [0; 16], rows, project);
        let counts = run.counts();
        let is_over = |no: &StepNo| run.step_state(*no).is_terminal();
        let ended = run.steps_in_use().filter(is_over).collect();
        Foretold { counts, ended, runs: run.foretell() }
    }

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

    /// Plans to run chosen steps again, with what depends on them. `rows` are the stored
    /// facts, `project` what is stored beside them; `plan` is the plan from then on, of the
    /// same steps.
    pub fn plan_replay(
        &self,
        choice: Choice,
        rows: &[Fact],
        project: &Restored,
        plan: &Arc<Plan>,
        now: Timestamp,
    ) -> Replay {
        let Choice { seeds, pins, only } = choice;
        let mut set_back = self.chosen(&seeds, &pins, only);
        let mut replay = Replay { seeds, ..Replay::default() };
        for row in rows.iter().filter(|row| set_back.steps.contains(&row.no)) {
            let parent = self.parent(row.no);
            if parent.is_some_and(|parent| set_back.steps.contains(&parent)) {
                replay.gone.push(row.no);
            } else if !pins.contains_key(&row.no) {
                replay.anew.push((row.no, self.next_generation(row.no)));
            }
        }
        for (no, output) in pins {
            set_back.steps.remove(&no);
            // One inside of what is made anew goes with it.
            let parent = self.parent(no);
            if !parent.is_some_and(|parent| set_back.steps.contains(&parent)) {
                replay.pinned.push((no, self.next_generation(no), output));
            }
        }
        replay.set_back = set_back;
        let reopened =
            Restored { state: ProjectState::Pending, cancelled_at: None, ..*project };
        let fold = |replay: &Replay| {
            let rows = replay.apply(rows, now);
            Self::restore(Arc::clone(plan), self.seed, rows, &reopened)
        };
        let mut next = fold(&replay);
        loop {
            let late = self.late(&next, &replay, rows);
            if late.is_empty() {
                break;
            }
            replay.anew.extend(late);
            next = fold(&replay);
        }
        replay.counts = next.counts();
        let open: Vec<StepNo> = next
            .steps_in_use()
            .filter(|no| !next.step_state(*no).is_terminal())
            .collect();
        replay.runs = next.foretell();
        let ends = |no: &StepNo| next.step_state(*no) == StepState::Succeeded;
        replay.ends = open.into_iter().filter(ends).collect();
        replay.ends.retain(|no| !replay.runs.contains(no));
        replay
    }

    /// Steps that are to begin anew although nobody chose them: `next` is what the rows fold
    /// to otherwise.
    fn late(&self, next: &Self, replay: &Replay, rows: &[Fact]) -> Vec<(StepNo, u32)> {
        let stored: BTreeSet<StepNo> = rows.iter().map(|row| row.no).collect();
        let anew: BTreeSet<StepNo> = replay.anew.iter().map(|(no, _)| *no).collect();
        // One without a row may start now because of needs that ended long ago: its delay
        // and its expiry count from the replay, so it needs a row that says so.
        let timed = replay.set_back.steps.iter().copied().filter(|no| {
            *no < next.len()
                && !next.is_dead(*no)
                && !stored.contains(no)
                && !anew.contains(no)
                && {
                    let policy = next.policy(*no);
                    policy.start_before.is_some() || !policy.delay.is_zero()
                }
                && matches!(next.step_state(*no), StepState::Ready | StepState::Waiting)
        });
        // One that was ended by what is not so any more: its row is of an attempt, or a wait,
        // that is over.
        let revived = stored.iter().copied().filter(|no| {
            *no < self.len()
                && *no < next.len()
                && self.step_state(*no).is_terminal()
                && !replay.set_back.touches(*no)
                && !anew.contains(no)
                && matches!(
                    next.step_state(*no),
                    StepState::Waiting | StepState::Running
                )
                && !next.expanded.contains_key(no)
        });
        let timed = timed.map(|no| (no, next.view(no).generation + 1));
        timed.chain(revived.map(|no| (no, self.next_generation(no)))).collect()
    }

    pub(super) fn failed_members(&self, join: StepNo) -> u32 {
        let members = self.members(join).into_iter();
        let failed = members.filter(|no| self.step_state(*no).is_failure());
        u32::try_from(failed.count()).unwrap_or(u32::MAX)
    }

    /// What a choice sets back, pinned steps and what was inside of them included.
    fn chosen(
        &self,
        seeds: &BTreeSet<StepNo>,
        pins: &BTreeMap<StepNo, Output>,
        only: bool,
    ) -> SetBack {
        let chosen: Vec<StepNo> = seeds.iter().chain(pins.keys()).copied().collect();
        match only {
            true => self.set_back_only(&chosen),
            false => self.set_back(&chosen),
        }
    }

    /// The generation of a step that is made anew. Children take that of their parent: it
    /// must be a new one for each of them, and for theirs.
    fn next_generation(&self, no: StepNo) -> u32 {
        let mut generation = 0;
        let mut inside = vec![no];
        while let Some(no) = inside.pop() {
            generation = generation.max(self.view(no).generation);
            inside.extend(self.children(no));
        }
        generation + 1
    }

    /// Lets everything end well, and tells which steps ran. The run is of no use then.
    fn foretell(&mut self) -> BTreeSet<StepNo> {
        let before = self.len();
        let null = || Output::from(serde_json::value::RawValue::NULL.to_owned());
        let mut ran = BTreeSet::new();
        let mut running: Vec<StepNo> = self.running_steps().collect();
        let mut now = self.now;
        self.state = ProjectState::Running;
        loop {
            for no in running.drain(..) {
                ran.insert(no);
                let attempt = self.view(no).attempt;
                let _ =
                    self.apply(Event::Succeeded { no, attempt, output: null() }, now);
            }
            let ready: Vec<StepNo> = self.ready_steps().collect();
            if ready.is_empty() {
                // Whatever time anything waits for has passed.
                let Some(due) = self.next_due() else { break };
                now = now.max(due);
                let _ = self.apply(Event::Tick, now);
                continue;
            }
            let mut moved = false;
            for no in ready {
                if self.step_state(no) != StepState::Ready {
                    continue;
                }
                let event = match &self.step(no).action {
                    Action::Run { .. } => {
                        running.push(no);
                        Event::Started { no }
                    }
                    Action::Pass { tolerate: Some(most), .. }
                        if self.failed_members(no)
                            > most.at_most_of(self.member_count(no)) =>
                    {
                        ran.insert(no);
                        let error =
                            StepError::fail("members_failed", "too many failed");
                        Event::Failed { no, attempt: 1, error }
                    }
                    Action::Join { .. } | Action::Pass { .. } => {
                        ran.insert(no);
                        Event::Succeeded { no, attempt: 1, output: null() }
                    }
                    Action::ForEach(_) => {
                        ran.insert(no);
                        Event::Expanded { no, items: 0, list: null() }
                    }
                };
                moved |= self.apply(event, now).is_ok();
            }
            if !moved {
                break;
            }
        }
        ran.retain(|no| *no < before);
        ran
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
        let pinned: BTreeSet<StepNo> = self.pinned.iter().map(|(no, ..)| *no).collect();
        let kept = kept.filter(|row| !pinned.contains(&row.no));
        let given = self.pinned.iter().map(|(no, generation, output)| Fact {
            state: StepState::Succeeded,
            output: Some(Arc::clone(output)),
            ..Fact::set_back(*no, *generation, now)
        });
        kept.cloned().chain(again).chain(given).collect()
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
