//! What flows along a canvas: the values that steps pass on, and the arguments of calls.

use serde::{Deserialize, Serialize};

use super::{Action, Dynamic, StepNo};

/// A value that is known when a step starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// As written; texts may hold expressions.
    Given(Dynamic),
    /// The output of a step, null where it was skipped.
    Output(StepNo),
    /// The outputs of steps, in this order. The slot of one that failed is
    /// `{"error": …}`.
    List(Vec<StepNo>),
    /// The record of what failed in a scope: among the needs of the step, where the step
    /// with the value of the scope failed too. Without a failure there is nothing to pass on,
    /// and the step is skipped.
    Failure(StepNo),
}

/// The arguments of a call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// By position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Flow>,
    /// By name, each name once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kwargs: Vec<(String, Flow)>,
    /// Whether the one argument is the input itself.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub whole: bool,
}

impl Call {
    /// All arguments.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.args.iter().chain(self.kwargs.iter().map(|(_, flow)| flow))
    }
}

impl Flow {
    /// Whether it names only steps of a plan of so many.
    pub(super) fn is_within(&self, steps: usize) -> bool {
        match self {
            Self::Given(_) => true,
            Self::Output(no) | Self::Failure(no) => (*no as usize) < steps,
            Self::List(list) => list.iter().all(|no| (*no as usize) < steps),
        }
    }
}

impl Action {
    /// Whether the failure of a step is judged here, among those of other members.
    pub fn tolerates(&self, no: StepNo) -> bool {
        match self {
            Self::Pass { tolerate: Some(_), .. } => self.lists(no),
            _ => false,
        }
    }

    /// Whether a step of the same plan is in the list that this one passes on.
    pub fn lists(&self, no: StepNo) -> bool {
        match self {
            // Members stand in the order of their numbers.
            Self::Pass { value: Flow::List(list), .. } => {
                list.binary_search(&no).is_ok()
            }
            _ => false,
        }
    }

    pub(super) fn is_within(&self, steps: usize) -> bool {
        match self {
            Self::Pass { cancel, .. } => {
                cancel.iter().all(|(from, to)| from < to && (*to as usize) <= steps)
            }
            Self::Run { .. } | Self::Join { .. } | Self::ForEach(_) => true,
        }
    }

    /// What flows into it.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        let (call, value) = match self {
            Self::Run { call, .. } => (call.as_deref(), None),
            Self::Pass { value, .. } => (None, Some(value)),
            Self::Join { .. } | Self::ForEach(_) => (None, None),
        };
        call.into_iter().flat_map(Call::flows).chain(value)
    }
}
