//! Letters: what waits for the owner of a project. Messages of people, and the outcomes of
//! steps that ran on other workers.
//!
//! Each is applied once and consumed in the commit that holds its effects.
//! Invariant: letters that were read before a consumption became durable are not used.

use std::time::Duration;

use tokio::time::Instant;

use super::{Message, grow::grow, owned::OfferState, scheduler::Scheduler};
use crate::{
    ProjectId, StepError,
    run::{Event, StepState},
    store::{ClaimOutcome, Consumed, Delivery, Letters, Mail, MailKind, StoreError},
};

/// While steps run elsewhere, letters are looked for this soon, and less often as long as
/// none come.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_secs(1);

impl Scheduler {
    /// Reads the letters of a project if there are unread ones.
    pub(super) fn read_unread(&mut self, project: ProjectId) {
        let unread = self.projects.get(&project).is_some_and(|owned| {
            let known = owned.held.len() + owned.pending.letters();
            owned.row.mail > i64::try_from(known).unwrap_or(i64::MAX)
        });
        if unread {
            self.read_letters(project);
        }
    }

    /// Reads the letters of a project, one reading at a time.
    pub(super) fn read_letters(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if std::mem::replace(&mut owned.reading, true) {
            owned.read_again = true;
            return;
        }
        let (epoch, at) = (owned.row.epoch, owned.consumptions);
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        self.tasks.spawn(async move {
            let result = store.letters(project).await;
            let _ = inbox.send(Message::Letters { project, epoch, at, result });
        });
    }

    /// Letters were read.
    pub(super) fn letters(
        &mut self,
        project: ProjectId,
        (epoch, at): (i64, u64),
        result: Result<Letters, StoreError>,
    ) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if owned.row.epoch != epoch {
            return;
        }
        owned.reading = false;
        let again = std::mem::take(&mut owned.read_again);
        match result {
            // Some of these may have been consumed since.
            Ok(_) if owned.consumptions != at => return self.read_letters(project),
            Ok(letters) => {
                if !letters.outcomes.is_empty()
                    && let Some((_, wait)) = &mut owned.poll
                {
                    *wait = SOONEST;
                }
                self.take_letters(project, letters);
            }
            Err(error) => tracing::warn!(%project, %error, "letters could not be read"),
        }
        if again {
            self.read_letters(project);
        }
        self.release_if_ended(project);
    }

    pub(super) fn take_letters(&mut self, project: ProjectId, letters: Letters) {
        for outcome in letters.outcomes {
            self.take_outcome(project, outcome);
        }
        for mail in letters.mail {
            self.deliver(mail);
        }
    }

    /// Looks for letters of projects with steps elsewhere.
    pub(super) fn poll_letters(&mut self) {
        // On a file nothing runs elsewhere.
        if !self.config.store.is_shared() {
            return;
        }
        let now = Instant::now();
        let mut due = vec![];
        self.offering.retain(|id| {
            let Some(owned) = self.projects.get_mut(id) else { return false };
            if owned.offers.is_empty() {
                owned.poll = None;
                return false;
            }
            let (at, wait) = owned.poll.get_or_insert((now + SOONEST, SOONEST));
            if *at <= now {
                *wait = (*wait * 2).min(LATEST);
                *at = now + *wait;
                due.push(*id);
            }
            true
        });
        for project in due {
            self.read_letters(project);
        }
    }

    /// When letters are looked for next.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        if !self.config.store.is_shared() {
            return None;
        }
        let owned = |id| self.projects.get(id);
        self.offering.iter().filter_map(|id| Some(owned(id)?.poll?.0)).min()
    }

    /// The outcome of a step that ran elsewhere.
    fn take_outcome(&mut self, project: ProjectId, outcome: ClaimOutcome) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let ClaimOutcome { no, generation, attempt, claimed_at, delivery, charged } =
            outcome;
        let consumed = Consumed { no, generation, attempt };
        if owned.knows_outcome(&consumed) {
            return;
        }
        owned.consume_outcome(consumed);
        let offered = owned.offers.remove(&no).is_some();
        self.dirty.insert(project);
        self.uncommitted += 1;
        self.urgent = true;
        let view = (no < owned.run.len()).then(|| owned.run.view(no));
        let fits = view.is_some_and(|view| {
            let next = match view.state {
                StepState::Ready => view.attempt + 1,
                _ => view.attempt,
            };
            view.generation == generation && next == attempt
        });
        if !offered || !fits {
            tracing::debug!(%project, no, "an outcome came too late");
            return self.go_on_with_held(project);
        }
        let ready = owned.run.step_state(no) == StepState::Ready;
        let skipped = matches!(delivery, Some(Delivery::ConditionFalse));
        if ready && !skipped {
            self.apply(project, Event::Claimed { no, since: claimed_at }, true);
        }
        let event = match delivery {
            Some(Delivery::Succeeded(output)) => {
                Event::Succeeded { no, attempt, output }
            }
            Some(Delivery::Deferred { until, output }) => {
                Event::Deferred { no, attempt, until, output }
            }
            Some(Delivery::Grown { body, output }) => {
                let Some(owned) = self.projects.get(&project) else { return };
                grow(&owned.run, no, attempt, body, output)
            }
            Some(Delivery::Failed(error)) => Event::Failed { no, attempt, error },
            Some(Delivery::ConditionFalse) if ready => Event::ConditionFalse { no },
            // A cancel has taken it for running meanwhile; it never began.
            Some(Delivery::ConditionFalse) => {
                Event::Failed { no, attempt, error: StepError::not_started() }
            }
            Some(Delivery::Lost) => Event::Lost { no, charged: false, limit: 0 },
            None => Event::Lost { no, charged, limit: self.config.crash_limit },
        };
        self.apply(project, event, true);
        self.go_on_with_held(project);
    }

    /// A message of a person. What stops the project waits until it is known which offered
    /// steps have been taken: these run, and the others never start.
    pub(super) fn deliver(&mut self, mail: Mail) {
        let Some(owned) = self.projects.get_mut(&mail.project) else { return };
        if owned.knows_mail(mail.id) {
            return;
        }
        let stops = matches!(mail.kind, MailKind::Cancel | MailKind::Pause);
        if stops && owned.offers.values().any(|state| *state != OfferState::Taken) {
            owned.held.push(mail);
            return self.withdraw_all(mail.project);
        }
        self.deliver_now(mail);
    }

    pub(super) fn deliver_now(&mut self, mail: Mail) {
        let Some(owned) = self.projects.get_mut(&mail.project) else { return };
        owned.consume(&mail);
        self.dirty.insert(mail.project);
        let event = match mail.kind {
            MailKind::Cancel => Event::Cancel,
            MailKind::Pause => Event::Pause,
            MailKind::Resume => Event::Resume,
            MailKind::Retry => Event::RetryNow { no: mail.no },
        };
        if mail.kind == MailKind::Cancel {
            self.note_taken(mail.project);
        }
        self.apply(mail.project, event, true);
        if mail.kind == MailKind::Resume {
            self.wake(mail.project);
        }
        // Even a message that came too late is consumed by a commit.
        self.uncommitted += 1;
        self.urgent = true;
    }

    /// Steps that run elsewhere are running, before a cancel asks which are.
    pub(super) fn note_taken(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get(&project) else { return };
        let since = self.config.clock.now();
        let taken: Vec<_> = owned
            .offers
            .keys()
            .copied()
            .filter(|no| owned.run.step_state(*no) == StepState::Ready)
            .collect();
        for no in taken {
            self.apply(project, Event::Claimed { no, since }, true);
        }
    }
}
