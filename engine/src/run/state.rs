//! The states of projects and steps; their labels exist here and nowhere else.

use serde::{Deserialize, Serialize};

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in the order of their life.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The label, the same in SQL, JSON and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Finds the state with a label.
            pub fn parse(label: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|state| state.as_str() == label)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

labels! {
    /// Where a project is in its life.
    ProjectState {
        /// Recorded, not started.
        Pending = "pending",
        /// At work, or waiting for a timer.
        Running = "running",
        /// Told to pause: running steps finish, nothing starts.
        Paused = "paused",
        /// Ended; no step failed without allowance.
        Succeeded = "succeeded",
        /// Ended; a step failed without allowance.
        Failed = "failed",
        /// Ended because it was cancelled.
        Cancelled = "cancelled",
    }
}

labels! {
    /// Where a step is in its life.
    StepState {
        /// Its needs have not decided yet.
        Blocked = "blocked",
        /// It may start.
        Ready = "ready",
        /// An attempt is running.
        Running = "running",
        /// It waits for a time.
        Waiting = "waiting",
        /// It ended with an output.
        Succeeded = "succeeded",
        /// Its last attempt failed.
        Failed = "failed",
        /// It never ran because a need failed.
        UpstreamFailed = "upstream_failed",
        /// It never ran, and that is no failure.
        Skipped = "skipped",
        /// It was stopped, or never started, because of a cancel.
        Cancelled = "cancelled",
        /// It took its worker down too often, or may not be repeated.
        Quarantined = "quarantined",
    }
}

impl ProjectState {
    /// Whether nothing changes any more, short of a replay.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl StepState {
    /// Whether it failed, by itself or because of its needs.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::UpstreamFailed | Self::Quarantined)
    }

    /// How many states there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether nothing changes any more within the generation.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Blocked | Self::Ready | Self::Running | Self::Waiting => false,
            Self::Succeeded
            | Self::Failed
            | Self::UpstreamFailed
            | Self::Skipped
            | Self::Cancelled
            | Self::Quarantined => true,
        }
    }
}

labels! {
    /// What a waiting step waits for.
    WaitReason {
        /// The next attempt.
        Retry = "retry",
        /// A delay, a point in time, or a sleep.
        Timer = "timer",
    }
}
