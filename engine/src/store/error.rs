//! [`StoreError`]: why the database did not do it, and what to do about it.

use std::fmt;

/// What a caller can do about a store error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The database file, its folder or the server cannot be reached or opened.
    Unavailable,
    /// The server does not let this user in, or has no such database.
    Denied,
    /// The file or its folder cannot be written.
    ReadOnly,
    /// The disk is full.
    Full,
    /// The file is damaged, or is no database.
    Corrupt,
    /// The schema is newer than this program.
    NewerSchema,
    /// The project belongs to another session now.
    Lost,
    /// The database refuses the values.
    Refused,
    /// Somebody else holds the database for too long.
    Busy,
    /// Anything else.
    Other,
}

/// Why the database did not do it.
#[derive(Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
}

impl StoreError {
    pub(crate) fn new(kind: StoreErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// What to do about it, for people.
    pub fn help(&self) -> &'static str {
        match self.kind {
            StoreErrorKind::Unavailable => {
                "check the path or address of --database-url"
            }
            StoreErrorKind::Denied => {
                "check the address, user, password and database in --database-url"
            }
            StoreErrorKind::ReadOnly => {
                "make the file and its folder writable, or choose another --database-url"
            }
            StoreErrorKind::Full => {
                "free disk space and resume; everything recorded so far is kept"
            }
            StoreErrorKind::Corrupt => {
                "restore a backup, or choose another --database-url; nothing was changed"
            }
            StoreErrorKind::NewerSchema => "use a newer dandori; nothing was changed",
            StoreErrorKind::Lost => "another process has taken the project over",
            StoreErrorKind::Refused => "the value cannot be stored",
            StoreErrorKind::Busy => "end the other program that holds the database",
            StoreErrorKind::Other => "see the message",
        }
    }

    /// Whether the same may succeed a moment later: the database is away or at work.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Busy | StoreErrorKind::Unavailable)
    }

    pub(crate) fn from_sqlx(error: &sqlx::Error) -> Self {
        let kind = match error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                // Two clients of a pooler share a session, and their statements have names.
                if code == "42P05" {
                    let message = format!(
                        "{error}: a connection pooler in transaction mode is in between, \
                         and must keep prepared statements apart (max_prepared_statements)"
                    );
                    return Self::new(StoreErrorKind::Unavailable, message);
                }
                let postgres = database
                    .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                    .is_some();
                if postgres { of_sqlstate(&code) } else { of_sqlite(&code) }
            }
            // A connection that was cut shows as any of these.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn of_sqlite(code: &str) -> StoreErrorKind {
    // The primary result code is the low byte of the extended one.
    match code.parse::<i64>().unwrap_or_default() & 0xff {
        5 | 6 => StoreErrorKind::Busy,
        8 => StoreErrorKind::ReadOnly,
        11 | 26 => StoreErrorKind::Corrupt,
        13 => StoreErrorKind::Full,
        14 => StoreErrorKind::Unavailable,
        18..=20 => StoreErrorKind::Refused,
        _ => StoreErrorKind::Other,
    }
}

/// By class and code of appendix A of the PostgreSQL manual.
fn of_sqlstate(code: &str) -> StoreErrorKind {
    match code {
        // Serialization, deadlock, lock or statement time-out, a transaction that was ended.
        "40001" | "40P01" | "55P03" | "57014" | "25P02" | "25P03" => {
            StoreErrorKind::Busy
        }
        // Too many connections; shutting down, crashed, starting; a standby.
        "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "25006" => {
            StoreErrorKind::Unavailable
        }
        "53100" | "53200" => StoreErrorKind::Full,
        "42501" => StoreErrorKind::ReadOnly,
        "XX001" | "XX002" => StoreErrorKind::Corrupt,
        _ => match code.get(..2) {
            Some("08") => StoreErrorKind::Unavailable,
            Some("28" | "3D") => StoreErrorKind::Denied,
            Some("22" | "23" | "54") => StoreErrorKind::Refused,
            _ => StoreErrorKind::Other,
        },
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::from_sqlx(&error)
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

/// What is stored makes no sense.
pub(super) fn damaged(what: impl fmt::Display) -> StoreError {
    StoreError::new(
        StoreErrorKind::Corrupt,
        format!("a stored value is damaged: {what}"),
    )
}
