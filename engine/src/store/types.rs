//! What goes into the store and comes out of it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::value::RawValue;

use crate::{
    ProjectId, SessionId, Timestamp,
    run::{Fact, PastAttempt, ProjectState, Record, Restored},
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
}

/// How a submission ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is recorded now.
    New,
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
}

/// A project taken over by a session.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What is stored of it.
    pub project: StoredProject,
    /// Unread messages, in order.
    pub mail: Vec<Mail>,
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
}

impl MailKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cancel, Self::Pause, Self::Resume];

    /// The label in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// The part of a commit that belongs to one project: all of it, or nothing.
#[derive(Clone, Debug)]
pub struct Part {
    /// The project.
    pub project: ProjectId,
    /// The session that owns it.
    pub session: SessionId,
    /// The epoch of its ownership.
    pub epoch: i64,
    /// The number of the latest event before.
    pub from: i64,
    /// Rows to write, at most one for a step.
    pub facts: Vec<Fact>,
    /// Attempts to keep.
    pub attempts: Vec<PastAttempt>,
    /// Lines of history, numbered from `from + 1`.
    pub records: Vec<Record>,
    /// Messages whose effects are in this part.
    pub mail: Vec<i64>,
    /// The project row after this part.
    pub header: Header,
    /// The output of the project, when it ended.
    pub output: Option<Arc<RawValue>>,
}

/// The changing columns of a project row.
#[derive(Clone, Debug)]
pub struct Header {
    /// Its state.
    pub state: ProjectState,
    /// Why, beside its steps.
    pub reason: Option<String>,
    /// Step numbers below this are taken.
    pub next_no: u32,
    /// Steps by state.
    pub counts: BTreeMap<&'static str, u32>,
    /// When it began.
    pub began_at: Option<Timestamp>,
    /// When it was cancelled.
    pub cancelled_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
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
    /// Only projects older than this one.
    pub before: Option<ProjectId>,
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
