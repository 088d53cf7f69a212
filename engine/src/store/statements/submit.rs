//! The rows of new projects, from a list of objects: `$1` is JSON.
//!
//! A project is born in the first epoch of the session that it names, if that lives: its
//! adoption is part of its submission.

macro_rules! put_projects {
    () => {
        "
insert into projects
    (id, name, state, plan, priority, next_no, counts, created_at, last_event, wake_at,
    session, epoch, adoptions, loads)
select unhex(n.value->>'id'), n.value->>'name', 'pending', unhex(n.value->>'plan'),
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
on conflict do nothing"
    };
}

pub(super) const SQLITE: &str = put_projects!();

/// As a transaction of its own, in one call of the driver: each call wakes a thread and waits
/// for it.
pub(super) const SQLITE_ALONE: &str =
    concat!("begin immediate;", put_projects!(), ";commit");

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
    select n.id, n.name, 'pending', decode(n.plan, 'hex'), n.priority, n.steps,
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
