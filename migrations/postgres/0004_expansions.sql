-- The plans of steps that became a canvas while they ran, and of members that they added to
-- their group. The numbers of the steps are in the row of the step.
create table expansions (
    project uuid not null references projects (id) on delete cascade,
    no bigint not null,
    body bytea not null,
    primary key (project, no)
);
