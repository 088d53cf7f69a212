//! Queues that are paused: their steps stay ready, here and as offers to others, and begin
//! once the queue goes on.
//!
//! A step of such a queue stands among those that this worker does not run.

use std::collections::{BTreeSet, HashSet};

use super::{Message, adopt::patiently, scheduler::Scheduler};
use crate::{
    ProjectId,
    plan::{Action, StepNo},
    run::ProjectState,
    store::Resting,
};

/// So many projects are given back in one transaction.
const MOST_RESTING: usize = 512;

/// Projects that paused queues hold, on their way out of memory.
#[derive(Debug, Default)]
pub(super) struct Rests {
    pub(super) waiting: Vec<Resting>,
    are_on_their_way: bool,
    /// Those that were refused, until it is known anew which queues are paused.
    pub(super) refused: HashSet<ProjectId>,
}

/// Whether a queue is paused. Nothing starts before it is known which are.
pub(super) fn is_held(held: Option<&HashSet<String>>, queue: &str) -> bool {
    held.is_some_and(|held| held.contains(queue))
}

impl Scheduler {
    pub(super) fn is_held(&self, queue: &str) -> bool {
        is_held(self.held_queues.as_ref(), queue)
    }

    /// The paused queues that hold a project of which nothing else can happen.
    fn held_by(&self, project: ProjectId) -> Option<BTreeSet<String>> {
        let owned = self.projects.get(&project)?;
        let rests = self.config.all
            && !owned.foreign.is_empty()
            && owned.run.state() == ProjectState::Running
            && !owned.is_busy()
            && owned.queue.is_empty()
            && owned.offers.is_empty()
            && owned.fetching.is_empty()
            && owned.held.is_empty()
            && !(owned.closing || owned.reading || owned.steered)
            && owned.run.next_due().is_none()
            && !self.rests.refused.contains(&project);
        if !rests {
            return None;
        }
        let mut queues = BTreeSet::new();
        for no in owned.run.ready_steps() {
            let queue = &owned.run.policy(no).queue;
            // A join waits for its turn only.
            let runs = matches!(owned.run.step(no).action, Action::Run { .. });
            if !runs || !self.is_held(queue) {
                return None;
            }
            queues.insert(queue.clone());
        }
        (!queues.is_empty()).then_some(queues)
    }

    /// Lets go of a project that paused queues hold, until one of them goes on; tells whether
    /// it does.
    pub(super) fn rest(&mut self, project: ProjectId) -> bool {
        let Some(queues) = self.held_by(project) else { return false };
        let Some(owned) = self.forget(project) else { return false };
        self.releasing.insert(project);
        self.rests.waiting.push(Resting { project, epoch: owned.row.epoch, queues });
        true
    }

    /// Gives back those that rest, many at a time.
    pub(super) fn give_back_resting(&mut self) {
        if self.rests.waiting.is_empty()
            || std::mem::replace(&mut self.rests.are_on_their_way, true)
        {
            return;
        }
        let most = self.rests.waiting.len().min(MOST_RESTING);
        let resting: Vec<Resting> = self.rests.waiting.drain(..most).collect();
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        let session = self.session;
        self.tasks.spawn(async move {
            let asked = resting.iter().map(|it| it.project).collect();
            let rest = || store.rest(session, resting.clone());
            let released = patiently(&store, rest).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "projects were not given back");
                vec![]
            });
            let _ = inbox.send(Message::Rested { asked, released });
        });
    }

    /// Some were given back; the others are taken once more, and held here until it is known
    /// anew which queues are paused.
    pub(super) fn rested(&mut self, asked: Vec<ProjectId>, released: &[ProjectId]) {
        self.rests.are_on_their_way = false;
        let released: HashSet<&ProjectId> = released.iter().collect();
        for project in asked {
            if !released.contains(&project) {
                self.rests.refused.insert(project);
                self.look(true);
            }
            self.released(project, released.contains(&project));
        }
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
