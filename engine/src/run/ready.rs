//! [`ReadyQueue`]: the ready steps of one project in the order in which they start.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Run, StepState};
use crate::plan::StepNo;

/// The ready steps of one project, for a slot each.
///
/// Entries may be stale (a step that was cancelled meanwhile); they are dropped when
/// they come up.
#[derive(Debug, Default)]
pub struct ReadyQueue(BinaryHeap<(i32, u32, Reverse<StepNo>)>);

impl ReadyQueue {
    /// Adds a step that may start.
    pub fn push(&mut self, run: &Run, no: StepNo) {
        self.0.push(run.rank(no));
    }

    /// The priority and remaining path of the next step that may start.
    pub fn peek(&mut self, run: &Run) -> Option<(i32, u32)> {
        while let Some((priority, remaining, Reverse(no))) = self.0.peek() {
            if run.step_state(*no) == StepState::Ready {
                return Some((*priority, *remaining));
            }
            self.0.pop();
        }
        None
    }

    /// Takes the next step that may start.
    pub fn pop(&mut self, run: &Run) -> Option<StepNo> {
        self.peek(run)?;
        self.0.pop().map(|(_, _, Reverse(no))| no)
    }

    /// How many entries there are, stale ones included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
