//! The statements of `commit` on PostgreSQL: for a lone success, for the one that ends a
//! project, for first results of one project and of many, and with everything.
//!
//! Each has one plan that is right for any number of rows, because the connection of commits
//! keeps it: rows of parts are found by their keys, and rows of steps look for their part in
//! a hashed list (`(… in (select …)) is true`, which the planner does not turn into a join).
//! `(session = …) is true` keeps it from the index of sessions, which would lead to all
//! projects of the session.
//! A join of two lists, whose lengths nobody knows when the plan is made, would take each
//! with each.
//!
//! The guard: session, epoch, event number and count of writes must be what the owner knows.
//! A condition on a locked row is looked at again after the lock, so a project that was lost
//! meanwhile contributes nothing. No lock is on the key, so that a line of the log of a guest
//! waits for no commit. Nor do the rows of steps and events look their project up: the guard
//! holds it, and a trigger removes them with it.

/// What the end of a project changes of its row beside: nobody owns it any more, and it wants
/// somebody only for messages that came meanwhile.
macro_rules! end {
    () => {
        end!("t.finished_at", "t.letters")
    };
    ($finished_at:literal, $letters:literal) => {
        concat!(
            "
        session = case when ",
            $finished_at,
            " is null then p.session end,
        wake_at = case
            when ",
            $finished_at,
            " is null then p.wake_at
            when p.mail > ",
            $letters,
            " then 0 end,"
        )
    };
}

/// What every commit writes to the row of its project, on either database.
macro_rules! header {
    () => {
        header!(
            "t.upto",
            "t.state",
            "t.reason",
            "t.next_no",
            "t.counts",
            "t.began_at",
            "t.cancelled_at",
            "t.finished_at",
            "t.letters"
        )
    };
    ($upto:literal, $state:literal, $reason:literal, $next_no:literal, $counts:literal,
        $began_at:literal, $cancelled_at:literal, $finished_at:literal, $letters:literal) => {
        concat!(
            "
        last_event = ",
            $upto,
            ",
        state = ",
            $state,
            ",
        reason = ",
            $reason,
            ",
        next_no = ",
            $next_no,
            ",
        counts = ",
            $counts,
            ",
        began_at = ",
            $began_at,
            ",
        cancelled_at = ",
            $cancelled_at,
            ",
        finished_at = ",
            $finished_at,
            ",
        mail = p.mail - ",
            $letters,
            ",
        writes = p.writes + 1,
        charged = false,
        adoptions = 0,
        loads = 0"
        )
    };
}

/// The columns of the row of a step, in the order in which they are bound.
macro_rules! columns {
    () => {
        "project, no, generation, attempt, failures, crashes, state, at, began_at,
        started_at, wait, until, first_child, items, output, blob_size, error"
    };
}

pub(in crate::store) use {columns, end, header};

/// One project: scalars, because every list costs the server some microseconds, and a list
/// of one tells no more.
macro_rules! one {
    () => {
        concat!(
            "
with guard as (
    update projects as p set",
            end!("$11::bigint", "$12::bigint"),
            header!(
                "$4::bigint",
                "$5::text",
                "$6::text",
                "$7::bigint",
                "$8::text",
                "$9::bigint",
                "$10::bigint",
                "$11::bigint",
                "$12::bigint"
            ),
            "
    where p.id = $1::uuid and (p.session = $14::uuid) is true and p.epoch = $2::bigint
        and p.last_event = $3::bigint and p.writes = $13::bigint
    returning p.id, p.mail
), put_events as (
    insert into events (project, first, last, body)
    select h.id, $3::bigint + 1, $4::bigint, $15::bytea from guard h
), put_steps as (
    insert into steps (",
            columns!(),
            ")"
        )
    };
}

macro_rules! lone {
    () => {
        concat!(
            one!(),
            "
    select h.id, $16::bigint, $17::bigint, $18::bigint, $19::bigint, $20::bigint, $21::text,
        $22::bigint, $23::bigint, $24::bigint, $25::text, $26::bigint, $27::bigint,
        $28::bigint, $29::bytea, $30::bigint, $31::text
    from guard h
)"
        )
    };
}

/// One project and the first row of one step: what a chain of successes commits.
const LONE: &str = concat!(lone!(), " select id, mail from guard");

/// The same where the project ends with it, and has an output.
const LAST: &str = concat!(
    lone!(),
    ", put_output as (
    update project_data d set output = $32::bytea from guard h where d.project = h.id
)
select id, mail from guard"
);

/// One project and the first rows of many steps.
const ONE: &str = concat!(
    one!(),
    "
    select h.id, s.*
    from guard h, unnest($16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[],
        $20::bigint[], $21::text[], $22::bigint[], $23::bigint[], $24::bigint[],
        $25::text[], $26::bigint[], $27::bigint[], $28::bigint[], $29::bytea[],
        $30::bigint[], $31::text[])
        as s
), put_output as (
    update project_data d set output = $32::bytea
    from guard h
    where d.project = h.id and $32::bytea is not null
)
select id, mail from guard"
);

