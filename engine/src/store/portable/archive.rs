//! The verbs of archives: one body for every database.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};

use super::{
    Backend, Connection, Driver, Row,
    access::put_audit,
    read::project,
    submit::{put_labels, put_plan},
};
use crate::{
    ProjectId,
    plan::{Action, Plan, StepNo},
    run::{Run, StepState},
    store::{
        Statements, StoreError, StoreErrorKind, StoredProject,
        archive::{
            ArchivedProject, ArchivedRow, Cell, Holds, Import, Key, Rows, Table,
        },
        decode_events,
    },
};

/// An import takes no longer. What it writes is read from a file beside.
const LONGEST_IMPORT: Duration = Duration::from_secs(600);
/// Values in one statement: SQLite takes 32,766.
const VALUES: usize = 8_000;

impl Backend {
    pub(in crate::store) async fn archived(
        &self,
        project: ProjectId,
        table: &'static Table,
        after: Option<Key>,
    ) -> Result<Vec<ArchivedRow>, StoreError> {
        let text = reading(table, after.is_some());
        self.read(move |connection| {
            Box::pin(async move {
                let mut query = sqlx::query(AssertSqlSafe(text)).bind(project.uuid());
                for value in after.into_iter().flatten() {
                    query = match value {
                        Some(Cell::Number(number)) => query.bind(number),
                        Some(Cell::Text(text)) => query.bind(text),
                        Some(Cell::Bytes(bytes)) => query.bind(bytes),
                        None => query.bind(None::<i64>),
                    };
                }
                let rows = query.fetch_all(connection).await?;
                rows.iter().map(|row| archived_row(row, table)).collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn import(
        &self,
        import: Import,
    ) -> Result<bool, StoreError> {
        let sql = self.sql();
        self.write_within("import", LONGEST_IMPORT, move |tx| {
            Box::pin(record(tx, sql, import))
        })
        .await
    }
}

fn reading(table: &Table, after: bool) -> String {
    let names = |columns: &[(&str, Holds)]| {
        columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let (all, key) = (names(table.columns), names(&table.columns[..table.key]));
    let name = table.name;
    if table.key == 0 {
        return format!("select {all} from {name} where project = $1");
    }
    let places: Vec<String> = (2..table.key + 2).map(|at| format!("${at}")).collect();
    let after = match after {
        true => format!(" and ({key}) > ({})", places.join(", ")),
        false => String::new(),
    };
    let page = table.page;
    format!(
        "select {all} from {name} where project = $1{after} order by {key} limit {page}"
    )
}

fn archived_row(row: &Row, table: &Table) -> Result<ArchivedRow, StoreError> {
    let cell = |(at, (_, holds)): (usize, &(&str, Holds))| {
        Ok(match holds {
            Holds::Number => row.try_get::<Option<i64>, _>(at)?.map(Cell::Number),
            Holds::Text => row.try_get::<Option<String>, _>(at)?.map(Cell::Text),
            Holds::Bytes | Holds::Hash => {
                row.try_get::<Option<Vec<u8>>, _>(at)?.map(Cell::Bytes)
            }
        })
    };
    table.columns.iter().enumerate().map(cell).collect()
}

async fn record(
    tx: &mut Connection,
    sql: &'static Statements,
    mut import: Import,
) -> Result<bool, StoreError> {
    let (plan, id) = (&import.plan, import.project.id);
    let kinds: Vec<String> = plan.kinds().into_iter().map(str::to_owned).collect();
    put_plan(tx, sql, plan.hash(), plan.bytes(), &kinds).await?;
    if !put_row(tx, sql, &import.project, plan.hash()).await? {
        return Ok(false);
    }
    let mut last_event = 0;
    loop {
        let rows = match import.rows.recv().await {
            Some(Ok(Some(rows))) => rows,
            Some(Ok(None)) => break,
            Some(Err(error)) => return Err(refused(error)),
            None => return Err(refused("it has no verified end")),
        };
        let Rows { table, rows } = rows;
        if table.name == "events" {
            last_event = events(&rows, last_event)?;
        }
        let most = (VALUES / (table.columns.len() + 1)).max(1);
        for rows in rows.chunks(most) {
            insert(tx, id, table, rows).await?;
        }
    }
    sqlx::query(sql.import_sizes).bind(id.uuid()).execute(&mut *tx).await?;
    // Read as an owner will read it: what cannot be read is not recorded.
    let stored = match project(tx, sql, id).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return Err(refused("it has no project")),
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => return Err(refused(error)),
    };
    if last_event != stored.row.last_event {
        return Err(refused("its events are not those of the project"));
    }
    if !is_within(&stored, &import.plan) {
        return Err(refused("its steps do not fit its plan"));
    }
    put_labels(tx, sql, id, &stored.labels).await?;
    let plan = std::sync::Arc::clone(&import.plan);
    let folded = move || {
        let seed = *stored.row.id.uuid().as_bytes();
        let run = Run::restore(plan, seed, stored.facts, &stored.row.restored());
        let counted = stored.row.counts.iter().map(|(of, count)| (of.as_str(), *count));
        match stored.row.state.is_terminal() {
            true => counted.eq(run.counts()),
            false => run.running_steps().next().is_none(),
        }
    };
    match tokio::task::spawn_blocking(folded).await {
        Ok(true) => {}
        _ => return Err(refused("its steps do not fit its plan")),
    }
    if let Some(author) = &import.author {
        let what = ("project.import", Some(id), import.project.name.as_str());
        put_audit(tx, sql, author, what, import.now).await?;
    }
    Ok(true)
}

/// The events that rows hold, one after the other without a gap.
fn events(rows: &[ArchivedRow], mut last: i64) -> Result<i64, StoreError> {
    for row in rows {
        let [
            Some(Cell::Number(first)),
            Some(Cell::Number(to)),
            Some(Cell::Bytes(body)),
        ] = row.as_slice()
        else {
            return Err(refused("a row of events is not whole"));
        };
        if *first != last + 1 {
            return Err(refused("its events have a gap"));
        }
        decode_events(*first, *to, body).map_err(refused)?;
        last = *to;
    }
    Ok(last)
}

/// Whether what its steps became can have become of a step, and fits below the numbers that
/// are taken: before anything is made of it.
fn is_within(stored: &StoredProject, plan: &Plan) -> bool {
    let next_no = u64::from(stored.row.next_no);
    let body = |no: StepNo| match plan.len() > no {
        true => match &plan.step(no).action {
            Action::ForEach(each) => each.body.0.len(),
            _ => 1,
        },
        // Inside of another: by the longest that there may be.
        false => plan.longest_body(),
    };
    (stored.row.began_at.is_some() || stored.facts.is_empty())
        && stored.row.state.is_terminal() == stored.row.finished_at.is_some()
        && stored.facts.iter().all(|fact| {
            let waits = fact.wait.is_some() && fact.until.is_some();
            fact.generation >= 1 && (fact.state == StepState::Waiting) == waits
        })
        && stored.facts.iter().all(|fact| {
            fact.expansion.is_none_or(|it| {
                let each =
                    fact.body.as_ref().map_or_else(|| body(fact.no), |it| it.len());
                u64::from(it.first) + u64::from(it.items) * u64::from(each) <= next_no
            })
        })
}

async fn put_row(
    tx: &mut Connection,
    sql: &'static Statements,
    project: &ArchivedProject,
    plan: [u8; 32],
) -> Result<bool, StoreError> {
    let done = sqlx::query(sql.import_project)
        .bind(project.id.uuid())
        .bind(project.name.clone())
        .bind(project.state.clone())
        .bind(project.reason.clone())
        .bind(plan.to_vec())
        .bind(i64::from(project.priority))
        .bind(project.last_event)
        .bind(i64::from(project.next_no))
        .bind(serde_json::to_string(&project.counts).unwrap_or_default())
        .bind(project.created_at)
        .bind(project.began_at)
        .bind(project.cancelled_at)
        .bind(project.finished_at)
        .execute(tx)
        .await?;
    Ok(done.rows_affected() > 0)
}

async fn insert(
    tx: &mut Connection,
    project: ProjectId,
    table: &Table,
    rows: &[ArchivedRow],
) -> Result<(), StoreError> {
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let head = format!("insert into {} (project, {}) ", table.name, names.join(", "));
    let mut query = sqlx::QueryBuilder::<Driver>::new(head);
    query.push_values(rows, |mut values, row| {
        values.push_bind(project.uuid());
        for (cell, (_, holds)) in row.iter().zip(table.columns) {
            match (cell, holds) {
                (Some(Cell::Number(number)), _) => values.push_bind(*number),
                (Some(Cell::Text(text)), _) => values.push_bind(text.clone()),
                (Some(Cell::Bytes(bytes)), _) => values.push_bind(bytes.clone()),
                (None, Holds::Number) => values.push_bind(None::<i64>),
                (None, Holds::Text) => values.push_bind(None::<String>),
                (None, Holds::Bytes | Holds::Hash) => values.push_bind(None::<Vec<u8>>),
            };
        }
    });
    query.build().execute(tx).await?;
    Ok(())
}

fn refused(what: impl std::fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, what)
}
