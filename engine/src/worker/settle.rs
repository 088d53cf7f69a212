//! Settling a commit: the same bytes until it is known whether they are written.
//!
//! The count of writes is the proof: only the owner of an epoch moves it, one commit is in
//! flight at a time, and every commit moves it by one. So what is read back after a lost
//! answer tells whether the part arrived, or has not yet, or lost its project to another
//! owner; and a part that arrived late, after it was read, shows when the same is refused.
//! A value that the database refuses is found by halves, so that it stops its own project
//! and no other.

use std::{sync::Arc, time::Duration};

use crate::{
    ProjectId,
    store::{Committed, LogLine, Part, ProjectRow, Store, StoreError, StoreErrorKind},
};

/// The shortest and the longest wait before the same again.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(1);
/// How often another program that holds a file is waited for, and lines of logs are tried.
const TRIES: u32 = 6;

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

/// What became of a part whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is written.
    Written,
    /// It has not arrived, and may yet.
    Open,
    /// The project belongs to somebody else.
    Lost,
}

impl Fate {
    fn of(part: &Part, row: Option<&ProjectRow>) -> Self {
        match row {
            Some(row) if row.epoch != part.epoch => Self::Lost,
            // The last commit of a project also frees it.
            Some(row) if row.writes == part.writes + 1 => Self::Written,
            Some(row) if row.session == Some(part.session.uuid()) => Self::Open,
            _ => Self::Lost,
        }
    }
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
    let mut tries = 0;
    // Whether an answer was lost: what others seem to have taken may be our own writing.
    let mut unsure = false;
    while let Some((parts, logs)) = batches.pop() {
        if parts.is_empty() && logs.is_empty() {
            continue;
        }
        let error = match store.commit(Arc::clone(&parts), logs.clone()).await {
            Ok(committed) => {
                (wait, tries) = (SOONEST, 0);
                settled.note(store, &parts, committed, unsure).await;
                continue;
            }
            Err(error) => error,
        };
        tries += 1;
        match error.kind() {
            StoreErrorKind::Refused if parts.len() > 1 => {
                let mut left = Arc::unwrap_or_clone(parts);
                let right = left.split_off(left.len() / 2);
                batches.push((Arc::new(right), vec![]));
                batches.push((Arc::new(left), logs));
            }
            StoreErrorKind::Refused if !parts.is_empty() => {
                let refused =
                    parts.iter().map(|it| (it.project, it.epoch, error.clone()));
                settled.refused.extend(refused);
                batches.push((Arc::default(), logs));
            }
            // Lines of logs alone: nobody waits for them, and they may be the trouble.
            _ if parts.is_empty() && (tries >= TRIES || !store.may_pass(&error)) => {
                tracing::warn!(%error, lines = logs.len(), "lines of logs were dropped");
            }
            // A file that another program holds is not waited for without end.
            StoreErrorKind::Busy if !store.is_shared() && tries > TRIES => {
                return Err(error);
            }
            // A server whose disk is full is waited for: ending would charge what runs.
            _ if store.may_pass(&error) => {
                tracing::warn!(%error, "a commit is tried again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LATEST);
                let mut parts = parts;
                if store.is_shared() {
                    unsure = true;
                    parts = Arc::new(settled.read_back(store, &parts).await);
                }
                match parts.is_empty() {
                    true => batches.push((parts, logs)),
                    // After what matters.
                    false => {
                        batches.push((Arc::default(), logs));
                        batches.push((parts, vec![]));
                    }
                }
            }
            _ => return Err(error),
        }
    }
    Ok(settled)
}

impl Settled {
    async fn note(
        &mut self,
        store: &Store,
        parts: &[Part],
        committed: Committed,
        unsure: bool,
    ) {
        for part in parts {
            if !committed.lost.contains(&part.project) {
                self.written.push((part.project, part.epoch));
            } else if let Some(mail) =
                if unsure { Self::has_arrived(store, part).await } else { None }
            {
                self.arrived(store, part, mail).await;
            } else {
                self.lost.push((part.project, part.epoch));
            }
        }
        self.committed.mail.extend(committed.mail);
        self.committed.withdrawn.extend(committed.withdrawn);
    }

