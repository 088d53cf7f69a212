-- Values that a step keeps while it runs: the next attempt of the same generation goes on
-- from them.
create table checkpoints (
    project blob not null references projects (id) on delete cascade,
    no integer not null,
    generation integer not null,
    name text not null,
    at integer not null,
    body blob not null,
    primary key (project, no, generation, name)
) strict, without rowid;
