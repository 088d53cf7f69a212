//! The tests of the engine from outside, in one binary so that they link once.

mod bombs;
mod compile;
mod documents;
mod schema;
