-- The server reads the text of each check once more for every statement that writes: a fifth
-- of what it does for a commit of one step. What these checks say is what the program that
-- writes these rows cannot express otherwise; what comes from elsewhere, an imported project,
-- is checked when it comes.
-- All at once, in the order in which submissions lock them.
lock table plans, projects, project_data, steps, events in access exclusive mode;

alter table projects
    drop constraint projects_state_check,
    drop constraint projects_check;
alter table steps
    drop constraint steps_generation_check,
    drop constraint steps_attempt_check,
    drop constraint steps_state_check,
    drop constraint steps_wait_check,
    drop constraint steps_check;
alter table events drop constraint events_check;

-- The same holds for references that the statements keep themselves: a project and its data
-- are written in one, which looks its plan up.
alter table projects drop constraint projects_plan_fkey;
alter table project_data drop constraint project_data_project_fkey;

create or replace function remove_rows_of_project() returns trigger language plpgsql as $$
begin
    execute format('delete from %I.project_data where project = $1', tg_table_schema)
        using old.id;
    execute format('delete from %I.steps where project = $1', tg_table_schema) using old.id;
    execute format('delete from %I.events where project = $1', tg_table_schema) using old.id;
    return old;
end
$$;

-- Room for the output beside the inputs: its row is written in place, without its index.
alter table project_data set (fillfactor = 60);

-- Projects without an owner to whom somebody has sent a message: they are told first.
create index projects_told on projects (id) where session is null and wake_at < 0;
