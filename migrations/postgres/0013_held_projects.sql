-- Projects that wait until a paused queue goes on stand apart: nobody walks past them, and a
-- program that would not wake them refuses this schema.
drop index projects_adoptable;
create index projects_adoptable on projects (priority desc, wake_at, id)
    where session is null and wake_at < 9223372036854775807;
create index projects_held on projects (id)
    where session is null and wake_at = 9223372036854775807;
