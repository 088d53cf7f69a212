//! The tests of the engine from outside, in one binary so that they link once.

mod compile;
mod documents;
mod schema;
