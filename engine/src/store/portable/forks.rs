//! The verbs of forks: one body for every database.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sqlx::Row as _;

use super::{
    Backend, Connection,
    read::{batches, sizes},
    replays::{pin, set_back},
    rows::{number, project_id, raw},
    submit::put_all,
};
use crate::{
    ProjectId, Timestamp,
    plan::StepNo,
    run::Output,
    store::{Fork, ForkLine, Kept, Statements, StoreError, Submitted},
};

/// So many forks of forks are followed to an output.
const MOST_HOPS: usize = 1_000;

impl Backend {
    pub(in crate::store) async fn fork(
        &self,
        fork: Arc<Fork>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = self.sql();
        self.write("fork", move |tx| Box::pin(put(tx, sql, fork, now))).await
    }

    pub(in crate::store) async fn lineage(
        &self,
        project: ProjectId,
    ) -> Result<Vec<ForkLine>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let query = sqlx::query(sql.lineage).bind(project.uuid());
                let rows = query.fetch_all(connection).await?;
                rows.iter()
                    .map(|row| {
                        Ok(ForkLine {
                            project: project_id(row, 0)?,
                            base: project_id(row, 1)?,
                            at: Timestamp::from_micros(row.try_get(2)?),
                            who: row.try_get(3)?,
                            reason: row.try_get(4)?,
                        })
                    })
                    .collect()
            })
        })
        .await
    }
}

async fn put(
    tx: &mut Connection,
    sql: &'static Statements,
    fork: Arc<Fork>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let (id, base) = (fork.project.id.uuid(), fork.base.uuid());
    let (plan, last_event) = fork.guard;
    let unchanged = sqlx::query(sql.unchanged)
        .bind(base)
        .bind(last_event)
        .bind(plan.to_vec())
        .fetch_optional(&mut *tx)
        .await?;
    if unchanged.is_none() {
        return Ok(false);
    }
    let project = [Arc::new(fork.project.clone())];
    let plans = HashSet::from([fork.project.plan_hash]);
    let submitted = put_all(tx, sql, &project, &plans).await?;
    if !matches!(*submitted, [Submitted::New | Submitted::Born]) {
        return Ok(false);
    }
    sqlx::query(sql.fork_row)
        .bind(id)
        .bind(serde_json::to_string(&fork.counts).unwrap_or_default())
        .bind(i64::from(fork.next_no))
        .bind(fork.began_at.map(Timestamp::as_micros))
        .execute(&mut *tx)
        .await?;
    match &fork.kept {
        Kept::AllBut(changed) => {
            let changed = serde_json::to_string(changed).unwrap_or_default();
            for statement in [sql.fork_steps, sql.fork_expansions] {
                sqlx::query(statement)
                    .bind(id)
                    .bind(base)
                    .bind(changed.clone())
                    .execute(&mut *tx)
                    .await?;
            }
        }
        Kept::Renumbered(pairs) => {
            let pairs = serde_json::to_string(pairs).unwrap_or_default();
            sqlx::query(sql.fork_renumbered)
                .bind(id)
                .bind(base)
                .bind(pairs.clone())
                .execute(&mut *tx)
                .await?;
            let query = sqlx::query(sql.fork_numbers).bind(id).bind(pairs);
            query.execute(&mut *tx).await?;
        }
    }
    set_back(tx, sql, fork.project.id, &fork.anew, now).await?;
    for (no, generation, output) in &fork.pinned {
        pin(tx, sql, fork.project.id, (*no, *generation), output, now).await?;
    }
    sqlx::query(sql.put_fork)
        .bind(id)
        .bind(base)
        .bind(now.as_micros())
        .bind(fork.who.clone())
        .bind(fork.reason.clone())
        .execute(tx)
        .await?;
    Ok(true)
}

/// Outputs that a fork has from its base, or from that of its base; `false` when they weigh
/// more than is left.
pub(super) async fn lent(
    connection: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
    steps: &[StepNo],
    found: &mut HashMap<StepNo, Output>,
    mut left: usize,
) -> Result<bool, StoreError> {
    let of = sqlx::query(sql.base).bind(project.uuid());
    let Some(row) = of.fetch_optional(&mut *connection).await? else { return Ok(true) };
    let mut base: uuid::Uuid = row.try_get(0)?;
    let mut at = project.uuid();
    // The number here, and the number and generation in the project that is looked at.
    let list = serde_json::to_string(steps).unwrap_or_default();
    let rows = sqlx::query(sql.lacking).bind(at).bind(list).fetch_all(&mut *connection);
    let mut wanted = vec![];
    for row in rows.await? {
        let no = number(&row, 0)?;
        wanted.push((no, no, number(&row, 1)?));
    }
    for _ in 0..MOST_HOPS {
        if wanted.is_empty() {
            break;
        }
        let numbers: Vec<StepNo> = wanted.iter().map(|(_, no, _)| *no).collect();
        let numbers = serde_json::to_string(&numbers).unwrap_or_default();
        let renumbered = sqlx::query(sql.renumbered).bind(at).bind(numbers);
        let mut there = HashMap::new();
        for row in renumbered.fetch_all(&mut *connection).await? {
            there.insert(number(&row, 0)?, number(&row, 1)?);
        }
        for (_, no, _) in &mut wanted {
            *no = there.get(no).copied().unwrap_or(*no);
        }
        let generations: HashMap<StepNo, u32> =
            wanted.iter().map(|(_, no, generation)| (*no, *generation)).collect();
        let pairs = |steps: &mut dyn Iterator<Item = StepNo>| {
            let pairs: Vec<(StepNo, Option<&u32>)> =
                steps.map(|no| (no, generations.get(&no))).collect();
            serde_json::to_string(&pairs).unwrap_or_default()
        };
        let all = pairs(&mut generations.keys().copied());
        let rows = sqlx::query(sql.lent_sizes).bind(base).bind(all);
        let sizes = sizes(&rows.fetch_all(&mut *connection).await?)?;
        let mut outputs = HashMap::new();
        for (steps, size) in batches(sizes) {
            let Some(rest) = left.checked_sub(size) else { return Ok(false) };
            left = rest;
            let batch = pairs(&mut steps.into_iter());
            let rows = sqlx::query(sql.lent).bind(base).bind(batch);
            for row in rows.fetch_all(&mut *connection).await? {
                if let Some(output) = row.try_get::<Option<Vec<u8>>, _>(1)? {
                    outputs.insert(number(&row, 0)?, Output::from(raw(output)?));
                }
            }
        }
        wanted.retain(|(own, no, _)| match outputs.get(no) {
            Some(output) => {
                found.insert(*own, Arc::clone(output));
                false
            }
            None => true,
        });
        let next = sqlx::query(sql.base).bind(base);
        let Some(row) = next.fetch_optional(&mut *connection).await? else { break };
        at = base;
        base = row.try_get(0)?;
    }
    Ok(true)
}
