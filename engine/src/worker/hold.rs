//! Queues that are paused: their steps stay ready, here and as offers to others, and begin
//! once the queue goes on.
//!
//! A step of such a queue stands among those that this worker does not run.

use std::collections::HashSet;

use super::scheduler::Scheduler;
use crate::{ProjectId, plan::StepNo};

/// Whether a queue is paused. Nothing starts before it is known which are.
pub(super) fn is_held(held: Option<&HashSet<String>>, queue: &str) -> bool {
    held.is_some_and(|held| held.contains(queue))
}

impl Scheduler {
    pub(super) fn is_held(&self, queue: &str) -> bool {
        is_held(self.held_queues.as_ref(), queue)
    }

    /// Takes note of the paused queues. Steps of those that go on find their place again.
    pub(super) fn hold_queues(&mut self, paused: HashSet<String>) {
        if self.held_queues.as_ref() == Some(&paused) {
            return;
        }
        let before = self.held_queues.replace(paused.clone()).unwrap_or_default();
        if let Some(vitals) = &self.vitals {
            vitals.hold(paused.iter().cloned().collect());
        }
        self.held_sender.send_replace(Some(paused));
        if before.iter().all(|queue| self.is_held(queue)) {
            return;
        }
        let mut freed: Vec<(ProjectId, StepNo)> = vec![];
        for (id, owned) in &mut self.projects {
            let goes_on = |queue: &str| {
                before.contains(queue) && !is_held(self.held_queues.as_ref(), queue)
            };
            let queues = owned.foreign.extract_if(.., |(queue, _), _| goes_on(queue));
            for (_, mut steps) in queues {
                while let Some(no) = steps.pop(&owned.run) {
                    freed.push((*id, no));
                }
            }
        }
        for (project, no) in freed {
            self.make_ready(project, no);
        }
        // What others offer of it may be taken now.
        self.guests.offers = true;
    }
}
