-- Checks are left out by the connection here. The numbers stay the same on both.

-- Projects without an owner to whom somebody has sent a message: they are told first.
create index projects_told on projects (id) where session is null and wake_at < 0;
