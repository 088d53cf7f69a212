//! [`StepError`]: why an attempt failed, as data that survives a crash.
//!
//! Owns the classes and the stable codes; `docs/errors.md` explains each.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// How a failure is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Trying again may help: the retry policy decides.
    Retryable,
    /// Trying again cannot help.
    Permanent,
    /// The attempt was told to stop.
    Cancelled,
    /// The worker vanished; how the attempt ended is unknown.
    Lost,
}

impl ErrorClass {
    /// All classes.
    pub const ALL: [Self; 4] =
        [Self::Retryable, Self::Permanent, Self::Cancelled, Self::Lost];

    /// Returns the name of the class as it is spelled in documents and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retryable => "retryable",
            Self::Permanent => "permanent",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// Why an attempt of a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    /// A stable code such as `timeout` or `http_5xx`; see `docs/errors.md`.
    pub code: Cow<'static, str>,
    /// How the failure is to be treated.
    pub class: ErrorClass,
    /// What happened, for people: a lower-case fragment without a full stop.
    pub message: String,
    /// The step that failed, filled in by the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The needs that failed, where that is the reason; filled in by the engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_needs: Vec<String>,
    /// The least time to wait before the next attempt, in milliseconds
    /// (from a `Retry-After` header). Lengthens the policy's delay, never shortens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl StepError {
    /// The code of an attempt that was stopped before its handler was called.
    pub(crate) const NOT_STARTED: &str = "not_started";

    /// The longest message that is kept, in bytes; the rest is cut.
    pub const MAX_MESSAGE: usize = 8 * 1024;

    /// A failure that another attempt may cure.
    pub fn retry(
        code: impl Into<Cow<'static, str>>,
        message: impl fmt::Display,
    ) -> Self {
        Self::of(ErrorClass::Retryable, code.into(), message)
    }

    /// A failure that no further attempt can cure.
    pub fn fail(
        code: impl Into<Cow<'static, str>>,
        message: impl fmt::Display,
    ) -> Self {
        Self::of(ErrorClass::Permanent, code.into(), message)
    }

    /// The attempt was told to stop and did.
    pub fn cancelled() -> Self {
        Self::of(ErrorClass::Cancelled, "cancelled".into(), "told to stop")
    }

    /// The attempt was told to stop before its handler was called.
    pub(crate) fn not_started() -> Self {
        let message = "stopped before it started";
        Self::of(ErrorClass::Cancelled, Self::NOT_STARTED.into(), message)
    }

    /// The worker vanished while the attempt ran.
    pub fn lost() -> Self {
        let message = "the worker stopped before the attempt ended";
        Self::of(ErrorClass::Lost, "worker_lost".into(), message)
    }

    /// Sets the least time to wait before the next attempt.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }

    fn of(
        class: ErrorClass,
        code: Cow<'static, str>,
        message: impl fmt::Display,
    ) -> Self {
        let mut message = message.to_string();
        if message.len() > Self::MAX_MESSAGE {
            let end =
                (0..=Self::MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
            message.push('…');
        }
        Self {
            code,
            class,
            message,
            step: None,
            failed_needs: vec![],
            retry_after_ms: None,
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for StepError {}

/// Turns any error into a [`StepError`] at the place where it is known how to treat it.
pub trait StepResultExt<T> {
    /// Another attempt may help.
    ///
    /// # Errors
    /// The error as a retryable [`StepError`].
    fn or_retry(self, code: &'static str) -> Result<T, StepError>;

    /// No further attempt can help.
    ///
    /// # Errors
    /// The error as a permanent [`StepError`].
    fn or_fail(self, code: &'static str) -> Result<T, StepError>;
}

impl<T, E: fmt::Display> StepResultExt<T> for Result<T, E> {
    fn or_retry(self, code: &'static str) -> Result<T, StepError> {
        self.map_err(|error| StepError::retry(code, error))
    }

    fn or_fail(self, code: &'static str) -> Result<T, StepError> {
        self.map_err(|error| StepError::fail(code, error))
    }
}
