//! Offers: steps of own projects that other workers may run, and what is taken back.
//!
//! Only declared hunger is answered: whoever has free slots says so with its beat. A step
//! of a queue or kind that this worker does not run is offered to those that do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    hold::is_held,
    owned::{OfferState, Owned},
    scheduler::Scheduler,
};
use crate::{
    ProjectId, Timestamp,
    plan::{Action, StepNo},
    run::{ReadyQueue, StepState},
    store::Offer,
};

/// A step that would start here within this time is not offered.
const PATIENCE: Duration = Duration::from_millis(20);
/// So many offers for each slot that waits for work: one that runs, and two that wait, so
/// that a freed slot finds the next one without asking the owner.
const WINDOW: u32 = 3;
/// From how many crashes on a step is run alone: by its owner, where that serves it.
const SUSPECT: u32 = 2;

impl Scheduler {
    /// Offers what cannot run here, and what waits while others are hungry; takes back
    /// what can start here now.
    pub(super) fn offer_steps(&mut self) {
        self.offer_at = None;
        if !self.config.store.is_shared() || !self.may_begin() {
            return;
        }
        let hunger: u32 = self.others.iter().map(|other| other.hungry).sum();
        if hunger == 0 {
            // Nobody is there to take them: they keep their place in the order here.
            self.take_back(usize::MAX);
        } else if self.free > 0 && self.line.is_empty() {
            self.take_back(self.free);
        }
        if self.others.is_empty() {
            return;
        }
        self.offer_foreign();
        if self.free == 0 {
            self.offer_waiting();
        }
    }

    /// Steps of a queue or kind that only others run, up to twice their slots and what they
    /// may be running.
    fn offer_foreign(&mut self) {
        let mut out: BTreeMap<(String, String), u32> = BTreeMap::new();
        let mut waiting = vec![];
        for (id, owned) in &self.projects {
            if owned.foreign.is_empty() {
                continue;
            }
            waiting.push(*id);
        }
        if waiting.is_empty() {
            return;
        }
        // One suspect at a time where nobody else can watch it.
        let mut suspected = BTreeSet::new();
        for owned in self.projects.values() {
            for no in owned.offers.keys() {
                let service = service(owned, *no);
                if owned.run.view(*no).crashes >= SUSPECT {
                    suspected.insert(service.clone());
                }
                *out.entry(service).or_default() += 1;
            }
        }
        let mut later = vec![];
        for project in waiting {
            let Some(owned) = self.projects.get_mut(&project) else { continue };
            let services: Vec<_> = owned.foreign.keys().cloned().collect();
            for service in services {
                if is_held(self.held_queues.as_ref(), &service.0) {
                    continue;
                }
                let slots: u32 = self
                    .others
                    .iter()
                    .filter(|other| other.serves.has(&service.0, &service.1))
                    .map(|other| other.slots)
                    .sum();
                let out = out.entry(service.clone()).or_default();
                while *out < slots.saturating_mul(WINDOW)
                    && let Some(owned) = self.projects.get_mut(&project)
                    && owned.may_start()
                    && let Some(queue) = owned.foreign.get_mut(&service)
                {
                    let Some(no) = queue.pop(&owned.run) else {
                        owned.foreign.remove(&service);
                        break;
                    };
                    if owned.run.view(no).crashes >= SUSPECT
                        && !suspected.insert(service.clone())
                    {
                        later.push((project, no));
                        continue;
                    }
                    *out += 1;
                    self.offer(project, no);
                }
            }
        }
        for (project, no) in later {
            if let Some(owned) = self.projects.get_mut(&project) {
                owned.push_foreign(no);
            }
        }
    }

    /// The projects with steps that are offered, or run elsewhere.
    fn offering(&self) -> impl Iterator<Item = (&ProjectId, &Owned)> {
        let offering = self.offering.iter();
        offering
            .filter_map(|id| Some((id, self.projects.get(id)?)))
            .filter(|(_, owned)| !owned.offers.is_empty())
    }

