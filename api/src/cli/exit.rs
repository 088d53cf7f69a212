//! Exit codes and the errors behind them.

use std::process::ExitCode;

use dandori::{Error, run::ProjectState, spec::Diagnostic, store::StoreErrorKind};

use super::text::{clean, one_line};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// 0
    Succeeded,
    /// 1: the project failed.
    Failed,
    /// 2: wrong usage, or consent is missing.
    Usage,
    /// 3: the document is not valid.
    Invalid,
    /// 4: no such project or file.
    NotFound,
    /// 5: the database cannot be reached, or it is not allowed.
    Unreachable,
    /// 6: the project was cancelled.
    Cancelled,
    /// 124: the time was up.
    TimedOut,
    /// 128 and the number of the signal.
    Interrupted(u8),
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::NotFound => 4,
            Self::Unreachable => 5,
            Self::Cancelled => 6,
            Self::TimedOut => 124,
            Self::Interrupted(signal) => 128 + signal,
        }
    }

    pub(super) fn of(state: ProjectState) -> Self {
        match state {
            ProjectState::Failed => Self::Failed,
            ProjectState::Cancelled => Self::Cancelled,
            ProjectState::Pending
            | ProjectState::Running
            | ProjectState::Paused
            | ProjectState::Succeeded => Self::Succeeded,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do it.
#[derive(Debug)]
pub(super) enum Failure {
    /// The engine's reason.
    Engine(Error),
    /// A reason of the command line itself.
    Own { exit: Exit, code: &'static str, message: String, help: String },
    /// What a server said.
    Told {
        exit: Exit,
        code: String,
        message: String,
        help: String,
        found: Vec<Diagnostic>,
    },
}

impl Failure {
    pub(super) fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        let (message, help) = (message.into(), help.into());
        Self::Own { exit: Exit::Usage, code: "usage", message, help }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Own { exit, .. } | Self::Told { exit, .. } => *exit,
            Self::Engine(error) => match error {
                Error::Invalid(_) | Error::Archive { .. } => Exit::Invalid,
                Error::NotFound { .. } => Exit::NotFound,
                Error::TimedOut => Exit::TimedOut,
                Error::Illegal { .. }
                | Error::Conflict(_)
                | Error::PlanChanged(_)
                | Error::Exists(_)
                | Error::NeedsConsent(_) => Exit::Usage,
                Error::Store(store) if store.kind() == StoreErrorKind::Refused => {
                    Exit::Failed
                }
                _ => Exit::Unreachable,
            },
        }
    }

    pub(super) fn report(&self, json: bool) {
        let (code, message, help) = match self {
            Self::Own { code, message, help, .. } => {
                (*code, message.clone(), help.clone())
            }
            Self::Told { code, message, help, .. } => {
                (code.as_str(), message.clone(), help.clone())
            }
            Self::Engine(error) => (error.code(), error.to_string(), error.help()),
        };
        let found = match self {
            Self::Engine(Error::Invalid(found)) => found.as_slice(),
            Self::Told { found, .. } => found,
            Self::Engine(_) | Self::Own { .. } => &[],
        };
        if !json && !found.is_empty() {
            return print_diagnostics(found);
        }
        // Whatever a server or a document says, it does not steer the terminal.
        if json {
            let mut error =
                serde_json::json!({ "code": code, "message": message, "help": help });
            if !found.is_empty() {
                error["diagnostics"] = serde_json::to_value(found).unwrap_or_default();
            }
            out!("{}", serde_json::json!({ "error": error }));
        } else {
            anstream::eprintln!("error[{}]: {}", one_line(code), clean(&message));
            if !help.is_empty() {
                anstream::eprintln!("  = help: {}", clean(&help));
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

pub(super) fn print_diagnostics(found: &[Diagnostic]) {
    for diagnostic in found {
        anstream::eprintln!("{}\n", clean(&diagnostic.to_string()));
    }
    let errors = found.iter().filter(|diagnostic| diagnostic.is_error()).count();
    if errors > 0 {
        let s = if errors == 1 { "" } else { "s" };
        anstream::eprintln!("{errors} error{s}; nothing was submitted");
    }
}
