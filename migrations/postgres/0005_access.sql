-- Who may ask over HTTP, what was asked, and what lists of projects are searched by.

-- Only the SHA-256 of a token is kept.
create table tokens (
    id uuid primary key,
    name text not null,
    role text not null check (role in ('viewer', 'operator', 'admin')),
    hash bytea not null unique check (length(hash) = 32),
    created_at bigint not null,
    revoked_at bigint
);

-- Every change that somebody asked for, in the transaction that made it.
create table audit (
    seq bigint generated always as identity primary key,
    at bigint not null,
    who text not null,
    what text not null,
    project uuid references projects (id) on delete set null,
    detail text not null,
    request text not null
);

create index audit_by_project on audit (project, seq) where project is not null;

create table project_labels (
    project uuid not null references projects (id) on delete cascade,
    name text not null,
    value text not null,
    primary key (name, value, project)
);

insert into project_labels (project, name, value)
select d.project, l.key, l.value from project_data d, json_each_text(d.labels::json) l;

create table plan_kinds (
    plan bytea not null references plans (hash),
    kind text not null,
    primary key (kind, plan)
);

insert into plan_kinds (plan, kind)
select p.hash, s->'action'->'run'->>'kind'
from plans p, json_array_elements(convert_from(p.body, 'UTF8')::json->'steps') s
where s->'action'->'run'->>'kind' is not null
union
select p.hash, b->'action'->'run'->>'kind'
from plans p, json_array_elements(convert_from(p.body, 'UTF8')::json->'steps') s,
    json_array_elements(s->'action'->'for_each'->'body'->'steps') b
where b->'action'->'run'->>'kind' is not null
on conflict do nothing;
