//! The benches of dandori.
