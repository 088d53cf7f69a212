//! Adopting: from stored rows to a run in this worker's hands, until it has ended.

use super::{owned::Owned, scheduler::Scheduler};
use crate::{
    ProjectId,
    plan::StepNo,
    run::Event,
    store::{Adopted, Mail, MailKind, StoreError, StoreErrorKind},
};

/// So many projects are taken over before results are handled again.
const ADOPTIONS_A_ROUND: usize = 16;
/// A project that was taken over so often without a commit brings its workers down.
const POISON: i64 = 5;

impl Scheduler {
    /// Looks for messages and projects. What cannot be read now is looked for again.
    pub(super) async fn look_now(&mut self) {
        if self.draining {
            return;
        }
        match self.config.store.mail(None).await {
            Ok(mail) => {
                for mail in mail {
                    if self.projects.contains_key(&mail.project) {
                        self.deliver(mail);
                    } else if self.answered.insert(mail.id) {
                        // Once for each message, also where nothing else of the project
                        // is done here: whoever sent it waits for an answer.
                        self.parked.remove(&mail.project);
                        self.adoptions.push_back(mail.project);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "messages could not be read"),
        }
        if self.config.all {
            match self.config.store.open_projects().await {
                Ok(open) => {
                    let fresh = open.into_iter().filter(|project| {
                        !self.projects.contains_key(project)
                            && !self.parked.contains(project)
                    });
                    self.adoptions.extend(fresh);
                }
                Err(error) => tracing::warn!(%error, "projects could not be read"),
            }
        }
    }

    pub(super) async fn adopt_waiting(&mut self) {
        for _ in 0..ADOPTIONS_A_ROUND {
            let Some(project) = self.adoptions.pop_front() else { return };
            if let Err(error) = self.adopt(project).await {
                tracing::error!(%project, %error, "the project cannot be loaded");
                self.parked.insert(project);
            }
        }
    }

    /// Takes a project over: restores it, settles what the process before left running.
    pub(super) async fn adopt(&mut self, project: ProjectId) -> Result<(), StoreError> {
        if let Some(owned) = self.projects.get_mut(&project) {
            // A replay may ask for a project that has just ended here, and a caller for one
            // that was taken for a message only.
            if !owned.run.state().is_terminal() && !owned.steered {
                return Ok(());
            }
            if owned.is_busy() {
                owned.again = true;
                return Ok(());
            }
            self.forget(project);
        }
        if self.draining {
            return Ok(());
        }
        let session = self.config.session;
        let store = self.config.store.clone();
        // Looked at before it is taken: what cannot run here is left as it is.
        let Some(row) = store.row(project).await? else { return Err(unknown()) };
        let plan = self.config.plans.get(&store, row.plan_hash).await?;
        let foreign = !self.config.all && !self.wanted.contains(&project);
        let refused = match self.config.steer_only {
            true => None,
            false => self.config.kinds.refused(&plan),
        };
        let steered = self.config.steer_only || foreign || refused.is_some();
        if steered && !self.config.steer_only && row.mail == 0 {
            return match refused {
                Some((kind, reason)) => {
                    let message = format!("`{kind}` is refused here: {reason}");
                    Err(StoreError::new(StoreErrorKind::Other, message))
                }
                None => Ok(()),
            };
        }
        let Some(adopted) = store.adopt(session, project).await? else {
            return Err(unknown());
        };
        let (loads, epoch) = (adopted.project.row.loads, adopted.project.row.epoch);
        if loads >= POISON {
            let now = self.config.clock.now();
            store.park(session, project, epoch, "poison", now).await?;
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
            store.loaded(session, project, epoch).await?;
        }
        self.take(adopted, Owned { steered, ..owned });
        Ok(())
    }

    fn take(&mut self, adopted: Adopted, mut owned: Owned) {
        let project = owned.id();
        if owned.row.charged {
            // One of these may have ended the process before its start was written. This
            // time it is written first, so that it is charged if it does so again.
            let running = owned.run.running_steps();
            owned.careful = owned.run.ready_steps().chain(running).collect();
        }
        let charged = owned.row.charged;
        let left: Vec<StepNo> = owned.run.running_steps().collect();
        let ready: Vec<StepNo> = owned.run.ready_steps().collect();
        let begun = owned.row.began_at.is_some();
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
            let decisions = owned.run.begin(self.config.clock.now());
            self.record(project, decisions, true);
        }
        for mail in adopted.mail {
            self.deliver(mail);
        }
        self.close(project);
        self.release_if_ended(project);
    }

    pub(super) fn deliver(&mut self, mail: Mail) {
        let Some(owned) = self.projects.get_mut(&mail.project) else { return };
        if owned.pending.mail_is_known(mail.id) || owned.mail_in_flight(mail.id) {
            return;
        }
        owned.consume(&mail);
        self.dirty.insert(mail.project);
        let event = match mail.kind {
            MailKind::Cancel => Event::Cancel,
            MailKind::Pause => Event::Pause,
            MailKind::Resume => Event::Resume,
        };
        self.apply(mail.project, event, true);
        if mail.kind == MailKind::Resume {
            self.wake(mail.project);
        }
        // Even a message that came too late is consumed by a commit.
        self.uncommitted += 1;
    }

    /// Lets go of a project that has ended (its last commit has freed the row), or that was
    /// taken for the moment of a message.
    pub(super) fn release_if_ended(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get(&project) else { return };
        if !(owned.run.state().is_terminal() || owned.steered) || owned.is_busy() {
            return;
        }
        if self.forget(project).is_some_and(|owned| owned.again) {
            self.adoptions.push_back(project);
        }
    }

    /// Drops a project from memory whole.
    pub(super) fn forget(&mut self, project: ProjectId) -> Option<Owned> {
        let owned = self.projects.remove(&project)?;
        if let Some(due) = owned.armed {
            self.timers.remove(&(due, project));
        }
        owned.stop_all();
        self.free += owned.running.len();
        self.dirty.remove(&project);
        self.startable.remove(&project);
        self.inputs.retain(|(of, _), _| *of != project);
        self.held_suspects.retain(|(of, _)| *of != project);
        if self.suspect.is_some_and(|(of, _)| of == project) {
            self.free_suspects();
        }
        Some(owned)
    }

    /// Ends the session; when steps still run, its row tells that it drained.
    pub(super) async fn leave(&mut self) {
        let running = self
            .projects
            .values()
            .any(|owned| owned.run.running_steps().next().is_some());
        if running {
            return;
        }
        if let Err(error) = self.config.store.end_session(self.config.session).await {
            tracing::warn!(%error, "the session was not ended");
        }
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
    fn wake(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        for no in std::mem::take(&mut owned.held_instant) {
            self.instant.push_back((project, no));
        }
    }
}

fn unknown() -> StoreError {
    StoreError::new(StoreErrorKind::Other, "there is no such project")
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, what)
}
