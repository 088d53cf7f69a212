//! What happens to a run ([`Event`]), what is stored of it ([`Fact`]), and what is to be
//! done about it ([`Decisions`]).

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{ProjectState, StepState, WaitReason};
use crate::{
    StepError, Timestamp,
    plan::{Plan, StepNo},
};

/// An output on its way from the handler to the store: bytes exactly as received.
pub type Output = Arc<RawValue>;

/// Something that happened to a project in flight.
#[derive(Clone, Debug)]
pub enum Event {
    /// An attempt of a ready step began.
    Started {
        /// The step.
        no: StepNo,
    },
    /// An attempt of a ready step was begun elsewhere; its owner hears of it only now.
    Claimed {
        /// The step.
        no: StepNo,
        /// When it began.
        since: Timestamp,
    },
    /// The running attempt succeeded. A join succeeds without having started.
    Succeeded {
        /// The step.
        no: StepNo,
        /// The attempt, which must be the running one.
        attempt: u32,
        /// Its output.
        output: Output,
    },
    /// The running attempt failed. A step whose expressions fail never started.
    Failed {
        /// The step.
        no: StepNo,
        /// The attempt, which must be the running one.
        attempt: u32,
        /// Why.
        error: StepError,
    },
    /// The running attempt gave its slot back and succeeds at a time.
    Deferred {
        /// The step.
        no: StepNo,
        /// The attempt, which must be the running one.
        attempt: u32,
        /// When it succeeds.
        until: Timestamp,
        /// With what.
        output: Output,
    },
    /// The condition of a ready step was false.
    ConditionFalse {
        /// The step.
        no: StepNo,
    },
    /// The list of a `for_each` was evaluated.
    Expanded {
        /// The step.
        no: StepNo,
        /// How many items it has.
        items: u32,
        /// The items, as a JSON list.
        list: Output,
    },
    /// The running attempt ended with a plan: it becomes these steps, or it has an output
    /// and adds them to the group that it is a member of.
    Grew {
        /// The step.
        no: StepNo,
        /// The attempt, which must be the running one.
        attempt: u32,
        /// The steps.
        body: Arc<Plan>,
        /// Its output, where it only adds to its group.
        output: Option<Output>,
    },
    /// The process that ran an attempt is dead.
    Lost {
        /// The step.
        no: StepNo,
        /// Whether the step is a suspect for it (not after a graceful stop).
        charged: bool,
        /// How many charges quarantine it; 0 is no limit.
        limit: u32,
    },
    /// Time has passed.
    Tick,
    /// The next attempt starts now: of a step that waits for its retry, or of all that do.
    RetryNow {
        /// The step; `None`: all.
        no: Option<StepNo>,
    },
    /// Stop everything.
    Cancel,
    /// Start nothing more for now.
    Pause,
    /// Go on.
    Resume,
    /// All steps have ended; the outputs of the project were evaluated.
    Closed {
        /// Why they could not be, if so.
        error: Option<StepError>,
    },
}

/// A stored row about a step: what cannot be derived from the plan and other facts.
#[derive(Clone, Debug)]
pub struct Fact {
    /// The step.
    pub no: StepNo,
    /// How often it was deliberately run anew, from 1.
    pub generation: u32,
    /// The latest attempt, from 1; 0 when none has started.
    pub attempt: u32,
    /// How many attempts failed.
    pub failures: u32,
    /// How many attempts it is charged with having crashed.
    pub crashes: u32,
    /// `blocked` marks a step that a replay set back.
    pub state: StepState,
    /// When this became so.
    pub at: Timestamp,
    /// When the first attempt of the generation started.
    pub began_at: Option<Timestamp>,
    /// When the latest attempt started.
    pub started_at: Option<Timestamp>,
    /// For `waiting`: until when.
    pub until: Option<Timestamp>,
    /// For `waiting`: for what.
    pub wait: Option<WaitReason>,
    /// The output; for a waiting sleep the one it will have; for a running `for_each`
    /// its items. `None` keeps what is stored.
    pub output: Option<Output>,
    /// Why it failed, was skipped or was quarantined.
    pub error: Option<StepError>,
    /// For one that became many, or added some: their numbers.
    pub expansion: Option<Expansion>,
    /// What it became, or added; `None` for a `for_each`, whose plan has it.
    pub body: Option<Arc<Plan>>,
}

/// The numbers of the children of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// The number of the first child step.
    pub first: StepNo,
    /// How many items there are; one where the step became a canvas.
    pub items: u32,
}

/// An attempt that another one follows, kept for history.
#[derive(Clone, Debug)]
pub struct PastAttempt {
    /// The step.
    pub no: StepNo,
    /// Its generation.
    pub generation: u32,
    /// The attempt.
    pub attempt: u32,
    /// `failed`, `succeeded` or `cancelled`.
    pub state: StepState,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Why it failed.
    pub error: Option<StepError>,
    /// The output of a success that came too late.
    pub output: Option<Output>,
}

