//! The store: the only place that knows SQL.
//!
//! A verb is a unit of atomicity with a name of the domain, never a table operation. There
//! are some forty (and those of `access`, which no project needs), the same on SQLite and
//! PostgreSQL, with one suite of tests. The bodies in `portable/` are compiled twice; their
//! texts are in `statements`, which says where the two differ. Only `commit` has two shapes.
//!
//! Every write runs in a task of its own, so that a caller that goes away cannot leave a
//! transaction half open, and the first error of a transaction ends its connection.
//!
//! Invariant: a write that returned `Ok` is on disk.

/// Calls the same verb on whichever database it is.
macro_rules! on {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Store::Sqlite($store) => $call.await,
            Store::Postgres($store) => $call.await,
        }
    };
}

mod access;
pub(crate) mod archive;
#[cfg(feature = "broken")]
mod broken;
mod codec;
mod crash;
mod error;
mod gather;
mod lock;
mod part;
mod postgres;
mod sqlite;
mod statements;
mod types;

use std::{path::Path, pin::Pin, sync::Arc};

use uuid::Uuid;

use self::error::damaged;
pub use self::{
    access::*,
    crash::CrashPoint,
    error::{StoreError, StoreErrorKind},
    lock::LockHolder,
    part::{Committed, Header, Part},
    postgres::{PostgresOptions, PostgresStore},
    sqlite::SqliteStore,
    types::{
        Adoptable, Adopted, Beat, Claim, ClaimOutcome, ClaimRow, Consumed, Delivery,
        HeldClaim, Letters, ListFilter, LogLine, Mail, MailKind, NewProject,
        NewSession, Offer, Other, ProjectRow, Pulse, Reference, Serves, SessionRow,
        StoredProject, Submitted,
    },
};
pub(crate) use self::{
    codec::decode_events,
    lock::ExecutorLock,
    statements::{POSTGRES, SQLITE, Statements},
};
use crate::{
    ProjectId, SessionId, Timestamp,
    plan::StepNo,
    run::{Output, PastAttempt, Record},
};

/// Outputs up to this many bytes stand in the row of their step.
pub const INLINE_OUTPUT: usize = 2 * 1024;

/// The largest output of a step, in bytes.
pub const MAX_OUTPUT: usize = 16 * 1024 * 1024;

/// A future that borrows the connection of a transaction.
type TxFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'c>>;

/// A database. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file: one process executes on it.
    Sqlite(SqliteStore),
    /// A server: many workers on many machines.
    Postgres(PostgresStore),
}

impl Store {
    /// Opens a SQLite file; creates it when `create` says so and there is none.
    ///
    /// # Errors
    /// When the file cannot be opened or is not ours, with the remedy.
    pub async fn open(path: &Path, create: bool) -> Result<Self, StoreError> {
        Ok(Self::Sqlite(SqliteStore::open(path, create).await?))
    }

    /// Opens a fresh SQLite database that is removed with the last clone of the store.
    ///
    /// # Errors
    /// When the temporary folder cannot be written.
    pub async fn open_temporary() -> Result<Self, StoreError> {
        Ok(Self::Sqlite(SqliteStore::open_temporary().await?))
    }

