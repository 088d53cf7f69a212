//! The outputs that steps in flight may ask for, kept in memory within a budget.

use std::{
    cell::RefCell,
    collections::{VecDeque, hash_map::Entry},
    sync::Arc,
};

use serde_json::value::RawValue;

use crate::{map::Map, plan::StepNo, run::Output};

/// Bytes kept for one project; beyond, the oldest are read from the store again.
const BUDGET: usize = 128 * 1024 * 1024;

/// Outputs of one project by step; the list of a `for_each` under the step itself.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    held: Map<StepNo, Held>,
    /// Those that can be read again, the oldest first.
    order: VecDeque<StepNo>,
    bytes: usize,
    /// Those that are not on their way to the store yet, and those that are.
    gathered: Vec<StepNo>,
    in_flight: Vec<StepNo>,
    /// Lists of `for_each` steps, taken apart once for all their children.
    lists: RefCell<Map<StepNo, Arc<[Output]>>>,
}

/// An output that is held.
#[derive(Debug)]
struct Held {
    output: Output,
    /// How often it is still to be written: until then it cannot be read again.
    unwritten: u32,
}

impl Outputs {
    pub(super) fn get(&self, no: StepNo) -> Option<&Output> {
        self.held.get(&no).map(|held| &held.output)
    }

    /// The items of the list that is held under a `for_each` step; `None` when it is not
    /// held or is no list.
    pub(super) fn items(&self, no: StepNo) -> Option<Arc<[Output]>> {
        if let Some(items) = self.lists.borrow().get(&no) {
            return Some(Arc::clone(items));
        }
        let items: Vec<Box<RawValue>> =
            serde_json::from_str(self.get(no)?.get()).ok()?;
        let items: Arc<[Output]> = items.into_iter().map(Arc::from).collect();
        self.lists.borrow_mut().insert(no, Arc::clone(&items));
        Some(items)
    }

    /// Keeps an output that is not written yet.
    pub(super) fn insert(&mut self, no: StepNo, output: Output) {
        self.keep(no, output).unwritten += 1;
        self.gathered.push(no);
        self.trim();
    }

    /// What was kept so far is on its way to the store.
    pub(super) fn leave(&mut self) {
        self.in_flight.append(&mut self.gathered);
    }

    /// What was on its way is written: it can be read again.
    pub(super) fn arrived(&mut self) {
        for no in std::mem::take(&mut self.in_flight) {
            if let Some(held) = self.held.get_mut(&no) {
                held.unwritten -= 1;
                self.order.push_back(no);
            }
        }
        self.trim();
    }

    /// Forgets the oldest beyond the budget.
    fn trim(&mut self) {
        while self.bytes > BUDGET && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else { return };
            if self.held.get(&oldest).is_some_and(|held| held.unwritten > 0) {
                // Another was made since; it comes again once that is written.
                continue;
            }
            self.lists.borrow_mut().remove(&oldest);
            if let Some(held) = self.held.remove(&oldest) {
                self.bytes -= held.output.get().len();
            }
        }
    }

    /// Keeps what was just read for a step that waits for it: nothing is forgotten, or
    /// a step whose inputs exceed the budget would wait for ever.
    pub(super) fn insert_fetched(&mut self, fetched: Vec<(StepNo, Option<Output>)>) {
        for (no, output) in fetched {
            let null = || Arc::from(RawValue::NULL.to_owned());
            self.keep(no, output.unwrap_or_else(null));
            self.order.push_back(no);
        }
    }

    fn keep(&mut self, no: StepNo, output: Output) -> &mut Held {
        self.bytes += output.get().len();
        self.lists.borrow_mut().remove(&no);
        match self.held.entry(no) {
            Entry::Occupied(held) => {
                let held = held.into_mut();
                self.bytes -= held.output.get().len();
                held.output = output;
                held
            }
            Entry::Vacant(free) => free.insert(Held { output, unwritten: 0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half() -> Output {
        let text = format!("\"{}\"", "x".repeat(BUDGET / 2));
        Arc::from(RawValue::from_string(text).unwrap())
    }

    #[test]
    fn what_is_not_written_is_not_forgotten() {
        let mut outputs = Outputs::default();
        for no in 0..4 {
            outputs.insert(no, half());
        }
        assert!((0..4).all(|no| outputs.get(no).is_some()), "none can be read again");
        outputs.leave();
        outputs.insert(4, half());
        assert!(outputs.get(0).is_some(), "it may still get lost on its way");
        outputs.arrived();
        let held: Vec<StepNo> =
            (0..5).filter(|no| outputs.get(*no).is_some()).collect();
        assert_eq!(held, [3, 4], "the newest written one, and the one that is not");
    }

    #[test]
    fn another_output_of_a_step_is_held_until_it_is_written_too() {
        let mut outputs = Outputs::default();
        outputs.insert(0, half());
        outputs.leave();
        outputs.insert(0, half());
        outputs.arrived();
        outputs.insert_fetched(vec![(1, Some(half())), (2, Some(half()))]);
        outputs.trim();
        assert!(outputs.get(0).is_some(), "the later one is not written");
    }
}
