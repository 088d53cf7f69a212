//! The statements on PostgreSQL, where they differ from those on SQLite, and why.

use super::{SQLITE, Statements, commit, submit};

/// The outputs that another project has from this one. `$2` is a list of
/// `[number, generation]`; what a replay has set back since is among its attempts.
macro_rules! lent {
    () => {
        "
select l.no, coalesce(
    (select s.output from steps s
        where s.project = $1 and s.no = l.no and s.generation = l.generation),
    (select b.body from blobs b
        where b.project = $1 and b.no = l.no and b.generation = l.generation),
    (select a.output from attempts a where a.project = $1 and a.no = l.no
        and a.generation = l.generation and a.output is not null
        order by a.attempt desc limit 1)) as body
from (select (value->>0)::bigint as no, (value->>1)::bigint as generation
    from json_array_elements($2::json)) l"
    };
}

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
    put_project: Some(submit::POSTGRES_ONE),
    commit: Some(commit::Commit::POSTGRES),

    // Whoever adopts or claims holds the key of the row of its session, which a beat does not
    // mind and an end does: only the end of a session locks its row whole.
    lock_session: "
select id from sessions where id = $1 and state in ('live', 'draining') for update",

    expire_session: "
with over as materialized (
    select id from sessions
    where id = $1 and beat = $2 and state in ('live', 'draining')
        and ($3 or until < (extract(epoch from clock_timestamp()) * 1000000)::bigint)
    for update
)
update sessions
set state = case state when 'draining' then 'drained' else 'dead' end
from over where sessions.id = over.id",

    // A queue that goes on meanwhile waits for this, and wakes what this has given back.
    lock_queues: "
select name from paused_queues
where name in (select value from json_array_elements_text($1::json))
for key share",

    wake_held: "
with held as materialized (
    select id from projects where session is null and wake_at = 9223372036854775807
    order by id limit 10000 for no key update
)
update projects set wake_at = 0 from held where projects.id = held.id",

    rest: "
with asked as materialized (
    select (value->>0)::uuid as id, (value->>1)::bigint as epoch
    from json_array_elements($2::json)
), mine as materialized (
    select p.id from projects p join asked a on a.id = p.id
    where p.session = $1 and p.epoch = a.epoch and p.mail = 0
    order by p.id for no key update of p
)
update projects
set session = null, wake_at = 9223372036854775807, adoptions = 0, loads = 0
from mine where projects.id = mine.id
returning projects.id",

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
order by p.id for no key update",

    // Somebody who is at it already takes it: nobody waits in line for a project. The key of
    // the row of the session is held, so that it cannot end meanwhile; it can beat.
    take_project: "
with me as materialized (
    select id from sessions where id = $2 and state = 'live' for key share
), free as materialized (
    select p.id from projects p, me
    where p.id = $1 and (p.session is null or p.session = $2)
    for no key update of p skip locked
)
update projects set
    session = $2,
    epoch = epoch + 1,
    adoptions = adoptions + case when session is null then 1 else 0 end,
    loads = loads + 1
from free where projects.id = free.id",

    // Whoever takes the project over waits for it, or it sees that.
    put_checkpoint: "
insert into checkpoints (project, no, generation, name, at, body)
select $1, $2, $3, $4, $5, $6
from (select id from projects where id = $1 and session = $7 and epoch = $8 for share) p
on conflict do nothing",

    put_claimed_checkpoint: "
insert into checkpoints (project, no, generation, name, at, body)
select $1, $2, $3, $4, $5, $6
from (select project from claims
    where project = $1 and no = $2 and claim = $7 and state = 'claimed' and $8 = 0::bigint
    for share) c
on conflict do nothing",

    // Held until the fork is there: nobody replays the base meanwhile.
    unchanged: "
select 1 from projects where id = $1 and last_event = $2 and plan = $3
    and state in ('succeeded', 'failed', 'cancelled', 'paused')
for share",

    fork_steps: "
insert into steps (project, no, generation, attempt, failures, crashes, state, at, began_at,
    started_at, wait, until, first_child, items, error)
select $1, no, generation, attempt, failures, crashes, state, at, began_at,
    started_at, wait, until, first_child, items, error
from steps where project = $2
    and no not in (select value::bigint from json_array_elements_text($3::json))",

    fork_expansions: "
