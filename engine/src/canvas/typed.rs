//! The typed canvas: what does not fit together does not compile.
//!
//! A [`Step`] is a kind with the types of its input and its output, a [`Flow`] an expression
//! with the type of what is passed on to it and that of its value. Both are only data; what
//! they make is a [`Canvas`].

use std::{borrow::Cow, marker::PhantomData};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Canvas, Shape, Siblings, Signature};
use crate::{Form, StepError, plan::Amount, spec::Tree};

/// A kind, with the types of its input and its output.
///
/// Made from a handler by [`FunctionHandler::step`](crate::FunctionHandler::step), or by name
/// for one that runs elsewhere.
#[derive(Debug)]
pub struct Step<In, Out> {
    kind: Cow<'static, str>,
    form: Form,
    options: Vec<(String, Tree)>,
    types: PhantomData<fn(In) -> Out>,
}

/// An expression of a canvas: gets an `In`, has an `Out`. What gets `()` needs nothing.
///
/// ```
/// use dandori::{Context, StepError, canvas::group, handler_fn};
///
/// async fn length(_: Context, text: String) -> Result<usize, StepError> {
///     Ok(text.len())
/// }
/// async fn sum(_: Context, list: Vec<usize>) -> Result<usize, StepError> {
///     Ok(list.iter().sum())
/// }
///
/// let (length, sum) = (handler_fn("length", length).step(), handler_fn("sum", sum).step());
/// let words = ["tide", "pool"].map(|word| length.bind(&word.to_owned()).unwrap());
/// let flow = group(words).then(sum.take());
/// let text = serde_json::to_string(&flow.into_canvas()).unwrap();
/// assert!(text.starts_with(r#"{"chain":[{"group":[{"kind":"length","args":["tide"]"#));
/// ```
///
/// An output that is not the input of the next step does not compile:
///
/// ```compile_fail,E0308
/// use dandori::canvas::Step;
///
/// let length = Step::<String, usize>::named("length");
/// let shout = Step::<String, String>::named("shout");
/// // expected `Flow<usize, _>`, found `Flow<String, String>`
/// let flow = length.take().then(shout.take());
/// ```
///
/// Nor does a group whose list is not what its body takes:
///
/// ```compile_fail,E0308
/// use dandori::canvas::{Step, chord};
///
/// let length = Step::<String, usize>::named("length");
/// let join = Step::<Vec<String>, String>::named("join");
/// // expected `Flow<Vec<usize>, _>`, found `Flow<Vec<String>, String>`
/// let flow = chord([length.take(), length.take()], join.take());
/// ```
///
/// Nor a project whose first step still waits for a value:
///
/// ```compile_fail,E0308
/// use dandori::{Project, canvas::Step};
///
/// let length = Step::<String, usize>::named("length");
/// // expected `Flow<(), _>`, found `Flow<String, usize>`
/// let project = Project::new("words", length.take());
/// ```
#[derive(Debug)]
pub struct Flow<In, Out> {
    canvas: Canvas,
    types: PhantomData<fn(In) -> Out>,
}

/// What an error handler gets: the first failure, and all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The first failed step.
    #[serde(flatten)]
    pub first: FailedStep,
    /// All that failed by themselves, in the order of the document.
    #[serde(default)]
    pub failed: Vec<FailedStep>,
}

/// One failed step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStep {
    /// Its name.
    pub step: String,
    /// Its kind.
    pub kind: String,
    /// The code of its error.
    pub code: String,
    /// What went wrong.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// The place of a member in a list that tolerates failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Member<T> {
    /// It failed.
    Failed {
        /// Why.
        error: FailedStep,
    },
    /// It has this value.
    Value(T),
}

/// An input of several arguments, of which the first may be passed on to a step.
pub trait Arguments {
    /// The first one.
    type First;
    /// The others.
    type Rest: Serialize;
    /// The others, one by one.
    ///
    /// # Errors
    /// `invalid_output` when one has no JSON form.
    fn rest(rest: &Self::Rest) -> Result<Vec<Tree>, StepError>;
}

