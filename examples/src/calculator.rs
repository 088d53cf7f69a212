//! The kinds of the calculator: small enough to see what a canvas does with them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use dandori::{
    Canvas, Context, Engine, EngineBuilder, Form, Handler, Next, Outcome, StepError,
    canvas::{Step, group},
    handler_fn,
};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, value::RawValue};

#[derive(Deserialize)]
struct Sum3 {
    x: Value,
    y: Value,
    #[serde(default = "nothing")]
    z: Value,
}

fn nothing() -> Value {
    Value::Null
}

#[derive(Serialize, Deserialize)]
struct Pair {
    x: Value,
    y: Value,
}

#[derive(Deserialize)]
struct Slow {
    value: Value,
    ms: u64,
}

#[derive(Deserialize)]
struct AddToAll {
    list: Vec<Value>,
    n: Value,
}

#[derive(Deserialize)]
struct Expand {
    #[serde(default)]
    value: Value,
    canvas: Value,
}

#[derive(Deserialize)]
struct AddToChord {
    #[serde(default)]
    value: Value,
    members: Vec<Value>,
}

#[derive(Deserialize)]
struct Flaky {
    value: Value,
    failures: u32,
}

/// Adds numbers, and joins texts and lists.
async fn add(_: Context, Sum3 { x, y, z }: Sum3) -> Result<Value, StepError> {
    let two = plus(x, y)?;
    if z.is_null() { Ok(two) } else { plus(two, z) }
}

fn plus(x: Value, y: Value) -> Result<Value, StepError> {
    match (x, y) {
        (Value::String(x), Value::String(y)) => Ok(Value::String(x + &y)),
        (Value::Array(mut x), Value::Array(y)) => {
            x.extend(y);
            Ok(Value::Array(x))
        }
        (x, y) => number(&x, &y, i64::checked_add, |x, y| x + y),
    }
}

async fn mul(_: Context, Pair { x, y }: Pair) -> Result<Value, StepError> {
    number(&x, &y, i64::checked_mul, |x, y| x * y)
}

async fn sub(_: Context, Pair { x, y }: Pair) -> Result<Value, StepError> {
    number(&x, &y, i64::checked_sub, |x, y| x - y)
}

async fn sum(_: Context, list: Vec<Value>) -> Result<Value, StepError> {
    list.into_iter().try_fold(Value::from(0), plus)
}

/// Whole numbers stay whole as long as they fit.
fn number(
    x: &Value,
    y: &Value,
    whole: fn(i64, i64) -> Option<i64>,
    real: fn(f64, f64) -> f64,
) -> Result<Value, StepError> {
    if let (Some(x), Some(y)) = (x.as_i64(), y.as_i64())
        && let Some(result) = whole(x, y)
    {
        return Ok(result.into());
    }
    let (Some(left), Some(right)) = (x.as_f64(), y.as_f64()) else {
        let message = format!("{x} and {y} are not two numbers, texts or lists");
        return Err(StepError::fail("type_error", message));
    };
    let result = Number::from_f64(real(left, right));
    result.map(Value::Number).ok_or_else(|| StepError::fail("overflow", "too large"))
}

async fn identity(_: Context, value: Value) -> Result<Value, StepError> {
    Ok(value)
}

/// Stops at once when it is told to.
async fn slow(ctx: Context, Slow { value, ms }: Slow) -> Result<Value, StepError> {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(ms)) => Ok(value),
        () = ctx.cancellation().cancelled() => Err(StepError::cancelled()),
    }
}

async fn flaky(ctx: Context, it: Flaky) -> Result<Value, StepError> {
    if ctx.attempt() <= it.failures {
        return Err(StepError::retry("flaky", format!("attempt {}", ctx.attempt())));
    }
    Ok(it.value)
}

/// Becomes a group that adds a number to each of a list.
async fn add_to_all(
    _: Context,
    AddToAll { list, n }: AddToAll,
) -> Result<Next<Vec<Value>>, StepError> {
    if list.is_empty() {
        return Ok(Next::value(vec![]));
    }
    let add = Step::<Pair, Value>::named("add");
    let members = list.into_iter().map(|x| add.bind(&Pair { x, y: n.clone() }));
    Ok(Next::expand(group(members.collect::<Result<Vec<_>, _>>()?)))
}

/// Becomes a canvas that is data until then; null is nothing that could be passed on.
async fn expand(_: Context, it: Expand) -> Result<Outcome, StepError> {
    let canvas = canvas(&it.canvas)?;
    let args = if it.value.is_null() { vec![] } else { vec![it.value] };
    Ok(Outcome::Expand { canvas: Box::new(canvas), args })
}

/// Passes a value on, and adds members to its group.
async fn add_to_chord(ctx: Context, it: AddToChord) -> Result<Value, StepError> {
    for member in &it.members {
        ctx.add_to_chord(canvas(member)?);
    }
    Ok(it.value)
}

fn canvas(value: &Value) -> Result<Canvas, StepError> {
    let invalid = |error| StepError::fail("invalid_expansion", error);
    Canvas::from_json(&value.to_string()).map_err(invalid)
}

/// A side effect that can be looked at: a line in the log of the step.
async fn note(ctx: Context, text: Value) -> Result<Value, StepError> {
    let line = match &text {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    ctx.log(line);
    Ok(text)
}

/// A kind that takes any number of arguments.
struct Variadic {
    kind: &'static str,
    work: fn(&[Box<RawValue>]) -> Result<Outcome, StepError>,
}

#[async_trait]
impl Handler for Variadic {
    fn kind(&self) -> &str {
        self.kind
    }

    fn form(&self) -> Form {
        Form::List
    }

    async fn run(&self, _: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let args: Vec<Box<RawValue>> = dandori::parse_input(input)?;
        (self.work)(&args)
    }
}

fn collect(args: &[Box<RawValue>]) -> Result<Outcome, StepError> {
    Outcome::done(args)
}

fn fail(args: &[Box<RawValue>]) -> Result<Outcome, StepError> {
    let said: Vec<&str> = args.iter().map(|arg| arg.get()).collect();
    Err(StepError::fail("fail", format!("fail({})", said.join(", "))))
}

/// An engine builder that has the kinds of the calculator.
pub fn calculator() -> EngineBuilder {
    let variadic: [Arc<dyn Handler>; 2] = [
        Arc::new(Variadic { kind: "collect", work: collect }),
        Arc::new(Variadic { kind: "fail", work: fail }),
    ];
    Engine::builder()
        .handler(handler_fn("add", add))
        .handler(handler_fn("mul", mul))
        .handler(handler_fn("sub", sub))
        .handler(handler_fn("sum", sum))
        .handler(handler_fn("id", identity))
        .handler(handler_fn("add_to_all", add_to_all))
        .handler(handler_fn("add_to_chord", add_to_chord))
        .handler(handler_fn("expand", expand))
        .handler(handler_fn("slow", slow))
        .handler(handler_fn("flaky", flaky))
        .handler(handler_fn("note", note))
        .handlers(variadic)
}
