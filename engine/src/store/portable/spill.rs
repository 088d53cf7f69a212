//! The parts of a commit that are rare, row by row: messages, claims, lines of logs.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::collections::HashMap;

use super::Connection;
use crate::store::{Committed, LogLine, Part, Statements, StoreError};

/// Consumes what was read, and offers, takes back and stops steps. The guard of the part
/// has held: its project row is locked.
pub(super) async fn spill(
    tx: &mut Connection,
    sql: &'static Statements,
    part: &Part,
    committed: &mut Committed,
) -> Result<(), StoreError> {
    for id in &part.mail {
        sqlx::query(sql.consume_mail)
            .bind(id)
            .bind(part.project.uuid())
            .execute(&mut *tx)
            .await?;
    }
    for consumed in &part.consumed {
        sqlx::query(sql.consume_claim)
            .bind(part.project.uuid())
            .bind(i64::from(consumed.no))
            .bind(i64::from(consumed.generation))
            .bind(i64::from(consumed.attempt))
            .execute(&mut *tx)
            .await?;
    }
    for no in &part.withdraw {
        let done = sqlx::query(sql.withdraw)
            .bind(part.project.uuid())
            .bind(i64::from(*no))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 1 {
            committed.withdrawn.push((part.project, *no));
        }
    }
    for no in &part.stop {
        sqlx::query(sql.stop_claim)
            .bind(part.project.uuid())
            .bind(i64::from(*no))
            .execute(&mut *tx)
            .await?;
    }
    for offer in &part.offers {
        sqlx::query(sql.put_offer)
            .bind(part.project.uuid())
            .bind(i64::from(offer.no))
            .bind(i64::from(offer.generation))
            .bind(i64::from(offer.attempt))
            .bind(offer.queue.clone())
            .bind(offer.kind.clone())
            .bind(i64::from(offer.priority))
            .bind(offer.at.as_micros())
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// Numbers lines of logs for each step.
pub(super) async fn number_logs(
    tx: &mut Connection,
    sql: &'static Statements,
    logs: Vec<LogLine>,
) -> Result<Vec<(i64, LogLine)>, StoreError> {
    let mut numbered = Vec::with_capacity(logs.len());
    let mut last = HashMap::new();
    for mut line in logs {
        let key = (line.project, line.no);
        let previous: i64 = match last.get(&key) {
            Some(seq) => *seq,
            None => {
                sqlx::query_scalar(sql.last_log)
                    .bind(line.project.uuid())
                    .bind(i64::from(line.no))
                    .fetch_one(&mut *tx)
                    .await?
            }
        };
        let seq = previous + 1;
        last.insert(key, seq);
        // One of the databases takes no NUL in text.
        line.line = line.line.replace('\0', "\u{fffd}");
        numbered.push((seq, line));
    }
    Ok(numbered)
}
