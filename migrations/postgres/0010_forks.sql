-- Forks: projects that share the checkpoints of another one. Outputs are not copied: a step
-- of a fork that has none of its own has that of its base in the same generation.
create table forks (
    project uuid primary key references projects (id) on delete cascade,
    base uuid not null references projects (id),
    at bigint not null,
    who text not null,
    reason text not null
);

create index forks_by_base on forks (base);

-- Where the number of a step in the base is another one: the fork is of a new document.
create table fork_steps (
    project uuid not null references projects (id) on delete cascade,
    no bigint not null,
    base_no bigint not null,
    primary key (project, no)
);
