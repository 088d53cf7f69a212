-- Values that a step keeps while it runs: the next attempt of the same generation goes on
-- from them.
create table checkpoints (
    project uuid not null references projects (id) on delete cascade,
    no bigint not null,
    generation bigint not null,
    name text not null,
    at bigint not null,
    body bytea not null,
    primary key (project, no, generation, name)
);

do $$
begin
    alter table checkpoints alter column body set compression lz4;
exception when feature_not_supported then
    raise notice 'this server was built without lz4: values are compressed as before';
end
$$;