/// A line of the project's history.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: RecordKind,
    /// The step it is about; `None` for the project.
    pub no: Option<StepNo>,
    /// The attempt, where there is one.
    pub attempt: u32,
    /// The error, where there is one.
    pub error: Option<StepError>,
    /// For waiting steps: until when.
    pub until: Option<Timestamp>,
    /// For progress: fraction and message.
    pub progress: Option<(f64, String)>,
}

macro_rules! record_kinds {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $label:literal $state:expr,)*) => {
        /// What a line of history tells; the labels are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum RecordKind { $($(#[$doc])* $variant = $code,)* }

        impl RecordKind {
            /// The label, in the past tense.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// The state it leads to, as text.
            pub const fn state(self) -> Option<&'static str> {
                match self { $(Self::$variant => $state,)* }
            }

            /// The number it is stored as.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// Finds the kind of a label.
            pub fn parse(label: &str) -> Option<Self> {
                match label { $($label => Some(Self::$variant),)* _ => None }
            }

            /// Finds the kind of a stored number.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

record_kinds! {
    /// The project was recorded.
    ProjectSubmitted = 1 "project.submitted" Some("pending"),
    /// Its first step may start.
    ProjectStarted = 2 "project.started" Some("running"),
    /// It was told to pause.
    ProjectPaused = 3 "project.paused" Some("paused"),
    /// It was told to go on.
    ProjectResumed = 4 "project.resumed" Some("running"),
    /// It was told to stop.
    ProjectCancelRequested = 5 "project.cancel_requested" None,
    /// It ended well.
    ProjectSucceeded = 6 "project.succeeded" Some("succeeded"),
    /// It ended with a failure.
    ProjectFailed = 7 "project.failed" Some("failed"),
    /// It ended because it was cancelled.
    ProjectCancelled = 8 "project.cancelled" Some("cancelled"),
    /// Some of its steps were set back to run anew.
    ProjectReplayed = 9 "project.replayed" Some("running"),
    /// An attempt began.
    StepStarted = 20 "step.started" Some("running"),
    /// An attempt told how far it is.
    StepProgressed = 21 "step.progressed" None,
    /// The step waits for a time.
    StepWaiting = 22 "step.waiting" Some("waiting"),
    /// The step succeeded.
    StepSucceeded = 23 "step.succeeded" Some("succeeded"),
    /// The step failed.
    StepFailed = 24 "step.failed" Some("failed"),
    /// A need of the step failed.
    StepUpstreamFailed = 25 "step.upstream_failed" Some("upstream_failed"),
    /// The step was skipped.
    StepSkipped = 26 "step.skipped" Some("skipped"),
    /// The step was cancelled.
    StepCancelled = 27 "step.cancelled" Some("cancelled"),
    /// The step was quarantined.
    StepQuarantined = 28 "step.quarantined" Some("quarantined"),
    /// The step became many.
    StepExpanded = 29 "step.expanded" Some("running"),
    /// The process that ran the attempt is dead.
    StepLost = 30 "step.lost" Some("ready"),
    /// An attempt failed; the step will be tried again.
    StepAttemptFailed = 31 "step.attempt_failed" None,
}

/// What is to be done about an event: first written, then, once that is committed,
/// carried out, but for what only computes.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Rows to write.
    pub facts: Vec<Fact>,
    /// Attempts to keep.
    pub attempts: Vec<PastAttempt>,
    /// Lines of history to write.
    pub records: Vec<Record>,
    /// Steps that may start after the commit; before it, those that only compute.
    pub ready: Vec<StepNo>,
    /// Running steps to be told to stop.
    pub stop: Vec<StepNo>,
    /// All steps have ended: evaluate the outputs and apply [`Event::Closed`].
    pub complete: bool,
    /// The project ended.
    pub finished: Option<ProjectState>,
}

impl Decisions {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.attempts.is_empty() && self.records.is_empty()
    }

    /// Adds what follows from a later event.
    pub fn append(&mut self, mut later: Self) {
        self.facts.append(&mut later.facts);
        self.attempts.append(&mut later.attempts);
        self.records.append(&mut later.records);
        self.ready.append(&mut later.ready);
        self.stop.append(&mut later.stop);
        self.complete |= later.complete;
        self.finished = later.finished.or(self.finished);
    }
}

/// The event does not fit the state: it is too late, or about another attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {no:?} is {state}: {event} does not apply")]
pub struct Illegal {
    /// The step, or `None` for the project.
    pub no: Option<StepNo>,
    /// The state it is in.
    pub state: &'static str,
    /// What was to be applied.
    pub event: &'static str,
}
