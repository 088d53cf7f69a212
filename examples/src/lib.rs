//! The examples of dandori.
