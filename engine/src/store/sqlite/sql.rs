//! The statements, and the only place where text becomes SQL: repeating the row of a
//! `values` list.

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

/// The guard of a commit: session, epoch and event number must be what the owner read.
/// Zero rows: the project is lost, and nothing of its part may be written. An ended project
/// has no owner.
pub(super) const GUARD: &str = "
update projects set
    session = case when $12 is null then session end,
    last_event = $5,
    state = $6,
    reason = $7,
    next_no = $8,
    counts = $9,
    began_at = $10,
    cancelled_at = $11,
    finished_at = $12,
    mail = mail - $13,
    adoptions = 0,
    loads = 0
where id = $1 and session = $2 and epoch = $3 and last_event = $4";

pub(super) const PUT_BLOB: &str = "
insert into blobs (project, no, generation, body)
values ($1, $2, $3, $4)
on conflict (project, no, generation) do update set body = excluded.body";

pub(super) const PUT_OUTPUT: &str =
    "update project_data set output = $2 where project = $1";

pub(super) const CONSUME_MAIL: &str =
    "delete from mailbox where id = $1 and project = $2";

pub(super) const PUT_PLAN: &str = "
insert into plans (hash, format, body) values ($1, $2, $3)
on conflict (hash) do nothing";

pub(super) const PUT_PROJECT: &str = "
insert into projects (id, name, state, plan, priority, next_no, counts, created_at, last_event)
values ($1, $2, 'pending', $3, $4, $5, $6, $7, 1)
on conflict (id) do nothing";

pub(super) const PUT_PROJECT_DATA: &str = "
insert into project_data (project, inputs, labels, fingerprint)
values ($1, $2, $3, $4)";

pub(super) const FINGERPRINT: &str =
    "select fingerprint from project_data where project = $1";

/// Every session but this one is dead: the lock says so. How it ended decides whether
/// its steps are suspects.
pub(super) const BURY_SESSIONS: &str = "
update sessions
set state = case state when 'draining' then 'drained' else 'dead' end
where state in ('live', 'draining')";

pub(super) const PUT_SESSION: &str = "
insert into sessions (id, state, process, command, started_at)
values ($1, 'live', $2, $3, $4)";

pub(super) const DRAIN_SESSION: &str =
    "update sessions set state = 'draining' where id = $1";

pub(super) const END_SESSION: &str = "delete from sessions where id = $1";

/// Takes the project; reads come after, in the same transaction. Whether the steps that
/// are recorded as running are charged with a crash is decided by the end of the session
/// that ran them: a taker that died before its first commit ran none.
pub(super) const TAKE_PROJECT: &str = "
update projects set
    charged = case when adoptions > 0 then charged else coalesce((
        select s.state <> 'drained' from sessions s where s.id = projects.session), 0) end,
    session = $2,
    epoch = epoch + 1,
    adoptions = adoptions + 1,
    loads = loads + 1
where id = $1";

pub(super) const LOADED: &str = "
update projects set loads = 0 where id = $1 and session = $2 and epoch = $3";

pub(super) const PARK: &str = "
update projects set
    state = 'paused', reason = $4, session = null, adoptions = 0, loads = 0, last_event = last_event + 1
where id = $1 and session = $2 and epoch = $3 and state in ('pending', 'running', 'paused')
returning last_event";

pub(super) const RELEASE_PROJECT: &str = "
update projects
set session = null, adoptions = 0, loads = 0
where id = $1 and session = $2 and epoch = $3 and mail = $4";

pub(super) const PUT_MAIL: &str =
    "insert into mailbox (project, kind, sent_at) values ($1, $2, $3)";

pub(super) const RAISE_MAIL: &str = "update projects set mail = mail + 1 where id = $1";

pub(super) const PROJECT_COLUMNS: &str = "
select id, name, state, reason, plan, priority, session, epoch, loads, last_event,
    mail, next_no, counts, created_at, began_at, cancelled_at, finished_at, charged
from projects where id = $1";

pub(super) const LIST: &str = "
select id, name, state, reason, plan, priority, session, epoch, loads, last_event,
    mail, next_no, counts, created_at, began_at, cancelled_at, finished_at, charged
from projects
where ($1 is null
        or (created_at, id) < (select p.created_at, p.id from projects p where p.id = $1))
    and ($2 = '' or instr($2, ',' || state || ',') > 0)
order by created_at desc, id desc
limit $3";

pub(super) const STEPS: &str = "
select no, generation, attempt, failures, crashes, state, at, began_at, started_at, wait,
    until, first_child, items, error