/// The parts of many projects: their rows are locked in the order of their ids, as
/// everywhere.
macro_rules! many {
    () => {
        concat!(
            "
with part as materialized (
    select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[],
        $6::text[], $7::bigint[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[],
        $12::bigint[], $13::bigint[], $15::bytea[], $16::bytea[])
        as t (id, epoch, before, upto, state, reason, next_no, counts, began_at,
            cancelled_at, finished_at, letters, writes, events, output)
), held as materialized (
    select t.* from part t join projects p on p.id = t.id
    where (p.session = $14) is true and p.epoch = t.epoch and p.last_event = t.before
        and p.writes = t.writes
    order by t.id
    for no key update of p
), guard as (
    update projects as p set",
            end!(),
            header!(),
            "
    from held t
    where p.id = t.id
    returning p.id, p.mail
), put_events as (
    insert into events (project, first, last, body)
    select h.id, h.before + 1, h.upto, h.events from held h where h.events is not null
), put_steps as (
    insert into steps (",
            columns!(),
            ")
    select s.*
    from unnest($17::uuid[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[],
        $22::bigint[], $23::text[], $24::bigint[], $25::bigint[], $26::bigint[],
        $27::text[], $28::bigint[], $29::bigint[], $30::bigint[], $31::bytea[],
        $32::bigint[], $33::text[])
        as s (",
            columns!(),
            ")
    where (s.project in (select id from held)) is true
), put_outputs as (
    update project_data d set output = h.output
    from held h
    where d.project = h.id and h.output is not null
)"
        )
    };
}

/// First rows of steps, events, and outputs of projects that end.
const MANY: &str = concat!(many!(), " select id, mail from guard");

/// With later rows of steps, kept attempts, large outputs and expansions. The output of a
/// step stays where a later row brings none.
const FULL: &str = concat!(
    many!(),
    ", put_known as (
    insert into steps (",
    columns!(),
    ")
    select k.*
    from unnest($34::uuid[], $35::bigint[], $36::bigint[], $37::bigint[], $38::bigint[],
        $39::bigint[], $40::text[], $41::bigint[], $42::bigint[], $43::bigint[],
        $44::text[], $45::bigint[], $46::bigint[], $47::bigint[], $48::bytea[],
        $49::bigint[], $50::text[])
        as k (",
    columns!(),
    ")
    where (k.project in (select id from held)) is true
    on conflict (project, no) do update set
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
        first_child = coalesce(excluded.first_child, steps.first_child),
        items = coalesce(excluded.items, steps.items),
        output = case when excluded.blob_size is null
            then coalesce(excluded.output, steps.output) end,
        blob_size = case when excluded.output is null
            then coalesce(excluded.blob_size, steps.blob_size) end,
        error = excluded.error
    where excluded.generation >= steps.generation
), put_attempts as (
    insert into attempts
        (project, no, generation, attempt, state, started_at, finished_at, error, output)
    select a.*
    from unnest($51::uuid[], $52::bigint[], $53::bigint[], $54::bigint[], $55::text[],
        $56::bigint[], $57::bigint[], $58::text[], $59::bytea[])
        as a (project, no, generation, attempt, state, started_at, finished_at, error, output)
    where (a.project in (select id from held)) is true
    on conflict do nothing
), put_blobs as (
    insert into blobs (project, no, generation, body)
    select b.*
    from unnest($60::uuid[], $61::bigint[], $62::bigint[], $63::bytea[])
        as b (project, no, generation, body)
    where (b.project in (select id from held)) is true
    on conflict (project, no, generation) do update set body = excluded.body
), put_expansions as (
    insert into expansions (project, no, body)
    select x.project, x.no, x.body
    from unnest($64::uuid[], $65::bigint[], $66::bytea[]) as x (project, no, body)
    where (x.project in (select id from held)) is true
    on conflict (project, no) do update set body = excluded.body
)
select id, mail from guard"
);

/// The texts of `commit`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    /// One project, and the first row of one step.
    pub(crate) lone: &'static str,
    /// The same at the end of the project.
    pub(crate) last: &'static str,
    /// One project, and the first rows of many steps.
    pub(crate) one: &'static str,
    /// Many projects, and first rows.
    pub(crate) many: &'static str,
    /// Everything.
    pub(crate) full: &'static str,
}

impl Commit {
    pub(in crate::store) const POSTGRES: Self =
        Self { lone: LONE, last: LAST, one: ONE, many: MANY, full: FULL };

    /// Every text.
    pub(super) fn all(self) -> [&'static str; 5] {
        [self.lone, self.last, self.one, self.many, self.full]
    }
}
