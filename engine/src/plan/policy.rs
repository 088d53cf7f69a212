//! [`Policy`]: how a step is treated, apart from what it does.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::Retry;
use crate::Timestamp;

/// How a step is treated. Plans keep each distinct policy once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// What follows a failed attempt.
    pub retry: Retry,
    /// After this time an attempt is told to stop.
    pub soft: Option<Duration>,
    /// After this time an attempt is dropped.
    pub hard: Option<Duration>,
    /// The step is skipped when it has not started by then.
    pub start_before: Option<StartBefore>,
    /// How long the step waits once its needs allow it.
    pub delay: Duration,
    /// The step does not start before.
    pub not_before: Option<Timestamp>,
    /// The queue whose workers may run it.
    pub queue: String,
    /// Higher starts first, within the project.
    pub priority: i32,
    /// Never started twice: a lost attempt is quarantined.
    pub at_most_once: bool,
    /// A failure does not fail the project and passes null on.
    pub allow_failure: bool,
    /// A failure is judged by an enclosing step: a `for_each`, or a task with
    /// `allow_failure` that uses a template.
    pub contained: bool,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

impl Policy {
    /// The queue of steps that name none.
    pub const DEFAULT_QUEUE: &str = "default";
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retry: Retry::default(),
            soft: None,
            hard: None,
            start_before: None,
            delay: Duration::ZERO,
            not_before: None,
            queue: Self::DEFAULT_QUEUE.to_owned(),
            priority: 0,
            at_most_once: false,
            allow_failure: false,
            contained: false,
            labels: BTreeMap::new(),
        }
    }
}

/// When it is too late to start a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartBefore {
    /// So long after its needs allowed it.
    Within(Duration),
    /// At a point in time.
    At(Timestamp),
}
