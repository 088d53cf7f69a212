//! Adopting: from stored rows to a run in this worker's hands, and back.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    AdoptReply, Config, Message,
    owned::{OfferState, Owned},
    scheduler::Scheduler,
};
use crate::{
    ProjectId, SessionId, Timestamp,
    plan::StepNo,
    run::{Event, ProjectState},
    store::{Adoptable, Adopted, ClaimRow, Letters, Store, StoreError, StoreErrorKind},
};

/// So many projects are taken over at a time.
const ADOPTIONS_AT_ONCE: usize = 16;
/// A session of many holds at most so many projects; the others are for the others.
const MOST_PROJECTS: usize = 256;
/// So many with those that do nothing here, or when nobody else is there: what waits beyond
/// costs no memory.
const MOST_HELD: usize = 4_096;
/// A worker that holds so many steps takes no further project, while any of them can start.
const MOST_NODES: usize = 1_000_000;
/// What could not be loaded is tried again so much later: by a newer program, perhaps.
const LATER: Duration = Duration::from_secs(60);
/// A project that was taken over so often without a commit brings its workers down.
const POISON: i64 = 5;
/// So many projects it takes, however large they are.
const FEW_PROJECTS: usize = 64;
/// After the database could not be asked.
const AGAIN: Duration = Duration::from_millis(300);

/// How an adoption ended.
#[derive(Debug)]
pub(crate) enum Adoption {
    /// The project is in our hands.
    Taken { session: SessionId, adopted: Box<Adopted>, owned: Box<Owned> },
    /// It is for others.
    Left,
}

impl Scheduler {
    /// Takes over what waits for an owner, as far as there is room.
    pub(super) fn adopt_waiting(&mut self) {
        if !self.may_begin() {
            return;
        }
        // Whoever sent a message waits for an answer, whatever else waits for room.
        for candidate in std::mem::take(&mut self.candidates) {
            match candidate.mail > 0 && self.adopting.len() < ADOPTIONS_AT_ONCE {
                true => self.adopt_candidate(&candidate),
                false => self.candidates.push_back(candidate),
            }
        }
        while self.adopting.len() < ADOPTIONS_AT_ONCE
            && let Some(candidate) = self.candidates.front().copied()
        {
            if self.wants(&candidate) {
                if !self.has_room() && !self.outranks(&candidate) {
                    return;
                }
                self.adopt_candidate(&candidate);
            }
            self.candidates.pop_front();
        }
        // More of them wait than were told: they need not wait for the next beat.
        if self.candidates.is_empty()
            && self.more_candidates.take_if(|taken| *taken).is_some()
        {
            self.look(true);
        }
    }

    fn adopt_candidate(&mut self, candidate: &Adoptable) {
        if !self.wants(candidate) {
            return;
        }
        if candidate.mail > 0 {
            self.answered.insert(candidate.project, candidate.mail);
        }
        self.begin_adoption(candidate.project, None);
        self.more_candidates = self.more_candidates.map(|_| true);
    }

    fn wants(&mut self, candidate: &Adoptable) -> bool {
        let Adoptable { project, mail, .. } = *candidate;
        if self.projects.contains_key(&project) || self.adopting.contains_key(&project)
        {
            return false;
        }
        // Once for each message, also where nothing else of the project is done here, or it
        // could not be loaded before: whoever sent it waits for an answer.
        let fresh = mail > 0 && self.answered.get(&project) != Some(&mail);
        let parked = self.parked.get(&project);
        if parked.is_some_and(|until| *until > Instant::now()) && !fresh {
            return false;
        }
        if self.config.steer_only {
            return self.wanted.contains(&project);
        }
        let alone = !self.config.store.is_shared();
        self.config.all || self.wanted.contains(&project) || (alone && fresh)
    }

    /// Whether more projects would find free slots soon.
    pub(super) fn has_room(&self) -> bool {
        // Who executes what it is asked for has no choice.
        if !self.config.all {
            return true;
        }
        let held = self.projects.len() + self.adopting.len();
        // One large project alone keeps no other away.
        if held >= MOST_HELD || (self.nodes >= MOST_NODES && held >= FEW_PROJECTS) {
            // Where nothing of it can start, as in a paused queue, it is in nobody's way.
            return self.free > 0 && !self.line.may_start();
        }
        // Nobody else would take it sooner, and who comes later is given whole projects.
        if self.others.is_empty() {
            return true;
        }
        // Those whose steps run elsewhere or that wait for a time keep no slot from anybody.
        let quiet = |owned: &&Owned| !owned.is_busy() && owned.queue.is_empty();
        if held - self.projects.values().filter(quiet).count() >= MOST_PROJECTS {
            return false;
        }
        let waiting: usize =
            self.projects.values().map(|owned| owned.queue.len()).sum();
        let running = self.config.concurrency.saturating_sub(self.free);
        waiting + running + self.adopting.len() < 2 * self.config.concurrency
    }

