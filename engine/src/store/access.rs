//! The verbs of the door: tokens, the audit, queues, and what followers ask.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{NewProject, ProjectRow, Store, StoreError};
use crate::{
    ProjectId, SessionId, Timestamp,
    plan::StepNo,
    run::{Output, Replay},
};

/// What is stored of a project beside its steps.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The row.
    pub row: ProjectRow,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its output.
    pub output: Option<Box<RawValue>>,
}

/// A project of which nothing can start while queues are paused.
#[derive(Clone, Debug)]
pub struct Resting {
    /// The project.
    pub project: ProjectId,
    /// The epoch in which it is owned.
    pub epoch: i64,
    /// The queues, all of them paused.
    pub queues: BTreeSet<String>,
}

/// Who asked for a change, and with which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The name of a token, or what stands for one.
    pub who: String,
    /// The id of the request.
    pub request: String,
}

/// A line of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// Its number.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub author: Author,
    /// What was done, such as `project.cancel`.
    pub what: String,
    /// To which project.
    pub project: Option<ProjectId>,
    /// To what else.
    pub detail: String,
}

/// A value that a step keeps while it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// When it was kept.
    pub at: Timestamp,
    /// The value.
    pub value: Box<RawValue>,
}

/// The right under which an attempt writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// That of the owner of the project.
    Owner {
        /// Its session.
        session: SessionId,
        /// The epoch of its ownership.
        epoch: i64,
    },
    /// That of a claim.
    Claim(Uuid),
}

/// A plan that takes the place of another one, with the same steps.
#[derive(Clone, Debug)]
pub struct ChangedPlan {
    /// Its hash.
    pub hash: [u8; 32],
    /// It, as stored.
    pub bytes: Arc<[u8]>,
    /// Its kinds: lists are searched by them.
    pub kinds: Vec<String>,
}

/// A fork as it is to be recorded.
#[derive(Clone, Debug)]
pub struct Fork {
    /// The project.
    pub project: NewProject,
    /// What it is a fork of.
    pub base: ProjectId,
    /// The plan and the latest event of the base, as they were when this was planned.
    pub guard: ([u8; 32], i64),
    /// What it keeps.
    pub kept: Kept,
    /// Rows that start anew.
    pub anew: Vec<(StepNo, u32)>,
    /// Rows that have an output without having run.
    pub pinned: Vec<(StepNo, u32, Output)>,
    /// Steps by state.
    pub counts: BTreeMap<&'static str, u32>,
    /// Step numbers below this are taken.
    pub next_no: StepNo,
    /// When its base began.
    pub began_at: Option<Timestamp>,
    /// Who asks for it.
    pub who: String,
    /// Why.
    pub reason: String,
}

/// What a fork keeps of its base: facts, never outputs.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Of the same plan: every row but these.
    AllBut(Vec<StepNo>),
    /// Of another plan: these, each with its number in the base.
    Renumbered(Vec<(StepNo, StepNo)>),
}

/// A fork, as the lineage tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkLine {
    /// The fork.
    pub project: ProjectId,
    /// What it is a fork of.
    pub base: ProjectId,
    /// When it was made.
    pub at: Timestamp,
    /// By whom.
    pub who: String,
    /// Why.
    pub reason: String,
}

/// A replay as it is to be recorded.
#[derive(Clone, Debug, Default)]
pub struct Reopening {
    /// Which rows it sets back.
    pub replay: Replay,
    /// The plan, where it changes.
    pub plan: Option<ChangedPlan>,
    /// Changed inputs, a JSON object.
    pub inputs: Option<Arc<[u8]>>,
    /// Whether steps that run again go on from their checkpoints.
    pub keep_checkpoints: bool,
    /// Who asks for it.
    pub who: String,
    /// The same for the audit, where it comes over HTTP.
    pub author: Option<Author>,
    /// Why.
    pub reason: String,
    /// What was asked for, as JSON.
    pub detail: String,
}

/// A line of the history of replays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayLine {
    /// The number of its event.
    pub event: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: String,
    /// Why.
    pub reason: String,
    /// What was asked for.
    pub detail: serde_json::Value,
}

