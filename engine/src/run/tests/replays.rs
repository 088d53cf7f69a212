//! Replays of random histories: chosen steps, pins, and what the plan told before.

use super::*;

impl World {
    /// Runs what failed again; whether there was anything.
    pub(super) fn replay(&mut self) -> bool {
        let seeds = self.run.failed_steps();
        if seeds.is_empty() {
            return false;
        }
        self.replay_chosen(Choice { seeds, ..Choice::default() });
        true
    }

    /// Steps chosen by a number, some of them given an output instead.
    pub(super) fn choice(&self, pick: u16) -> Choice {
        let pick = usize::from(pick);
        let all: Vec<StepNo> = self.run.steps_in_use().collect();
        let nth = |n: usize| all[(pick / 7 + n * 3) % all.len()];
        let seeds = (0..pick % 3).map(nth).collect();
        let pins = (0..pick / 3 % 2).map(|n| (nth(n + 5), output())).collect();
        Choice { seeds, pins, only: pick.is_multiple_of(5) }
    }

    /// Replays as the store would record it.
    pub(super) fn replay_chosen(&mut self, choice: Choice) {
        self.now = self.now.plus(Duration::from_secs(60));
        let rows: Vec<Fact> = self.rows.values().cloned().collect();
        let plan = Arc::clone(self.run.plan());
        let only = choice.only;
        let pins: Vec<StepNo> = choice.pins.keys().copied().collect();
        let replay = self.run.plan_replay(choice, &rows, &self.header, &plan, self.now);
        self.foretold = replay.runs.clone();
        self.executed.clear();
        self.known = self.run.len();
        for no in &replay.set_back.steps {
            let goes =
                |c: StepNo| replay.set_back.steps.contains(&c) || pins.contains(&c);
            assert!(self.run.children(*no).all(goes));
            self.terminal.remove(no);
            self.succeeded.remove(no);
        }
        for no in &pins {
            self.terminal.remove(no);
            self.succeeded.remove(no);
        }
        for no in &replay.set_back.kept {
            self.terminal.remove(no);
        }
        let kept: Vec<(StepNo, StepState)> = self
            .terminal
            .iter()
            .filter(|(_, state)| **state == StepState::Succeeded)
            .map(|(no, state)| (*no, *state))
            .collect();
        // What never ran may be decided in another way now.
        self.terminal.retain(|no, _| {
            self.rows.get(no).is_some_and(|row| row.state.is_terminal())
        });
        let rows = replay.apply(&rows, self.now);
        self.rows = rows.into_iter().map(|row| (row.no, row)).collect();
        self.header.state = ProjectState::Pending;
        self.header.cancelled_at = None;
        self.ticked = self.now;
        self.run = self.restored();
        self.run.state = ProjectState::Running;
        self.header.state = ProjectState::Running;
        assert_eq!(self.run.counts(), replay.counts, "the counts of the plan");
        for (no, state) in kept {
            // What never ran inside of it may run now, and it ends again then.
            if only && self.run.children(no).next().is_some() {
                continue;
            }
            assert_eq!(
                self.run.step_state(no),
                state,
                "a replay keeps {}",
                self.run.name(no)
            );
        }
        self.check();
    }
}
