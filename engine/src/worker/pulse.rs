//! The pulse: what the session hears from the database, and what it does about it.
//!
//! On a shared database the heart brings it; on a file it is looked for when somebody has
//! written. A session that was declared dead drops everything and begins anew.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Message, heart::Heard, scheduler::Scheduler};
use crate::{
    SessionId, Timestamp,
    store::{NewSession, Pulse, StoreError},
};

/// So many projects that wait for an owner are told at a time, the most urgent first: the
/// `limit` of `look` and of the pulse, in the statements.
const MOST_TOLD: usize = 256;
/// A project with nothing to do for so long is given back.
const IDLE: Duration = Duration::from_secs(30);
/// On a file, from how many projects on those with nothing to do are given back.
const MOST_BEFORE_REST: usize = 1_024;
/// After a session could not be begun.
const AGAIN: Duration = Duration::from_millis(300);

impl Scheduler {
    /// Whether anything may begin: within a lease that was extended lately.
    pub(super) fn may_begin(&self) -> bool {
        if self.draining || !self.alive {
            return false;
        }
        !self.config.store.is_shared()
            || self.last_beat.elapsed() < self.config.lease * 5 / 6
    }

    /// Where beats stay away: what must not outlive the lease ends with it, and after three
    /// leases everything does. Who runs what cannot be known any more; the fences see to it
    /// that nothing of it is recorded twice.
    pub(super) fn check_lease(&mut self) {
        if !self.config.store.is_shared() || !self.alive {
            return;
        }
        let silence = self.last_beat.elapsed();
        if silence >= self.config.lease * 3 {
            tracing::warn!("no beat for three leases: everything is dropped");
            self.begin_anew();
        } else if silence >= self.config.lease {
            self.stop_fragile();
        }
    }

    /// The heart has beaten.
    pub(super) fn heard(&mut self, heard: Heard) {
        if heard.session != self.session || !self.alive {
            return;
        }
        if !heard.pulse.alive {
            tracing::warn!(session = %self.session, "the session was declared dead");
            return self.begin_anew();
        }
        if let Some(sent) = heard.sent {
            self.last_beat = sent;
        }
        self.config.clock.synchronize(heard.pulse.now, heard.arrived);
        self.others.clone_from(&heard.pulse.others);
        self.held_claims(&heard.pulse.claims);
        self.guests.offers |= heard
            .pulse
            .offers
            .iter()
            .any(|(queue, kind, _)| self.config.serves.has(queue, kind));
        let judged = !heard.expired.is_empty() || !heard.pulse.ended.is_empty();
        if heard.steady && judged && !self.draining {
            self.reap(heard.expired);
        }
        self.hand_over();
        self.give_back_idle();
        self.pulse(heard.pulse);
    }

    /// What there is to do, on every database.
    pub(super) fn pulse(&mut self, pulse: Pulse) {
        let mut strays = HashSet::new();
        for (project, mail) in pulse.own {
            if self.projects.contains_key(&project) {
                if mail > 0 {
                    self.read_letters(project);
                }
            } else if !self.adopting.contains_key(&project)
                && !self.releasing.contains(&project)
            {
                strays.insert(project);
            }
        }
        // Ours by the database, and not in our hands for two pulses: the answer to its
        // adoption was lost.
        for project in strays.intersection(&self.strays).copied().collect::<Vec<_>>() {
            tracing::warn!(%project, "a project was ours and nobody knew");
            self.begin_adoption(project, None);
        }
        self.strays = strays;
        self.more_candidates = (pulse.adoptable.len() >= MOST_TOLD).then_some(false);
        self.candidates = pulse.adoptable.into();
        self.rests.refused.clear();
        self.hold_queues(pulse.paused);
    }

    /// Declares sessions dead and frees what they owned.
    fn reap(&mut self, expired: Vec<(SessionId, i64, bool)>) {
        if std::mem::replace(&mut self.reaping, true) {
            return;
        }
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        self.tasks.spawn(async move {
            let reaped = async {
                for (session, beat, whatever) in expired {
                    if store.expire(session, beat, whatever).await? {
                        tracing::warn!(%session, "a session is dead");
                    }
                }
                store.reap().await
            };
            if let Err(error) = reaped.await {
                tracing::warn!(%error, "dead sessions were not reaped yet");
            }
            let _ = inbox.send(Message::Reaped);
        });
    }

