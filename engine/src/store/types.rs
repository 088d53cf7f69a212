//! What goes into the store and comes out of it.

use std::{
    collections::HashSet,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Author;
use crate::{
    ProjectId, SessionId, StepError, Timestamp,
    plan::{Plan, StepNo},
    run::{Fact, Output, ProjectState, Restored},
};

/// A project to be recorded.
#[derive(Clone, Debug)]
pub struct NewProject {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
    /// The hash of its plan.
    pub plan_hash: [u8; 32],
    /// Its plan, as stored.
    pub plan: Arc<[u8]>,
    /// How many steps the plan has.
    pub steps: u32,
    /// Its priority.
    pub priority: i32,
    /// Its inputs, a JSON object.
    pub inputs: Arc<[u8]>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// SHA-256 of the request: tells whether an idempotency key is used for the same.
    pub fingerprint: [u8; 32],
    /// When it was submitted.
    pub created_at: Timestamp,
    /// The session that owns it from the beginning.
    pub owner: Option<SessionId>,
    /// The kinds of its plan: lists are searched by them.
    pub kinds: Vec<String>,
    /// Who submits it, for the audit.
    pub author: Option<Author>,
}

/// How a submission ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Submitted {
    /// It is recorded now, and waits for an owner.
    #[default]
    New,
    /// It is recorded now, and the session that was named owns it in its first epoch.
    Born,
    /// The same submission was recorded before.
    Existing,
    /// Another submission was recorded under the same key.
    Conflict,
}

/// The narrow row of a project.
#[derive(Clone, Debug)]
pub struct ProjectRow {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: ProjectState,
    /// Why it failed or paused, where there is a reason beside its steps.
    pub reason: Option<String>,
    /// Its priority.
    pub priority: i32,
    /// The hash of its plan.
    pub plan_hash: [u8; 32],
    /// The session that owns it.
    pub session: Option<uuid::Uuid>,
    /// How often it changed hands.
    pub epoch: i64,
    /// How often it was adopted since it could be loaded.
    pub loads: i64,
    /// The number of its latest event.
    pub last_event: i64,
    /// Unread messages.
    pub mail: i64,
    /// Step numbers below this are taken.
    pub next_no: u32,
    /// Steps by state.
    pub counts: BTreeMap<String, u32>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it began.
    pub began_at: Option<Timestamp>,
    /// When it was cancelled.
    pub cancelled_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Whether the steps recorded as running at its adoption are charged with a crash.
    pub charged: bool,
    /// How often owners have written to it.
    pub writes: i64,
    /// How often it was taken over since the last of these.
    pub adoptions: i64,
}

impl ProjectRow {
    /// What [`crate::run::Run::restore`] needs of the row.
    pub fn restored(&self) -> Restored {
        Restored {
            state: self.state,
            began_at: self.began_at,
            cancelled_at: self.cancelled_at,
            next_no: self.next_no,
        }
    }
}

/// Everything stored about a project but its plan, outputs, events and logs.
#[derive(Clone, Debug)]
pub struct StoredProject {
    /// The row.
    pub row: ProjectRow,
    /// Its inputs, a JSON object.
    pub inputs: Arc<[u8]>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its output.
    pub output: Option<Box<RawValue>>,
    /// The facts about its steps, without outputs.
    pub facts: Vec<Fact>,
    /// Steps that are offered to other workers, or run there.
    pub claims: Vec<ClaimRow>,
}

/// A project taken over by a session.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What is stored of it.
    pub project: StoredProject,
    /// What waits to be read.
    pub letters: Letters,
}

/// What waits for the owner of a project.
#[derive(Clone, Debug, Default)]
pub struct Letters {
    /// Messages, in order.
    pub mail: Vec<Mail>,
    /// How claimed attempts ended.
    pub outcomes: Vec<ClaimOutcome>,
}

