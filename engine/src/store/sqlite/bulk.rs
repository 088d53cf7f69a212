//! The statements of `commit` on SQLite, and the only place where text becomes SQL:
//! repeating the row of a `values` list.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use sqlx::sqlite::SqliteArguments;

use crate::store::statements::{columns, end, header};

/// Batch sizes for which a statement exists: a batch is filled up to the next one with rows
/// of nulls, which a statement leaves out, and a larger one is cut. So few distinct statements
/// are prepared and cached, and each call of the driver, which wakes a thread and waits for
/// it, does as much as it can.
///
/// Measured through the driver against `json_each` over one bound text: a bound row of
/// 16 columns needs no quoting and no parsing of JSON in SQL.
const SIZES: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, LARGEST];

/// The most rows of a statement.
pub(super) const LARGEST: usize = 512;

/// The sizes for statements with many columns: the text of one is long, and takes long to
/// prepare.
const WIDE_SIZES: [usize; 5] = [1, 4, 16, 64, LARGEST_WIDE];

/// The most rows of a statement with many columns.
const LARGEST_WIDE: usize = 128;

/// The sizes for lists that share a text with another list: fewer, because each combination
/// is a text of its own.
const SHARED_SIZES: [usize; 4] = [1, 4, 16, LARGEST_SHARED];

/// The most rows of a list that shares a text.
pub(super) const LARGEST_SHARED: usize = 64;

/// A statement over a list of rows of a fixed width, of which the first column is never null.
#[derive(Debug)]
pub(super) struct Bulk {
    head: &'static str,
    columns: usize,
    /// What must be true beside.
    when: &'static str,
    tail: &'static str,
    sizes: &'static [usize],
}

/// A part of a text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    /// A statement.
    Text(&'static str),
    /// A statement over so many rows, at least one.
    Rows(&'static Bulk, usize),
}

pub(super) const BEGIN: Piece = Piece::Text("begin immediate");
pub(super) const COMMIT: Piece = Piece::Text("commit");

/// The texts of lists of statements, by what they are made of.
static TEXTS: Mutex<BTreeMap<Vec<(usize, usize)>, &'static str>> =
    Mutex::new(BTreeMap::new());

/// Several statements in one text, each for as many rows as there are or some more.
pub(super) fn text(pieces: &[Piece]) -> &'static str {
    // Every piece is a static: where it is tells which it is.
    let key = pieces.iter().map(|piece| match piece {
        Piece::Text(text) => (text.as_ptr().addr(), 0),
        Piece::Rows(bulk, rows) => (std::ptr::from_ref(*bulk).addr(), bulk.size(*rows)),
    });
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts.entry(key.collect()).or_insert_with(|| {
        let each = pieces.iter().map(|piece| match piece {
            Piece::Text(text) => (*text).to_owned(),
            Piece::Rows(bulk, rows) => bulk.text(bulk.size(*rows)),
        });
        // There are as many as there are combinations of sizes, for as long as the process
        // lives.
        Box::leak(each.collect::<Vec<_>>().join(";\n").into_boxed_str())
    })
}

impl Bulk {
    const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        let sizes: &[usize] = if columns > 8 { &WIDE_SIZES } else { &SIZES };
        Self { head, columns, when: "", tail, sizes }
    }

    /// The most rows of it.
    pub(super) fn most(&self) -> usize {
        self.sizes.last().copied().unwrap_or(1)
    }

    /// The same in the text of one project, after the guard: nothing follows a statement that
    /// changed nothing.
    const fn after_guard(self) -> Self {
        Self { when: "and changes() > 0", sizes: &SHARED_SIZES, ..self }
    }

    /// The size in which so many rows fit.
    fn size(&self, rows: usize) -> usize {
        self.sizes.iter().copied().find(|size| *size >= rows).unwrap_or(LARGEST)
    }

    /// How many values are bound as null after those of so many rows.
    pub(super) fn filling(&self, rows: usize) -> usize {
        (self.size(rows) - rows) * self.columns
    }

    fn text(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        let rows = vec![row; rows].join(", ");
        let Self { head, when, tail, .. } = self;
        format!(
            "{head} select * from (values {rows}) where column1 is not null {when} {tail}"
        )
    }
}

/// Writes the rows of steps that succeed at once, which is most of what a commit does: each
/// value that need not be bound saves a tenth of a microsecond.
pub(super) static PUT_SUCCESSES: Bulk = SUCCESSES;

const SUCCESSES: Bulk = Bulk::new(
    "insert or fail into steps (project, no, generation, attempt, failures, crashes, state, at,
        began_at, started_at, output)
     select column1, column2, 1, 1, 0, 0, 'succeeded', column3, column4, column4, column5
     from (",
    5,
    ")",
);

/// Writes the first rows of other steps.
pub(super) static PUT_FRESH_STEPS: Bulk = Bulk::new(PUT_STEP, STEP_COLUMNS, "");

const STEP_COLUMNS: usize = 17;