    /// Whether a project is more urgent than something that waits here.
    fn outranks(&self, candidate: &Adoptable) -> bool {
        let most = match self.others.is_empty() {
            true => MOST_HELD + MOST_PROJECTS,
            false => MOST_PROJECTS,
        };
        self.adopting.is_empty()
            && self.projects.len() < most
            && self.line.lowest().is_some_and(|lowest| lowest < candidate.priority)
    }

    /// Takes a project over: restores it, settles what the process before left running.
    pub(super) fn begin_adoption(
        &mut self,
        project: ProjectId,
        reply: Option<AdoptReply>,
    ) {
        if let Some(replies) = self.adopting.get_mut(&project) {
            replies.extend(reply);
            return;
        }
        if let Some(owned) = self.projects.get_mut(&project) {
            // A replay may ask for a project that has just ended here, and a caller for one
            // that was taken for a message only.
            if !owned.run.state().is_terminal() && !owned.steered {
                return answer(reply, Ok(()));
            }
            if owned.is_busy() {
                owned.again = true;
                return answer(reply, Ok(()));
            }
            self.forget(project);
        }
        if self.draining || !self.alive {
            return answer(reply, Ok(()));
        }
        self.adopting.insert(project, reply.into_iter().collect());
        let (config, session) = (Arc::clone(&self.config), self.session);
        let foreign = !config.all && !self.wanted.contains(&project);
        let inbox = self.inbox_sender.clone();
        self.tasks.spawn(async move {
            let result = adopt(&config, session, project, foreign).await;
            let _ = inbox.send(Message::Adopted { project, result });
        });
    }

    /// An adoption ended.
    pub(super) fn adopted(
        &mut self,
        project: ProjectId,
        result: Result<Adoption, StoreError>,
    ) {
        let replies = self.adopting.remove(&project).unwrap_or_default();
        let result = match result {
            Ok(Adoption::Taken { session, adopted, owned }) => {
                if session == self.session && self.alive {
                    self.parked.remove(&project);
                    self.answered.remove(&project);
                    let Adopted { project, letters } = *adopted;
                    self.take(&project.claims, letters, *owned);
                    if self.draining {
                        self.give_back_unbegun();
                    }
                }
                Ok(())
            }
            Ok(Adoption::Left) => Ok(()),
            Err(error) => {
                match self.config.store.may_pass(&error) && error.is_transient() {
                    true => drop(self.answered.remove(&project)),
                    false => self.park(project),
                }
                if replies.is_empty() {
                    tracing::error!(%project, %error, "the project cannot be loaded");
                }
                Err(error)
            }
        };
        for reply in replies {
            let _ = reply.send(result.clone());
        }
    }

    /// A project was submitted here.
    pub(super) fn born(&mut self, owned: Owned) {
        let project = owned.id();
        if !self.config.all || self.config.steer_only {
            self.wanted.insert(project);
        }
        self.parked.remove(&project);
        self.answered.remove(&project);
        let ours = self.alive && owned.row.session == Some(self.session.uuid());
        // Whoever was quicker has read it.
        let taken = self.projects.contains_key(&project)
            || self.adopting.contains_key(&project);
        if !ours || taken || self.draining || self.config.steer_only {
            return self.begin_adoption(project, None);
        }
        self.take(&[], Letters::default(), owned);
    }

    /// A project that cannot be loaded here is not tried again for a while; on a file, not
    /// again by this process.
    pub(super) fn park(&mut self, project: ProjectId) {
        let wait = match self.config.store.is_shared() {
            true => LATER,
            false => Duration::from_secs(u64::from(u32::MAX)),
        };
        self.parked.insert(project, Instant::now() + wait);
    }