/// Expressions side by side: an array or a vector of the same type, or a tuple.
pub trait Members<In> {
    /// The list of their values, or the tuple.
    type Value;
    /// The expressions.
    fn members(self) -> Vec<Canvas>;
}

impl<Out> From<Flow<(), Out>> for Canvas {
    fn from(flow: Flow<(), Out>) -> Self {
        flow.canvas
    }
}

impl<In, Out> Clone for Step<In, Out> {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind.clone(),
            form: self.form.clone(),
            options: self.options.clone(),
            types: PhantomData,
        }
    }
}

impl<In, Out> Clone for Flow<In, Out> {
    fn clone(&self) -> Self {
        Self::new(self.canvas.clone())
    }
}

impl<In: DeserializeOwned, Out> Step<In, Out> {
    /// A kind by its name.
    pub fn named(kind: impl Into<Cow<'static, str>>) -> Self {
        let (kind, form) = (kind.into(), Form::of::<In>());
        Self { kind, form, options: vec![], types: PhantomData }
    }
}

impl<In, Out> Step<In, Out> {
    /// Sets an option of its calls, such as `retry` or `queue`, as in a document.
    #[must_use]
    pub fn option(
        mut self,
        name: impl Into<String>,
        value: &serde_json::Value,
    ) -> Self {
        self.options.push((name.into(), Tree::from(value)));
        self
    }

    /// A call that gets its whole input from what comes before.
    pub fn take(&self) -> Flow<In, Out> {
        self.call(Signature { whole: true, ..Signature::default() })
    }

    /// A call with its whole input.
    ///
    /// # Errors
    /// `invalid_output` when the input has no JSON form.
    pub fn bind(&self, input: &In) -> Result<Flow<(), Out>, StepError>
    where
        In: Serialize,
    {
        let args = vec![tree(input)?];
        Ok(self.call(Signature {
            args,
            immutable: true,
            whole: true,
            ..Signature::default()
        }))
    }

    /// A call that gets its first argument from what comes before.
    ///
    /// # Errors
    /// `invalid_output` when an argument has no JSON form.
    pub fn partial(&self, rest: &In::Rest) -> Result<Flow<In::First, Out>, StepError>
    where
        In: Arguments,
    {
        Ok(self.call(Signature { args: In::rest(rest)?, ..Signature::default() }))
    }

    fn call<T>(&self, signature: Signature) -> Flow<T, Out> {
        let (kind, options) = (self.kind.to_string(), self.options.clone());
        Flow::new(Canvas::new(Shape::Call(Signature { kind, options, ..signature })))
    }
}

impl<In, Out> Flow<In, Out> {
    fn new(canvas: Canvas) -> Self {
        Self { canvas, types: PhantomData }
    }

    /// One after the other: the value is passed on.
    #[must_use]
    pub fn then<Next>(self, next: Flow<Out, Next>) -> Flow<In, Next> {
        let mut items = match self.canvas {
            Canvas { shape: Shape::Chain(items), marks }
                if marks == Default::default() =>
            {
                items
            }
            other => vec![other],
        };
        items.push(next.canvas);
        Flow::new(Canvas::chain(items))
    }

    /// Runs another expression once when this one has succeeded, with its value.
    #[must_use]
    pub fn on_success<T>(self, callback: Flow<Out, T>) -> Self {
        Self::new(self.canvas.on_success(callback.canvas))
    }

    /// Runs another expression once when this one has failed.
    #[must_use]
    pub fn on_failure<T>(self, callback: Flow<Failure, T>) -> Self {
        Self::new(self.canvas.on_failure(callback.canvas))
    }

    /// What becomes of the members of a group once too many have failed.
    #[must_use]
    pub fn siblings(self, siblings: Siblings) -> Self {
        Self::new(self.canvas.siblings(siblings))
    }

    /// Labels all steps of the expression.
    #[must_use]
    pub fn label(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::new(self.canvas.label(name, value))
    }

    /// The expression without its types.
    pub fn into_canvas(self) -> Canvas {
        self.canvas
    }
}

impl<Out> Flow<(), Out> {
    /// Stands where a value is passed on, and ignores it.
    pub fn ignoring_input<In>(self) -> Flow<In, Out> {
        Flow::new(self.canvas)
    }
}