/// A token that may ask, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What it may do: `viewer`, `operator` or `admin`.
    pub role: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What waits in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// Its name.
    pub queue: String,
    /// Steps that are offered to workers and not taken.
    pub offered: u32,
    /// Steps that workers have taken from others.
    pub claimed: u32,
    /// Since when the oldest offered step waits.
    pub oldest: Option<Timestamp>,
    /// Since when its steps do not start.
    pub paused_at: Option<Timestamp>,
}

impl Store {
    /// Reads the row of a project, its labels and its output; nothing of its steps.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn summary(&self, id: ProjectId) -> Result<Option<Summary>, StoreError> {
        on!(self, store => store.summary(id))
    }

    /// Records a fork; `false` when its base has changed, or the project is there.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn fork(
        &self,
        fork: Arc<Fork>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = on!(self, store => store.fork(fork, now))?;
        self.hint();
        Ok(done)
    }

    /// What a project is a fork of, and its own forks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn lineage(&self, id: ProjectId) -> Result<Vec<ForkLine>, StoreError> {
        on!(self, store => store.lineage(id))
    }

    /// Keeps a checkpoint of a step, under a right to run it; `false` when the right is lost
    /// or there is one of that name.
    ///
    /// # Errors
    /// When it was not written.
    pub async fn put_checkpoint(
        &self,
        project: ProjectId,
        step: (StepNo, u32),
        fence: Fence,
        checkpoint: Checkpoint,
    ) -> Result<bool, StoreError> {
        on!(self, store => store.put_checkpoint(project, step, fence, checkpoint))
    }

    /// The checkpoints of a step in a generation, the oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn checkpoints(
        &self,
        project: ProjectId,
        step: (StepNo, u32),
    ) -> Result<Vec<Checkpoint>, StoreError> {
        on!(self, store => store.checkpoints(project, step))
    }

    /// The replays of a project, the oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn replays(&self, id: ProjectId) -> Result<Vec<ReplayLine>, StoreError> {
        on!(self, store => store.replays(id))
    }

    /// Keeps a token, of which only the SHA-256 is known.
    ///
    /// # Errors
    /// When it was not written.
    pub async fn put_token(
        &self,
        token: TokenRow,
        hash: [u8; 32],
        author: Option<Author>,
    ) -> Result<(), StoreError> {
        on!(self, store => store.put_token(token, hash, author))
    }

    /// Revokes a token; whether it was there and valid.
    ///
    /// # Errors
    /// When it was not written.
    pub async fn revoke_token(
        &self,
        id: Uuid,
        author: Option<Author>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        on!(self, store => store.revoke_token(id, author, now))
    }

    /// Finds a valid token by its SHA-256.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn token(&self, hash: [u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        on!(self, store => store.token(hash))
    }

    /// Lists the tokens, revoked ones included.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        on!(self, store => store.tokens())
    }

    /// Reads the audit, newest first: before a number, and of one project.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn audit(
        &self,
        before: Option<i64>,
        project: Option<ProjectId>,
        limit: u32,
    ) -> Result<Vec<AuditLine>, StoreError> {
        on!(self, store => store.audit(before, project, limit))
    }

    /// What waits in queues for a worker. Steps that their owner runs itself wait in memory.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn queues(&self) -> Result<Vec<QueueRow>, StoreError> {
        on!(self, store => store.queues())
    }

    /// Lets the steps of a queue start no more, or again; whether that was not so before.
    ///
    /// # Errors
    /// When it was not written.
    pub async fn hold_queue(
        &self,
        queue: String,
        paused: bool,
        author: Option<Author>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let held = on!(self, store => store.hold_queue(queue, paused, author, now))?;
        self.hint();
        Ok(held)
    }

    /// Gives projects back of which nothing can start while queues are paused: until one of
    /// any goes on, or a message comes. Tells which; not those with a queue that goes on
    /// already, with a message that the owner has not read, or with another owner.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn rest(
        &self,
        session: SessionId,
        resting: Vec<Resting>,
    ) -> Result<Vec<ProjectId>, StoreError> {
        on!(self, store => store.rest(session, resting))
    }

    /// The numbers of the latest events of projects, and whether these have ended.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_events(
        &self,
        projects: &[ProjectId],
    ) -> Result<Vec<(ProjectId, i64, bool)>, StoreError> {
        on!(self, store => store.last_events(projects))
    }
}
