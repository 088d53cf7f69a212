//! Crash points: a test may end the process in thought before or after every write, or
//! lose the answer of the database.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
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

/// What a test has decided for such a place.
enum Hook {
    /// Whether the process dies there.
    Death(Box<dyn Fn(CrashPoint) -> bool + Send + Sync>),
    /// Whether an answer of the database is lost there, or what it says instead.
    Loss(Box<dyn Fn(CrashPoint) -> Option<StoreErrorKind> + Send + Sync>),
}

/// Tells tests about every write; once a process has died, nothing is written any more.
#[derive(Default)]
pub(super) struct Crashes {
    hook: Option<Hook>,
    crashed: AtomicBool,
}

impl Crashes {
    pub(super) fn new(
        hook: impl Fn(CrashPoint) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            hook: Some(Hook::Death(Box::new(hook))),
            crashed: AtomicBool::new(false),
        }
    }

    /// Where the hook names an error, that is the answer: before the write, or after it.
    pub(super) fn losses(
        hook: impl Fn(CrashPoint) -> Option<StoreErrorKind> + Send + Sync + 'static,
    ) -> Self {
        Self { hook: Some(Hook::Loss(Box::new(hook))), crashed: AtomicBool::new(false) }
    }

    pub(super) fn point(
        &self,
        verb: &'static str,
        after: bool,
    ) -> Result<(), StoreError> {
        match &self.hook {
            Some(Hook::Death(dies)) => {
                if self.crashed.load(Ordering::SeqCst)
                    || dies(CrashPoint { verb, after })
                {
                    self.crashed.store(true, Ordering::SeqCst);
                    return Err(StoreError::new(
                        // What no waiting cures.
                        StoreErrorKind::Corrupt,
                        "injected crash",
                    ));
                }
                Ok(())
            }
            Some(Hook::Loss(_)) => self.loss(verb, after),
            None => Ok(()),
        }
    }

    /// A place where nothing is written, so that no death there differs from another, but an
    /// answer can be lost: the verbs `read` and `beat`.
    pub(super) fn loss(
        &self,
        verb: &'static str,
        after: bool,
    ) -> Result<(), StoreError> {
        let Some(Hook::Loss(lost)) = &self.hook else { return Ok(()) };
        match lost(CrashPoint { verb, after }) {
            Some(kind) => Err(StoreError::new(kind, "injected loss of an answer")),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Crashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Crashes")
    }
}
