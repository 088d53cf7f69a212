-- Who may ask over HTTP, what was asked, and what lists of projects are searched by.

-- Only the SHA-256 of a token is kept.
create table tokens (
    id blob primary key check (length(id) = 16),
    name text not null,
    role text not null check (role in ('viewer', 'operator', 'admin')),
    hash blob not null unique check (length(hash) = 32),
    created_at integer not null,
    revoked_at integer
) strict, without rowid;

-- Every change that somebody asked for, in the transaction that made it.
create table audit (
    seq integer primary key autoincrement,
    at integer not null,
    who text not null,
    what text not null,
    project blob references projects (id) on delete set null,
    detail text not null,
    request text not null
) strict;

create index audit_by_project on audit (project, seq) where project is not null;

create table project_labels (
    project blob not null references projects (id) on delete cascade,
    name text not null,
    value text not null,
    primary key (name, value, project)
) strict, without rowid;

insert into project_labels (project, name, value)
select d.project, l.key, l.value from project_data d, json_each(d.labels) l;

create table plan_kinds (
    plan blob not null references plans (hash),
    kind text not null,
    primary key (kind, plan)
) strict, without rowid;

insert or ignore into plan_kinds (plan, kind)
select p.hash, json_extract(s.value, '$.action.run.kind')
from plans p, json_each(cast(p.body as text), '$.steps') s
where json_extract(s.value, '$.action.run.kind') is not null
union
select p.hash, json_extract(b.value, '$.action.run.kind')
from plans p, json_each(cast(p.body as text), '$.steps') s,
    json_each(s.value, '$.action.for_each.body.steps') b
where json_extract(b.value, '$.action.run.kind') is not null;