insert into expansions (project, no, body)
select $1, no, body from expansions where project = $2
    and no not in (select value::bigint from json_array_elements_text($3::json))",

    fork_renumbered: "
insert into steps (project, no, generation, attempt, failures, crashes, state, at, began_at,
    started_at, error)
select $1, (l.value->>0)::bigint, s.generation, s.attempt, s.failures, s.crashes,
    s.state, s.at, s.began_at, s.started_at, s.error
from json_array_elements($3::json) l
join steps s on s.project = $2 and s.no = (l.value->>1)::bigint",

    fork_numbers: "
insert into fork_steps (project, no, base_no)
select $1, (value->>0)::bigint, (value->>1)::bigint from json_array_elements($2::json)
where value->>0 <> value->>1",

    lacking: "
select no, generation from steps
where project = $1
    and no in (select value::bigint from json_array_elements_text($2::json))
    and (state = 'succeeded' or items is not null or wait = 'timer')
    and output is null and blob_size is null",

    renumbered: "
select no, base_no from fork_steps
where project = $1
    and no in (select value::bigint from json_array_elements_text($2::json))",

    lent: lent!(),

    lent_sizes: concat!(
        "select no, octet_length(body)::bigint from (",
        lent!(),
        ") as outputs where body is not null"
    ),

    keep_checkpoints: "
update checkpoints set generation = generation + 1
from json_array_elements($2::json) l
where checkpoints.project = $1 and checkpoints.no = (l.value->>0)::bigint
    and checkpoints.generation = (l.value->>1)::bigint - 1",

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

    lend_on: "
insert into blobs (project, no, generation, body)
select s.project, s.no, s.generation, s.output
from json_array_elements($2::json) l
join steps s on s.project = $1 and s.no = (l.value->>0)::bigint
where s.output is not null
    and s.state not in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing",

    lend_gone_on: "
insert into blobs (project, no, generation, body)
select s.project, s.no, s.generation, s.output
from json_array_elements_text($2::json) l
join steps s on s.project = $1 and s.no = l.value::bigint
where s.output is not null
    and s.state not in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing",

    drop_steps: "
delete from steps where project = $1
    and no in (select value::bigint from json_array_elements_text($2::json))",

    drop_expansions: "
delete from expansions where project = $1
    and no in (select (value->>0)::bigint from json_array_elements($2::json))",

    drop_gone_expansions: "