    /// Steps that wait for a slot here, while others have free ones.
    fn offer_waiting(&mut self) {
        let hunger: u32 = self.others.iter().map(|other| other.hungry).sum();
        if hunger == 0 {
            return;
        }
        let out: usize = self.offering().map(|(_, owned)| owned.offers.len()).sum();
        let mut out = u32::try_from(out).unwrap_or(u32::MAX);
        let now = self.config.clock.now();
        while out < hunger.saturating_mul(WINDOW)
            && self.may_record()
            && let Some((_, project)) = self.choose()
            && let Some(owned) = self.projects.get_mut(&project)
            && let Some(no) = owned.queue.pop(&owned.run)
        {
            if is_held(self.held_queues.as_ref(), &owned.run.policy(no).queue) {
                owned.push_foreign(no);
                continue;
            }
            let view = owned.run.view(no);
            let (queue, kind) = service(owned, no);
            let hungry = self
                .others
                .iter()
                .any(|other| other.hungry > 0 && other.serves.has(&queue, &kind));
            let young = now.since(view.at) < PATIENCE;
            // To hand over what ends at once would cost more than it.
            let brief = self.volleys.is_quick(&kind);
            if young
                || brief
                || !hungry
                || view.crashes >= SUSPECT
                || owned.careful.contains(&no)
            {
                owned.queue.push(&owned.run, no);
                if young {
                    self.offer_at = Some(tokio::time::Instant::now() + PATIENCE);
                }
                return;
            }
            self.offer(project, no);
            out += 1;
        }
        // What was taken from the last one moved it.
        self.choose();
    }