    /// Drops everything and takes a new session: the old one may own things no longer.
    pub(super) fn begin_anew(&mut self) {
        self.alive = false;
        let projects: Vec<_> = self.projects.keys().copied().collect();
        for project in projects {
            self.drop_project(project);
        }
        self.drop_guests();
        self.candidates.clear();
        self.strays.clear();
        self.releasing.clear();
        self.rests.waiting.clear();
        self.others.clear();
        let before = std::mem::replace(&mut self.session, SessionId::fresh());
        let (config, session) = (Arc::clone(&self.config), self.session);
        let inbox = self.inbox_sender.clone();
        self.tasks.spawn(async move {
            let result = loop {
                let begun = config.store.begin_session(config.session(session)).await;
                match begun {
                    Err(error) if config.store.may_pass(&error) => {
                        tokio::time::sleep(AGAIN).await;
                    }
                    result => break result,
                }
            };
            let _ = inbox.send(Message::Reborn { result });
            // What it still owns is free at once. Nobody has died, so nothing is charged.
            while let Err(error) = config.store.end_session(before).await {
                tracing::warn!(%error, "the session before was not ended yet");
                if !config.store.may_pass(&error) {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// The new session has begun.
    pub(super) fn reborn(
        &mut self,
        result: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // Its answer may have been lost, and the same again refused: it is there then.
        match result {
            Err(error) if error.kind() != crate::store::StoreErrorKind::Refused => {
                return Err(error);
            }
            _ => {}
        }
        crate::metrics::lease_lost();
        self.alive = true;
        self.last_beat = Instant::now();
        self.session_sender.send_replace(self.session);
        if let Some(vitals) = &self.vitals {
            vitals.set_session(self.session);
            vitals.beat_soon();
        }
        for project in self.wanted.clone() {
            self.begin_adoption(project, None);
        }
        Ok(())
    }

    /// Somebody says that there is something new: where there is room for it, that cannot
    /// wait for the next look.
    pub(super) fn look_for_new(&mut self) {
        match self.vitals.is_some() || self.has_room() {
            true => self.look(true),
            false => self.look_again = true,
        }
    }

    /// Looks whether anybody has written; on a shared database the heart does.
    pub(super) fn look(&mut self, force: bool) {
        if let Some(vitals) = &self.vitals {
            if force {
                vitals.beat_soon();
            }
            return;
        }
        if std::mem::replace(&mut self.looking, true) {
            self.look_again |= force;
            return;
        }
        let force = std::mem::take(&mut self.look_again) || force;
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        let (session, last) = (self.session, self.data_version);
        self.tasks.spawn(async move {
            let look = async {
                let version = store.changed().await?;
                if !force && version == last {
                    return Ok(None);
                }
                Ok(Some((version, Box::new(store.look(session).await?))))
            };
            let _ = inbox.send(Message::Looked { result: look.await });
        });
    }

    /// A look ended.
    pub(super) fn looked(&mut self, result: super::LookResult) {
        self.looking = false;
        match result {
            Ok(None) => {}
            Ok(Some((version, pulse))) => {
                self.data_version = version;
                self.pulse(*pulse);
            }
            Err(error) => {
                tracing::warn!(%error, "the database could not be looked at");
                // Not at once: with the next tick.
                self.look_again = true;
                return;
            }
        }
        if self.look_again && self.has_room() {
            self.look(true);
        }
        if self.projects.len() >= MOST_BEFORE_REST {
            self.give_back_idle();
        }
    }

    /// Gives back projects that have nothing to do for a while: they cost no memory until
    /// their next timer, or a message.
    fn give_back_idle(&mut self) {
        let now = Instant::now();
        let time = self.config.clock.now();
        let mut idle = vec![];
        let all = self.config.all;
        for (id, owned) in &mut self.projects {
            let due = owned.run.next_due();
            // Who executes only what is asked for would not look for it again.
            let quiet = (all || !self.wanted.contains(id))
                && !owned.is_busy()
                && owned.offers.is_empty()
                && owned.fetching.is_empty()
                && owned.queue.is_empty()
                && owned.foreign.is_empty()
                && !owned.closing
                && !owned.reading
                && due.is_none_or(|due| due.since(time) >= IDLE);
            match quiet {
                true => {
                    let since = *owned.idle_since.get_or_insert(now);
                    if now - since >= IDLE {
                        idle.push((*id, due));
                    }
                }
                false => owned.idle_since = None,
            }
        }
        for (project, due) in idle {
            self.give_back(project, due);
        }
    }

    /// While draining: what does not run goes to others at once.
    pub(super) fn give_back_unbegun(&mut self) {
        if !self.config.store.is_shared() {
            return;
        }
        let idle: Vec<_> = self
            .projects
            .iter()
            .filter(|(_, owned)| !owned.is_busy() && owned.fetching.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for project in idle {
            self.give_back(project, Some(Timestamp::EPOCH));
        }
    }
}

impl super::Config {
    /// The row of a session of this worker.
    pub(crate) fn session(&self, id: SessionId) -> NewSession {
        NewSession {
            id,
            command: self.command.clone(),
            host: host(),
            lease: self.lease,
            slots: match self.steer_only {
                true => 0,
                false => u32::try_from(self.concurrency).unwrap_or(u32::MAX),
            },
            serves: self.serves.clone(),
            started_at: self.clock.now(),
        }
    }
}

/// The name of this machine, for people.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}
