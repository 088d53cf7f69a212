//! The parts of a commit that are rare: messages, claims, lines of logs. One statement for
//! each sort, whatever there is of it.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Connection, rows::number};
use crate::{
    ProjectId,
    store::{Committed, LogLine, Part, Statements, StoreError},
};

/// Consumes what was read, and offers, takes back and stops steps. The guard of the part
/// has held: its project row is locked.
pub(super) async fn spill(
    tx: &mut Connection,
    sql: &'static Statements,
    part: &Part,
    committed: &mut Committed,
) -> Result<(), StoreError> {
    let consumed: Vec<_> =
        part.consumed.iter().map(|it| (it.no, it.generation, it.attempt)).collect();
    let offers: Vec<_> = part
        .offers
        .iter()
        .map(|it| {
            let (of, at) = ((&it.queue, &it.kind), it.at.as_micros());
            (it.no, it.generation, it.attempt, of.0, of.1, it.priority, at)
        })
        .collect();
    let id = part.project;
    run(tx, sql.consume_mail, id, &part.mail).await?;
    run(tx, sql.consume_claims, id, &consumed).await?;
    for row in run(tx, sql.withdraw, id, &part.withdraw).await? {
        committed.withdrawn.push((id, number(&row, 0)?));
    }
    run(tx, sql.stop_claims, id, &part.stop).await?;
    run(tx, sql.put_offers, id, &offers).await?;
    Ok(())
}

/// Runs a statement about a list of a project, where there is anything in it.
async fn run<T: Serialize>(
    tx: &mut Connection,
    statement: &'static str,
    project: ProjectId,
    list: &[T],
) -> Result<Vec<super::Row>, StoreError> {
    if list.is_empty() {
        return Ok(vec![]);
    }
    let list = serde_json::to_string(list).unwrap_or_default();
    let query = sqlx::query(statement).bind(project.uuid()).bind(list);
    Ok(query.fetch_all(tx).await?)
}

/// Numbers lines of logs for each step.
pub(super) async fn number_logs(
    tx: &mut Connection,
    sql: &'static Statements,
    logs: Vec<LogLine>,
) -> Result<Vec<(i64, LogLine)>, StoreError> {
    let mut steps: BTreeMap<ProjectId, BTreeSet<u32>> = BTreeMap::new();
    for line in &logs {
        steps.entry(line.project).or_default().insert(line.no);
    }
    let mut last: BTreeMap<(ProjectId, u32), i64> = BTreeMap::new();
    for (project, steps) in steps {
        let steps: Vec<u32> = steps.into_iter().collect();
        for row in run(tx, sql.last_logs, project, &steps).await? {
            let seq = i64::from(number(&row, 1)?);
            last.insert((project, number(&row, 0)?), seq);
        }
    }
    let number = |mut line: LogLine| {
        let seq = last.entry((line.project, line.no)).or_default();
        *seq += 1;
        // One of the databases takes no NUL in text.
        line.line = line.line.replace('\0', "\u{fffd}");
        (*seq, line)
    };
    Ok(logs.into_iter().map(number).collect())
}
