-- The plans of steps that became a canvas while they ran, and of members that they added to
-- their group. The numbers of the steps are in the row of the step.
create table expansions (
    project blob not null references projects (id) on delete cascade,
    no integer not null,
    body blob not null,
    primary key (project, no)
) strict;
