//! [`Error`]: why the engine did not do what it was asked.

use crate::{
    ProjectId,
    spec::Diagnostic,
    store::{LockHolder, StoreError},
};

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The document is not valid.
    #[error("the document is not valid: {}", summary(.0))]
    Invalid(Vec<Diagnostic>),
    /// No project, or several, match.
    #[error("{reason}: {wanted}")]
    NotFound {
        /// What was looked for.
        wanted: String,
        /// Why it was not found.
        reason: &'static str,
    },
    /// The state of the project does not allow it.
    #[error("project {project} is {state}: {wanted} does not apply")]
    Illegal {
        /// The project.
        project: ProjectId,
        /// Its state.
        state: &'static str,
        /// What was asked.
        wanted: &'static str,
    },
    /// The idempotency key belongs to another submission.
    #[error("the idempotency key was used for another submission: project {0}")]
    Conflict(ProjectId),
    /// Another process executes on this database.
    #[error("another process executes on this database: {}", .0.who)]
    Locked(LockHolder),
    /// The project has changed since the plan was made.
    #[error("project {0} has changed since the plan was made")]
    PlanChanged(ProjectId),
    /// Steps would run again whose effect may happen twice, and nobody said that they may.
    #[error("these steps need consent to run again: {}", .0.join(", "))]
    NeedsConsent(Vec<String>),
    /// An archive is none, is damaged, or cannot be written.
    #[error("the archive{}: {message}", place(*.line))]
    Archive {
        /// The line, from 1; 0 when it is about the whole.
        line: u64,
        /// What is the matter.
        message: String,
    },
    /// The database has a project of this id.
    #[error("project {0} is there already")]
    Exists(ProjectId),
    /// The worker has no right to run a kind.
    #[error("{kind} is refused: {reason}")]
    Refused {
        /// The kind.
        kind: String,
        /// Why, and how to allow it.
        reason: String,
    },
    /// The time is up.
    #[error("timed out")]
    TimedOut,
    /// The database did not do it.
    #[error("the database: {0}")]
    Store(#[from] StoreError),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_document",
            Self::NotFound { .. } => "not_found",
            Self::Illegal { .. } => "illegal_state",
            Self::Conflict(_) => "idempotency_conflict",
            Self::Locked(_) => "already_executing",
            Self::PlanChanged(_) => "plan_changed",
            Self::NeedsConsent(_) => "needs_consent",
            Self::Archive { .. } => "invalid_archive",
            Self::Exists(_) => "exists",
            Self::Refused { .. } => "refused",
            Self::TimedOut => "timed_out",
            Self::Store(_) => "database",
        }
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Invalid(_) => "mend the places named above".to_owned(),
            Self::NotFound { .. } => "`dandori list` shows the projects".to_owned(),
            Self::Illegal { .. } => {
                "`dandori show` tells where the project stands".to_owned()
            }
            Self::Conflict(_) => {
                "use another key, or submit the same document".to_owned()
            }
            Self::Locked(_) => {
                "end that process, or use `submit`, `watch`, `cancel` beside it"
                    .to_owned()
            }
            Self::PlanChanged(_) => "make the plan again".to_owned(),
            Self::NeedsConsent(_) => {
                "name each under `repeat` (`--repeat STEP`), or give its output"
                    .to_owned()
            }
            Self::Archive { .. } => "export the project again".to_owned(),
            Self::Exists(_) => {
                "import it under another id (`--new-id`), or leave it".to_owned()
            }
            Self::Refused { .. } => "switch the kind on, or remove the task".to_owned(),
            Self::TimedOut => {
                "the project goes on; `dandori watch` follows it".to_owned()
            }
            Self::Store(error) => error.help().to_owned(),
        }
    }
}

fn place(line: u64) -> String {
    match line {
        0 => String::new(),
        line => format!(", line {line}"),
    }
}

fn summary(found: &[Diagnostic]) -> String {
    match found {
        [only] => only.message.clone(),
        [first, rest @ ..] => format!("{} (and {} more)", first.message, rest.len()),
        [] => "no reason given".to_owned(),
    }
}
