//! The worker: motion. Adopts projects, starts what the runs decide, commits what they
//! record, and runs steps that other workers offer.
//!
//! One scheduler task owns every run, so no lock guards them; attempts run in tasks of
//! their own and report by message; one commit is in flight at a time and the next one
//! gathers meanwhile (group commit without a fixed wait). The scheduler itself never waits
//! for the database: whatever asks it is a task that answers by message.
//!
//! Invariant: a decision with effects is carried out only after the commit that holds its
//! reason; what only computes goes ahead of it (`ahead`).

mod adopt;
mod ahead;
mod attempt;
mod bind;
mod commit;
mod flow;
mod grow;
mod guests;
mod heart;
mod hold;
mod leash;
mod letters;
mod line;
mod offers;
mod outputs;
mod owned;
mod pulse;
mod scheduler;
mod settle;
mod start;
mod task;
mod volley;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc::UnboundedSender, oneshot, watch};

use self::{
    adopt::Adoption,
    attempt::Key,
    grow::End,
    guests::{GuestInput, Host},
    heart::Heard,
    owned::Owned,
    settle::Settled,
    volley::Loose,
};
use crate::{
    Clock, Kinds, ProjectId, State, StepError,
    changes::Ends,
    handler::Note,
    plan::{Plan, StepNo},
    plans::Plans,
    run::Output,
    store::{Claim, Delivery, Letters, NewProject, Pulse, Serves, Store, StoreError},
};

pub(crate) use self::{adopt::patiently, attempt::mask_value, scheduler::spawn};

/// What a worker is made of.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) store: Store,
    pub(crate) plans: Plans,
    pub(crate) kinds: Kinds,
    pub(crate) state: State,
    pub(crate) clock: Clock,
    /// What it was started as, for people.
    pub(crate) command: String,
    /// The queues and kinds it runs.
    pub(crate) serves: Serves,
    /// How long it is believed to be alive after a beat.
    pub(crate) lease: Duration,
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

/// Who waits for an adoption.
pub(crate) type AdoptReply = oneshot::Sender<Result<(), StoreError>>;

/// What the scheduler is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Execute this project.
    Adopt { project: ProjectId, reply: AdoptReply },
    /// A project was submitted here, and is ours from the beginning.
    Born { owned: Box<Owned> },
    /// An adoption ended.
    Adopted { project: ProjectId, result: Result<Adoption, StoreError> },
    /// A project was given back, or not: a message was quicker.
    Released { project: ProjectId, released: bool },
    /// Of these projects that paused queues hold, some were given back.
    Rested { asked: Vec<ProjectId>, released: Vec<ProjectId> },
    /// An attempt ended.
    Ended { key: Key, result: Result<End, StepError> },
    /// Attempts that shared a task ended.
    AllEnded { ended: Vec<(Key, Result<End, StepError>)> },
    /// An attempt that shared a task goes on in one of its own.
    Apart { key: Key, task: Loose },
    /// An attempt said something.
    Note { key: Key, generation: u32, note: Note },
    /// Outputs were read for a step (or for the project itself); `None`: too many bytes.
    Fetched {
        project: ProjectId,
        outputs: Result<Option<Fetched>, StoreError>,
        then: Then,
    },
    /// A commit ended.
    Committed { result: Result<Settled, StoreError> },
    /// The mail of a project was read.
    Letters {
        project: ProjectId,
        epoch: i64,
        /// How many consumptions there had been when the reading began.
        at: u64,
        result: Result<Letters, StoreError>,
    },
    /// A look at the database ended; `None`: nothing has changed.
    Looked { result: LookResult },
    /// The heart has beaten.
    Heard(Box<Heard>),
    /// Offers of others were taken, or not.
    Claimed { grant: uuid::Uuid, result: Result<Vec<Claim>, StoreError> },
    /// A claimed step is ready to run here.
    Hosted { claim: Claim, host: Result<(Host, GuestInput), Delivery> },
    /// Outcomes of claimed steps were delivered, but for those that the database refuses.
    Delivered { refused: Vec<(Claim, StoreError)> },
    /// Dead sessions were looked after.
    Reaped,
    /// The session was begun anew, after the one before was declared dead.
    Reborn { result: Result<(), StoreError> },
    /// There may be mail, or a new project.
    Look,
    /// There is mail for a project that nobody owns.
    Unread { project: ProjectId },
    /// Drop what runs and end.
    Abort { reply: oneshot::Sender<()> },
    /// Finish what runs, start nothing more.
    Shutdown { reply: oneshot::Sender<()> },
}

/// What a look at the database found: what tells the next change, and the pulse; `None`
/// when nothing has changed.
pub(crate) type LookResult =
    Result<Option<(Option<(i64, u64)>, Box<Pulse>)>, StoreError>;

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
    /// Who waits for the ends of projects.
    pub(crate) ends: Ends,
    /// Why the worker stopped by itself, if it did.
    pub(crate) fatal: watch::Receiver<Option<StoreError>>,
    /// The session of this worker.
    pub(crate) session: watch::Receiver<crate::SessionId>,
    /// The queues whose steps do not start here, once that is known.
    pub(crate) held_queues: watch::Receiver<Option<HashSet<String>>>,
    /// Whether another project would find free slots soon.
    pub(crate) room: Arc<AtomicBool>,
}

impl Handle {
    /// Executes a project.
    pub(crate) async fn adopt(&self, project: ProjectId) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.inbox.send(Message::Adopt { project, reply });
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Executes a project that was just recorded as ours, without reading it.
    pub(crate) fn born(&self, new: &NewProject, plan: Arc<Plan>) {
        let session = *self.session.borrow();
        let owned = Owned::born(new, plan, session);
        let message = match owned.filter(|_| new.owner == Some(session)) {
            Some(owned) => Message::Born { owned: Box::new(owned) },
            None => Message::Adopt { project: new.id, reply: oneshot::channel().0 },
        };
        let _ = self.inbox.send(message);
    }

    /// Executes a project that may be there, without waiting for that.
    pub(crate) fn adopt_later(&self, project: ProjectId) {
        let (reply, _) = oneshot::channel();
        let _ = self.inbox.send(Message::Adopt { project, reply });
    }

    /// Says that there may be mail or a new project.
    pub(crate) fn look(&self) {
        let _ = self.inbox.send(Message::Look);
    }

    /// Waits until this worker has heard that a queue is paused, or goes on.
    pub(crate) async fn hears_of(&self, queue: &str, paused: bool) {
        let heard = |held: &Option<HashSet<String>>| {
            held.as_ref().is_some_and(|held| held.contains(queue) == paused)
        };
        // One that has ended starts nothing.
        let _ = self.held_queues.clone().wait_for(heard).await;
    }

    /// Says that there is mail for a project that nobody owns.
    pub(crate) fn unread(&self, project: ProjectId) {
        let _ = self.inbox.send(Message::Unread { project });
    }

    /// Whether another project would find free slots soon.
    pub(crate) fn has_room(&self) -> bool {
        self.room.load(Ordering::Relaxed)
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
