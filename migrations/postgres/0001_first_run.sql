-- The first schema: projects, their plans, the facts about their steps, their history.
--
-- Rows are facts: what follows from the plan and other facts (blocked, ready, skipped by
-- a rule, upstream_failed, cancelled before a start) has no row. Times are microseconds
-- since the Unix epoch, payloads bytes exactly as received and never jsonb, which refuses,
-- widens or reorders values.

create table plans (
    hash bytea primary key check (octet_length(hash) = 32),
    format bigint not null,
    body bytea not null
);

-- Narrow, because every commit of a project rewrites its row.
create table projects (
    id uuid primary key,
    name text not null,
    state text not null check (state in
        ('pending', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    reason text,
    plan bytea not null references plans (hash),
    priority bigint not null,
    -- The fence of the owner: who may write, and how often it changed hands.
    session uuid,
    epoch bigint not null default 0,
    -- How often it was taken over since its last commit.
    adoptions bigint not null default 0,
    -- How often it was taken over since it could be loaded: what brings its workers down
    -- by being loaded is paused.
    loads bigint not null default 0,
    -- Whether the steps recorded as running when it was taken over are charged with a
    -- crash: not after a graceful end.
    charged boolean not null default false,
    -- The number of the latest event; a commit moves it from what it read to what it
    -- wrote, or does not happen.
    last_event bigint not null default 0,
    -- Raised with every message, so that no wake-up is lost.
    mail bigint not null default 0,
    -- Step numbers below this are taken.
    next_no bigint not null,
    counts text not null default '{}',
    created_at bigint not null,
    began_at bigint,
    cancelled_at bigint,
    finished_at bigint,
    check ((state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null))
) with (
    -- Its rows are rewritten in place, and dead versions leave at once.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_cost_delay = 0
);

create index projects_open on projects (priority desc, id)
    where state in ('pending', 'running', 'paused');
create index projects_by_name on projects (name);
create index projects_by_age on projects (created_at desc, id desc);

-- What is wide and written once or twice.
create table project_data (
    project uuid primary key references projects (id) on delete cascade,
    inputs bytea not null,
    labels text not null,
    fingerprint bytea not null,
    output bytea
);

create table steps (
    project uuid not null references projects (id) on delete cascade,
    no bigint not null,
    generation bigint not null check (generation >= 1),
    attempt bigint not null check (attempt >= 0),
    failures bigint not null,
    crashes bigint not null,
    state text not null check (state in
        ('blocked', 'ready', 'running', 'waiting', 'succeeded', 'failed',
         'upstream_failed', 'skipped', 'cancelled', 'quarantined')),
    at bigint not null,
    began_at bigint,
    started_at bigint,
    wait text check (wait is null or wait in ('retry', 'timer')),
    until bigint,
    -- Children of a `for_each`: the number of the first, and how many items.
    first_child bigint,
    items bigint,
    -- Inline up to 2 KiB; larger ones are in `blobs`, and this is null.
    output bytea,
    -- The size of an output in `blobs`.
    blob_size bigint,
    error text,
    primary key (project, no),
    check ((state = 'waiting') = (wait is not null and until is not null))
);

create table blobs (
    project uuid not null references projects (id) on delete cascade,
    no bigint not null,
    generation bigint not null,
    body bytea not null,
    primary key (project, no, generation)
);

-- Attempts that another one followed; the latest is in `steps`.
create table attempts (
    project uuid not null references projects (id) on delete cascade,
    no bigint not null,
    generation bigint not null,
    attempt bigint not null,
    state text not null check (state in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')),
    started_at bigint,
    finished_at bigint not null,
    error text,
    output bytea,
    primary key (project, no, generation, attempt)
);

-- One packed row per project and commit.
create table events (
    project uuid not null references projects (id) on delete cascade,
    first bigint not null,
    last bigint not null check (last >= first),
    body bytea not null,
    primary key (project, first)
);

create table mailbox (
    id bigint generated always as identity primary key,
    project uuid not null references projects (id) on delete cascade,
    kind text not null check (kind in ('cancel', 'pause', 'resume')),
    sent_at bigint not null
);

create index mailbox_by_project on mailbox (project);

create table logs (
    project uuid not null references projects (id) on delete cascade,
    no bigint not null,
    seq bigint not null,
    generation bigint not null,
    attempt bigint not null,
    at bigint not null,
    line text not null,
    primary key (project, no, seq)
);

create table sessions (
    id uuid primary key,
    state text not null check (state in ('live', 'draining', 'drained', 'dead')),
    process bigint not null,
    command text not null,
    started_at bigint not null
);
