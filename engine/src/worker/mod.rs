//! The worker: motion. Adopts projects, starts what the runs decide, commits what they
//! record.
//!
//! One scheduler task owns every run, so no lock guards them; attempts run in tasks of
//! their own and report by message; one commit is in flight at a time and the next one
//! gathers meanwhile (group commit without a fixed wait).
//!
//! Invariant: a decision is carried out only after the commit that holds its reason.

mod adopt;
mod attempt;
mod bind;
mod commit;
mod outputs;
mod owned;
mod scheduler;
mod start;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc::UnboundedSender, oneshot, watch};

use self::attempt::Key;
use crate::{
    Clock, Kinds, Outcome, ProjectId, SessionId, State, StepError,
    handler::Note,
    plan::StepNo,
    plans::Plans,
    run::Output,
    store::{Store, StoreError},
};

pub(crate) use self::scheduler::spawn;

/// What a worker is made of.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) store: Store,
    pub(crate) plans: Plans,
    pub(crate) kinds: Kinds,
    pub(crate) state: State,
    pub(crate) clock: Clock,
    pub(crate) session: SessionId,
    /// How many steps may run at once.
    pub(crate) concurrency: usize,
    /// How many crashes quarantine a step.
    pub(crate) crash_limit: u32,
    /// How long running steps may take to end after a request to shut down.
    pub(crate) grace: Duration,
    /// Whether every open project is executed, or only those that are asked for.
    pub(crate) all: bool,
    /// Whether nothing is started: messages are applied, and that is all.
    pub(crate) steer_only: bool,
    /// How many transitions one commit may hold; 1 makes crash tests repeatable.
    pub(crate) max_batch: usize,
}

/// What the scheduler is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Execute this project.
    Adopt { project: ProjectId, reply: oneshot::Sender<Result<(), StoreError>> },
    /// An attempt ended.
    Ended { key: Key, result: Result<Outcome, StepError> },
    /// An attempt said something.
    Note { key: Key, generation: u32, note: Note },
    /// Outputs were read for a step (or for the project itself); `None`: too many bytes.
    Fetched {
        project: ProjectId,
        outputs: Result<Option<Fetched>, StoreError>,
        then: Then,
    },
    /// A commit ended.
    Committed { result: Result<Vec<ProjectId>, StoreError> },
    /// There may be mail, or a new project.
    Look,
    /// Drop what runs and end.
    Abort { reply: oneshot::Sender<()> },
    /// Finish what runs, start nothing more.
    Shutdown { reply: oneshot::Sender<()> },
}

/// Outputs that were read.
pub(crate) type Fetched = Vec<(StepNo, Option<Output>)>;

/// What waited for outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// A step wants to start.
    Start(StepNo),
    /// The project wants to close.
    Close,
}

/// A running worker.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) inbox: UnboundedSender<Message>,
    /// Rises with every commit, so that readers in this process need not poll.
    pub(crate) commits: Arc<watch::Sender<u64>>,
    /// Why the worker stopped by itself, if it did.
    pub(crate) fatal: watch::Receiver<Option<StoreError>>,
}

impl Handle {
    /// Executes a project.
    pub(crate) async fn adopt(&self, project: ProjectId) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.inbox.send(Message::Adopt { project, reply });
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Says that there may be mail or a new project.
    pub(crate) fn look(&self) {
        let _ = self.inbox.send(Message::Look);
    }

    /// Asks for the end without waiting for it.
    pub(crate) fn let_go(&self) {
        let _ = self.inbox.send(Message::Shutdown { reply: oneshot::channel().0 });
    }

    /// Finishes what runs, within the grace, and ends.
    pub(crate) async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        let _ = self.inbox.send(Message::Shutdown { reply });
        let _ = done.await;
    }

    /// Drops what runs and ends at once: only what is written is kept.
    pub(crate) async fn abort(&self) {
        let (reply, done) = oneshot::channel();
        let _ = self.inbox.send(Message::Abort { reply });
        let _ = done.await;
    }

    pub(crate) fn gone(&self) -> StoreError {
        self.fatal.borrow().clone().unwrap_or_else(|| {
            StoreError::new(
                crate::store::StoreErrorKind::Other,
                "the worker has stopped",
            )
        })
    }
}
