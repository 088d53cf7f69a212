//! [`Leash`]: a running attempt as its scheduler holds it, its own or a guest's.

use std::time::Duration;

use tokio::{sync::mpsc::UnboundedSender, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Message,
    attempt::{Key, STOP_GRACE},
};
use crate::StepError;

/// An attempt that has not ended so long after it was told to stop is given up.
const GIVEN_UP: Duration = STOP_GRACE.saturating_add(Duration::from_secs(1));

/// A running attempt in the hands of its scheduler. It ends with the leash: nobody would hear
/// of what comes after, and no attempt outlives its worker.
#[derive(Debug)]
pub(super) struct Leash {
    key: Key,
    inbox: UnboundedSender<Message>,
    stop: CancellationToken,
    task: Option<AbortHandle>,
    /// Whether it was stopped because the lease is over.
    is_cut: bool,
    has_ended: bool,
    /// Whether the attempt is under way in a task that it shares.
    is_shared: bool,
    /// Whether it takes longer than it was thought to.
    is_late: bool,
}

impl Leash {
    /// For an attempt that is not launched yet.
    pub(super) fn new(key: Key, inbox: &UnboundedSender<Message>) -> Self {
        let (inbox, stop) = (inbox.clone(), CancellationToken::new());
        Self {
            key,
            inbox,
            stop,
            task: None,
            is_cut: false,
            has_ended: false,
            is_shared: false,
            is_late: false,
        }
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// Fires when the attempt is told to stop.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.stop
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The attempt has ended; whether it was cut.
    pub(super) fn ended(mut self) -> bool {
        self.has_ended = true;
        self.is_cut
    }

    /// The attempt runs in this task.
    pub(super) fn hold(&mut self, task: AbortHandle) {
        self.task = Some(task);
        if self.stop.is_cancelled() {
            self.give_up(GIVEN_UP);
        }
    }

    /// The attempt runs in a task that it shares with others.
    pub(super) fn share(&mut self) {
        self.is_shared = true;
    }

    /// The attempt takes longer than one that ends at once.
    pub(super) fn late(&mut self) {
        self.is_late = true;
    }

    /// Whether the attempt will have ended before anybody can ask for it.
    pub(super) fn is_brief(&self) -> bool {
        self.is_shared && self.task.is_none() && !self.is_late
    }

    /// Tells the attempt to stop. One that does not even yield is given up after its grace:
    /// its slot is free, whatever it goes on doing.
    pub(super) fn stop(&self) {
        self.stop_within(GIVEN_UP);
    }

    /// Stops the attempt because the lease is over: that is no fault of its own.
    pub(super) fn cut(&mut self) {
        self.is_cut = true;
        self.stop();
    }

    fn stop_within(&self, grace: Duration) {
        if self.stop.is_cancelled() {
            return;
        }
        self.stop.cancel();
        self.give_up(grace);
    }

    /// Waits for the attempt no longer than this.
    fn give_up(&self, grace: Duration) {
        // One that waits for the record of its start has not begun, and will not.
        if self.task.is_none() && !self.is_shared {
            return;
        }
        let task = self.task.clone();
        let (key, inbox) = (self.key, self.inbox.clone());
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            if task.as_ref().is_none_or(|task| !task.is_finished()) {
                task.inspect(AbortHandle::abort);
                let _ = inbox
                    .send(Message::Ended { key, result: Err(StepError::cancelled()) });
            }
        });
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        self.stop.cancel();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{ErrorClass, ProjectId};

    fn leash() -> (Leash, mpsc::UnboundedReceiver<Message>) {
        let (inbox, told) = mpsc::unbounded_channel();
        let key = Key { project: ProjectId::fresh(), no: 7, attempt: 1, epoch: 1 };
        (Leash::new(key, &inbox), told)
    }

    #[tokio::test]
    async fn an_attempt_that_does_not_end_is_given_up_after_its_grace() {
        let (mut leash, mut told) = leash();
        leash.hold(tokio::spawn(std::future::pending::<()>()).abort_handle());
        leash.stop_within(Duration::ZERO);
        assert!(leash.token().is_cancelled(), "it was told first");
        let Some(Message::Ended { key, result }) = told.recv().await else {
            panic!("nothing was told");
        };
        assert_eq!((key.no, result.unwrap_err().class), (7, ErrorClass::Cancelled));
    }

    #[tokio::test]
    async fn an_attempt_that_shares_a_task_is_given_up_too() {
        let (mut leash, mut told) = leash();
        leash.share();
        leash.stop_within(Duration::ZERO);
        assert!(matches!(told.recv().await, Some(Message::Ended { .. })));
    }

    #[tokio::test]
    async fn an_attempt_ends_with_its_leash() {
        let (mut leash, _told) = leash();
        let attempt = tokio::spawn(std::future::pending::<()>());
        leash.hold(attempt.abort_handle());
        drop(leash);
        assert!(attempt.await.unwrap_err().is_cancelled());
    }
}