/// A step offered to other workers, or taken by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRow {
    /// The step.
    pub no: StepNo,
    /// Its generation.
    pub generation: u32,
    /// The attempt.
    pub attempt: u32,
    /// When it was taken; `None` while it is open.
    pub claimed_at: Option<Timestamp>,
    /// By whom.
    pub session: Option<uuid::Uuid>,
}

/// A step that other workers may take.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The step.
    pub no: StepNo,
    /// Its generation.
    pub generation: u32,
    /// The attempt it will be.
    pub attempt: u32,
    /// The queue whose workers may take it.
    pub queue: String,
    /// The kind they must have.
    pub kind: String,
    /// The urgent ones are taken first.
    pub priority: i32,
    /// When.
    pub at: Timestamp,
}

/// The right to run one attempt of a step of a project that somebody else owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The project.
    pub project: ProjectId,
    /// The step.
    pub no: StepNo,
    /// Its generation.
    pub generation: u32,
    /// The attempt.
    pub attempt: u32,
    /// The identity of this grant: no two grants share one.
    pub id: uuid::Uuid,
}

/// How a claimed attempt ended.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// With this output.
    Succeeded(Output),
    /// It gave its slot back and succeeds at a time.
    Deferred {
        /// When.
        until: Timestamp,
        /// With what.
        output: Output,
    },
    /// It became these steps; or it has an output, and adds them to its group.
    Grown {
        /// The steps.
        body: Arc<Plan>,
        /// The output.
        output: Option<Output>,
    },
    /// Its condition was false: it never began.
    ConditionFalse,
    /// It was interrupted through no fault of its own.
    Lost,
    /// It failed.
    Failed(StepError),
}

/// What the owner reads about a claimed attempt.
#[derive(Clone, Debug)]
pub struct ClaimOutcome {
    /// The step.
    pub no: StepNo,
    /// Its generation.
    pub generation: u32,
    /// The attempt.
    pub attempt: u32,
    /// When it was taken.
    pub claimed_at: Timestamp,
    /// How it ended; `None` when its worker is gone.
    pub delivery: Option<Delivery>,
    /// Whether the step is charged with the end of its worker.
    pub charged: bool,
}

/// A claim whose outcome is in a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// The step.
    pub no: StepNo,
    /// Its generation.
    pub generation: u32,
    /// The attempt.
    pub attempt: u32,
}

/// A message to the owner of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Its number.
    pub id: i64,
    /// To which project.
    pub project: ProjectId,
    /// What it asks.
    pub kind: MailKind,
    /// For a retry: the step; `None` is every step that waits for its next attempt.
    pub no: Option<StepNo>,
}

/// What a message asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailKind {
    /// Stop everything.
    Cancel,
    /// Start nothing more for now.
    Pause,
    /// Go on.
    Resume,
    /// Start the next attempt now.
    Retry,
}

impl MailKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cancel, Self::Pause, Self::Resume, Self::Retry];

    /// The label in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
        }
    }
}

/// A worker that begins.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Its id, fresh at each start.
    pub id: SessionId,
    /// What it was started as, for people.
    pub command: String,
    /// Where it runs, for people.
    pub host: String,
    /// How long it is believed to be alive after a beat.
    pub lease: Duration,
    /// How many steps it runs at once.
    pub slots: u32,
    /// What it runs.
    pub serves: Serves,
    /// When it began.
    pub started_at: Timestamp,
}

/// The queues and kinds that a session runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serves {
    /// The queues; empty: all.
    #[serde(default)]
    pub queues: BTreeSet<String>,
    /// The kinds.
    #[serde(default)]
    pub kinds: BTreeSet<String>,
}

impl Serves {
    /// Whether a step of a queue and kind can run there.
    pub fn has(&self, queue: &str, kind: &str) -> bool {
        (self.queues.is_empty() || self.queues.contains(queue))
            && self.kinds.contains(kind)
    }
}

/// What a session says with a beat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// How many of its slots are in use.
    pub busy: u32,
    /// How many steps of others it could run.
    pub hungry: u32,
    /// The queues whose steps it does not start.
    pub paused: Vec<String>,
}

