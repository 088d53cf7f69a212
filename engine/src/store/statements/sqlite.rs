//! The catalogue in full, as SQLite says it.

use super::{Statements, submit};

/// The outputs that another project has from this one. `$2` is a list of
/// `[number, generation]`; what a replay has set back since is among its attempts.
macro_rules! lent {
    () => {
        "
select json_extract(l.value, '$[0]') as no, coalesce(
    (select s.output from steps s where s.project = $1
        and s.no = json_extract(l.value, '$[0]') and s.generation = json_extract(l.value, '$[1]')),
    (select b.body from blobs b where b.project = $1
        and b.no = json_extract(l.value, '$[0]') and b.generation = json_extract(l.value, '$[1]')),
    (select a.output from attempts a where a.project = $1 and a.output is not null
        and a.no = json_extract(l.value, '$[0]') and a.generation = json_extract(l.value, '$[1]')
        order by a.attempt desc limit 1)) as body
from json_each($2) l"
    };
}

/// The text for SQLite.
pub(crate) const SQLITE: Statements = Statements {
    put_plan: "
insert into plans (hash, format, body) values ($1, $2, $3)
on conflict (hash) do nothing",

    put_plan_kinds: "
insert into plan_kinds (plan, kind) select $1, value from json_each($2) where true
on conflict do nothing",

    put_labels: "
insert into project_labels (project, name, value)
select $1, json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each($2)",

    put_audit: "
insert into audit (at, who, what, project, detail, request) values ($1, $2, $3, $4, $5, $6)",

    put_token: "
insert into tokens (id, name, role, hash, created_at) values ($1, $2, $3, $4, $5)",

    revoke_token: "
update tokens set revoked_at = $2 where id = $1 and revoked_at is null",

    token: "
select id, name, role, created_at, revoked_at from tokens
where hash = $1 and revoked_at is null",

    tokens: "
select id, name, role, created_at, revoked_at from tokens order by created_at, id",

    audit: "
select seq, at, who, what, project, detail, request from audit
where ($1 is null or seq < $1) and ($2 is null or project = $2)
order by seq desc limit $3",

    queues: "
select queue, sum(open), sum(claimed), min(offered_at), max(paused_at)
from (
    select queue, state = 'open' as open, state = 'claimed' as claimed,
        case when state = 'open' then offered_at end as offered_at, null as paused_at
    from claims where state in ('open', 'claimed')
    union all
    select name, 0, 0, null, paused_at from paused_queues)
group by queue order by queue",

    pause_queue: "
insert into paused_queues (name, paused_at) values ($1, $2) on conflict (name) do nothing",

    resume_queue: "delete from paused_queues where name = $1",

    lock_queues: "select name from paused_queues where name in (select value from json_each($1))",

    // What waits until a queue goes on, a part at a time.
    wake_held: "
update projects set wake_at = 0
where id in (select id from projects
    where session is null and wake_at = 9223372036854775807 limit 10000)",

    // As `release`; but a charge stays: nothing has started since.
    rest: "
update projects set session = null, wake_at = 9223372036854775807, adoptions = 0, loads = 0
where session = $1 and mail = 0
    and (id, epoch) in (select unhex(value ->> 0), value ->> 1 from json_each($2))
returning id",

    // What followers of projects have not heard of yet.
    last_events: "
select id, last_event, finished_at is not null from projects
where id in (select unhex(value) from json_each($1))",

    put_projects: submit::SQLITE,

    fingerprint: "select fingerprint from project_data where project = $1",

    put_event: "insert into events (project, first, last, body) values ($1, $2, $3, $4)",

    clock: "select cast(unixepoch('subsec') * 1000000 as integer)",

    put_session: "
insert into sessions (id, state, process, command, started_at, host, lease, until, slots, serves)
values ($1, 'live', $2, $3, $4, $5, $6,
    cast(unixepoch('subsec') * 1000000 as integer) + $6, $7, $8)",

    // Held until the end of the session is written; on a file every writer is alone.
    lock_session: "select id from sessions where id = $1",

    // The lock on the file says that every other session is dead. How it ended decides
    // whether its steps are suspects.
    lapse_others: "
update sessions
set state = case state when 'draining' then 'drained' else 'dead' end
where state in ('live', 'draining') and id <> $1",

    drain_session: "update sessions set state = 'draining' where id = $1 and state = 'live'",

    beat: "
update sessions
set beat = beat + 1,
    until = cast(unixepoch('subsec') * 1000000 as integer) + lease,
    busy = $2,
    hungry = $3
where id = $1 and state in ('live', 'draining')",

    // Everything a session must know, in one statement: idle is one query a second.
    // Columns: what, id, number, number, text.
    look: "
select 'now', $1, cast(unixepoch('subsec') * 1000000 as integer), 0, null
union all
select 'alive', id, beat, 0, state from sessions
    where id = $1 and state in ('live', 'draining')
union all
select 'own', id, mail, 0, null from projects where session = $1
union all
select * from (
    select 'adopt', id, priority, mail, null from projects
    where session is null
        and wake_at between 0 and cast(unixepoch('subsec') * 1000000 as integer)
        and wake_at < 9223372036854775807
    order by priority desc, wake_at, id limit 256)
union all
select * from (
    select 'adopt', id, priority, mail, null from projects
    where session is null and wake_at < 0
    limit 64)
union all
select 'claim', project, no, attempt, lower(hex(claim)) || case when stop then ' stop' else '' end
    from claims where session = $1 and state = 'claimed'
union all
select 'offer', $1, count(*), 0, queue || char(10) || kind from claims
    where state = 'open' and queue not in (select name from paused_queues)
    group by queue, kind
union all
select 'paused', $1, 0, 0, name from paused_queues
union all
select case
        when state in ('dead', 'drained') then 'ended'
        when until < cast(unixepoch('subsec') * 1000000 as integer) then 'late'
        else 'other' end,
    id, beat, hungry, serves
    from sessions where id <> $1
union all
select 'slots', id, slots, lease, null from sessions where id <> $1",

    pulse: None,

    put_project: None,
    commit: None,

    // The first move of reaping: fenced by the beat that was seen.
    expire_session: "
update sessions
set state = case state when 'draining' then 'drained' else 'dead' end
where id = $1 and beat = $2 and state in ('live', 'draining')
    and ($3 or until < cast(unixepoch('subsec') * 1000000 as integer))",

    ended_sessions: "select id, state from sessions where state in ('dead', 'drained') order by id",

    lock_owned: "select value from json_each($1)",

    // The second move: what an ended session owned waits for a new owner. Steps recorded
    // as running are charged with a crash unless it drained; what an owner that died
    // before its first commit has started is not known, so what was noted before it stands:
    // the next owner writes its starts first, so that it is known then.
    free_projects: "
update projects set
    charged = case when adoptions > 0 then charged else $2 end,
    adoptions = case when $2 then adoptions else 0 end,
    session = null,
    wake_at = case
        when state in ('succeeded', 'failed', 'cancelled') and mail = 0 then null
        else 0 end
where session = $1",

    // Only the fact: what follows from it is for the owner of the project.
    lose_claims: "
update claims set state = 'lost', charged = $2
where session = $1 and state = 'claimed'
returning project",

    drop_session: "delete from sessions where id = $1",

    // Takes the project; reads come after, in the same transaction. A session that was
    // declared dead takes nothing.
    take_project: "
update projects set
    session = $2,
    epoch = epoch + 1,
    adoptions = adoptions + (session is null),
    loads = loads + 1
where id = $1 and (session is null or session = $2)
    and exists (select 1 from sessions s where s.id = $2 and s.state = 'live')",

    loaded: "update projects set loads = 0 where id = $1 and session = $2 and epoch = $3",

    park: "
update projects set
    state = 'paused', reason = $4, session = null,
    wake_at = case when mail > 0 then 0 end, adoptions = 0, loads = 0, charged = false,
    last_event = last_event + 1
where id = $1 and session = $2 and epoch = $3 and state in ('pending', 'running', 'paused')
returning last_event",

    // Refused while there is a message that the owner has not read: no wake-up is lost.
    release: "
update projects
set session = null, wake_at = $5, adoptions = 0, loads = 0, charged = false
where id = $1 and session = $2 and epoch = $3 and mail = $4",

    put_mail: "insert into mailbox (project, kind, no, sent_at) values ($1, $2, $3, $4)",

    raise_mail: "
update projects
set mail = mail + $2, wake_at = case when session is null then -1 else wake_at end
where id = $1",

    reopen: "
update projects set
    state = 'pending', reason = null, finished_at = null, cancelled_at = null,
    counts = $4, last_event = last_event + 1, mail = 0, session = null, wake_at = 0,
    charged = false, plan = $5
where id = $1 and last_event = $2 and plan = $3 and (state in ('succeeded', 'failed', 'cancelled')
    or (state = 'paused' and session is null and mail = 0))",

    put_inputs: "update project_data set inputs = $2 where project = $1",

    // An output that was given: as if the step had succeeded, without an attempt.
    pin: "
insert into steps
    (project, no, generation, attempt, failures, crashes, state, at, output, blob_size)
values ($1, $2, $3, 0, 0, 0, 'succeeded', $4, $5, $6)
on conflict (project, no) do update set
    generation = excluded.generation,
    attempt = 0, failures = 0, crashes = 0, state = 'succeeded',
    at = excluded.at, began_at = null, started_at = null, wait = null, until = null,
    first_child = null, items = null, output = excluded.output,
    blob_size = excluded.blob_size, error = null",

    put_blob: "
insert into blobs (project, no, generation, body) values ($1, $2, $3, $4)
on conflict (project, no, generation) do update set body = excluded.body",

    // The right to run the step is looked at in the same statement.
    put_checkpoint: "
insert into checkpoints (project, no, generation, name, at, body)
select $1, $2, $3, $4, $5, $6 from projects
where id = $1 and session = $7 and epoch = $8
on conflict do nothing",

    put_claimed_checkpoint: "
insert into checkpoints (project, no, generation, name, at, body)
select $1, $2, $3, $4, $5, $6 from claims
where project = $1 and no = $2 and claim = $7 and state = 'claimed' and $8 = 0
on conflict do nothing",

    checkpoints: "
select name, at, body from checkpoints
where project = $1 and no = $2 and generation = $3 order by at, name",

    // `$2` is a list of `[number, next generation]`.
    keep_checkpoints: "
update checkpoints set generation = generation + 1
from json_each($2) l
where checkpoints.project = $1 and checkpoints.no = json_extract(l.value, '$[0]')
    and checkpoints.generation = json_extract(l.value, '$[1]') - 1",

    unchanged: "
select 1 from projects where id = $1 and last_event = $2 and plan = $3
    and state in ('succeeded', 'failed', 'cancelled', 'paused')",

    fork_row: "update projects set counts = $2, next_no = $3, began_at = $4 where id = $1",

    // The facts of the base without their outputs, but for those that change.
    fork_steps: "
insert into steps (project, no, generation, attempt, failures, crashes, state, at, began_at,
    started_at, wait, until, first_child, items, error)
select $1, no, generation, attempt, failures, crashes, state, at, began_at,
    started_at, wait, until, first_child, items, error
from steps where project = $2 and no not in (select value from json_each($3))",

    fork_expansions: "
insert into expansions (project, no, body)
select $1, no, body from expansions
where project = $2 and no not in (select value from json_each($3))",

    // `$3` is a list of `[number, number in the base]`.
    fork_renumbered: "
insert into steps (project, no, generation, attempt, failures, crashes, state, at, began_at,
    started_at, error)
select $1, json_extract(l.value, '$[0]'), s.generation, s.attempt, s.failures, s.crashes,
    s.state, s.at, s.began_at, s.started_at, s.error
from json_each($3) l
join steps s on s.project = $2 and s.no = json_extract(l.value, '$[1]')",

    fork_numbers: "
insert into fork_steps (project, no, base_no)
select $1, json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each($2)
where json_extract(value, '$[0]') <> json_extract(value, '$[1]')",

    put_fork: "
insert into forks (project, base, at, who, reason) values ($1, $2, $3, $4, $5)",

    lineage: "
select project, base, at, who, reason from forks
where project = $1 or base = $1 order by at, project",

    base: "select base from forks where project = $1",

    // Successes without an output of their own, and lists without their items.
    lacking: "
select no, generation from steps
where project = $1 and no in (select value from json_each($2))
    and (state = 'succeeded' or items is not null or wait = 'timer')
    and output is null and blob_size is null",

    renumbered: "
select no, base_no from fork_steps
where project = $1 and no in (select value from json_each($2))",

    lent: lent!(),

    lent_sizes: concat!(
        "select no, length(body) from (",
        lent!(),
        ") as outputs where body is not null"
    ),

    // From an archive. It waits for a replay, or for `resume`.
    import_project: "
insert into projects (id, name, state, reason, plan, priority, last_event, next_no, counts,
    created_at, began_at, cancelled_at, finished_at, wake_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
    case when $3 = 'paused' then 0 end)
on conflict (id) do nothing",

    // What the base of a fork held stands apart, as if it were large.
    import_sizes: "
update steps set blob_size = (select octet_length(b.body) from blobs b
    where b.project = steps.project and b.no = steps.no and b.generation = steps.generation)
where project = $1 and output is null and blob_size is null
    and (state = 'succeeded' or items is not null or wait = 'timer')",

    put_replay: "
insert into replays (project, event, at, who, reason, detail) values ($1, $2, $3, $4, $5, $6)",

    replays: "
select event, at, who, reason, detail from replays where project = $1 order by event",

    // A replay keeps what steps were as attempts, and sets their rows back: `$2` is a list
    // of `[number, next generation]`.
    keep_attempts: "
insert into attempts
    (project, no, generation, attempt, state, started_at, finished_at, error, output)
select s.project, s.no, s.generation, s.attempt, s.state, s.started_at, s.at, s.error,
    coalesce(s.output, (select b.body from blobs b
        where b.project = s.project and b.no = s.no and b.generation = s.generation))
from json_each($2) l join steps s on s.project = $1 and s.no = json_extract(l.value, '$[0]')
where s.state in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing",

    // The same for steps that go: `$2` is a list of numbers.
    keep_gone_attempts: "
insert into attempts
    (project, no, generation, attempt, state, started_at, finished_at, error, output)
select s.project, s.no, s.generation, s.attempt, s.state, s.started_at, s.at, s.error,
    coalesce(s.output, (select b.body from blobs b
        where b.project = s.project and b.no = s.no and b.generation = s.generation))
from json_each($2) l join steps s on s.project = $1 and s.no = l.value
where s.state in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing",

    // What a step held that had not ended (the list of a `for_each`, the value of one that
    // waits) is no outcome of an attempt; a fork may have it from here.
    lend_on: "
insert into blobs (project, no, generation, body)
select s.project, s.no, s.generation, s.output
from json_each($2) l join steps s on s.project = $1 and s.no = json_extract(l.value, '$[0]')
where s.output is not null
    and s.state not in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing",

    lend_gone_on: "
insert into blobs (project, no, generation, body)
select s.project, s.no, s.generation, s.output
from json_each($2) l join steps s on s.project = $1 and s.no = l.value
where s.output is not null
    and s.state not in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')
on conflict do nothing",

    drop_steps: "
delete from steps where project = $1 and no in (select value from json_each($2))",

    drop_expansions: "
delete from expansions where project = $1
    and no in (select json_extract(value, '$[0]') from json_each($2))",

    drop_gone_expansions: "
delete from expansions where project = $1 and no in (select value from json_each($2))",

    set_back: "
insert into steps (project, no, generation, attempt, failures, crashes, state, at)
select $1, json_extract(value, '$[0]'), json_extract(value, '$[1]'), 0, 0, 0, 'blocked', $3
from json_each($2) where true
on conflict (project, no) do update set
    generation = excluded.generation,
    attempt = 0, failures = 0, crashes = 0, state = 'blocked',
    at = excluded.at, began_at = null, started_at = null, wait = null, until = null,
    first_child = null, items = null, output = null, blob_size = null, error = null",

    // What was meant for the project before it ended came too late.
    drop_mail: "delete from mailbox where project = $1",

    drop_output: "update project_data set output = null where project = $1",

    drop_claims: "delete from claims where project = $1",

    // `$2` and `$3` are the queues and kinds that the session serves. A session that was
    // declared dead claims nothing, or its claim would never be found lost. An owner takes
    // its own offers back instead of claiming them.
    claim: "
with picked as materialized (
    select project, no from claims
    where state = 'open'
        and ($2 = '[]' or queue in (select value from json_each($2)))
        and kind in (select value from json_each($3))
        and queue not in (select name from paused_queues)
        and exists (select 1 from sessions s where s.id = $1 and s.state = 'live')
        and not exists (
            select 1 from projects p where p.id = claims.project and p.session = $1)
    order by priority desc, offered_at
    limit $4
)
update claims
set state = 'claimed', claim = $5, session = $1, claimed_at = $6
from picked
where claims.project = picked.project and claims.no = picked.no and claims.state = 'open'
returning claims.project, claims.no, claims.generation, claims.attempt",

    // The lock order is: projects by id, then claims.
    lock_projects: "select value from json_each($1)",

    deliver: "
update claims set state = 'done', outcome = $4
where project = $1 and no = $2 and claim = $3 and state = 'claimed'",

    granted: "
select distinct project from claims where claim = $1 and state = 'claimed' order by 1",

    unclaim: "
update claims set state = 'lost'
where claim = $1 and state = 'claimed'
returning project",

    project: "
select id, name, state, reason, plan, priority, session, epoch, loads, last_event,
    mail, next_no, counts, created_at, began_at, cancelled_at, finished_at, charged, writes,
    adoptions
from projects where id = $1",

    list: "
select id, name, state, reason, plan, priority, session, epoch, loads, last_event,
    mail, next_no, counts, created_at, began_at, cancelled_at, finished_at, charged, writes,
    adoptions
from projects
where ($1 is null or (created_at, id) < ($1, $2))
    and ($3 = '' or instr($3, ',' || state || ',') > 0)
    and ($4 is null or created_at >= $4)
    and ($5 is null or name = $5)
    and ($6 is null or plan in (select plan from plan_kinds where kind = $6))
    and ($7 = '[]' or not exists (
        select 1 from json_each($7) w where not exists (
            select 1 from project_labels l
            where l.name = json_extract(w.value, '$[0]')
                and l.value = json_extract(w.value, '$[1]')
                and l.project = projects.id)))
order by created_at desc, id desc
limit $8",

    steps: "
select no, generation, attempt, failures, crashes, state, at, began_at, started_at, wait,
    until, first_child, items, error
from steps where project = $1 order by no",

    expansions: "select no, body from expansions where project = $1",

    claims: "
select no, generation, attempt, state, claimed_at, session
from claims where project = $1 order by no",

    data: "select inputs, labels, output from project_data where project = $1",

    // Apart from the rest, because a process that has the plan need not read it again.
    plan: "select body from plans where hash = $1",

    mail: "select id, project, kind, no from mailbox where project = $1 order by id",

    outcomes: "
select no, generation, attempt, state, claimed_at, charged, outcome
from claims where project = $1 and state in ('done', 'lost') order by no",

    // `$2` is a list of numbers: a statement for each step costs a round trip each.
    output_sizes: "
select no, coalesce(length(output), blob_size)
from steps
where project = $1 and no in (select value from json_each($2))
    and (output is not null or blob_size is not null)",

    outputs: "
select s.no, coalesce(s.output, b.body)
from steps s
left join blobs b on b.project = s.project and b.no = s.no
    and b.generation = s.generation and s.blob_size is not null
where s.project = $1 and s.no in (select value from json_each($2))
    and (s.output is not null or b.body is not null)",

    events: "
select first, body, last from events
where project = $1 and last > $2
order by first limit $3",

    commits: "select first from events where project = $1 order by first",

    attempts: "
select no, generation, attempt, state, started_at, finished_at, error, output
from attempts where project = $1 order by no, generation, attempt",

    logs: "
select no, generation, attempt, at, line from logs
where project = $1 and ($2 is null or no = $2) order by at, no, seq",

    last_logs: "
select no, max(seq) from logs
where project = $1 and no in (select value from json_each($2)) group by no",

    by_ending: "
select id from projects where lower(hex(id)) like '%' || $1 order by id desc limit 2",

    by_name: "
select id from projects where name = $1 order by created_at desc, id desc limit 2",

    latest: "select id from projects order by created_at desc, id desc limit 1",

    sessions: "
select s.id, s.state, s.host, s.process, s.command, s.started_at, s.slots, s.busy,
    s.serves, s.until - cast(unixepoch('subsec') * 1000000 as integer),
    (select count(*) from projects p where p.session = s.id),
    (select count(*) from claims c where c.session = s.id and c.state = 'claimed'),
    s.lease, s.paused
from sessions s order by s.started_at, s.id",

    // What a commit does to claims and messages: `$2` is a list, because a statement for each
    // costs a round trip each. Offers: step, generation, attempt, queue, kind, priority, time.
    put_offers: "
insert into claims (project, no, generation, attempt, state, queue, kind, priority, offered_at)
select $1, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    'open', json_extract(value, '$[3]'), json_extract(value, '$[4]'),
    json_extract(value, '$[5]'), json_extract(value, '$[6]')
from json_each($2) where true
on conflict do nothing",

    // Only while nobody has taken it: who took it runs it.
    withdraw: "
delete from claims
where project = $1 and no in (select value from json_each($2)) and state = 'open'
returning no",

    stop_claims: "
update claims set stop = true
where project = $1 and no in (select value from json_each($2)) and state = 'claimed'",

    consume_claims: "
delete from claims
where project = $1 and state in ('done', 'lost') and (no, generation, attempt) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]'),
        json_extract(value, '$[2]')
    from json_each($2))",

    consume_mail: "
delete from mailbox where project = $1 and id in (select value from json_each($2))",
};