    fn offer(&mut self, project: ProjectId, no: StepNo) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let (queue, kind) = service(owned, no);
        let view = owned.run.view(no);
        let offer = Offer {
            no,
            generation: view.generation,
            attempt: view.attempt + 1,
            queue,
            kind,
            priority: owned.row.priority.saturating_add(owned.run.policy(no).priority),
            at: self.config.clock.now(),
        };
        owned.pending.offers.push(offer);
        owned.offers.insert(no, OfferState::Pending);
        self.offering.insert(project);
        self.dirty.insert(project);
        self.uncommitted += 1;
        self.urgent = true;
    }

    /// Open offers that could run here come home, the best first.
    fn take_back(&mut self, mut wanted: usize) {
        if self.offering.is_empty() {
            return;
        }
        for (_, owned) in self.offering() {
            let coming = OfferState::Withdrawing;
            let coming =
                owned.offers.values().filter(|state| **state == coming).count();
            wanted = wanted.saturating_sub(coming);
        }
        let projects: Vec<ProjectId> = self.offering().map(|(id, _)| *id).collect();
        for project in projects {
            if wanted == 0 {
                return;
            }
            let Some(owned) = self.projects.get(&project) else { continue };
            if !owned.run.may_start() {
                continue;
            }
            let mut best: Vec<StepNo> = owned
                .offers
                .iter()
                .filter(|(no, state)| {
                    let (queue, kind) = service(owned, **no);
                    matches!(state, OfferState::Pending | OfferState::Sent)
                        && self.config.serves.has(&queue, &kind)
                })
                .map(|(no, _)| *no)
                .collect();
            best.sort_unstable_by_key(|no| std::cmp::Reverse(owned.run.rank(*no)));
            best.truncate(wanted);
            wanted -= best.len();
            for no in best {
                self.withdraw(project, no);
            }
        }
    }

    pub(super) fn withdraw_all(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get(&project) else { return };
        let offers: Vec<StepNo> = owned.offers.keys().copied().collect();
        for no in offers {
            self.withdraw(project, no);
        }
        self.go_on_with_held(project);
    }

    /// Takes an offer back: at once when it is not written yet, else in the next commit,
    /// unless somebody was quicker.
    fn withdraw(&mut self, project: ProjectId, no: StepNo) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        match owned.offers.get(&no) {
            Some(OfferState::Pending) => {
                owned.pending.offers.retain(|offer| offer.no != no);
                owned.offers.remove(&no);
                self.make_ready(project, no);
            }
            Some(OfferState::Sent) => {
                owned.pending.withdraw.push(no);
                owned.offers.insert(no, OfferState::Withdrawing);
                self.dirty.insert(project);
                self.uncommitted += 1;
                self.urgent = true;
            }
            Some(OfferState::Withdrawing | OfferState::Taken) | None => {}
        }
    }

    /// A commit has asked for offers back, and got some of them.
    pub(super) fn withdrawn(
        &mut self,
        project: ProjectId,
        asked: &[StepNo],
        got: &[StepNo],
    ) {
        if asked.is_empty() {
            return;
        }
        for no in asked {
            let Some(owned) = self.projects.get_mut(&project) else { return };
            if got.contains(no) {
                owned.offers.remove(no);
                self.make_ready(project, *no);
            } else if let Some(state) = owned.offers.get_mut(no) {
                *state = OfferState::Taken;
            }
        }
        self.reconcile_offers(project);
        self.go_on_with_held(project);
    }

    /// Messages that waited for offers to come back.
    pub(super) fn go_on_with_held(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if owned.offers.values().any(|state| *state != OfferState::Taken) {
            return;
        }
        let (held, events) =
            (std::mem::take(&mut owned.held), std::mem::take(&mut owned.held_events));
        for mail in held {
            self.deliver_now(mail);
        }
        if events.is_empty() {
            return;
        }
        self.note_taken(project);
        for event in events {
            self.apply_now(project, event, true);
        }
    }

    /// An offered step that has ended meanwhile (cancelled, expired) is taken back; where
    /// it runs already, it is stopped.
    pub(super) fn reconcile_offers(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if owned.offers.is_empty() {
            return;
        }
        let over: Vec<(StepNo, OfferState)> = owned
            .offers
            .iter()
            .map(|(no, state)| (*no, *state))
            .filter(|(no, _)| owned.run.step_state(*no).is_terminal())
            .collect();
        for (no, state) in over {
            let Some(owned) = self.projects.get_mut(&project) else { return };
            if state == OfferState::Taken {
                owned.offers.remove(&no);
                owned.stop_claim(no);
                self.dirty.insert(project);
                self.urgent = true;
            } else {
                self.withdraw(project, no);
            }
        }
    }

    /// Gives whole projects to hungry workers, before single steps: the least begun ones
    /// that wait while every slot here is busy with others.
    pub(super) fn hand_over(&mut self) {
        let hunger: u32 = self.others.iter().map(|other| other.hungry).sum();
        if hunger == 0 || self.free > 0 || !self.config.all || !self.may_begin() {
            return;
        }
        let now = self.config.clock.now();
        let mut idle: Vec<(u64, ProjectId)> = self
            .projects
            .iter()
            .filter(|(id, owned)| {
                !owned.is_busy()
                    && owned.offers.is_empty()
                    && owned.fetching.is_empty()
                    && !owned.closing
                    && !owned.reading
                    && !owned.queue.is_empty()
                    && !self.wanted.contains(*id)
                    && now.since(owned.run.now()) >= PATIENCE
            })
            .map(|(id, owned)| (owned.served, *id))
            .collect();
        idle.sort_unstable();
        idle.truncate(usize::try_from(hunger).unwrap_or(usize::MAX));
        for (_, project) in idle {
            self.give_back(project, Some(Timestamp::EPOCH));
        }
    }
}

/// The queue and kind of a step.
fn service(owned: &Owned, no: StepNo) -> (String, String) {
    let kind = match &owned.run.step(no).action {
        Action::Run { kind, .. } => kind.to_string(),
        Action::Join { .. } | Action::Pass { .. } | Action::ForEach(_) => String::new(),
    };
    (owned.run.policy(no).queue.clone(), kind)
}

impl Owned {
    /// Takes note that a step can only run elsewhere.
    pub(super) fn push_foreign(&mut self, no: StepNo) {
        if self.run.step_state(no) != StepState::Ready || self.offers.contains_key(&no)
        {
            return;
        }
        let queue: &mut ReadyQueue = self.foreign.entry(service(self, no)).or_default();
        queue.push(&self.run, no);
    }
}
