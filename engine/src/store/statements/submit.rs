//! The rows of new projects, from a list of objects: `$1` is JSON.
//!
//! A project is born in the first epoch of the session that it names, if that lives: its
//! adoption is part of its submission. Its plan is looked up: one that is not there any more
//! is refused as a null.

pub(super) const SQLITE: &str = "
insert into projects
    (id, name, state, plan, priority, next_no, counts, created_at, last_event, wake_at,
    session, epoch, adoptions, loads)
select unhex(n.value->>'id'), n.value->>'name', 'pending',
    (select p.hash from plans p where p.hash = unhex(n.value->>'plan')),
    n.value->>'priority', n.value->>'steps', '{\"blocked\":' || (n.value->>'steps') || '}',
    n.value->>'created_at', 1, 0, s.id, s.id is not null, s.id is not null, s.id is not null
from json_each($1) n
left join sessions s on s.id = unhex(n.value->>'owner') and s.state = 'live'
where true
on conflict (id) do nothing
returning id, session is not null;
insert into project_data (project, inputs, labels, fingerprint)
select unhex(n.value->>'id'), cast(n.value->>'inputs' as blob), n.value->>'labels',
    unhex(n.value->>'fingerprint')
from json_each($1) n
where true
on conflict do nothing;
insert into events (project, first, last, body)
select unhex(n.value->>'id'), 1, 1, cast(n.value->>'event' as blob)
from json_each($1) n
where true
on conflict do nothing";

/// The rows of new projects in one statement. Who submits for its own session holds the key of
/// its row, as whoever adopts does.
pub(super) const POSTGRES: &str = "
with new as materialized (
    select * from json_to_recordset($1::json) as n (id uuid, name text, plan text,
        priority bigint, steps bigint, created_at bigint, owner uuid, inputs text,
        labels text, fingerprint text, event text)
), put as (
    insert into projects
        (id, name, state, plan, priority, next_no, counts, created_at, last_event, wake_at,
        session, epoch, adoptions, loads)
    select n.id, n.name, 'pending',
        (select p.hash from plans p where p.hash = decode(n.plan, 'hex')), n.priority, n.steps,
        '{\"blocked\":' || n.steps || '}', n.created_at, 1, 0, s.id,
        (s.id is not null)::int, (s.id is not null)::int, (s.id is not null)::int
    from new n
    left join lateral (
        select s.id from sessions s where s.id = n.owner and s.state = 'live' for key share
    ) s on true
    on conflict (id) do nothing
    returning id, session
), put_data as (
    insert into project_data (project, inputs, labels, fingerprint)
    select n.id, convert_to(n.inputs, 'UTF8'), n.labels, decode(n.fingerprint, 'hex')
    from new n join put p on p.id = n.id
    on conflict do nothing
), put_events as (
    insert into events (project, first, last, body)
    select n.id, 1, 1, convert_to(n.event, 'UTF8')
    from new n join put p on p.id = n.id
    on conflict do nothing
)
select id, session is not null from put";

/// The same for one project, without a list: that halves what the server does.
pub(super) const POSTGRES_ONE: &str = "
with owner as (
    select s.id from sessions s where s.id = $7::uuid and s.state = 'live' for key share
), put as (
    insert into projects
        (id, name, state, plan, priority, next_no, counts, created_at, last_event, wake_at,
        session, epoch, adoptions, loads)
    select $1::uuid, $2::text, 'pending', (select p.hash from plans p where p.hash = $3::bytea),
        $4::bigint, $5::bigint,
        '{\"blocked\":' || $5::bigint || '}', $6::bigint, 1, 0, s.id,
        (s.id is not null)::int, (s.id is not null)::int, (s.id is not null)::int
    from (select 1) one left join owner s on true
    on conflict (id) do nothing
    returning id, session
), put_data as (
    insert into project_data (project, inputs, labels, fingerprint)
    select p.id, $8::bytea, $9::text, $10::bytea from put p
    on conflict do nothing
), put_events as (
    insert into events (project, first, last, body)
    select p.id, 1, 1, $11::bytea from put p
    on conflict do nothing
)
select id, session is not null from put";
