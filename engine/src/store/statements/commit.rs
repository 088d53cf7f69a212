//! The statements of `commit` on PostgreSQL: for a lone success, for the one that ends a
//! project, for first results, and with everything.
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
        "
        session = case when t.finished_at is null then p.session end,
        wake_at = case
            when t.finished_at is null then p.wake_at
            when p.mail > t.letters then 0 end,"
    };
}

/// What every commit writes to the row of its project, on either database.
macro_rules! header {
    () => {
        "
        last_event = t.upto,
        state = t.state,
        reason = t.reason,
        next_no = t.next_no,
        counts = t.counts,
        began_at = t.began_at,
        cancelled_at = t.cancelled_at,
        finished_at = t.finished_at,
        mail = p.mail - t.letters,
        writes = p.writes + 1,
        charged = false,
        adoptions = 0,
        loads = 0"
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

macro_rules! lone {
    () => {
        concat!(
            "
with part as (
    select $1::uuid as id, $2::bigint as epoch, $3::bigint as before, $4::bigint as upto,
        $5::text as state, $6::text as reason, $7::bigint as next_no, $8::text as counts,
        $9::bigint as began_at, $10::bigint as cancelled_at, $11::bigint as finished_at,
        $12::bigint as letters, $13::bigint as writes
), guard as (
    update projects as p set",
    end!(),
    header!(),
    "
    from part t
    where p.id = t.id and p.session = $14 and p.epoch = t.epoch
        and p.last_event = t.before and p.writes = t.writes
    returning p.id, p.mail
), put_events as (
    insert into events (project, first, last, body)
    select h.id, $15::bigint, $16::bigint, $17::bytea from guard h
), put_steps as (
    insert into steps (",
    columns!(),
    ")
    select h.id, $18::bigint, $19::bigint, $20::bigint, $21::bigint, $22::bigint, $23::text,
        $24::bigint, $25::bigint, $26::bigint, $27::text, $28::bigint, $29::bigint,
        $30::bigint, $31::bytea, $32::bigint, $33::text
    from guard h
)"
        )
    };
}

/// One project and the first row of one step: what a chain of successes commits. Scalars,
/// because every list costs the server some microseconds, and a list of one tells no more.
pub(super) const LONE: &str = concat!(lone!(), " select id, mail from guard");

/// The same where the project ends with it, and has an output.
pub(super) const LAST: &str = concat!(
    lone!(),
    ", put_output as (
    update project_data d set output = $34::bytea from guard h where d.project = h.id
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
        $12::bigint[], $13::bigint[])
        as t (id, epoch, before, upto, state, reason, next_no, counts, began_at,
            cancelled_at, finished_at, letters, writes)
), held as materialized (
    select p.id from projects p join part t on t.id = p.id
    where p.session = $14 and p.epoch = t.epoch and p.last_event = t.before
        and p.writes = t.writes
    order by p.id
    for no key update of p
), guard as (
    update projects as p set",
            end!(),
            header!(),
            "
    from part t join held h on h.id = t.id
    where p.id = h.id
    returning p.id, p.mail
), put_events as (
    insert into events (project, first, last, body)
    select e.project, e.first, e.last, e.body
    from unnest($15::uuid[], $16::bigint[], $17::bigint[], $18::bytea[])
        as e (project, first, last, body)
    join held h on h.id = e.project
), put_steps as (
    insert into steps (",
            columns!(),
            ")
    select s.*
    from unnest($19::uuid[], $20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[],
        $24::bigint[], $25::text[], $26::bigint[], $27::bigint[], $28::bigint[],
        $29::text[], $30::bigint[], $31::bigint[], $32::bigint[], $33::bytea[],
        $34::bigint[], $35::text[])
        as s (",
            columns!(),
            ")
    join held h on h.id = s.project
), put_outputs as (
    update project_data d set output = o.output
    from unnest($36::uuid[], $37::bytea[]) as o (project, output)
    join held h on h.id = o.project
    where d.project = o.project
)"
        )
    };
}

/// First rows of steps, events, and outputs of projects that end.
pub(super) const PLAIN: &str = concat!(many!(), " select id, mail from guard");

/// With later rows of steps, kept attempts, large outputs and expansions. The output of a step stays where a later row brings none.
pub(super) const FULL: &str = concat!(
    many!(),
    ", put_known as (
    insert into steps (",
    columns!(),
    ")
    select k.*
    from unnest($38::uuid[], $39::bigint[], $40::bigint[], $41::bigint[], $42::bigint[],
        $43::bigint[], $44::text[], $45::bigint[], $46::bigint[], $47::bigint[],
        $48::text[], $49::bigint[], $50::bigint[], $51::bigint[], $52::bytea[],
        $53::bigint[], $54::text[])
        as k (",
    columns!(),
    ")
    join held h on h.id = k.project
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
    from unnest($55::uuid[], $56::bigint[], $57::bigint[], $58::bigint[], $59::text[],
        $60::bigint[], $61::bigint[], $62::text[], $63::bytea[])
        as a (project, no, generation, attempt, state, started_at, finished_at, error, output)
    join held h on h.id = a.project
    on conflict do nothing
), put_blobs as (
    insert into blobs (project, no, generation, body)
    select b.*
    from unnest($64::uuid[], $65::bigint[], $66::bigint[], $67::bytea[])
        as b (project, no, generation, body)
    join held h on h.id = b.project
    on conflict (project, no, generation) do update set body = excluded.body
), put_expansions as (
    insert into expansions (project, no, body)
    select x.project, x.no, x.body
    from unnest($68::uuid[], $69::bigint[], $70::bytea[]) as x (project, no, body)
    join held h on h.id = x.project
    on conflict (project, no) do update set body = excluded.body
)
select id, mail from guard"
);