    /// Finds out what became of parts; returns those that are still to be written.
    async fn read_back(&mut self, store: &Store, parts: &[Part]) -> Vec<Part> {
        let mut open = vec![];
        let mut away = false;
        for part in parts {
            // Still away: the same bytes again do no harm, the guard sees to that.
            let row = if away { None } else { store.row(part.project).await.ok() };
            let Some(row) = row else {
                away = true;
                open.push(part.clone());
                continue;
            };
            match Fate::of(part, row.as_ref()) {
                Fate::Written => {
                    self.arrived(store, part, row.map_or(0, |row| row.mail)).await;
                }
                Fate::Open => open.push(part.clone()),
                Fate::Lost => self.lost.push((part.project, part.epoch)),
            }
        }
        open
    }

    /// The unread messages after a part that is refused now because it was written before.
    async fn has_arrived(store: &Store, part: &Part) -> Option<i64> {
        loop {
            match store.row(part.project).await {
                Ok(row) => {
                    return row
                        .filter(|row| Fate::of(part, Some(row)) == Fate::Written)
                        .map(|row| row.mail);
                }
                Err(error) if store.may_pass(&error) => {
                    tokio::time::sleep(LATEST).await
                }
                Err(_) => return None,
            }
        }
    }

    /// A part was written, and its answer lost: what that said is read.
    async fn arrived(&mut self, store: &Store, part: &Part, mail: i64) {
        self.written.push((part.project, part.epoch));
        self.committed.mail.push((part.project, mail));
        if part.withdraw.is_empty() {
            return;
        }
        loop {
            match store.project(part.project).await {
                Ok(Some(stored)) => {
                    let gone =
                        |no: &&u32| !stored.claims.iter().any(|it| it.no == **no);
                    let gone = part.withdraw.iter().filter(gone);
                    let gone = gone.map(|no| (part.project, *no));
                    self.committed.withdrawn.extend(gone);
                    return;
                }
                Err(error) if store.may_pass(&error) => {
                    tokio::time::sleep(LATEST).await
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SessionId, Timestamp, run::ProjectState, store::Header};

    fn part() -> Part {
        Part {
            project: ProjectId::fresh(),
            session: SessionId::fresh(),
            epoch: 3,
            from: 7,
            writes: 4,
            facts: vec![],
            inserts: 0,
            attempts: vec![],
            records: vec![],
            mail: vec![1],
            consumed: vec![],
            offers: vec![],
            withdraw: vec![],
            stop: vec![],
            header: Header {
                state: ProjectState::Running,
                reason: None,
                next_no: 1,
                counts: std::collections::BTreeMap::new(),
                began_at: None,
                cancelled_at: None,
                finished_at: None,
            },
            output: None,
        }
    }

    /// The row as the owner knows it before the part.
    fn row(part: &Part) -> ProjectRow {
        ProjectRow {
            id: part.project,
            name: String::new(),
            state: ProjectState::Running,
            reason: None,
            priority: 0,
            plan_hash: [0; 32],
            session: Some(part.session.uuid()),
            epoch: part.epoch,
            loads: 0,
            last_event: part.from,
            mail: 0,
            next_no: 1,
            counts: std::collections::BTreeMap::new(),
            created_at: Timestamp::EPOCH,
            began_at: None,
            cancelled_at: None,
            finished_at: None,
            charged: false,
            writes: part.writes,
            adoptions: 1,
        }
    }

    #[test]
    fn the_count_of_writes_tells_what_became_of_a_part_without_events() {
        let part = part();
        let fate = |change: fn(&mut ProjectRow)| {
            let mut row = row(&part);
            change(&mut row);
            Fate::of(&part, Some(&row))
        };
        assert_eq!(fate(|_| ()), Fate::Open);
        assert_eq!(fate(|row| row.writes += 1), Fate::Written);
        let last = |row: &mut ProjectRow| (row.writes, row.session) = (5, None);
        assert_eq!(fate(last), Fate::Written, "the last one also frees the project");
        assert_eq!(fate(|row| row.session = None), Fate::Lost, "it was reaped");
        assert_eq!(fate(|row| row.epoch += 1), Fate::Lost);
        let passed = |row: &mut ProjectRow| (row.writes, row.epoch) = (5, 4);
        assert_eq!(fate(passed), Fate::Lost, "another owner wrote");
        assert_eq!(Fate::of(&part, None), Fate::Lost);
    }
}
