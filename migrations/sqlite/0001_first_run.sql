-- The first schema: projects, their plans, the facts about their steps, their history.
--
-- Rows are facts: what follows from the plan and other facts (blocked, ready, skipped by
-- a rule, upstream_failed, cancelled before a start) has no row. Times are microseconds
-- since the Unix epoch, payloads bytes exactly as received, ids 16 bytes.

create table plans (
    hash blob primary key check (length(hash) = 32),
    format integer not null,
    body blob not null
) strict, without rowid;

-- Narrow, because every commit of a project rewrites its row.
create table projects (
    id blob primary key check (length(id) = 16),
    name text not null,
    state text not null check (state in
        ('pending', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    reason text,
    plan blob not null references plans (hash),
    priority integer not null,
    -- The fence of the owner: who may write, and how often it changed hands.
    session blob check (session is null or length(session) = 16),
    epoch integer not null default 0,
    -- How often it was taken over since its last commit.
    adoptions integer not null default 0,
    -- How often it was taken over since it could be loaded: what brings its workers down
    -- by being loaded is paused.
    loads integer not null default 0,
    -- Whether the steps recorded as running when it was taken over are charged with a
    -- crash: not after a graceful end.
    charged integer not null default 0 check (charged in (0, 1)),
    -- The number of the latest event; a commit moves it from what it read to what it
    -- wrote, or does not happen.
    last_event integer not null default 0,
    -- Raised with every message, so that no wake-up is lost.
    mail integer not null default 0,
    -- Step numbers below this are taken.
    next_no integer not null,
    counts text not null default '{}',
    created_at integer not null,
    began_at integer,
    cancelled_at integer,
    finished_at integer,
    check ((state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null))
) strict, without rowid;

create index projects_open on projects (priority desc, id)
    where state in ('pending', 'running', 'paused');
create index projects_by_name on projects (name);
create index projects_by_age on projects (created_at desc, id desc);

-- What is wide and written once or twice.
create table project_data (
    project blob primary key references projects (id) on delete cascade,
    inputs blob not null,
    labels text not null,
    fingerprint blob not null,
    output blob
) strict, without rowid;

create table steps (
    project blob not null references projects (id) on delete cascade,
    no integer not null,
    generation integer not null check (generation >= 1),
    attempt integer not null check (attempt >= 0),
    failures integer not null,
    crashes integer not null,
    state text not null check (state in
        ('blocked', 'ready', 'running', 'waiting', 'succeeded', 'failed',
         'upstream_failed', 'skipped', 'cancelled', 'quarantined')),
    at integer not null,
    began_at integer,
    started_at integer,
    wait text check (wait is null or wait in ('retry', 'timer')),
    until integer,
    -- Children of a `for_each`: the number of the first, and how many items.
    first_child integer,
    items integer,
    -- Inline up to 2 KiB; larger ones are in `blobs`, and this is null.
    output blob,
    -- The size of an output in `blobs`.
    blob_size integer,
    error text,
    primary key (project, no),
    check ((state = 'waiting') = (wait is not null and until is not null))
) strict, without rowid;

create table blobs (
    project blob not null references projects (id) on delete cascade,
    no integer not null,
    generation integer not null,
    body blob not null,
    primary key (project, no, generation)
) strict;

-- Attempts that another one followed; the latest is in `steps`.
create table attempts (
    project blob not null references projects (id) on delete cascade,
    no integer not null,
    generation integer not null,
    attempt integer not null,
    state text not null check (state in ('succeeded', 'failed', 'cancelled', 'skipped', 'quarantined')),
    started_at integer,
    finished_at integer not null,
    error text,
    output blob,
    primary key (project, no, generation, attempt)
) strict, without rowid;

-- One packed row per project and commit.
create table events (
    project blob not null references projects (id) on delete cascade,
    first integer not null,
    last integer not null check (last >= first),
    body blob not null,
    primary key (project, first)
) strict, without rowid;

create table mailbox (
    id integer primary key autoincrement,
    project blob not null references projects (id) on delete cascade,
    kind text not null check (kind in ('cancel', 'pause', 'resume')),
    sent_at integer not null
) strict;

create index mailbox_by_project on mailbox (project);

create table logs (
    project blob not null references projects (id) on delete cascade,
    no integer not null,
    seq integer not null,
    generation integer not null,
    attempt integer not null,
    at integer not null,
    line text not null,
    primary key (project, no, seq)
) strict, without rowid;

create table sessions (
    id blob primary key check (length(id) = 16),
    state text not null check (state in ('live', 'draining', 'drained', 'dead')),
    process integer not null,
    command text not null,
    started_at integer not null
) strict, without rowid;