/// Side by side, all with the same incoming value. The value is the list of theirs, or the
/// tuple.
pub fn group<In, M: Members<In>>(members: M) -> Flow<In, M::Value> {
    Flow::new(Canvas::group(members.members()))
}

/// Side by side, where so many may fail: the list says which.
pub fn group_tolerating<In, Out>(
    members: impl IntoIterator<Item = Flow<In, Out>>,
    amount: Amount,
) -> Flow<In, Vec<Member<Out>>> {
    let members: Vec<_> = members.into_iter().collect();
    Flow::new(Canvas::group(members.members()).tolerate(amount))
}

/// Side by side, and then a body that gets the list.
pub fn chord<In, M: Members<In>, Out>(
    header: M,
    body: Flow<M::Value, Out>,
) -> Flow<In, Out> {
    group(header).then(body)
}

/// A call for each item, side by side.
///
/// # Errors
/// `invalid_output` when an item has no JSON form.
pub fn map<In: Serialize, Out>(
    step: &Step<In, Out>,
    items: impl IntoIterator<Item = In>,
) -> Result<Flow<(), Vec<Out>>, StepError> {
    let calls = items.into_iter().map(|item| step.bind(&item));
    Ok(group(calls.collect::<Result<Vec<_>, _>>()?))
}

/// A call for each item, in parts of a size; the value is a list of the lists of the parts.
///
/// # Errors
/// `invalid_output` when an item has no JSON form.
pub fn chunks<In: Serialize, Out>(
    step: &Step<In, Out>,
    items: impl IntoIterator<Item = In>,
    size: std::num::NonZeroUsize,
) -> Result<Flow<(), Vec<Vec<Out>>>, StepError> {
    let calls = items.into_iter().map(|item| step.bind(&item));
    let calls = calls.collect::<Result<Vec<_>, _>>()?;
    let parts = calls.chunks(size.get()).map(|part| group(part.to_vec()));
    Ok(group(parts.collect::<Vec<_>>()))
}

/// A group among members is one of them: without this its members would be.
fn member<In, Out>(flow: Flow<In, Out>) -> Canvas {
    match &flow.canvas.shape {
        Shape::Group(_) => Canvas::chain([flow.canvas]),
        _ => flow.canvas,
    }
}

impl<In, Out> Members<In> for Vec<Flow<In, Out>> {
    type Value = Vec<Out>;

    fn members(self) -> Vec<Canvas> {
        self.into_iter().map(member).collect()
    }
}

impl<In, Out, const N: usize> Members<In> for [Flow<In, Out>; N] {
    type Value = Vec<Out>;

    fn members(self) -> Vec<Canvas> {
        self.into_iter().map(member).collect()
    }
}

macro_rules! tuples {
    ($($first:ident: $($rest:ident)*;)*) => {$(
        impl<In, $first, $($rest),*> Members<In> for (Flow<In, $first>, $(Flow<In, $rest>),*) {
            type Value = ($first, $($rest),*);

            #[expect(non_snake_case, reason = "a place is named as its type")]
            fn members(self) -> Vec<Canvas> {
                let ($first, $($rest),*) = self;
                vec![member($first), $(member($rest)),*]
            }
        }

        impl<$first, $($rest: Serialize),*> Arguments for ($first, $($rest),*) {
            type First = $first;
            type Rest = ($($rest,)*);

            #[expect(non_snake_case, reason = "a place is named as its type")]
            fn rest(rest: &Self::Rest) -> Result<Vec<Tree>, StepError> {
                let ($($rest,)*) = rest;
                Ok(vec![$(tree($rest)?),*])
            }
        }
    )*};
}

tuples! {
    A: B;
    A: B C;
    A: B C D;
    A: B C D E;
    A: B C D E F;
}

fn tree<T: Serialize>(value: &T) -> Result<Tree, StepError> {
    let value = serde_json::to_value(value);
    let value = value.map_err(|error| StepError::fail("invalid_output", error))?;
    Ok(Tree::from(&value))
}
