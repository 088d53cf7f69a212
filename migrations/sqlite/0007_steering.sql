-- Retries that people ask for, and queues whose steps do not start.

create table mailbox_new (
    id integer primary key autoincrement,
    project blob not null references projects (id) on delete cascade,
    kind text not null check (kind in ('cancel', 'pause', 'resume', 'retry')),
    sent_at integer not null,
    -- For `retry`: the step; null is every step that waits for its next attempt.
    no integer
) strict;

insert into mailbox_new (id, project, kind, sent_at)
select id, project, kind, sent_at from mailbox;

-- The numbers go on: none is given twice.
update sqlite_sequence
set seq = (select s.seq from sqlite_sequence s where s.name = 'mailbox')
where name = 'mailbox_new';

insert into sqlite_sequence (name, seq)
select 'mailbox_new', s.seq from sqlite_sequence s
where s.name = 'mailbox'
    and not exists (select 1 from sqlite_sequence n where n.name = 'mailbox_new');

drop table mailbox;

alter table mailbox_new rename to mailbox;

create index mailbox_by_project on mailbox (project);

create table paused_queues (
    name text primary key,
    paused_at integer not null
) strict, without rowid;

-- The paused queues that a session was told of with its last beat, a JSON list.
alter table sessions add column paused text not null default '[]';