    fn take(&mut self, claims: &[ClaimRow], letters: Letters, mut owned: Owned) {
        let project = owned.id();
        for claim in claims {
            let state = match claim.claimed_at {
                Some(_) => OfferState::Taken,
                None => OfferState::Sent,
            };
            owned.offers.insert(claim.no, state);
            self.offering.insert(project);
        }
        // One that took it before has died without a commit: what it has started is not known.
        let unknown = owned.row.charged || owned.row.adoptions > 1;
        owned.is_careful = unknown;
        if unknown {
            // One of these may have ended the process before its start was written. This
            // time it is written first, so that it is charged if it does so again.
            let running = owned.run.running_steps();
            owned.careful = owned.run.ready_steps().chain(running).collect();
        }
        let charged = owned.row.charged;
        let elsewhere = |no: &StepNo| owned.offers.contains_key(no);
        let left: Vec<StepNo> =
            owned.run.running_steps().filter(|no| !elsewhere(no)).collect();
        let ready: Vec<StepNo> =
            owned.run.ready_steps().filter(|no| !elsewhere(no)).collect();
        let begun = owned.row.began_at.is_some();
        owned.weight = owned.run.len() as usize;
        self.nodes += owned.weight;
        // What was told of an earlier end counts no more.
        self.ends.reset(project);
        self.projects.insert(project, owned);
        for no in ready {
            self.make_ready(project, no);
        }
        self.arm(project);
        let limit = self.config.crash_limit;
        for no in left {
            self.apply(project, Event::Lost { no, charged, limit }, true);
        }
        if !begun && let Some(owned) = self.projects.get_mut(&project) {
            let mut decisions = owned.run.begin(self.config.clock.now());
            // Their inputs came with the submission, so they wait for no commit.
            let ready = std::mem::take(&mut decisions.ready);
            if owned.row.epoch > 1 || owned.is_careful {
                // It had an owner that wrote nothing: one of these may have ended its
                // process. This time their starts are written first.
                owned.careful.extend(&ready);
                owned.is_careful = true;
            }
            self.record(project, decisions, false);
            for no in ready {
                self.make_ready(project, no);
            }
        }
        if !claims.is_empty() {
            // What was offered had waited long enough.
            self.apply(project, Event::Tick, true);
        }
        self.take_letters(project, letters);
        self.reconcile_offers(project);
        self.close(project);
        self.release_if_ended(project);
    }

    /// Lets go of a project that has ended (its last commit has freed the row), or that was
    /// taken for the moment of a message.
    pub(super) fn release_if_ended(&mut self, project: ProjectId) {
        if self.rest(project) {
            return;
        }
        let Some(owned) = self.projects.get(&project) else { return };
        if owned.is_busy() || owned.reading {
            return;
        }
        // A paused project in which nothing runs needs no owner, and can be replayed then.
        let rests = owned.run.state() == ProjectState::Paused
            && self.config.all
            && owned.offers.is_empty()
            && owned.fetching.is_empty()
            && owned.held.is_empty()
            && !owned.closing;
        // What sleeps, and what must start before a time, does so during a pause too.
        let due = owned.run.next_due();
        let rests = rests && due.is_none_or(|due| due > self.config.clock.now());
        if rests && !owned.steered {
            self.give_back(project, due);
            return;
        }
        if !owned.run.state().is_terminal() && !owned.steered {
            return;
        }
        if owned.run.state().is_terminal() {
            self.wanted.remove(&project);
        }
        if owned.again || owned.freed {
            if self.forget(project).is_some_and(|owned| owned.again) {
                self.begin_adoption(project, None);
            }
            return;
        }
        let wake_at = (!owned.run.state().is_terminal()).then_some(Timestamp::EPOCH);
        self.give_back(project, wake_at);
    }

