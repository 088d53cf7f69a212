//! Settling a commit: the same bytes until it is known whether they are written.
//!
//! The number of the latest event is the proof: only the owner writes events, so what is
//! read back after a lost answer tells whether the part arrived, never arrived, or lost
//! its project to another owner. A value that the database refuses is found by halves, so
//! that it stops its own project and no other.

use std::{sync::Arc, time::Duration};

use crate::{
    ProjectId,
    store::{Committed, Consumed, LogLine, Part, Store, StoreError, StoreErrorKind},
};

/// The shortest and the longest wait before the same again.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(1);
/// How often another program that holds a file is waited for.
const BUSY_TRIES: u32 = 6;

/// How a commit ended.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Projects that were lost, with the epoch they were lost in.
    pub(super) lost: Vec<(ProjectId, i64)>,
    /// Projects whose part the database refuses, with their epoch, and why.
    pub(super) refused: Vec<(ProjectId, i64, StoreError)>,
    /// What is known of the others.
    pub(super) committed: Committed,
    /// The epochs of the parts that are written.
    pub(super) written: Vec<(ProjectId, i64)>,
}

/// Commits parts, however long the database is away.
pub(super) async fn settle(
    store: &Store,
    parts: Vec<Part>,
    logs: Vec<LogLine>,
) -> Result<Settled, StoreError> {
    let mut settled = Settled::default();
    // Batches to be written: all at once, until one is refused.
    let mut batches = vec![(Arc::new(parts), logs)];
    let mut wait = SOONEST;
    let mut busy = 0;
    while let Some((parts, logs)) = batches.pop() {
        if parts.is_empty() && logs.is_empty() {
            continue;
        }
        let error = match store.commit(Arc::clone(&parts), logs.clone()).await {
            Ok(committed) => {
                wait = SOONEST;
                settled.note(&parts, committed);
                continue;
            }
            Err(error) => error,
        };
        match error.kind() {
            StoreErrorKind::Refused if parts.len() > 1 => {
                let mut left = Arc::unwrap_or_clone(parts);
                let right = left.split_off(left.len() / 2);
                batches.push((Arc::new(right), vec![]));
                batches.push((Arc::new(left), logs));
            }
            StoreErrorKind::Refused => match parts.first() {
                Some(part) => {
                    settled.refused.push((part.project, part.epoch, error));
                    batches.push((Arc::default(), logs));
                }
                // Lines of logs alone: nobody waits for them.
                None => tracing::warn!(%error, "lines of logs were refused"),
            },
            // A file that another program holds is not waited for without end.
            StoreErrorKind::Busy if !store.is_shared() && busy >= BUSY_TRIES => {
                return Err(error);
            }
            // A server whose disk is full is waited for: ending would charge what runs.
            _ if may_pass(store, &error) => {
                tracing::warn!(%error, "a commit is tried again");
                busy += 1;
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LATEST);
                batches.push((parts, logs));
                if store.is_shared() {
                    settled.read_back(store, &mut batches).await;
                }
            }
            _ => return Err(error),
        }
    }
    Ok(settled)
}

/// Whether the same may succeed later.
fn may_pass(store: &Store, error: &StoreError) -> bool {
    match error.kind() {
        StoreErrorKind::Busy => true,
        StoreErrorKind::Unavailable | StoreErrorKind::Full => store.is_shared(),
        _ => false,
    }
}

impl Settled {
    fn note(&mut self, parts: &[Part], committed: Committed) {
        for part in parts {
            match committed.lost.contains(&part.project) {
                true => self.lost.push((part.project, part.epoch)),
                false => self.written.push((part.project, part.epoch)),
            }
        }
        self.committed.mail.extend(committed.mail);
        self.committed.withdrawn.extend(committed.withdrawn);
    }

    /// Finds out what became of the batch that was tried last.
    async fn read_back(
        &mut self,
        store: &Store,
        batches: &mut Vec<(Arc<Vec<Part>>, Vec<LogLine>)>,
    ) {
        let Some((parts, mut logs)) = batches.pop() else { return };
        let mut again = vec![];
        for part in parts.iter() {
            let Ok(row) = store.row(part.project).await else {
                // Still away: the same bytes again do no harm, the guard sees to that.
                batches.push((parts, logs));
                return;
            };
            let same = row.as_ref().filter(|row| row.epoch == part.epoch);
            match same.map(|row| (row.last_event, row.session, row.mail)) {
                Some((last, _, mail)) if last == part.upto() && last != part.from => {
                    self.written.push((part.project, part.epoch));
                    self.committed.mail.push((part.project, mail));
                    self.read_back_offers(store, part).await;
                    logs.clear();
                }
                Some((last, Some(session), mail))
                    if last == part.from && session == part.session.uuid() =>
                {
                    self.read_back_offers(store, part).await;
                    match Self::was_read(store, part).await {
                        true => {
                            self.written.push((part.project, part.epoch));
                            self.committed.mail.push((part.project, mail));
                        }
                        false => again.push(part.clone()),
                    }
                }
                _ => self.lost.push((part.project, part.epoch)),
            }
        }
        batches.push((Arc::new(again), logs));
    }

    /// Whether a part without events, which moves no number, has arrived: the messages it
    /// consumes are no more.
    async fn was_read(store: &Store, part: &Part) -> bool {
        if part.upto() != part.from || part.letters() == 0 {
            return false;
        }
        let Ok(letters) = store.letters(part.project).await else { return false };
        let mail = letters.mail.iter().any(|mail| part.mail.contains(&mail.id));
        let outcome = letters.outcomes.iter().any(|outcome| {
            let known = |consumed: &Consumed| {
                (consumed.no, consumed.generation, consumed.attempt)
                    == (outcome.no, outcome.generation, outcome.attempt)
            };
            part.consumed.iter().any(known)
        });
        !mail && !outcome
    }

    /// Which offers were taken back: those that are no more.
    async fn read_back_offers(&mut self, store: &Store, part: &Part) {
        if part.withdraw.is_empty() {
            return;
        }
        // What cannot be read counts as taken: its outcome or its loss will tell.
        if let Ok(Some(stored)) = store.project(part.project).await {
            let gone = part
                .withdraw
                .iter()
                .filter(|no| !stored.claims.iter().any(|claim| claim.no == **no));
            self.committed.withdrawn.extend(gone.map(|no| (part.project, *no)));
        }
    }
}
