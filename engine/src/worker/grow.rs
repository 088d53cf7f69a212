//! What attempts end with, and what becomes of a step whose handler has made a canvas.

use std::{sync::Arc, time::Duration};

use super::{Config, attempt::mask_value};
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
    let mut added = std::mem::take(&mut *context.added());
    if context.has_secrets() {
        added.iter_mut().for_each(|canvas| mask_canvas(canvas, context));
    }
    let config = Arc::clone(config);
    let (make, output): (Box<dyn FnOnce() -> _ + Send>, _) = match outcome {
        Outcome::Done(output) if added.is_empty() => {
            return Ok(End::Done(output.into()));
        }
        Outcome::After { .. } | Outcome::Expand { .. } if !added.is_empty() => {
            let message =
                "a step that waits or becomes a canvas cannot add to its group";
            return Err(StepError::fail("invalid_expansion", message));
        }
        Outcome::After { wait, output } => {
            return Ok(End::After { wait, output: output.into() });
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

/// Takes secrets out of a canvas.
pub(super) fn mask_canvas(canvas: &mut Canvas, context: &Context) {
    canvas.each_text(&mut |text| *text = context.mask(std::mem::take(text)));
    canvas.each_value(&mut |value| {
        let mut json = serde_json::to_value(&*value).unwrap_or_default();
        mask_value(context, &mut json);
        *value = (&json).into();
    });
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
    } else if run.grown_bytes() + body.bytes().len() > Run::MAX_GROWN_BYTES {
        let most = Run::MAX_GROWN_BYTES;
        let message = format!("the canvases of the project would exceed {most} bytes");
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_wherever_they_stand_in_a_canvas() {
        let context = Context::with_secrets(vec!["s3cret".to_owned()]);
        let call = || {
            Canvas::call("k", [json!("a s3cret b"), json!({ "s3cret": ["s3cret"] })])
                .kwarg("s3cret", &json!("s3cret"))
                .label("s3cret", "s3cret")
        };
        let chord = Canvas::chord([call()], call()).on_success(call());
        let mut canvas =
            Canvas::chain([Canvas::group([chord]), call().on_failure(call())]);
        mask_canvas(&mut canvas, &context);
        let text = serde_json::to_string(&canvas).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(text.matches("a *** b").count(), 5, "{text}");
    }
}
