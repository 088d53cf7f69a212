//! [`Part`]: what a commit holds of one project, and what it tells.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::value::RawValue;

use super::{Consumed, INLINE_OUTPUT, Offer};
use crate::{
    ProjectId, SessionId, Timestamp,
    plan::StepNo,
    run::{Fact, PastAttempt, ProjectState, Record},
};

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
    /// How often owners have written to the project before.
    pub writes: i64,
    /// Rows to write, at most one for a step.
    pub facts: Vec<Fact>,
    /// So many of them, from the first, are of steps that have no row yet: they are
    /// inserted without looking for one.
    pub inserts: usize,
    /// Attempts to keep.
    pub attempts: Vec<PastAttempt>,
    /// Lines of history, numbered from `from + 1`.
    pub records: Vec<Record>,
    /// Messages whose effects are in this part.
    pub mail: Vec<i64>,
    /// Claims whose outcomes are in this part.
    pub consumed: Vec<Consumed>,
    /// Steps to offer to other workers.
    pub offers: Vec<Offer>,
    /// Offers to take back, where nobody has taken them.
    pub withdraw: Vec<StepNo>,
    /// Claimed steps to stop.
    pub stop: Vec<StepNo>,
    /// The project row after this part.
    pub header: Header,
    /// The output of the project, when it ended.
    pub output: Option<Arc<RawValue>>,
}

impl Part {
    /// The number of the latest event after this part.
    pub fn upto(&self) -> i64 {
        self.from + i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }

    /// How many unread messages this part consumes.
    pub fn letters(&self) -> i64 {
        i64::try_from(self.mail.len() + self.consumed.len()).unwrap_or(i64::MAX)
    }

    /// Rows of steps that have none yet, and those of the others.
    pub fn fresh_and_known(&self) -> (&[Fact], &[Fact]) {
        self.facts.split_at(self.inserts.min(self.facts.len()))
    }

    /// Whether the part records first rows of steps, lines of history and the row of its
    /// project, and nothing else: what commits of successes do.
    pub fn has_only_firsts(&self) -> bool {
        self.inserts >= self.facts.len()
            && !self.records.is_empty()
            && self.attempts.is_empty()
            && self.mail.is_empty()
            && !self.spills()
            && self.is_small()
    }

    /// Whether all outputs stand in the rows of their steps, and none brings a body.
    pub fn is_small(&self) -> bool {
        let is_small = |output: &RawValue| output.get().len() <= INLINE_OUTPUT;
        self.facts.iter().all(|fact| {
            fact.body.is_none() && fact.output.as_deref().is_none_or(is_small)
        })
    }

    /// Whether the part touches claims.
    pub fn spills(&self) -> bool {
        !(self.consumed.is_empty()
            && self.offers.is_empty()
            && self.withdraw.is_empty()
            && self.stop.is_empty())
    }
}

/// What a commit tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Projects that belong to another session now: nothing of them was written.
    pub lost: Vec<ProjectId>,
    /// Unread messages of the others.
    pub mail: Vec<(ProjectId, i64)>,
    /// Offers that were taken back.
    pub withdrawn: Vec<(ProjectId, StepNo)>,
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
