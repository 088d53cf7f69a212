//! [`Problem`]: what keeps a graph from being a plan. All are collected, none hides
//! another.

use std::fmt;

use super::did_you_mean;

/// What keeps a graph from being a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// There is no step.
    Empty,
    /// Two steps have the same name.
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Two names look alike: they are the same once normalised.
    LookAlike {
        /// The later name.
        name: String,
        /// The earlier one.
        other: String,
    },
    /// A step needs a step that does not exist.
    MissingNeed {
        /// The step.
        step: String,
        /// What it needs.
        need: String,
        /// An existing name that is close.
        nearest: Option<String>,
    },
    /// A step needs itself.
    SelfNeed {
        /// The step.
        step: String,
    },
    /// Steps need one another in a ring.
    Cycle {
        /// The ring in order of execution; the first follows the last. At most
        /// [`Problem::CYCLE_SHOWN`] names.
        path: Vec<String>,
        /// How many steps the ring has.
        length: usize,
    },
    /// There is no handler of this kind.
    UnknownKind {
        /// The step.
        step: String,
        /// The kind.
        kind: String,
        /// An existing kind that is close.
        nearest: Option<String>,
    },
    /// An expression names a task that is not upstream.
    NotUpstream {
        /// The step.
        step: String,
        /// The task it names.
        reference: String,
    },
    /// More steps than a plan may have.
    TooManySteps {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// More edges than a plan may have.
    TooManyEdges {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl Problem {
    /// How many names of a cycle are shown.
    pub const CYCLE_SHOWN: usize = 12;
    /// How many problems are looked up for a name that is close.
    pub const SUGGESTED: usize = 25;
    /// How many cycles are reported; one ring can hide others anyway.
    pub const CYCLES_REPORTED: usize = 5;

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty_project",
            Self::DuplicateName { .. } => "duplicate_task",
            Self::LookAlike { .. } => "look_alike_names",
            Self::MissingNeed { .. } => "missing_need",
            Self::SelfNeed { .. } => "self_need",
            Self::Cycle { .. } => "cycle",
            Self::UnknownKind { .. } => "unknown_kind",
            Self::NotUpstream { .. } => "not_upstream",
            Self::TooManySteps { .. } => "too_many_tasks",
            Self::TooManyEdges { .. } => "too_many_edges",
        }
    }

    /// The step it is about, where it is about one.
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::DuplicateName { name } | Self::LookAlike { name, .. } => Some(name),
            Self::MissingNeed { step, .. }
            | Self::SelfNeed { step }
            | Self::UnknownKind { step, .. }
            | Self::NotUpstream { step, .. } => Some(step),
            Self::Cycle { path, .. } => path.first().map(String::as_str),
            Self::Empty | Self::TooManySteps { .. } | Self::TooManyEdges { .. } => None,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Empty => "add at least one task under `tasks:`".to_owned(),
            Self::DuplicateName { .. } => "give each task a name of its own".to_owned(),
            Self::LookAlike { .. } => {
                "two Unicode spellings of one word: use one of them everywhere"
                    .to_owned()
            }
            // One text with commas is what YAML makes of a list without brackets.
            Self::MissingNeed { need, nearest, .. }
                if need.contains(',')
                    && nearest.as_ref().is_none_or(|near| !near.contains(',')) =>
            {
                let names: Vec<&str> = need.split(',').map(str::trim).collect();
                format!("write a list: `needs: [{}]`", names.join(", "))
            }
            Self::MissingNeed { need, nearest: Some(near), .. } => {
                did_you_mean(need, near)
            }
            Self::MissingNeed { need, .. } => {
                format!("add a task `{need}` or remove it from `needs`")
            }
            Self::SelfNeed { .. } => "remove the task from its own `needs`".to_owned(),
            Self::Cycle { .. } => {
                "remove one of these needs to break the ring".to_owned()
            }
            Self::UnknownKind { kind, nearest: Some(near), .. } => {
                did_you_mean(kind, near)
            }
            Self::UnknownKind { .. } => {
                "use a kind that a worker has a handler for".to_owned()
            }
            Self::NotUpstream { reference, .. } => {
                format!("add `{reference}` to the `needs` of the task")
            }
            Self::TooManySteps { .. } | Self::TooManyEdges { .. } => {
                "split the work into several projects".to_owned()
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the project has no tasks"),
            Self::DuplicateName { name } => write!(f, "two tasks are named `{name}`"),
            Self::LookAlike { name, other } => {
                write!(
                    f,
                    "the names `{name}` and `{other}` look alike but differ in bytes"
                )
            }
            Self::MissingNeed { step, need, .. } => {
                write!(f, "task `{step}` needs `{need}`, which does not exist")
            }
            Self::SelfNeed { step } => write!(f, "task `{step}` needs itself"),
            Self::Cycle { path, length } => {
                f.write_str("tasks need one another in a ring: ")?;
                for name in path {
                    write!(f, "{name} → ")?;
                }
                if path.len() < *length {
                    write!(f, "… ({length} tasks) → ")?;
                }
                f.write_str(path.first().map_or("", String::as_str))
            }
            Self::UnknownKind { step, kind, .. } => {
                write!(f, "task `{step}` has the unknown kind `{kind}`")
            }
            Self::NotUpstream { step, reference } => {
                write!(
                    f,
                    "task `{step}` uses `tasks.{reference}`, which is not upstream"
                )
            }
            Self::TooManySteps { count, limit } => {
                write!(f, "{count} tasks are more than the limit of {limit}")
            }
            Self::TooManyEdges { count, limit } => {
                write!(f, "{count} needs are more than the limit of {limit}")
            }
        }
    }
}
