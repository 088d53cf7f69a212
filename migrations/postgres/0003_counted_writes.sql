-- How often owners have written to a project. Every commit moves it by one, also one
-- without events: whoever lost the answer to a commit reads here whether it arrived.
alter table projects add column writes bigint not null default 0;

-- No statement looks here: adoption has an index of its own.
drop index projects_open;
