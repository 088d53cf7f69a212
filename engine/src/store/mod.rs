//! The store: the only place that knows SQL.
//!
//! A verb is a unit of atomicity with a name of the domain, never a table operation.
//! Every write runs in a task of its own, so that a caller that goes away cannot leave a
//! transaction half open, and the first error of a transaction ends its connection.
//!
//! Invariant: a write that returned `Ok` is on disk.

mod codec;
mod error;
mod lock;
mod sqlite;
mod types;

pub(crate) use self::{codec::decode_events, lock::ExecutorLock};
pub use self::{
    error::{StoreError, StoreErrorKind},
    lock::LockHolder,
    sqlite::{CrashPoint, SqliteStore as Store},
    types::{
        Adopted, Header, ListFilter, LogLine, Mail, MailKind, NewProject, Part,
        ProjectRow, Reference, StoredProject, Submitted,
    },
};

/// Outputs up to this many bytes stand in the row of their step.
pub const INLINE_OUTPUT: usize = 2 * 1024;

/// The largest output of a step, in bytes.
pub const MAX_OUTPUT: usize = 16 * 1024 * 1024;
