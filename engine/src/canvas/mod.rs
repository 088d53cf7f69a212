//! The canvas: chain, group, chord, map, starmap and chunks, with the meaning that Celery
//! gives to these words.
//!
//! A canvas is data: it is read from a project document, or built in code ([`Canvas`]; with
//! types [`Flow`]), and lowered to the same plan as tasks. Values flow from step to step as arguments; nothing in it is run
//! before it is a plan. A fan-out of any width yields a list in the order in which it is
//! written.

mod lower;
mod typed;
mod write;

use std::collections::BTreeMap;

pub(crate) use self::lower::{
    Around, Called, Fault, MAX_LABEL, MAX_LABELS, Whole, lower,
};
pub use self::typed::{
    Arguments, FailedStep, Failure, Flow, Member, Members, Step, chord, chunks, group,
    group_tolerating, map,
};
use crate::{Error, plan::Amount, spec::Tree};

/// The deepest nesting of canvases.
pub const MAX_DEPTH: usize = 64;

/// An expression of a canvas.
#[derive(Clone, Debug, PartialEq)]
pub struct Canvas {
    /// What it is.
    pub shape: Shape,
    /// What follows it, and how it is treated.
    pub marks: Marks,
}

/// What an expression of a canvas is.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// One call of a kind.
    Call(Signature),
    /// One after the other: the value of each is passed on to the next.
    Chain(Vec<Canvas>),
    /// Side by side, with the same incoming value; the value is the list of theirs.
    Group(Vec<Canvas>),
    /// A group, whose list is passed on to a body.
    Chord {
        /// The members of the group.
        header: Vec<Canvas>,
        /// What gets the list.
        body: Box<Canvas>,
    },
    /// A call of a kind for each item, side by side; the value is the list of theirs.
    Map {
        /// The kind.
        kind: String,
        /// The argument of each call.
        items: Vec<Tree>,
    },
    /// The same, with a list of arguments for each call.
    Starmap {
        /// The kind.
        kind: String,
        /// The arguments of each call.
        items: Vec<Vec<Tree>>,
    },
    /// The same in parts; the value is a list of the lists of the parts.
    Chunks {
        /// The kind.
        kind: String,
        /// The arguments of each call.
        items: Vec<Vec<Tree>>,
        /// How many calls make a part.
        size: usize,
    },
}

/// One call of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signature {
    /// The kind.
    pub kind: String,
    /// Arguments by position; the value passed on goes before them.
    pub args: Vec<Tree>,
    /// Arguments by name; incoming ones go over them.
    pub kwargs: Vec<(String, Tree)>,
    /// Whether the value passed on is ignored.
    pub immutable: bool,
    /// Whether its one argument is the input itself, and not the first part of it.
    pub whole: bool,
    /// Retry, time limits, queue, delay and the like, as in a document.
    pub options: Vec<(String, Tree)>,
}

/// What follows an expression, and how it is treated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// Run once when it has succeeded, with its value.
    pub on_success: Vec<Canvas>,
    /// Run once when all of it has ended and something failed, with the record of that.
    pub on_failure: Vec<Canvas>,
    /// Free labels of all its steps.
    pub labels: BTreeMap<String, String>,
    /// How many members of a group or header may fail.
    pub tolerate: Option<Amount>,
    /// What becomes of the other members once too many have failed.
    pub siblings: Siblings,
}

/// What becomes of the members of a group once more of them have failed than may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Siblings {
    /// They go on.
    #[default]
    Finish,
    /// They are cancelled, and those that run are told to stop.
    Cancel,
}

impl Canvas {
    /// An expression without marks.
    pub fn new(shape: Shape) -> Self {
        Self { shape, marks: Marks::default() }
    }

    /// A call of a kind.
    pub fn call(
        kind: impl Into<String>,
        args: impl IntoIterator<Item = serde_json::Value>,
    ) -> Self {
        let args = args.into_iter().map(|value| Tree::from(&value)).collect();
        let signature = Signature { kind: kind.into(), args, ..Signature::default() };
        Self::new(Shape::Call(signature))
    }

    /// One after the other.
    pub fn chain(steps: impl IntoIterator<Item = Self>) -> Self {
        Self::new(Shape::Chain(steps.into_iter().collect()))
    }

    /// Side by side.
    pub fn group(members: impl IntoIterator<Item = Self>) -> Self {
        Self::new(Shape::Group(members.into_iter().collect()))
    }

    /// Side by side, and then a body.
    pub fn chord(header: impl IntoIterator<Item = Self>, body: Self) -> Self {
        let header = header.into_iter().collect();
        Self::new(Shape::Chord { header, body: Box::new(body) })
    }

