-- Who replayed what, and why: one row for each replay, never changed. `event` is the number of
-- its event in the history of the project; `detail` what was asked for, as JSON.
create table replays (
    project uuid not null references projects (id) on delete cascade,
    event bigint not null,
    at bigint not null,
    who text not null,
    reason text not null,
    detail text not null,
    primary key (project, event)
);
