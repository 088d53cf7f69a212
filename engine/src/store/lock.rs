//! The executor lock: on SQLite one process executes, proved by a lock on a file beside
//! the database. Who holds it knows that every other session is dead.
//!
//! The lock is on a file of its own: opening and closing the database file itself in
//! this process would drop SQLite's own locks.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use super::{StoreError, StoreErrorKind};

/// Who holds the lock, as far as it told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// What the holder wrote: its process and command.
    pub who: String,
}

/// The right to execute. Ends with the process, however it ends.
#[derive(Debug)]
pub(crate) struct ExecutorLock {
    _file: File,
}

impl ExecutorLock {
    /// Takes the lock, or tells who holds it.
    pub(crate) fn take(
        database: &Path,
        who: &str,
    ) -> Result<Result<Self, LockHolder>, StoreError> {
        let path = lock_path(database);
        let failed = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::PermissionDenied
                | std::io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
                std::io::ErrorKind::StorageFull => StoreErrorKind::Full,
                _ => StoreErrorKind::Unavailable,
            };
            StoreError::new(kind, format!("{}: {error}", path.display()))
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).map_err(failed)?;
                file.rewind().map_err(failed)?;
                file.write_all(who.as_bytes()).map_err(failed)?;
                Ok(Ok(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut who = String::new();
                // The holder may be writing it just now; an empty answer is fine.
                let _ = file.read_to_string(&mut who);
                Ok(Err(LockHolder { who }))
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Beside the file itself: another name for it, such as a symbolic link, is no other
/// database.
fn lock_path(database: &Path) -> PathBuf {
    let real = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let mut name = real.into_os_string();
    name.push(".lock");
    PathBuf::from(name)
}
