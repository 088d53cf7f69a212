//! Submissions that come while others are being written: they are written together, in one
//! transaction, as soon as those are. Nobody waits for company.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{NewProject, StoreError, Submitted};

/// So many projects are written together, and so many bytes of plans and inputs.
const MOST: usize = 256;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// So many plans are known to be stored; beyond, all are forgotten.
const MOST_PLANS: usize = 4_096;

/// Who waits for the answer to a submission.
pub(super) type Told = oneshot::Sender<Result<Submitted, StoreError>>;

/// A submission, and who waits for the answer.
pub(super) type Waiting = (Arc<NewProject>, Told);

/// The submissions of one database in this process.
#[derive(Debug, Default)]
pub(super) struct Submissions(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Whether somebody writes.
    led: bool,
    /// Plans that are stored: they are not sent again.
    plans: HashSet<[u8; 32]>,
}

impl Submissions {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one; whether the caller has to see to it that the line is written.
    pub(super) fn join(&self, one: Waiting) -> bool {
        let mut line = self.line();
        line.waiting.push_back(one);
        !std::mem::replace(&mut line.led, true)
    }

    /// The next ones to be written together; none: whoever writes has ended.
    pub(super) fn next(&self) -> Vec<Waiting> {
        let mut line = self.line();
        let mut bytes = 0;
        let mut taken: Vec<Waiting> = vec![];
        let mut ids = HashSet::new();
        while let Some((project, told)) = line.waiting.pop_front() {
            bytes += project.plan.len() + project.inputs.len();
            let full = taken.len() >= MOST || (bytes > MOST_BYTES && !taken.is_empty());
            // The same id a second time is answered by what the first one has written.
            if full || !ids.insert(project.id) {
                line.waiting.push_front((project, told));
                break;
            }
            taken.push((project, told));
        }
        line.led = !taken.is_empty();
        // Whoever writes several projects does so in the order of their ids.
        taken.sort_by_key(|(project, _)| project.id);
        taken
    }

    /// Whoever wrote has gone away: those who wait are told so, and the next one writes.
    pub(super) fn abandon(&self) {
        let mut line = self.line();
        line.waiting.clear();
        line.led = false;
    }

    pub(super) fn knows(&self, plan: &[u8; 32]) -> bool {
        self.line().plans.contains(plan)
    }

    /// These plans are stored.
    pub(super) fn stored(&self, plans: impl Iterator<Item = [u8; 32]>) {
        let mut line = self.line();
        if line.plans.len() >= MOST_PLANS {
            line.plans.clear();
        }
        line.plans.extend(plans);
    }

    /// Nothing is known to be stored.
    pub(super) fn forget(&self) {
        self.line().plans.clear();
    }
}