// A statement that fails ends its transaction whole: what it did before need not be undone
// by itself, which would copy every page that it touches.
const PUT_STEP: &str = concat!("insert or fail into steps (", columns!(), ")");

/// Writes later rows of steps. A later fact of a step replaces an earlier one; its output
/// stays where the later one brings none (a sleep that ends, a step whose children have
/// ended).
pub(super) static PUT_KNOWN_STEPS: Bulk = KNOWN_STEPS;

const KNOWN_STEPS: Bulk = Bulk::new(
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
    Bulk::new("insert or fail into events (project, first, last, body)", 4, "");

/// Writes lines of logs.
pub(super) static PUT_LOGS: Bulk = Bulk::new(
    "insert into logs (project, no, seq, generation, attempt, at, line)",
    7,
    "on conflict do nothing",
);

/// Records projects: each is born in the first epoch of the session that it names, if that
/// lives.
pub(super) static PUT_PROJECTS: Bulk = Bulk::new(
    "insert into projects
        (id, name, state, plan, priority, next_no, counts, created_at, last_event, wake_at,
        session, epoch, adoptions, loads)
     select n.column1, n.column2, 'pending',
        (select p.hash from plans p where p.hash = n.column3), n.column4, n.column5,
        '{\"blocked\":' || n.column5 || '}', n.column6, 1, 0, s.id, s.id is not null,
        s.id is not null, s.id is not null
     from (",
    7,
    ") n
     left join sessions s on s.id = n.column7 and s.state = 'live'
     where true
     on conflict (id) do nothing
     returning id, session is not null",
);

/// What belongs to them. Of a project that was there before nothing changes.
pub(super) static PUT_PROJECT_DATA: Bulk = Bulk::new(
    "insert into project_data (project, inputs, labels, fingerprint)",
    4,
    "on conflict do nothing",
);

/// Their first events.
pub(super) static PUT_FIRST_EVENTS: Bulk = Bulk::new(
    "insert into events (project, first, last, body)
     select column1, 1, 1, column2 from (",
    2,
    ") where true on conflict do nothing",
);

/// The guard of a commit: session, epoch, event number and count of writes must be what the
/// owner knows.
/// No row: the project is lost, and nothing of its part may be written.
macro_rules! guard {
    ($($changes:expr),+) => {
        Bulk::new(
            "with part (id, session, epoch, before, upto, state, reason, next_no, counts,
                began_at, cancelled_at, finished_at, letters, writes) as (",
            14,
            concat!(
                ") update or fail projects as p set",
                $($changes,)+
                "
from part t
where p.id = t.id and p.session = t.session and p.epoch = t.epoch
    and p.last_event = t.before and p.writes = t.writes
returning id, mail"
            ),
        )
    };
}

/// The guard of projects that go on: a column that is named costs its indexes a change, even
/// if it stays as it was.
pub(super) static GUARD: Bulk = guard!(header!());

/// The guard of projects that have ended.
pub(super) static GUARD_END: Bulk = guard!(end!(), header!());

pub(super) type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments>;

/// Binds the nulls that fill a statement up after so many rows.
pub(super) fn fill(
    query: Query<'static>,
    statement: &Bulk,
    rows: usize,
) -> Query<'static> {
    let nulls = if rows == 0 { 0 } else { statement.filling(rows) };
    (0..nulls).fold(query, |query, _| query.bind(None::<i64>))
}

/// The commit of one project in one call of the driver: each call wakes a thread and waits for
/// it. What the guard does not hold changes nothing, and nothing follows a statement that
/// changed nothing.
pub(super) mod one {
    use super::*;

    macro_rules! guard {
        ($($changes:expr),+) => {
            Piece::Text(concat!(
                "with t (id, session, epoch, before, upto, state, reason, next_no, counts,
                    began_at, cancelled_at, finished_at, letters, writes)
                    as (values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?))
update or fail projects as p set",
                $($changes,)+
                "
from t
where p.id = t.id and p.session = t.session and p.epoch = t.epoch
    and p.last_event = t.before and p.writes = t.writes
returning mail"
            ))
        };
    }

    /// The guard of a project that goes on, and of one that has ended.
    pub(in super::super) const GUARD: Piece = guard!(header!());
    pub(in super::super) const GUARD_END: Piece = guard!(end!(), header!());

    /// Writes the output of the project. There is a row of it for every project.
    pub(in super::super) const PUT_OUTPUT: Piece = Piece::Text(
        "update or fail project_data set output = ? where project = ? and changes() = 1",
    );

    /// Writes the packed events.
    pub(in super::super) const PUT_EVENTS: Piece = Piece::Text(
        "insert or fail into events (project, first, last, body)
         select ?, ?, ?, ? where changes() = 1",
    );

    /// Writes the rows of steps that succeed at once.
    pub(in super::super) static PUT_SUCCESSES: Bulk = SUCCESSES.after_guard();

    /// Writes the rows of all other steps. It may change nothing, so nothing may follow.
    pub(in super::super) static PUT_STEPS: Bulk = KNOWN_STEPS.after_guard();
}

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