    /// Opens a SQLite file whose writes are reported to `crash`; `true` from it ends the
    /// store as if the process had died there.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_for_crashes(
        path: &Path,
        crash: impl Fn(CrashPoint) -> bool + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Ok(Self::Sqlite(SqliteStore::open_for_crashes(path, crash).await?))
    }

    /// Opens a PostgreSQL database.
    ///
    /// # Errors
    /// When it cannot be reached, is too old, or its schema is not ours.
    pub async fn postgres(options: &PostgresOptions) -> Result<Self, StoreError> {
        Ok(Self::Postgres(PostgresStore::open(options).await?))
    }

    /// Opens a PostgreSQL database with a mistake that the tests must notice.
    ///
    /// # Errors
    /// As [`Store::postgres`].
    #[cfg(feature = "broken")]
    pub async fn postgres_broken(
        options: &PostgresOptions,
        how: &str,
    ) -> Result<Self, StoreError> {
        let statements = broken::statements(how).ok_or_else(|| damaged(how))?;
        let crashes = crash::Crashes::default();
        let store = PostgresStore::open_with(options, statements, crashes).await?;
        Ok(Self::Postgres(store))
    }

    /// The mistakes that there are.
    #[cfg(feature = "broken")]
    pub fn mistakes() -> Vec<&'static str> {
        broken::all().map(|broken| broken.name).collect()
    }

    /// Takes the right to execute, where one process alone may; tells who has it.
    pub(crate) fn lock(
        &self,
        who: &str,
    ) -> Result<Result<Option<ExecutorLock>, LockHolder>, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(store.lock(who)?.map(Some)),
            Self::Postgres(_) => Ok(Ok(None)),
        }
    }

    /// Lets others look: the worker of this process, or all processes on the database.
    pub(crate) fn hint(&self) {
        match self {
            Self::Sqlite(store) => store.written(),
            Self::Postgres(store) => store.hint(),
        }
    }

    /// Listens for hints of other processes; `None` where there are none to hear.
    pub(crate) async fn hints(&self) -> Option<Result<postgres::Listener, StoreError>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => store.hints().await,
        }
    }

    /// Numbers that change when somebody has written what a worker must notice; `None`
    /// where beats tell.
    pub(crate) async fn changed(&self) -> Result<Option<(i64, u64)>, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(Some(store.data_version().await?)),
            Self::Postgres(_) => Ok(None),
        }
    }

    /// Lets the database read every statement without running it: whether the tables are
    /// those this program knows. Returns how many there are.
    ///
    /// # Errors
    /// The first statement that the database does not understand.
    pub async fn check_statements(&self) -> Result<usize, StoreError> {
        match self {
            Self::Sqlite(store) => store.check_statements().await,
            Self::Postgres(store) => store.check_statements().await,
        }
    }

    /// Whether the same may succeed later. A server is waited for, whatever is the matter
    /// with it: to end because of it would charge what runs.
    pub(crate) fn may_pass(&self, error: &StoreError) -> bool {
        use StoreErrorKind::{Busy, Corrupt, Lost, NewerSchema, Refused};
        match error.kind() {
            Busy => true,
            Corrupt | NewerSchema | Refused | Lost => false,
            _ => self.is_shared(),
        }
    }

    /// Whether many processes execute on it, each with a lease.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// The clock of a shared database; `None` where that of this host counts.
    pub(crate) async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(store) => Ok(Some(store.now().await?)),
        }
    }

    /// Records a project whole, or finds that it is recorded.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn submit(
        &self,
        project: Arc<NewProject>,
    ) -> Result<Submitted, StoreError> {
        let submitted = on!(self, store => store.submit(project))?;
        // What was born here waits for nobody else.
        if submitted != Submitted::Born {
            self.hint();
        }
        Ok(submitted)
    }

    /// Begins a session. On SQLite every other one is dead, because the caller holds the
    /// lock: what it owned is free.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn begin_session(&self, session: NewSession) -> Result<(), StoreError> {
        on!(self, store => store.begin_session(session))
    }

    /// Says that the session stops gracefully: its end charges no step with a crash.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn drain_session(&self, session: SessionId) -> Result<(), StoreError> {
        on!(self, store => store.drain_session(session))
    }

    /// Ends a session: what it owns and runs is free at once, and charged to nobody.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        on!(self, store => store.end_session(session))?;
        self.hint();
        Ok(())
    }

    /// Extends the lease of a session, and tells everything it must know, on a connection
    /// of its own. Without a beat it only looks.
    ///
    /// # Errors
    /// When the lease was not extended.
    pub async fn beat(
        &self,
        session: SessionId,
        beat: Option<Beat>,
    ) -> Result<Pulse, StoreError> {
        on!(self, store => store.beat(session, beat))
    }

    /// Reads what a session must know, without a beat.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn look(&self, session: SessionId) -> Result<Pulse, StoreError> {
        on!(self, store => store.look(session))
    }

    /// The first move of reaping: declares a session dead that has not beaten since `beat`
    /// and whose lease is over by the clock of the database (or `whatever_the_clock`).
    /// `false` when it has beaten, or somebody was quicker.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn expire(
        &self,
        session: SessionId,
        beat: i64,
        whatever_the_clock: bool,
    ) -> Result<bool, StoreError> {
        on!(self, store => store.expire(session, beat, whatever_the_clock))
    }

    /// The second move: what sessions that were declared dead owned is free, and what they
    /// ran is lost. Returns how many sessions there were.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn reap(&self) -> Result<u32, StoreError> {
        let reaped = on!(self, store => store.reap())?;
        if reaped > 0 {
            self.hint();
        }
        Ok(reaped)
    }

    /// Takes a project over, then reads it: two statements in one transaction, in this
    /// order, so that no fact can be older than the ownership. `None` when it is not there
    /// to be taken.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn adopt(
        &self,
        session: SessionId,
        project: ProjectId,
    ) -> Result<Option<Adopted>, StoreError> {
        on!(self, store => store.adopt(session, project))
    }

    /// Takes note that an adopted project could be loaded: the next adoption does not count
    /// it among those that brought their worker down.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn loaded(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
    ) -> Result<(), StoreError> {
        on!(self, store => store.loaded(session, project, epoch))
    }

    /// Pauses a project without loading it, and gives it back.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn park(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
        reason: &'static str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        on!(self, store => store.park(session, project, epoch, reason, now))
    }

    /// Gives a project back until `wake_at` (`None`: until a message comes), unless a
    /// message came that its owner has not read: `mail` is how many it knows of.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn release(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
        mail: i64,
        wake_at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let released =
            on!(self, store => store.release(session, project, epoch, mail, wake_at))?;
        if wake_at.is_some() {
            self.hint();
        }
        Ok(released)
    }

    /// Sends a message to the owner of a project, whoever it is.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn send(
        &self,
        project: ProjectId,
        kind: MailKind,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.send_by(project, (kind, None), None, now).await
    }

    /// The same about a step, or in somebody's name, which the audit keeps.
    ///
    /// # Errors
    /// When it was not written.
    pub async fn send_by(
        &self,
        project: ProjectId,
        what: (MailKind, Option<(StepNo, String)>),
        author: Option<Author>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        on!(self, store => store.send(project, what, author, now))?;
        self.hint();
        Ok(())
    }

    /// Sets steps of an ended project back to run anew, if it is still as it was when
    /// the choice was made; `false` when it has changed.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn replay(
        &self,
        project: ProjectId,
        guard: ([u8; 32], i64),
        replay: Reopening,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = on!(self, store => store.replay(project, guard, replay, now))?;
        self.hint();
        Ok(done)
    }

    /// Commits parts of one session; tells which projects were lost to another owner.
    ///
    /// # Errors
    /// When nothing was written, or when it is not known: then the count of writes of each
    /// project tells.
    pub async fn commit(
        &self,
        parts: Arc<Vec<Part>>,
        logs: Vec<LogLine>,
    ) -> Result<Committed, StoreError> {
        let offers = parts.iter().any(|part| !part.offers.is_empty());
        let committed = on!(self, store => store.commit(parts, logs))?;
        if offers {
            self.hint();
        }
        Ok(committed)
    }

    /// Takes open offers of steps that a session serves, most urgent first. `grant` is a
    /// fresh id.
    ///
    /// # Errors
    /// When nothing was written, or when it is not known.
    pub async fn claim(
        &self,
        session: SessionId,
        serves: &Serves,
        most: u32,
        grant: Uuid,
        now: Timestamp,
    ) -> Result<Vec<Claim>, StoreError> {
        on!(self, store => store.claim(session, serves, most, grant, now))
    }

    /// Records how claimed attempts ended, for the owners of their projects; returns those
    /// whose claim was lost.
    ///
    /// # Errors
    /// When nothing was written, or when it is not known: then the same again does no harm.
    pub async fn deliver(
        &self,
        deliveries: Arc<Vec<(Claim, Delivery)>>,
    ) -> Result<Vec<Claim>, StoreError> {
        let lost = on!(self, store => store.deliver(deliveries))?;
        self.hint();
        Ok(lost)
    }

    /// Gives back what a claim took, where it is not known what that was, or nothing was
    /// begun: charged to nobody.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn unclaim(&self, grant: Uuid) -> Result<(), StoreError> {
        on!(self, store => store.unclaim(grant))?;
        self.hint();
        Ok(())
    }

    /// Reads what waits for the owner of a project.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn letters(&self, project: ProjectId) -> Result<Letters, StoreError> {
        on!(self, store => store.letters(project))
    }

    /// Reads a project whole, in one snapshot.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn project(
        &self,
        id: ProjectId,
    ) -> Result<Option<StoredProject>, StoreError> {
        on!(self, store => store.project(id))
    }

    /// Reads the row of a project.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn row(&self, id: ProjectId) -> Result<Option<ProjectRow>, StoreError> {
        on!(self, store => store.row(id))
    }

    /// Lists projects, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list(
        &self,
        filter: &ListFilter,
    ) -> Result<Vec<ProjectRow>, StoreError> {
        on!(self, store => store.list(filter))
    }

    /// Finds the project a command means: `Err` holds why not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find(
        &self,
        reference: &Reference,
    ) -> Result<Result<ProjectId, &'static str>, StoreError> {
        on!(self, store => store.find(reference))
    }

    /// Lists the sessions.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn sessions(&self) -> Result<Vec<SessionRow>, StoreError> {
        on!(self, store => store.sessions())
    }

    /// Reads a plan, as stored; `None` when there is none with this hash.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn plan(&self, hash: [u8; 32]) -> Result<Option<Arc<[u8]>>, StoreError> {
        on!(self, store => store.plan(hash))
    }

    /// Reads the outputs of steps, `None` for those without one; or `None` when together
    /// they exceed `bytes`: a caller that could not use more does not hold more.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn outputs_within(
        &self,
        project: ProjectId,
        steps: &[StepNo],
        bytes: usize,
    ) -> Result<Option<Vec<Option<Output>>>, StoreError> {
        on!(self, store => store.outputs_within(project, steps, bytes))
    }

    /// Reads the events after a number, in order, from at most `rows` packed rows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn events(
        &self,
        project: ProjectId,
        after: i64,
        rows: u32,
    ) -> Result<Vec<(i64, Record)>, StoreError> {
        on!(self, store => store.events(project, after, rows))
    }

    /// Reads the numbers of the first events of all commits of a project.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn commits(&self, project: ProjectId) -> Result<Vec<i64>, StoreError> {
        on!(self, store => store.commits(project))
    }

    /// Reads the attempts that another one followed.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn attempts(
        &self,
        project: ProjectId,
    ) -> Result<Vec<PastAttempt>, StoreError> {
        on!(self, store => store.attempts(project))
    }

    /// Reads the log of a step, or of all steps of a project.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn logs(
        &self,
        project: ProjectId,
        no: Option<StepNo>,
    ) -> Result<Vec<LogLine>, StoreError> {
        on!(self, store => store.logs(project, no))
    }
}
