//! [`Line`]: the projects with steps that wait for a slot, in the order in which they get one.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{owned::Owned, scheduler::Scheduler};
use crate::{ProjectId, map::Map};

/// The priorities of a project and of its next step.
pub(super) type Priority = (i32, i32);

/// Priority, then the fewest running steps, then the least service so far, then the longest
/// path. The greatest comes first.
pub(super) type Rank = (Priority, Reverse<u32>, Reverse<u64>, u32, Reverse<ProjectId>);

/// The projects with steps that wait for a slot.
#[derive(Debug, Default)]
pub(super) struct Line {
    order: BTreeSet<(Rank, ProjectId)>,
    /// Where each stands; `None`: it may start nothing now (paused, or enough runs).
    places: Map<ProjectId, Option<Rank>>,
    /// Those whose place may have changed since.
    moved: Vec<ProjectId>,
}

impl Line {
    /// Gives a project its place; `None`: it may start nothing now.
    fn set(&mut self, project: ProjectId, rank: Option<Rank>) {
        match self.places.insert(project, rank) {
            Some(old) if old == rank => return,
            Some(Some(old)) => _ = self.order.remove(&(old, project)),
            Some(None) | None => {}
        }
        self.order.extend(rank.map(|rank| (rank, project)));
    }

    pub(super) fn remove(&mut self, project: ProjectId) {
        if let Some(Some(old)) = self.places.remove(&project) {
            self.order.remove(&(old, project));
        }
    }

    /// The lowest priority of a project that may start something.
    pub(super) fn lowest(&self) -> Option<i32> {
        self.order.first().map(|(rank, _)| rank.0.0)
    }

    /// Whether nobody waits, not even of those that may start nothing now.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether any may start something.
    pub(super) fn may_start(&self) -> bool {
        !self.order.is_empty()
    }

    /// Those that may start nothing, as far as is known.
    fn held(&self) -> Vec<ProjectId> {
        if self.places.len() == self.order.len() {
            return vec![];
        }
        let held = self.places.iter().filter(|(_, rank)| rank.is_none());
        held.map(|(project, _)| *project).collect()
    }
}

impl Scheduler {
    /// Chooses the project whose next step starts.
    pub(super) fn choose(&mut self) -> Option<(Priority, ProjectId)> {
        loop {
            self.settle_line();
            let (rank, project) = *self.line.order.last()?;
            if self.place_now(project) == Some(rank) {
                return Some((rank.0, project));
            }
        }
    }

    /// Whether a project has one more step of this priority that may start.
    pub(super) fn has_next(&mut self, priority: Priority, project: ProjectId) -> bool {
        self.projects.get_mut(&project).is_some_and(|owned| {
            let next = owned.queue.peek(&owned.run).map(|(own, _)| own);
            next.map(|own| (owned.row.priority, own)) == Some(priority)
                && owned.may_start()
        })
    }

    /// Looks at those again that could start nothing: what held them may have passed.
    pub(super) fn look_at_held(&mut self) {
        for project in self.line.held() {
            self.place_now(project);
        }
    }

    /// Takes note that something may have moved a project; it is given its place before the
    /// next choice.
    pub(super) fn place(&mut self, project: ProjectId) {
        if let Some(owned) = self.projects.get_mut(&project)
            && !std::mem::replace(&mut owned.moved, true)
        {
            self.line.moved.push(project);
        }
    }

    /// Gives those that were moved their places.
    pub(super) fn settle_line(&mut self) {
        while let Some(project) = self.line.moved.pop() {
            self.place_now(project);
        }
    }

    fn place_now(&mut self, project: ProjectId) -> Option<Rank> {
        let rank = |owned: &mut Owned| {
            owned.moved = false;
            let (priority, remaining) = owned.queue.peek(&owned.run)?;
            let rank = (
                (owned.row.priority, priority),
                Reverse(owned.run.busy()),
                Reverse(owned.served),
                remaining,
                Reverse(project),
            );
            Some(owned.may_start().then_some(rank))
        };
        match self.projects.get_mut(&project).and_then(rank) {
            Some(rank) => {
                self.line.set(project, rank);
                rank
            }
            None => {
                self.line.remove(project);
                None
            }
        }
    }
}