delete from expansions where project = $1
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
    select id from sessions where id = $1 and state = 'live' for key share
), picked as materialized (
    select c.project, c.no from claims c, me
    where c.state = 'open'
        and ($2 = '[]'
            or c.queue in (select value from json_array_elements_text($2::json)))
        and c.kind in (select value from json_array_elements_text($3::json))
        and c.queue not in (select name from paused_queues)
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
    put_projects: submit::POSTGRES,

    lock_projects: "
select p.id from projects p
where p.id in (select value::uuid from json_array_elements_text($1::json))
order by p.id for no key update",

    list: "
select id, name, state, reason, plan, priority, session, epoch, loads, last_event,
    mail, next_no, counts, created_at, began_at, cancelled_at, finished_at, charged, writes,
    adoptions
from projects
where ($1::bigint is null or (created_at, id) < ($1, $2::uuid))
    and ($3 = '' or strpos($3, ',' || state || ',') > 0)
    and ($4::bigint is null or created_at >= $4)
    and ($5::text is null or name = $5)
    and ($6::text is null or plan in (select plan from plan_kinds where kind = $6))
    and ($7 = '[]' or not exists (
        select 1 from json_array_elements($7::json) w where not exists (
            select 1 from project_labels l
            where l.name = w->>0 and l.value = w->>1 and l.project = projects.id)))
order by created_at desc, id desc
limit $8",

    put_plan_kinds: "
insert into plan_kinds (plan, kind)
select $1, value from json_array_elements_text($2::json)
on conflict do nothing",

    put_labels: "
insert into project_labels (project, name, value)
select $1, value->>0, value->>1 from json_array_elements($2::json)",

    audit: "
select seq, at, who, what, project, detail, request from audit
where ($1::bigint is null or seq < $1) and ($2::uuid is null or project = $2)
order by seq desc limit $3",

    queues: "
select coalesce(c.queue, q.name), coalesce(c.open, 0), coalesce(c.claimed, 0), c.offered_at,
    q.paused_at
from (
    select queue, count(*) filter (where state = 'open') as open,
        count(*) filter (where state = 'claimed') as claimed,
        min(offered_at) filter (where state = 'open') as offered_at
    from claims where state in ('open', 'claimed') group by queue) c
full join paused_queues q on q.name = c.queue
order by 1",

    last_events: "
select id, last_event, finished_at is not null from projects
where id in (select value::uuid from json_array_elements_text($1::json))",

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

    last_logs: "
select no, max(seq) from logs
where project = $1
    and no = any (array(select value::bigint from json_array_elements_text($2::json)))
group by no",

    by_ending: "
select id from projects where replace(id::text, '-', '') like '%' || $1
order by id desc limit 2",

    sessions: "
select s.id, s.state, s.host, s.process, s.command, s.started_at, s.slots, s.busy,
    s.serves, s.until - (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    (select count(*) from projects p where p.session = s.id),
    (select count(*) from claims c where c.session = s.id and c.state = 'claimed'),
    s.lease, s.paused
from sessions s order by s.started_at, s.id",

    put_offers: "
insert into claims (project, no, generation, attempt, state, queue, kind, priority, offered_at)
select $1, (value->>0)::bigint, (value->>1)::bigint, (value->>2)::bigint, 'open',
    value->>3, value->>4, (value->>5)::bigint, (value->>6)::bigint
from json_array_elements($2::json)
on conflict do nothing",

    withdraw: "
delete from claims
where project = $1 and state = 'open'
    and no = any (array(select value::bigint from json_array_elements_text($2::json)))
returning no",

    stop_claims: "
update claims set stop = true
where project = $1 and state = 'claimed'
    and no = any (array(select value::bigint from json_array_elements_text($2::json)))",

    consume_claims: "
delete from claims
where project = $1 and state in ('done', 'lost') and ((no, generation, attempt) in (
    select (value->>0)::bigint, (value->>1)::bigint, (value->>2)::bigint
    from json_array_elements($2::json))) is true",

    consume_mail: "
delete from mailbox where project = $1
    and id in (select value::bigint from json_array_elements_text($2::json))",

    ..SQLITE
};

/// The hints of a session on PostgreSQL. Projects that wait for an owner are looked for from
/// one priority to the next, so that none walks past those that sleep.
macro_rules! hints {
    () => {
        "
select 'now', $1::uuid, (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    0::bigint, null::text
union all
select 'own', id, mail, 0, null from projects where session = $1
union all
select 'adopt', due.id, due.priority, due.mail, null from (
    with recursive level (priority) as (
        (select p.priority from projects p
            where p.session is null and p.wake_at < 9223372036854775807
            order by p.priority desc limit 1)
        union all
        select (select p.priority from projects p
            where p.session is null and p.wake_at < 9223372036854775807
                and p.priority < level.priority
            order by p.priority desc limit 1)
        from level where level.priority is not null
    )
    select p.* from level cross join lateral (
        select p.id, p.priority, p.mail from projects p
        where p.session is null and p.priority = level.priority
            and p.wake_at between 0
                and (extract(epoch from statement_timestamp()) * 1000000)::bigint
        order by p.wake_at, p.id limit 256) p
    limit 256) due
union all
select 'adopt', m.id, m.priority, m.mail, null from (
    select p.id, p.priority, p.mail from projects p
    where p.session is null and p.wake_at < 0
    limit 64) m
union all
select 'claim', project, no, attempt,
    replace(claim::text, '-', '') || case when stop then ' stop' else '' end
    from claims where session = $1 and state = 'claimed'
union all
select 'offer', $1, count(*), 0, queue || chr(10) || kind from claims
    where state = 'open' and queue not in (select name from paused_queues)
    group by queue, kind
union all
select 'paused', $1, 0, 0, name from paused_queues
union all
select case
        when state in ('dead', 'drained') then 'ended'
        when until < (extract(epoch from clock_timestamp()) * 1000000)::bigint then 'late'
        else 'other' end,
    id, beat, hungry, serves
    from sessions where id <> $1
union all
select 'slots', id, slots, lease, null from sessions where id <> $1
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
        hungry = $3,
        paused = $4
    where id = $1 and state in ('live', 'draining')
    returning id, beat, state
)",
    hints!(),
    "select 'alive', id, beat, 0, state from me"
);
