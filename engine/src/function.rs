//! Handlers made of plain functions.

use std::{borrow::Cow, fmt, future::Future, marker::PhantomData};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    Context, Form, Handler, Outcome, StepError,
    canvas::{Flow, Step},
    parse_input,
};

/// What the function of a handler gives back: an output, a [`Next`], or an [`Outcome`].
pub trait Reply: Send + 'static {
    /// The output that follows from it.
    type Output;

    /// How the attempt ends with it.
    ///
    /// # Errors
    /// `invalid_output` when it has no JSON form.
    fn into_outcome(self) -> Result<Outcome, StepError>;
}

impl<Out: Serialize + Send + 'static> Reply for Out {
    type Output = Out;

    fn into_outcome(self) -> Result<Outcome, StepError> {
        Outcome::done(&self)
    }
}

/// An output, or a flow that the step becomes.
///
/// ```
/// use dandori::{Context, Next, StepError, canvas::Step, handler_fn};
///
/// async fn factorial(_: Context, n: u64) -> Result<Next<u64>, StepError> {
///     if n < 2 {
///         return Ok(Next::value(1));
///     }
///     let (factorial, mul) =
///         (Step::<u64, u64>::named("factorial"), Step::<(u64, u64), u64>::named("mul"));
///     Ok(Next::expand(factorial.bind(&(n - 1))?.then(mul.partial(&(n,))?)))
/// }
///
/// let handler = handler_fn("factorial", factorial);
/// ```
#[derive(Clone, Debug)]
pub struct Next<Out>(Choice<Out>);

#[derive(Clone, Debug)]
enum Choice<Out> {
    Value(Out),
    Expand(Outcome),
}

impl<Out> Next<Out> {
    /// The step ends with this output.
    pub fn value(output: Out) -> Self {
        Self(Choice::Value(output))
    }

    /// The step becomes this flow; see [`Outcome::Expand`].
    pub fn expand(flow: Flow<(), Out>) -> Self {
        Self(Choice::Expand(Outcome::expand(flow)))
    }

    /// The step becomes this flow, and passes a value on to it.
    ///
    /// # Errors
    /// `invalid_output` when the value has no JSON form.
    pub fn pass<T: Serialize>(
        value: &T,
        flow: Flow<T, Out>,
    ) -> Result<Self, StepError> {
        let value = serde_json::to_value(value)
            .map_err(|error| StepError::fail("invalid_output", error))?;
        let canvas = Box::new(flow.into_canvas());
        Ok(Self(Choice::Expand(Outcome::Expand { canvas, args: vec![value] })))
    }
}

impl<Out: Serialize + Send + 'static> Reply for Next<Out> {
    type Output = Out;

    fn into_outcome(self) -> Result<Outcome, StepError> {
        match self.0 {
            Choice::Value(output) => Outcome::done(&output),
            Choice::Expand(outcome) => Ok(outcome),
        }
    }
}

/// However an attempt may end; nothing is known of the type of its output.
impl Reply for Outcome {
    type Output = serde_json::Value;

    fn into_outcome(self) -> Result<Outcome, StepError> {
        Ok(self)
    }
}

/// Makes a handler from a plain async function `async fn(Context, In) -> Result<Out, StepError>`.
/// One that may become a flow gives back a [`Next`] instead of its output; one that decides
/// without types how it ends, an [`Outcome`].
///
/// ```
/// use dandori::{Context, StepError, handler_fn};
///
/// async fn shout(_ctx: Context, text: String) -> Result<String, StepError> {
///     Ok(text.to_uppercase())
/// }
///
/// let handler = handler_fn("shout", shout);
/// ```
pub fn handler_fn<In, Out, F, Fut>(
    kind: impl Into<Cow<'static, str>>,
    function: F,
) -> FunctionHandler<In, Out, F>
where
    In: DeserializeOwned + Send + 'static,
    Out: Reply,
    F: Fn(Context, In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, StepError>> + Send + 'static,
{
    let types = PhantomData::<fn(In) -> Out>;
    FunctionHandler { kind: kind.into(), function, is_pure: false, types }
}

/// A handler made of a function, see [`handler_fn`].
pub struct FunctionHandler<In, Out, F> {
    kind: Cow<'static, str>,
    function: F,
    is_pure: bool,
    types: PhantomData<fn(In) -> Out>,
}

impl<In, Out, F> fmt::Debug for FunctionHandler<In, Out, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FunctionHandler({})", self.kind)
    }
}

impl<In: DeserializeOwned, Out: Reply, F> FunctionHandler<In, Out, F> {
    /// The kind with its types, for a typed canvas.
    pub fn step(&self) -> Step<In, Out::Output> {
        Step::named(self.kind.clone())
    }

    /// Declares that the function has no effects: it does nothing but make its output, see
    /// [`Handler::is_pure`]. A chain of such steps costs one commit instead of one each.
    ///
    /// ```
    /// use dandori::{Context, StepError, handler_fn};
    ///
    /// async fn shout(_ctx: Context, text: String) -> Result<String, StepError> {
    ///     Ok(text.to_uppercase())
    /// }
    ///
    /// let handler = handler_fn("shout", shout).pure();
    /// ```
    #[must_use]
    pub fn pure(mut self) -> Self {
        self.is_pure = true;
        self
    }
}

#[async_trait]
impl<In, Out, F, Fut> Handler for FunctionHandler<In, Out, F>
where
    In: DeserializeOwned + Send + 'static,
    Out: Reply,
    F: Fn(Context, In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, StepError>> + Send + 'static,
{
    fn kind(&self) -> &str {
        &self.kind
    }

    fn form(&self) -> Form {
        Form::of::<In>()
    }

    fn is_pure(&self) -> bool {
        self.is_pure
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input = parse_input(input)?;
        (self.function)(ctx, input).await?.into_outcome()
    }
}
