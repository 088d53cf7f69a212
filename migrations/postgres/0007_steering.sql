-- Retries that people ask for, and queues whose steps do not start.

alter table mailbox
    drop constraint mailbox_kind_check,
    add constraint mailbox_kind_check check (kind in ('cancel', 'pause', 'resume', 'retry')),
    -- For `retry`: the step; null is every step that waits for its next attempt.
    add column no bigint;

create table paused_queues (
    name text primary key,
    paused_at bigint not null
);

-- The paused queues that a session was told of with its last beat, a JSON list.
alter table sessions add column paused text not null default '[]';