/// What a session hears.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    /// Whether the session lives; one that was declared dead must start anew.
    pub alive: bool,
    /// The clock of the database.
    pub now: Timestamp,
    /// Own projects, with their unread messages.
    pub own: Vec<(ProjectId, i64)>,
    /// Projects that wait for an owner, most urgent first.
    pub adoptable: Vec<Adoptable>,
    /// Claimed attempts of this session.
    pub claims: Vec<HeldClaim>,
    /// Open offers by queue and kind.
    pub offers: Vec<(String, String, u32)>,
    /// Queues whose steps do not start.
    pub paused: HashSet<String>,
    /// The other live sessions.
    pub others: Vec<Other>,
    /// Sessions whose lease is over.
    pub late: Vec<Other>,
    /// Sessions that were declared dead, and still own something.
    pub ended: Vec<SessionId>,
}

/// A claimed attempt of a session, as the database knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldClaim {
    /// The project.
    pub project: ProjectId,
    /// The step.
    pub no: StepNo,
    /// The attempt.
    pub attempt: u32,
    /// The identity of the grant.
    pub id: uuid::Uuid,
    /// Whether its project wants it to stop.
    pub stop: bool,
}

/// A project that waits for an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adoptable {
    /// Its id.
    pub project: ProjectId,
    /// Its priority.
    pub priority: i32,
    /// Its unread messages.
    pub mail: i64,
}

/// Another session.
#[derive(Clone, Debug)]
pub struct Other {
    /// Its id.
    pub id: SessionId,
    /// Its last beat.
    pub beat: i64,
    /// How long it is believed to be alive after a beat.
    pub lease: Duration,
    /// How many slots it has.
    pub slots: u32,
    /// How many steps of others it could run.
    pub hungry: u32,
    /// What it runs.
    pub serves: Serves,
}

/// A session as people see it.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// `live`, `draining`, `drained` or `dead`.
    pub state: String,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub process: i64,
    /// What it was started as.
    pub command: String,
    /// When it began.
    pub started_at: Timestamp,
    /// How many steps it runs at once.
    pub slots: u32,
    /// How many it runs.
    pub busy: u32,
    /// What it runs.
    pub serves: Serves,
    /// How long it is believed to be alive after a beat.
    pub lease: Duration,
    /// How long it is still believed to be alive, in microseconds; negative: over.
    pub lease_left: i64,
    /// How many projects it owns.
    pub projects: u32,
    /// How many steps of others it runs.
    pub claims: u32,
    /// The paused queues that it was told of with its last beat; on a file nobody beats.
    pub paused: HashSet<String>,
}

/// Which project a command means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// This one.
    Id(ProjectId),
    /// The latest one.
    Last,
    /// The ending of an id, or a name.
    Text(String),
}

impl Reference {
    /// Understands `prj_…`, `last`, the ending of an id, or a name.
    pub fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(id) => Self::Id(id),
            Err(_) if text == "last" => Self::Last,
            Err(_) => Self::Text(text.to_owned()),
        }
    }
}

/// Which projects a list shows.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only these states; all when empty.
    pub states: Vec<ProjectState>,
    /// Only with all of these labels.
    pub labels: Vec<(String, String)>,
    /// Only submitted at this time or later.
    pub since: Option<Timestamp>,
    /// Only with this name.
    pub name: Option<String>,
    /// Only with a step of this kind.
    pub kind: Option<String>,
    /// Only what is older than a project: when that was submitted, and its id.
    pub before: Option<(Timestamp, ProjectId)>,
    /// At most so many.
    pub limit: u32,
}

/// A line of the log of a step.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// The project.
    pub project: ProjectId,
    /// The step.
    pub no: u32,
    /// Its generation.
    pub generation: u32,
    /// The attempt.
    pub attempt: u32,
    /// When it was written.
    pub at: Timestamp,
    /// The line.
    pub line: String,
}
