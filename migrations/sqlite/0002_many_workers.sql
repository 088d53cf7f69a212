-- Many workers on one database: sessions with leases, projects that wait for an owner,
-- and claims, which let another worker than the owner run a step. On SQLite one process
-- executes, so leases do not expire and nothing is offered; the tables are the same.

-- When the project wants an owner: 0 at once, later for its next timer, never when null.
alter table projects add column wake_at integer;
update projects set wake_at = 0, session = null
    where state in ('pending', 'running', 'paused') or mail > 0;

-- Adoption looks here, most urgent first. No column of it changes while a project runs.
create index projects_adoptable on projects (priority desc, wake_at, id)
    where session is null and wake_at is not null;
create index projects_by_session on projects (session) where session is not null;

-- A session is alive as long as it beats: `beat` rises, `until` moves on by `lease`.
-- Sessions of an older version own nothing any more.
delete from sessions;
alter table sessions add column beat integer not null default 0;
alter table sessions add column lease integer not null default 0;
alter table sessions add column until integer not null default 0;
-- Where it runs, for people.
alter table sessions add column host text not null default '';
-- How many steps it runs at once, how many run, and how many more it could take of others.
alter table sessions add column slots integer not null default 0;
alter table sessions add column busy integer not null default 0;
alter table sessions add column hungry integer not null default 0;
-- The queues and kinds it runs: a JSON object.
alter table sessions add column serves text not null default '{}';

-- The right to run one attempt of a step, apart from the ownership of its project: it
-- survives a change of owner. Open until somebody takes it, then claimed under an id of
-- its own; the outcome waits here until the owner has recorded it.
create table claims (
    project blob not null references projects (id) on delete cascade,
    no integer not null,
    generation integer not null check (generation >= 1),
    attempt integer not null check (attempt >= 1),
    state text not null check (state in ('open', 'claimed', 'done', 'lost')),
    queue text not null,
    kind text not null,
    priority integer not null,
    claim blob,
    session blob,
    -- The project wants the attempt to stop.
    stop integer not null default 0,
    -- For a lost one: whether the step is charged with a crash.
    charged integer not null default 0,
    offered_at integer not null,
    claimed_at integer,
    outcome blob,
    primary key (project, no),
    check ((state = 'open') = (claim is null)),
    check ((state = 'done') = (outcome is not null))
) strict, without rowid;

create index claims_open on claims (queue, priority desc, offered_at) where state = 'open';
create index claims_by_session on claims (session) where state = 'claimed';
