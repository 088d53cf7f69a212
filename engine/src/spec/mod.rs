//! The project document: from text to a plan, with diagnostics that name the place.

mod diagnostic;
mod tree;

pub use self::{
    diagnostic::{Diagnostic, Severity},
    tree::{Path, Segment, Tree},
};
