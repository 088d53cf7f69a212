//! The statements of `commit` on SQLite, and the only place where text becomes SQL:
//! repeating the row of a `values` list.

use std::sync::OnceLock;

/// Batch sizes for which a statement exists. A batch is cut into the largest that fit,
/// so that few distinct statements are prepared and cached.
///
/// Measured through the driver against `json_each` over one bound text: a bound row of
/// 16 columns needs no quoting and no parsing of JSON in SQL.
pub(super) const SIZES: [usize; 4] = [128, 32, 8, 1];

/// A statement with a `values` list of a fixed width, for each of [`SIZES`].
#[derive(Debug)]
pub(super) struct Bulk {
    head: &'static str,
    columns: usize,
    tail: &'static str,
    texts: OnceLock<[String; SIZES.len()]>,
}

impl Bulk {
    const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self { head, columns, tail, texts: OnceLock::new() }
    }

    /// The text for a size at a position in [`SIZES`].
    pub(super) fn text(&'static self, size: usize) -> &'static str {
        let texts = self.texts.get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(", "));
            SIZES.map(|rows| {
                format!(
                    "{} values {} {}",
                    self.head,
                    vec![row.as_str(); rows].join(", "),
                    self.tail
                )
            })
        });
        &texts[size]
    }
}

/// Cuts a number of rows into positions in [`SIZES`].
pub(super) fn cuts(mut rows: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = SIZES.iter().position(|size| *size <= rows)?;
        rows -= SIZES[at];
        Some(at)
    })
}

/// Writes facts. A later fact of a step replaces an earlier one; its output stays where
/// the later one brings none (a sleep that ends, a step whose children have ended).
pub(super) static PUT_STEPS: Bulk = Bulk::new(
    "insert into steps (project, no, generation, attempt, failures, crashes, state, at,
        began_at, started_at, wait, until, first_child, items, output, blob_size, error)",
    17,
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
pub(super) const GUARD: &str = "
update projects set
    session = case when $12 is null then session end,
    wake_at = case when $12 is null then wake_at when mail > $13 then 0 end,
    last_event = $5,
    state = $6,
    reason = $7,
    next_no = $8,
    counts = $9,
    began_at = $10,
    cancelled_at = $11,
    finished_at = $12,
    mail = mail - $13,
    writes = writes + 1,
    charged = false,
    adoptions = 0,
    loads = 0
where id = $1 and session = $2 and epoch = $3 and last_event = $4 and writes = $14
returning mail";

pub(super) const PUT_BLOB: &str = "
insert into blobs (project, no, generation, body)
values ($1, $2, $3, $4)
on conflict (project, no, generation) do update set body = excluded.body";

pub(super) const PUT_EXPANSION: &str = "
insert into expansions (project, no, body) values ($1, $2, $3)
on conflict (project, no) do update set body = excluded.body";

pub(super) const PUT_OUTPUT: &str =
    "update project_data set output = $2 where project = $1";
