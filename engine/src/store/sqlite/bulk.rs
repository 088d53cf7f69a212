//! The statements of `commit` on SQLite, and the only place where text becomes SQL:
//! repeating the row of a `values` list.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::store::statements::{columns, header};

/// Batch sizes for which a statement exists: a batch is filled up to the next one with rows
/// of nulls, which a statement leaves out, and a larger one is cut. So few distinct statements
/// are prepared and cached, and each call of the driver, which wakes a thread and waits for
/// it, does as much as it can.
///
/// Measured through the driver against `json_each` over one bound text: a bound row of
/// 16 columns needs no quoting and no parsing of JSON in SQL.
const SIZES: [usize; 8] = [1, 2, 4, 8, 32, 64, 128, LARGEST];

/// The most rows of a statement.
pub(super) const LARGEST: usize = 512;

/// The size in which so many rows fit.
fn size_for(rows: usize) -> usize {
    SIZES.into_iter().find(|size| *size >= rows).unwrap_or(LARGEST)
}

/// A statement over a list of rows of a fixed width, of which the first column is never null.
#[derive(Debug)]
pub(super) struct Bulk {
    head: &'static str,
    columns: usize,
    tail: &'static str,
}

/// The texts of lists of statements, by what they are made of.
static TEXTS: Mutex<BTreeMap<Vec<(usize, usize)>, &'static str>> =
    Mutex::new(BTreeMap::new());

/// Several statements in one text, each for so many rows, with the beginning or the end of
/// their transaction.
pub(super) fn text(
    begin: bool,
    statements: &[(&'static Bulk, usize)],
    commit: bool,
) -> &'static str {
    let mut key = vec![(usize::from(begin), usize::from(commit))];
    key.extend(statements.iter().map(|(bulk, rows)| {
        // Every bulk is a static: where it is tells which it is.
        (std::ptr::from_ref(*bulk).addr(), size_for(*rows))
    }));
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts.entry(key).or_insert_with(|| {
        let begin = begin.then(|| "begin immediate".to_owned());
        let commit = commit.then(|| "commit".to_owned());
        let each = statements.iter().map(|(bulk, rows)| bulk.text(size_for(*rows)));
        let all: Vec<String> = begin.into_iter().chain(each).chain(commit).collect();
        // There are as many as there are combinations of sizes, for as long as the process
        // lives.
        Box::leak(all.join(";\n").into_boxed_str())
    })
}

impl Bulk {
    const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self { head, columns, tail }
    }

    /// How many values are bound as null after those of so many rows.
    pub(super) fn filling(&self, rows: usize) -> usize {
        (size_for(rows) - rows) * self.columns
    }

    fn text(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        let rows = vec![row; rows].join(", ");
        format!(
            "{} select * from (values {rows}) where column1 is not null {}",
            self.head, self.tail
        )
    }
}

/// A transaction without its end.
macro_rules! lone {
    () => {
        concat!(
            "
begin immediate;
with t (id, session, epoch, before, upto, state, reason, next_no, counts, began_at,
    cancelled_at, finished_at, letters, writes)
    as (values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?))
",
            header!(),
            "
from t
where p.id = t.id and p.session = t.session and p.epoch = t.epoch
    and p.last_event = t.before and p.writes = t.writes
returning mail;
insert into events (project, first, last, body)
select ?, ?, ?, ? where changes() = 1;
insert into steps (",
            columns!(),
            ")
select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? where changes() = 1"
        )
    };
}

/// Writes the rows of steps that succeed at once, which is most of what a commit does: each
/// value that need not be bound saves a tenth of a microsecond.
pub(super) static PUT_SUCCESSES: Bulk = Bulk::new(
    "insert into steps (project, no, generation, attempt, at, began_at, started_at, output,
        state, failures, crashes)
     select *, 'succeeded', 0, 0 from (",
    8,
    ")",
);

/// Writes the first rows of other steps.
pub(super) static PUT_FRESH_STEPS: Bulk = Bulk::new(PUT_STEP, STEP_COLUMNS, "");

const STEP_COLUMNS: usize = 17;

const PUT_STEP: &str = concat!("insert into steps (", columns!(), ")");

/// Writes later rows of steps. A later fact of a step replaces an earlier one; its output
/// stays where the later one brings none (a sleep that ends, a step whose children have
/// ended).
pub(super) static PUT_KNOWN_STEPS: Bulk = Bulk::new(
    PUT_STEP,
    STEP_COLUMNS,
    "on conflict (project, no) do update set
        generation = excluded.generation,
        attempt = excluded.attempt,
        failures = excluded.failures,
        crashes = excluded.crashes,
        state = excluded.state,
        at = excluded.at,
        began_at = excluded.began_at,
        started_at = excluded.started_at,
        wait = excluded.wait,
        until = excluded.until,
        first_child = coalesce(excluded.first_child, first_child),
        items = coalesce(excluded.items, items),
        output = case when excluded.blob_size is null
            then coalesce(excluded.output, output) end,
        blob_size = case when excluded.output is null
            then coalesce(excluded.blob_size, blob_size) end,
        error = excluded.error
     where excluded.generation >= generation",
);

/// Keeps attempts that another one follows.
pub(super) static PUT_ATTEMPTS: Bulk = Bulk::new(
    "insert into attempts
        (project, no, generation, attempt, state, started_at, finished_at, error, output)",
    9,
    "on conflict do nothing",
);

/// Writes packed events. The primary key refuses the same numbers twice.
pub(super) static PUT_EVENTS: Bulk =
    Bulk::new("insert into events (project, first, last, body)", 4, "");

/// Writes lines of logs.
pub(super) static PUT_LOGS: Bulk = Bulk::new(
    "insert into logs (project, no, seq, generation, attempt, at, line)",
    7,
    "on conflict do nothing",
);

/// The guard of a commit: session, epoch, event number and count of writes must be what the
/// owner knows.
/// No row: the project is lost, and nothing of its part may be written. An ended project
/// has no owner, and wants one only for messages that came meanwhile.
pub(super) static GUARD: Bulk = Bulk::new(
    "with part (id, session, epoch, before, upto, state, reason, next_no, counts, began_at,
        cancelled_at, finished_at, letters, writes) as (",
    14,
    concat!(
        ") ",
        header!(),
        "
from part t
where p.id = t.id and p.session = t.session and p.epoch = t.epoch
    and p.last_event = t.before and p.writes = t.writes
returning id, mail"
    ),
);

/// The whole commit of one project and the first row of one step, in one call of the driver:
/// each call wakes a thread and waits for it. What the guard does not hold changes nothing,
/// and nothing follows a statement that changed nothing.
pub(super) const LONE: &str = concat!(lone!(), ";\ncommit");

/// The same where the project ends with it, and has an output.
pub(super) const LAST: &str = concat!(
    lone!(),
    ";
update project_data set output = ? where project = ? and changes() = 1;
commit"
);

pub(super) const PUT_BLOB: &str = "
insert into blobs (project, no, generation, body)
values ($1, $2, $3, $4)
on conflict (project, no, generation) do update set body = excluded.body";

pub(super) const PUT_EXPANSION: &str = "
insert into expansions (project, no, body) values ($1, $2, $3)
on conflict (project, no) do update set body = excluded.body";

/// Writes the outputs of projects that end.
pub(super) static PUT_OUTPUTS: Bulk = Bulk::new(
    "with ended (project, output) as (",
    2,
    ") update project_data as d set output = t.output from ended t where d.project = t.project",
);
