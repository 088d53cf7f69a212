//! One attempt: the handler in a task, its time limits, its panics.

use std::{
    any::Any,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use tokio::{sync::mpsc::UnboundedSender, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Message,
    grow::{End, Ground, grown, mask_canvas},
    task,
    volley::Pace,
};
use crate::{
    Clock, Context, ErrorClass, Handler, Outcome, ProjectId, StepError, plan::StepNo,
    spec::format_duration, store::MAX_OUTPUT,
};

/// How long an attempt that was told to stop may take before it is dropped.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

/// Which attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) project: ProjectId,
    pub(crate) no: StepNo,
    pub(crate) attempt: u32,
    /// In which epoch of its project; zero for a step of somebody else's.
    pub(crate) epoch: i64,
}

/// What a handler hears of a request to stop, where a time limit fires it too; else it follows
/// the request.
pub(super) fn soft_token(limit: Option<Duration>) -> OnceLock<CancellationToken> {
    limit.map_or_else(OnceLock::new, |_| OnceLock::from(CancellationToken::new()))
}

/// What an attempt needs to run.
pub(super) struct Attempt {
    pub(super) key: Key,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) context: Context,
    pub(super) input: Box<RawValue>,
    pub(super) soft: Option<Duration>,
    pub(super) hard: Option<Duration>,
    /// Fires when the project wants the attempt to stop.
    pub(super) stop: CancellationToken,
    pub(super) ground: Ground,
    pub(super) config: Arc<Config>,
    pub(super) inbox: UnboundedSender<Message>,
    /// How quick attempts of its kind are.
    pub(super) pace: Arc<Pace>,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt({:?})", self.key)
    }
}

impl Attempt {
    /// Runs the attempt in a task; it tells the scheduler how it ended.
    pub(super) fn start(self) -> AbortHandle {
        let (key, inbox, pace) = (self.key, self.inbox.clone(), Arc::clone(&self.pace));
        let work = async move {
            let result = pace.watch(self.run()).await;
            // The scheduler is gone only when the process ends.
            let _ = inbox.send(Message::Ended { key, result });
        };
        task::spawn(work).abort_handle()
    }

    /// Runs the attempt.
    pub(super) async fn run(self) -> Result<End, StepError> {
        let context = self.context.clone();
        let result = self.end().await;
        context.over();
        result.map_err(|error| StepError {
            message: context.mask(error.message),
            code: context.mask(error.code.into_owned()).into(),
            ..error
        })
    }

    async fn end(self) -> Result<End, StepError> {
        let Self { handler, context, input, soft, hard, stop, ground, config, .. } =
            self;
        let work = (handler, context.clone(), input);
        let outcome = match (soft, hard) {
            (None, None) => unlimited(work, stop).await?,
            limits => supervise(work, limits, stop, config.clock.clone()).await?,
        };
        let outcome = check_size(outcome)?;
        let outcome = mask_outcome(&context, outcome)?;
        grown(&context, ground, &config, outcome).await
    }
}

type Work = (Arc<dyn Handler>, Context, Box<RawValue>);

/// Without time limits there is nothing to supervise: the handler runs in the task of the
/// attempt, and the request to stop is its own.
async fn unlimited(
    (handler, context, input): Work,
    stop: CancellationToken,
) -> Result<Outcome, StepError> {
    let work = async { handler.run(context, &input).await };
    let work = AssertUnwindSafe(work).catch_unwind();
    let cut = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        biased;
        ended = work => ended.unwrap_or_else(|panic| Err(describe_panic(&*panic))),
        () = cut => Err(StepError::cancelled()),
    }
}

