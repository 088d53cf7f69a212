//! Crash points: a test may end the process in thought before or after every write, or
//! lose the answer of the database.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{StoreError, StoreErrorKind};

/// A place where a test may end the process in thought: before or after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// The verb that writes.
    pub verb: &'static str,
    /// Whether the write has happened.
    pub after: bool,
}

type Hook = Arc<dyn Fn(CrashPoint) -> bool + Send + Sync>;

/// Tells tests about every write; once the hook has answered `true`, nothing is written
/// any more.
#[derive(Default)]
pub(super) struct Crashes {
    hook: Option<Hook>,
    /// Whether the process dies there, or only loses one answer of the database.
    dies: bool,
    crashed: AtomicBool,
}

impl Crashes {
    pub(super) fn new(
        hook: impl Fn(CrashPoint) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { hook: Some(Arc::new(hook)), dies: true, crashed: AtomicBool::new(false) }
    }

    /// Where the hook answers `true`, the connection is lost: before the write, or after it
    /// and before its answer.
    pub(super) fn losses(
        hook: impl Fn(CrashPoint) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { dies: false, ..Self::new(hook) }
    }

    pub(super) fn point(
        &self,
        verb: &'static str,
        after: bool,
    ) -> Result<(), StoreError> {
        let Some(hook) = &self.hook else { return Ok(()) };
        let dead =
            self.crashed.load(Ordering::SeqCst) || hook(CrashPoint { verb, after });
        if dead && !self.dies {
            let kind = StoreErrorKind::Unavailable;
            return Err(StoreError::new(kind, "injected loss of a connection"));
        }
        if dead {
            self.crashed.store(true, Ordering::SeqCst);
            return Err(StoreError::new(StoreErrorKind::Other, "injected crash"));
        }
        Ok(())
    }
}

impl fmt::Debug for Crashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Crashes")
    }
}