    /// Ignores the value that is passed on to it. Only a call passes anything by.
    #[must_use]
    pub fn immutable(mut self) -> Self {
        if let Shape::Call(signature) = &mut self.shape {
            signature.immutable = true;
        }
        self
    }

    /// Sets an argument of a call by name.
    #[must_use]
    pub fn kwarg(mut self, name: impl Into<String>, value: &serde_json::Value) -> Self {
        if let Shape::Call(signature) = &mut self.shape {
            signature.kwargs.push((name.into(), Tree::from(value)));
        }
        self
    }

    /// Sets an option of a call, such as `retry` or `queue`, as in a document.
    #[must_use]
    pub fn option(
        mut self,
        name: impl Into<String>,
        value: &serde_json::Value,
    ) -> Self {
        if let Shape::Call(signature) = &mut self.shape {
            signature.options.push((name.into(), Tree::from(value)));
        }
        self
    }

    /// Runs another expression once when this one has succeeded, with its value.
    #[must_use]
    pub fn on_success(mut self, callback: Self) -> Self {
        self.marks.on_success.push(callback);
        self
    }

    /// Runs another expression once when this one has failed, with the record of that.
    #[must_use]
    pub fn on_failure(mut self, callback: Self) -> Self {
        self.marks.on_failure.push(callback);
        self
    }

    /// Labels all steps of the expression.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.marks.labels.insert(name.into(), value.into());
        self
    }

    /// Lets so many members of a group or header fail.
    #[must_use]
    pub fn tolerate(mut self, amount: Amount) -> Self {
        self.marks.tolerate = Some(amount);
        self
    }

    /// What becomes of the members of a group or header once too many have failed.
    #[must_use]
    pub fn siblings(mut self, siblings: Siblings) -> Self {
        self.marks.siblings = siblings;
        self
    }

    /// Reads an expression as it stands under `canvas:` in a document.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        crate::spec::read_canvas(text).map_err(Error::Invalid)
    }

    /// Visits every text of it and of all that is in it: kinds, names of arguments, labels.
    /// What nests deeper than is allowed is refused anyway, and not visited.
    pub(crate) fn each_text(&mut self, visit: &mut dyn FnMut(&mut String)) {
        self.each(MAX_DEPTH, &mut |canvas| {
            match &mut canvas.shape {
                Shape::Call(signature) => {
                    visit(&mut signature.kind);
                    for (name, _) in signature.kwargs.iter_mut() {
                        visit(name);
                    }
                }
                Shape::Map { kind, .. }
                | Shape::Starmap { kind, .. }
                | Shape::Chunks { kind, .. } => visit(kind),
                Shape::Chain(_) | Shape::Group(_) | Shape::Chord { .. } => {}
            }
            let labels = std::mem::take(&mut canvas.marks.labels);
            for (mut name, mut value) in labels {
                visit(&mut name);
                visit(&mut value);
                canvas.marks.labels.insert(name, value);
            }
        });
    }

    /// Visits every value that is given in it.
    pub(crate) fn each_value(&mut self, visit: &mut dyn FnMut(&mut Tree)) {
        self.each(MAX_DEPTH, &mut |canvas| match &mut canvas.shape {
            Shape::Call(signature) => {
                signature.args.iter_mut().for_each(&mut *visit);
                let named = signature.kwargs.iter_mut().chain(&mut signature.options);
                named.for_each(|(_, value)| visit(value));
            }
            Shape::Map { items, .. } => items.iter_mut().for_each(&mut *visit),
            Shape::Starmap { items, .. } | Shape::Chunks { items, .. } => {
                items.iter_mut().flatten().for_each(&mut *visit);
            }
            Shape::Chain(_) | Shape::Group(_) | Shape::Chord { .. } => {}
        });
    }

    fn each(&mut self, depth: usize, visit: &mut dyn FnMut(&mut Self)) {
        visit(self);
        if depth == 0 {
            return;
        }
        let inner: Vec<&mut Self> = match &mut self.shape {
            Shape::Chain(items) | Shape::Group(items) => items.iter_mut().collect(),
            Shape::Chord { header, body } => {
                header.iter_mut().chain([&mut **body]).collect()
            }
            Shape::Call(_)
            | Shape::Map { .. }
            | Shape::Starmap { .. }
            | Shape::Chunks { .. } => vec![],
        };
        let marks = &mut self.marks;
        let callbacks = marks.on_success.iter_mut().chain(&mut marks.on_failure);
        for canvas in inner.into_iter().chain(callbacks) {
            canvas.each(depth - 1, visit);
        }
    }

    /// Whether it is a group without members.
    fn is_empty_group(&self) -> bool {
        matches!(&self.shape, Shape::Group(members) if members.is_empty())
    }
}
