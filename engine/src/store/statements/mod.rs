//! The statements: one catalogue, written in full for SQLite; PostgreSQL states only where
//! it differs, and why.
//!
//! Parameters are `$1` in both. Ids are bound as UUIDs, numbers as 64-bit integers, lists
//! as JSON text, so that one body serves both. What only one database says (`commit`) is
//! in its own folder.

mod commit;
mod postgres;
mod sqlite;
mod submit;

pub(in crate::store) use self::commit::{columns, end, header};
pub(crate) use self::{commit::Commit, postgres::POSTGRES, sqlite::SQLITE};

/// Declares the catalogue, so that every text can be gone through by name.
macro_rules! catalogue {
    ($($name:ident,)*) => {
        /// The text of every statement that both databases know; the name says what it
        /// does.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct Statements {
            $(pub(crate) $name: &'static str,)*
            /// `beat` and `look` in one statement, where the database can.
            pub(crate) pulse: Option<&'static str>,
            /// One new project by itself, where that costs less than a list of one.
            pub(crate) put_project: Option<&'static str>,
            /// `commit` in one statement, where the database can.
            pub(crate) commit: Option<Commit>,
        }

        impl Statements {
            /// Every text with its name.
            pub(super) fn all(&self) -> Vec<(&'static str, &'static str)> {
                let mut all = vec![$((stringify!($name), self.$name),)*];
                all.extend(self.pulse.map(|text| ("pulse", text)));
                all.extend(self.put_project.map(|text| ("put_project", text)));
                all.extend(self.commit.iter().flat_map(|texts| texts.all()).map(|text| ("commit", text)));
                all
            }
        }
    };
}

catalogue! {
    put_plan,
    put_plan_kinds,
    put_labels,
    put_audit,
    put_token,
    revoke_token,
    token,
    tokens,
    audit,
    queues,
    pause_queue,
    resume_queue,
    lock_queues,
    wake_held,
    rest,
    last_events,
    put_projects,
    fingerprint,
    put_event,
    clock,
    put_session,
    lock_session,
    lapse_others,
    drain_session,
    beat,
    look,
    expire_session,
    ended_sessions,
    lock_owned,
    free_projects,
    lose_claims,
    drop_session,
    take_project,
    loaded,
    park,
    release,
    put_mail,
    raise_mail,
    reopen,
    put_inputs,
    pin,
    put_blob,
    import_project,
    import_sizes,
    put_replay,
    replays,
    put_checkpoint,
    put_claimed_checkpoint,
    checkpoints,
    keep_checkpoints,
    unchanged,
    fork_row,
    fork_steps,
    fork_expansions,
    fork_renumbered,
    fork_numbers,
    put_fork,
    lineage,
    base,
    lacking,
    renumbered,
    lent,
    lent_sizes,
    keep_attempts,
    keep_gone_attempts,
    lend_on,
    lend_gone_on,
    drop_steps,
    drop_expansions,
    drop_gone_expansions,
    set_back,
    drop_mail,
    drop_output,
    drop_claims,
    claim,
    lock_projects,
    deliver,
    granted,
    unclaim,
    project,
    list,
    steps,
    expansions,
    claims,
    data,
    plan,
    mail,
    outcomes,
    output_sizes,
    outputs,
    events,
    commits,
    attempts,
    logs,
    last_logs,
    by_ending,
    by_name,
    latest,
    sessions,
    put_offers,
    withdraw,
    stop_claims,
    consume_claims,
    consume_mail,
}
