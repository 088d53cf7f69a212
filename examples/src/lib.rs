//! The examples of dandori: programs that embed it (`src/bin`, `calculator.rs`), and project
//! documents (`hands-on`, `python-service`).

mod calculator;

pub use self::calculator::calculator;
