//! What attempts end with, and what becomes of a step whose handler has made a canvas.

use std::{sync::Arc, time::Duration};

use super::Config;
use crate::{
    Canvas, Context, Outcome, StepError, Timestamp,
    plan::{MAX_STEPS, Plan, Policy, StepNo},
    run::{Event, Output, Run},
    spec,
    store::{Delivery, MAX_OUTPUT},
};

/// How an attempt ended well.
#[derive(Debug)]
pub(crate) enum End {
    /// With this output.
    Done(Output),
    /// It gave its slot back and succeeds after a time.
    After { wait: Duration, output: Output },
    /// As these steps; or with an output, and these for its group.
    Grown { body: Arc<Plan>, output: Option<Output> },
}

/// What a step is in its plan, for what it grows to.
#[derive(Debug)]
pub(super) struct Ground {
    plan: Arc<Plan>,
    local: StepNo,
    /// Whether what it adds to its group may fail.
    contained: bool,
}

impl Ground {
    pub(super) fn of(run: &Run, no: StepNo) -> Self {
        let (plan, local, _) = run.local_plan(no);
        let contained = match run.is_grown(no) {
            // Its own failures are judged by what it grew from, those of members are not.
            true => {
                let group = run.group_of(no);
                group.is_some_and(|(_, member)| run.policy(member).contained)
            }
            false => run.policy(no).contained,
        };
        Self { plan: Arc::clone(plan), local, contained }
    }
}

/// What a handler's outcome comes to.
pub(super) async fn grown(
    context: &Context,
    ground: Ground,
    config: &Arc<Config>,
    outcome: Outcome,
) -> Result<End, StepError> {
    let added = std::mem::take(&mut *context.added());
    let config = Arc::clone(config);
    let (make, output): (Box<dyn FnOnce() -> _ + Send>, _) = match outcome {
        Outcome::Done(output) if added.is_empty() => {
            return Ok(End::Done(output.into()));
        }
        Outcome::After { wait, output } if added.is_empty() => {
            return Ok(End::After { wait, output: output.into() });
        }
        Outcome::After { .. } => {
            let message = "a step that waits cannot add to its group";
            return Err(StepError::fail("invalid_expansion", message));
        }
        Outcome::Done(output) => {
            let make = move || {
                let policy = ground.plan.policy(ground.local);
                let policy = Policy { contained: ground.contained, ..policy.clone() };
                let among = config.store.is_shared() && config.all;
                spec::members(&added, &policy, &config.kinds, among)
            };
            (Box::new(make), Some(output.into()))
        }
        Outcome::Expand { canvas, args } => {
            let make = move || {
                let policy = ground.plan.policy(ground.local);
                let among = config.store.is_shared() && config.all;
                spec::expansion(&canvas, &args, policy, &config.kinds, among)
            };
            (Box::new(make), None)
        }
    };
    // A large canvas takes its time.
    let made = tokio::task::spawn_blocking(make).await;
    let body: Plan =
        made.map_err(|panic| StepError::fail("invalid_expansion", panic.to_string()))??;
    if body.bytes().len() > MAX_OUTPUT {
        let size = body.bytes().len();
        let message = format!("the canvas has {size} bytes; the limit is {MAX_OUTPUT}");
        return Err(StepError::fail("too_large", message));
    }
    Ok(End::Grown { body: Arc::new(body), output })
}

/// The canvas without secrets, and as written again.
pub(super) fn mask_canvas(
    canvas: &Canvas,
    mask: impl FnOnce(&mut serde_json::Value),
) -> Result<Canvas, StepError> {
    let invalid = |error: String| StepError::fail("invalid_expansion", error);
    let mut value =
        serde_json::to_value(canvas).map_err(|error| invalid(error.to_string()))?;
    mask(&mut value);
    Canvas::from_json(&value.to_string()).map_err(|error| invalid(error.to_string()))
}

impl End {
    /// What happens to the step with it.
    pub(super) fn event(
        self,
        run: &Run,
        no: StepNo,
        attempt: u32,
        now: Timestamp,
    ) -> Event {
        match self {
            Self::Done(output) => Event::Succeeded { no, attempt, output },
            Self::After { wait, output } => {
                Event::Deferred { no, attempt, until: now.plus(wait), output }
            }
            Self::Grown { body, output } => grow(run, no, attempt, body, output),
        }
    }

    /// How it is told to the owner of the project.
    pub(super) fn delivery(self, now: Timestamp) -> Delivery {
        match self {
            Self::Done(output) => Delivery::Succeeded(output),
            Self::After { wait, output } => {
                Delivery::Deferred { until: now.plus(wait), output }
            }
            Self::Grown { body, output } => Delivery::Grown { body, output },
        }
    }
}

/// A step grows, where there is room.
pub(super) fn grow(
    run: &Run,
    no: StepNo,
    attempt: u32,
    body: Arc<Plan>,
    output: Option<Output>,
) -> Event {
    let steps = run.len() as usize + body.len() as usize;
    let error = if steps > MAX_STEPS {
        let message = format!("the project would have {steps} steps of {MAX_STEPS}");
        StepError::fail("too_large", message)
    } else if run.growth_depth(no) >= Run::MAX_GROWTH {
        let message = format!("{} steps around it became canvases", Run::MAX_GROWTH);
        StepError::fail("invalid_expansion", message)
    } else if output.is_some() && run.group_of(no).is_none() {
        StepError::fail("no_group", "it is no member of a group that it could add to")
    } else {
        return Event::Grew { no, attempt, body, output };
    };
    Event::Failed { no, attempt, error }
}