from steps where project = $1 order by no";

pub(super) const DATA: &str = "
select inputs, labels, output from project_data where project = $1";

/// Apart from the rest, because a process that has the plan need not read it again.
pub(super) const PLAN: &str = "select body from plans where hash = $1";

pub(super) const OPEN_PROJECTS: &str = "
select id, priority from projects where state in ('pending', 'running', 'paused')
union
select p.id, p.priority from mailbox m join projects p on p.id = m.project
order by 2 desc, 1";

pub(super) const MAIL: &str = "select id, project, kind from mailbox where ($1 is null or project = $1) order by id";

/// `$2` is a list of numbers: a statement for each step costs a switch between threads each.
pub(super) const OUTPUT_SIZES: &str = "
select no, coalesce(length(output), blob_size)
from steps
where project = $1 and no in (select value from json_each($2))
    and (output is not null or blob_size is not null)";

pub(super) const OUTPUTS: &str = "
select s.no, coalesce(s.output, b.body)
from steps s
left join blobs b on b.project = s.project and b.no = s.no
    and b.generation = s.generation and s.blob_size is not null
where s.project = $1 and s.no in (select value from json_each($2))
    and (s.output is not null or b.body is not null)";

pub(super) const EVENTS: &str = "
select first, body from events
where project = $1 and last > $2
order by first limit $3";

pub(super) const COMMITS: &str =
    "select first from events where project = $1 order by first";

pub(super) const ATTEMPTS: &str = "
select no, generation, attempt, state, started_at, finished_at, error, output
from attempts where project = $1 order by no, generation, attempt";

pub(super) const LOGS: &str = "
select no, generation, attempt, at, line from logs
where project = $1 and ($2 is null or no = $2) order by at, no, seq";

pub(super) const LAST_LOG: &str =
    "select coalesce(max(seq), 0) from logs where project = $1 and no = $2";

pub(super) const BY_ENDING: &str = "
select id from projects where lower(hex(id)) like '%' || $1 order by id desc limit 2";

pub(super) const BY_NAME: &str =
    "select id from projects where name = $1 order by created_at desc, id desc limit 2";

pub(super) const LATEST: &str =
    "select id from projects order by created_at desc, id desc limit 1";

/// A replay keeps what steps were as attempts, and sets their rows back: `$2` is a list of
/// `[number, next generation]`.
pub(super) const KEEP_ATTEMPTS: &str = "
insert into attempts (project, no, generation, attempt, state, started_at, finished_at, error, output)
select s.project, s.no, s.generation, s.attempt, s.state, s.started_at, s.at, s.error,
    coalesce(s.output, (select b.body from blobs b
        where b.project = s.project and b.no = s.no and b.generation = s.generation))
from json_each($2) l join steps s on s.project = $1 and s.no = json_extract(l.value, '$[0]')
where s.state in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing";

/// The same for steps that go: `$2` is a list of numbers.
pub(super) const KEEP_GONE_ATTEMPTS: &str = "
insert into attempts (project, no, generation, attempt, state, started_at, finished_at, error, output)
select s.project, s.no, s.generation, s.attempt, s.state, s.started_at, s.at, s.error,
    coalesce(s.output, (select b.body from blobs b
        where b.project = s.project and b.no = s.no and b.generation = s.generation))
from json_each($2) l join steps s on s.project = $1 and s.no = l.value
where s.state in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing";

pub(super) const DROP_STEPS: &str = "
delete from steps where project = $1 and no in (select value from json_each($2))";

pub(super) const SET_BACK: &str = "
insert into steps (project, no, generation, attempt, failures, crashes, state, at)
select $1, json_extract(value, '$[0]'), json_extract(value, '$[1]'), 0, 0, 0, 'blocked', $3
from json_each($2) where true
on conflict (project, no) do update set
    generation = excluded.generation,
    attempt = 0, failures = 0, crashes = 0, state = 'blocked',
    at = excluded.at, began_at = null, started_at = null, wait = null, until = null,
    first_child = null, items = null, output = null, blob_size = null, error = null";

pub(super) const REOPEN: &str = "
update projects set
    state = 'pending', reason = null, finished_at = null, cancelled_at = null,
    counts = $4, last_event = last_event + 1, mail = 0
where id = $1 and last_event = $2 and plan = $3
    and state in ('succeeded', 'failed', 'cancelled')";

/// What was meant for the project before it ended came too late.
pub(super) const DROP_MAIL: &str = "delete from mailbox where project = $1";

pub(super) const DROP_OUTPUT: &str =
    "update project_data set output = null where project = $1";
