-- Who replayed what, and why: one row for each replay, never changed. `event` is the number of
-- its event in the history of the project; `detail` what was asked for, as JSON.
create table replays (
    project blob not null references projects (id) on delete cascade,
    event integer not null,
    at integer not null,
    who text not null,
    reason text not null,
    detail text not null,
    primary key (project, event)
) strict, without rowid;