    /// Gives a project back until a time, or until a message comes.
    pub(super) fn give_back(&mut self, project: ProjectId, wake_at: Option<Timestamp>) {
        let Some(owned) = self.forget(project) else { return };
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        let (session, epoch) = (self.session, owned.row.epoch);
        self.releasing.insert(project);
        if let (Some(due), false) = (wake_at, self.config.store.is_shared()) {
            self.timers.insert((due, project));
        }
        self.tasks.spawn(async move {
            // Zero: a message that nobody has read keeps the project here.
            let released = loop {
                match store.release(session, project, epoch, 0, wake_at).await {
                    Ok(released) => break released,
                    Err(error) if store.is_shared() && store.may_pass(&error) => {
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => {
                        tracing::warn!(%project, %error, "it was not given back");
                        break true;
                    }
                }
            };
            let _ = inbox.send(Message::Released { project, released });
        });
    }

    /// A project was given back; where a message, or a queue that goes on, was quicker, it is
    /// taken once more.
    pub(super) fn released(&mut self, project: ProjectId, released: bool) {
        self.releasing.remove(&project);
        if !released && !self.draining {
            self.begin_adoption(project, None);
        }
    }

    /// Tells who waits for it that a project has left, and with what row if it has ended.
    fn tell_end(&self, owned: &Owned) {
        let project = owned.id();
        if self.ends.is_awaited(project) {
            // An end that is still on its way may be refused, and one that a replay has
            // overtaken is none.
            let ended = owned.freed
                && !owned.is_busy()
                && !owned.again
                && owned.run.state().is_terminal();
            self.ends.tell(project, ended.then(|| owned.ended_row()));
        }
    }

    /// Drops a project from memory whole.
    pub(super) fn forget(&mut self, project: ProjectId) -> Option<Owned> {
        let owned = self.projects.remove(&project)?;
        self.nodes = self.nodes.saturating_sub(owned.weight);
        self.tell_end(&owned);
        if let Some(due) = owned.armed {
            self.timers.remove(&(due, project));
        }
        self.free += owned.running.len();
        self.dirty.remove(&project);
        self.progress.retain(|key, _| key.project != project);
        if self.dirty.is_empty() {
            // What was counted is gone with it.
            (self.uncommitted, self.uncommitted_bytes) = (0, 0);
        }
        self.line.remove(project);
        self.inputs.retain(|(of, _), _| *of != project);
        self.held_suspects.retain(|(of, _)| *of != project);
        if self.suspect.is_some_and(|(of, _)| of == project) {
            self.free_suspects();
        }
        Some(owned)
    }

    /// Drops a project that is not ours any more: its attempts end at once.
    pub(super) fn drop_project(&mut self, project: ProjectId) {
        drop(self.forget(project));
    }

    /// Sets the timer of a project to its next due time.
    pub(super) fn arm(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let due = owned.run.next_due();
        if owned.armed == due {
            return;
        }
        if let Some(old) = std::mem::replace(&mut owned.armed, due) {
            self.timers.remove(&(old, project));
        }
        if let Some(due) = due {
            self.timers.insert((due, project));
        }
    }

    /// Looks at the steps again that a pause has held.
    pub(super) fn wake(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        for no in std::mem::take(&mut owned.held_instant) {
            self.instant.push_back((project, no));
        }
    }
}

/// Looks at a project before it takes it: what cannot run here is left as it is.
async fn adopt(
    config: &Config,
    session: SessionId,
    project: ProjectId,
    foreign: bool,
) -> Result<Adoption, StoreError> {
    let store = &config.store;
    let row = patiently(store, || store.row(project)).await?;
    let Some(row) = row else { return Err(unknown()) };
    let plan = match patiently(store, || config.plans.get(store, row.plan_hash)).await {
        Ok(plan) => plan,
        Err(error) => {
            if store.is_shared() && row.session.is_none() {
                postpone(config, session, project).await;
            }
            return Err(error);
        }
    };
    // On a shared database any process may own: what it cannot run, others can.
    let refused = match config.steer_only || store.is_shared() {
        true => None,
        false => config.kinds.refused(&plan),
    };
    let steered = config.steer_only || foreign || refused.is_some();
    if steered && !config.steer_only && row.mail == 0 {
        return match refused {
            Some((kind, reason)) => {
                let message = format!("`{kind}` is refused here: {reason}");
                Err(StoreError::new(StoreErrorKind::Other, message))
            }
            None => Ok(Adoption::Left),
        };
    }
    // A lost answer may have been a yes: the same again takes what is ours already.
    let adopted = patiently(store, || store.adopt(session, project)).await?;
    let Some(adopted) = adopted else { return Ok(Adoption::Left) };
    let (loads, epoch) = (adopted.project.row.loads, adopted.project.row.epoch);
    if loads >= POISON {
        let now = config.clock.now();
        let park = || store.park(session, project, epoch, "poison", now);
        patiently(store, park).await?;
        let message =
            format!("{POISON} workers died while they loaded it; it is paused");
        return Err(StoreError::new(StoreErrorKind::Other, message));
    }
    let (adopted, owned) = tokio::task::spawn_blocking(move || {
        let owned = Owned::new(&adopted, plan, session);
        (adopted, owned)
    })
    .await
    .map_err(damaged)?;
    let owned = owned.map_err(damaged)?;
    if loads > 1 {
        // It was loaded: whatever ended the workers before it was not that.
        patiently(store, || store.loaded(session, project, epoch)).await?;
    }
    let owned = Box::new(Owned { steered, ..owned });
    Ok(Adoption::Taken { session, adopted: Box::new(adopted), owned })
}

/// Asks a server until it answers; a file once.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    store: &Store,
    ask: impl Fn() -> F,
) -> Result<T, StoreError> {
    loop {
        match ask().await {
            Err(error) if store.is_shared() && store.may_pass(&error) => {
                tokio::time::sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// Lets a project sleep that this program cannot load: among those that wait for an owner
/// it would hide the others.
async fn postpone(config: &Config, session: SessionId, project: ProjectId) {
    let store = &config.store;
    let Ok(Some(adopted)) = store.adopt(session, project).await else { return };
    let row = adopted.project.row;
    let until = config.clock.now().plus(LATER);
    let slept = store.release(session, project, row.epoch, row.mail, Some(until)).await;
    if let Err(error) = slept {
        tracing::warn!(%project, %error, "it was not given back");
    }
}

fn answer(reply: Option<AdoptReply>, result: Result<(), StoreError>) {
    if let Some(reply) = reply {
        let _ = reply.send(result);
    }
}

fn unknown() -> StoreError {
    StoreError::new(StoreErrorKind::Other, "there is no such project")
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, what)
}