/// With time limits the handler has a task of its own, so that one that never yields cannot
/// keep them from being noticed.
async fn supervise(
    (handler, context, input): Work,
    (soft, hard): (Option<Duration>, Option<Duration>),
    stop: CancellationToken,
    clock: Clock,
) -> Result<Outcome, StepError> {
    {
        let started = clock.now();
        let token = context.cancellation().clone();
        let mut work =
            AbortOnDrop(task::spawn(async move { handler.run(context, &input).await }));
        let after = |limit: Option<Duration>| {
            let clock = clock.clone();
            async move {
                match limit {
                    Some(limit) => clock.sleep_until(started.plus(limit)).await,
                    None => std::future::pending().await,
                }
            }
        };
        let mut softened = false;
        let hard_end = after(hard);
        let soft_end = after(soft);
        tokio::pin!(hard_end, soft_end);
        loop {
            tokio::select! {
                biased;
                ended = &mut work.0 => {
                    return match ended {
                        Ok(Err(error)) if softened && error.class == ErrorClass::Cancelled => {
                            Err(over_time("soft", soft))
                        }
                        Ok(result) => result,
                        Err(error) => Err(describe_end(error)),
                    };
                }
                () = &mut hard_end => return Err(over_time("hard", hard)),
                () = &mut soft_end, if !softened => {
                    softened = true;
                    token.cancel();
                }
                () = stop.cancelled() => {
                    token.cancel();
                    let end = tokio::time::timeout(STOP_GRACE, &mut work.0).await;
                    return match end {
                        Ok(Ok(result)) => result,
                        Ok(Err(error)) => Err(describe_end(error)),
                        Err(_) => Err(StepError::cancelled()),
                    };
                }
            }
        }
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn over_time(which: &str, limit: Option<Duration>) -> StepError {
    let limit = format_duration(limit.unwrap_or_default());
    StepError::retry("timeout", format!("the {which} time limit of {limit} has passed"))
}

fn describe_end(error: tokio::task::JoinError) -> StepError {
    match error.try_into_panic() {
        Ok(panic) => describe_panic(&*panic),
        Err(_) => StepError::cancelled(),
    }
}

fn describe_panic(panic: &(dyn Any + Send)) -> StepError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the handler panicked".to_owned());
    StepError::retry("panic", message)
}

fn check_size(outcome: Outcome) -> Result<Outcome, StepError> {
    let output = match &outcome {
        Outcome::Done(output) | Outcome::After { output, .. } => output,
        Outcome::Expand { .. } => return Ok(outcome),
    };
    let size = output.get().len();
    if size > MAX_OUTPUT {
        let message = format!("the output has {size} bytes; the limit is {MAX_OUTPUT}");
        return Err(StepError::fail("too_large", message));
    }
    Ok(outcome)
}

/// A secret that a service echoes must not be stored: it is looked for in the values, not
/// in their JSON, where quotes and line ends are written in another way.
fn mask_outcome(context: &Context, outcome: Outcome) -> Result<Outcome, StepError> {
    if !context.has_secrets() {
        return Ok(outcome);
    }
    let mask = |output: Box<RawValue>| {
        let mut value: serde_json::Value = crate::parse_input(&output)?;
        mask_value(context, &mut value);
        crate::to_raw(&value)
    };
    Ok(match outcome {
        Outcome::Done(output) => Outcome::Done(mask(output)?),
        Outcome::After { wait, output } => {
            Outcome::After { wait, output: mask(output)? }
        }
        Outcome::Expand { mut canvas, mut args } => {
            args.iter_mut().for_each(|arg| mask_value(context, arg));
            mask_canvas(&mut canvas, context);
            Outcome::Expand { canvas, args }
        }
    })
}

/// Outputs nest at most 128 deep, so this recursion is bounded.
pub(crate) fn mask_value(context: &Context, value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = context.mask(std::mem::take(text)),
        serde_json::Value::Number(number) => {
            let text = number.to_string();
            let masked = context.mask(text.clone());
            if masked != text {
                *value = masked.into();
            }
        }
        serde_json::Value::Array(items) => {
            items.iter_mut().for_each(|item| mask_value(context, item));
        }
        serde_json::Value::Object(entries) => {
            *entries = std::mem::take(entries)
                .into_iter()
                .map(|(key, mut value)| {
                    mask_value(context, &mut value);
                    (context.mask(key), value)
                })
                .collect();
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) => {}
    }
}
