//! The server library of dandori.
