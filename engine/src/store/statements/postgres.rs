//! The statements on PostgreSQL, where they differ from those on SQLite, and why.

use super::{SQLITE, Statements, commit};

/// The text for PostgreSQL where it differs: its clock, its JSON functions, and row locks.
pub(crate) const POSTGRES: Statements = Statements {
    clock: "select (extract(epoch from clock_timestamp()) * 1000000)::bigint",

    put_session: "
insert into sessions (id, state, process, command, started_at, host, lease, until, slots, serves)
values ($1, 'live', $2, $3, $4, $5, $6,
    (extract(epoch from clock_timestamp()) * 1000000)::bigint + $6, $7, $8)",

    beat: "
update sessions
set beat = beat + 1,
    until = (extract(epoch from clock_timestamp()) * 1000000)::bigint + lease,
    busy = $2,
    hungry = $3
where id = $1 and state in ('live', 'draining')",

    look: LOOK,
    pulse: Some(PULSE),
    commit: Some([commit::PLAIN, commit::FULL]),

    expire_session: "
update sessions
set state = case state when 'draining' then 'drained' else 'dead' end
where id = $1 and beat = $2 and state in ('live', 'draining')
    and ($3 or until < (extract(epoch from clock_timestamp()) * 1000000)::bigint)",

    // In order: whoever locks several projects locks them by id.
    lock_owned: "
select p.id from projects p
where p.id in (
    select o.id from projects o
    where o.session in (select value::uuid from json_array_elements_text($1::json))
    union all
    select c.project from claims c
    where c.state = 'claimed'
        and c.session in (select value::uuid from json_array_elements_text($1::json)))
order by p.id for update",

    // Somebody who is at it already takes it: nobody waits in line for a project. The row of
    // the session is shared, so that it cannot be declared dead meanwhile.
    take_project: "
with me as materialized (
    select id from sessions where id = $2 and state = 'live' for share
), free as materialized (
    select p.id from projects p, me
    where p.id = $1 and (p.session is null or p.session = $2)
    for update of p skip locked
)
update projects set
    session = $2,
    epoch = epoch + 1,
    adoptions = adoptions + 1,
    loads = loads + 1
from free where projects.id = free.id",

    keep_attempts: "
insert into attempts
    (project, no, generation, attempt, state, started_at, finished_at, error, output)
select s.project, s.no, s.generation, s.attempt, s.state, s.started_at, s.at, s.error,
    coalesce(s.output, (select b.body from blobs b
        where b.project = s.project and b.no = s.no and b.generation = s.generation))
from json_array_elements($2::json) l
join steps s on s.project = $1 and s.no = (l.value->>0)::bigint
where s.state in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing",

    keep_gone_attempts: "
insert into attempts
    (project, no, generation, attempt, state, started_at, finished_at, error, output)
select s.project, s.no, s.generation, s.attempt, s.state, s.started_at, s.at, s.error,
    coalesce(s.output, (select b.body from blobs b
        where b.project = s.project and b.no = s.no and b.generation = s.generation))
from json_array_elements_text($2::json) l
join steps s on s.project = $1 and s.no = l.value::bigint
where s.state in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing",

    drop_steps: "
delete from steps where project = $1
    and no in (select value::bigint from json_array_elements_text($2::json))",

    set_back: "
insert into steps (project, no, generation, attempt, failures, crashes, state, at)
select $1, (value->>0)::bigint, (value->>1)::bigint, 0, 0, 0, 'blocked', $3
from json_array_elements($2::json)
on conflict (project, no) do update set
    generation = excluded.generation,
    attempt = 0, failures = 0, crashes = 0, state = 'blocked',
    at = excluded.at, began_at = null, started_at = null, wait = null, until = null,
    first_child = null, items = null, output = null, blob_size = null, error = null",

    claim: "
with me as materialized (
    select id from sessions where id = $1 and state = 'live' for share
), picked as materialized (
    select c.project, c.no from claims c, me
    where c.state = 'open'
        and ($2 = '[]'
            or c.queue in (select value from json_array_elements_text($2::json)))
        and c.kind in (select value from json_array_elements_text($3::json))
        and not exists (
            select 1 from projects p where p.id = c.project and p.session = $1)
    order by c.priority desc, c.offered_at
    limit $4
    for update of c skip locked
)
update claims
set state = 'claimed', claim = $5, session = $1, claimed_at = $6
from picked
where claims.project = picked.project and claims.no = picked.no and claims.state = 'open'
returning claims.project, claims.no, claims.generation, claims.attempt",

    // As for adoption: a session that is declared dead meanwhile would own it for ever.
    put_project: "
insert into projects
    (id, name, state, plan, priority, next_no, counts, created_at, last_event, wake_at,
    session, epoch)
values ($1, $2, 'pending', $3, $4, $5, $6, $7, 1, 0,
    (select s.id from sessions s where s.id = $8 and s.state = 'live' for share), 0)
on conflict (id) do nothing",

    lock_projects: "
select p.id from projects p
where p.id in (select value::uuid from json_array_elements_text($1::json))
order by p.id for update",

    list: "
select id, name, state, reason, plan, priority, session, epoch, loads, last_event,
    mail, next_no, counts, created_at, began_at, cancelled_at, finished_at, charged
from projects
where ($1::uuid is null
        or (created_at, id) < (select p.created_at, p.id from projects p where p.id = $1))
    and ($2 = '' or strpos($2, ',' || state || ',') > 0)
order by created_at desc, id desc
limit $3",

    output_sizes: "
select no, coalesce(length(output)::bigint, blob_size)
from steps
where project = $1
    and no in (select value::bigint from json_array_elements_text($2::json))
    and (output is not null or blob_size is not null)",

    outputs: "
select s.no, coalesce(s.output, b.body)
from steps s
left join blobs b on b.project = s.project and b.no = s.no
    and b.generation = s.generation and s.blob_size is not null
where s.project = $1
    and s.no in (select value::bigint from json_array_elements_text($2::json))
    and (s.output is not null or b.body is not null)",

    logs: "
select no, generation, attempt, at, line from logs
where project = $1 and ($2::bigint is null or no = $2) order by at, no, seq",

    by_ending: "
select id from projects where replace(id::text, '-', '') like '%' || $1
order by id desc limit 2",

    sessions: "
select s.id, s.state, s.host, s.process, s.command, s.started_at, s.slots, s.busy,
    s.serves, s.until - (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    (select count(*) from projects p where p.session = s.id),
    (select count(*) from claims c where c.session = s.id and c.state = 'claimed'),
    s.lease
from sessions s order by s.started_at, s.id",

    ..SQLITE
};

/// The hints of a session on PostgreSQL.
macro_rules! hints {
    () => {
        "
select 'now', $1::uuid, (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    0::bigint, null::text
union all
select 'own', id, mail, 0, null from projects where session = $1
union all
(select 'adopt', id, priority, mail, null from projects
    where session is null
        and wake_at <= (extract(epoch from clock_timestamp()) * 1000000)::bigint
    order by priority desc, wake_at, id limit 64)
union all
select 'stop', project, no, attempt, null from claims
    where session = $1 and state = 'claimed' and stop
union all
select 'offer', $1, count(*), 0, queue || chr(10) || kind from claims
    where state = 'open' group by queue, kind
union all
select case
        when state in ('dead', 'drained') then 'ended'
        when until < (extract(epoch from clock_timestamp()) * 1000000)::bigint then 'late'
        else 'other' end,
    id, beat, hungry, serves
    from sessions where id <> $1
union all
select 'slots', id, slots, busy, null from sessions where id <> $1
union all "
    };
}

const LOOK: &str = concat!(
    hints!(),
    "select 'alive', id, beat, 0, state from sessions
    where id = $1 and state in ('live', 'draining')"
);

/// A data-modifying common table expression, which SQLite has not.
const PULSE: &str = concat!(
    "
with me as (
    update sessions
    set beat = beat + 1,
        until = (extract(epoch from clock_timestamp()) * 1000000)::bigint + lease,
        busy = $2,
        hungry = $3
    where id = $1 and state in ('live', 'draining')
    returning id, beat, state
)",
    hints!(),
    "select 'alive', id, beat, 0, state from me"
);
