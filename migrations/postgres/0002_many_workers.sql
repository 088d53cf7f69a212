-- Many workers on one database: sessions with leases, projects that wait for an owner,
-- and claims, which let another worker than the owner run a step.

-- When the project wants an owner: 0 at once, later for its next timer, never when null.
alter table projects add column wake_at bigint;
update projects set wake_at = 0, session = null
    where state in ('pending', 'running', 'paused') or mail > 0;

-- Adoption looks here, most urgent first. No column of it changes while a project runs.
create index projects_adoptable on projects (priority desc, wake_at, id)
    where session is null and wake_at is not null;
create index projects_by_session on projects (session) where session is not null;

-- A session is alive as long as it beats: `beat` rises, `until` moves on by `lease`.
-- Sessions of an older version own nothing any more.
delete from sessions;
alter table sessions add column beat bigint not null default 0;
alter table sessions add column lease bigint not null default 0;
alter table sessions add column until bigint not null default 0;
-- Where it runs, for people.
alter table sessions add column host text not null default '';
-- How many steps it runs at once, how many run, and how many more it could take of others.
alter table sessions add column slots bigint not null default 0;
alter table sessions add column busy bigint not null default 0;
alter table sessions add column hungry bigint not null default 0;
-- The queues and kinds it runs: a JSON object.
alter table sessions add column serves text not null default '{}';
alter table sessions set (fillfactor = 50, autovacuum_vacuum_cost_delay = 0);

-- The right to run one attempt of a step, apart from the ownership of its project: it
-- survives a change of owner. Open until somebody takes it, then claimed under an id of
-- its own; the outcome waits here until the owner has recorded it.
create table claims (
    project uuid not null references projects (id) on delete cascade,
    no bigint not null,
    generation bigint not null check (generation >= 1),
    attempt bigint not null check (attempt >= 1),
    state text not null check (state in ('open', 'claimed', 'done', 'lost')),
    queue text not null,
    kind text not null,
    priority bigint not null,
    claim uuid,
    session uuid,
    -- The project wants the attempt to stop.
    stop boolean not null default false,
    -- For a lost one: whether the step is charged with a crash.
    charged boolean not null default false,
    offered_at bigint not null,
    claimed_at bigint,
    outcome bytea,
    primary key (project, no),
    check ((state = 'open') = (claim is null)),
    check ((state = 'done') = (outcome is not null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

create index claims_open on claims (queue, priority desc, offered_at) where state = 'open';
create index claims_by_session on claims (session) where state = 'claimed';
