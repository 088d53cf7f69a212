//! The outputs that steps in flight may ask for, kept in memory within a budget.

use std::{cell::RefCell, collections::VecDeque, sync::Arc};

use serde_json::value::RawValue;

use crate::{map::Map, plan::StepNo, run::Output};

/// Bytes kept for one project; beyond, the oldest are read from the store again.
const BUDGET: usize = 128 * 1024 * 1024;

/// Outputs of one project by step; the list of a `for_each` under the step itself.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    held: Map<StepNo, Output>,
    order: VecDeque<StepNo>,
    bytes: usize,
    /// Lists of `for_each` steps, taken apart once for all their children.
    lists: RefCell<Map<StepNo, Arc<[Output]>>>,
}

impl Outputs {
    pub(super) fn get(&self, no: StepNo) -> Option<&Output> {
        self.held.get(&no)
    }

    /// The items of the list that is held under a `for_each` step; `None` when it is not
    /// held or is no list.
    pub(super) fn items(&self, no: StepNo) -> Option<Arc<[Output]>> {
        if let Some(items) = self.lists.borrow().get(&no) {
            return Some(Arc::clone(items));
        }
        let items: Vec<Box<RawValue>> =
            serde_json::from_str(self.held.get(&no)?.get()).ok()?;
        let items: Arc<[Output]> = items.into_iter().map(Arc::from).collect();
        self.lists.borrow_mut().insert(no, Arc::clone(&items));
        Some(items)
    }

    /// Keeps an output, forgetting the oldest beyond the budget.
    pub(super) fn insert(&mut self, no: StepNo, output: Output) {
        self.keep(no, output);
        while self.bytes > BUDGET && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else { return };
            self.lists.borrow_mut().remove(&oldest);
            if let Some(output) = self.held.remove(&oldest) {
                self.bytes -= output.get().len();
            }
        }
    }

    /// Keeps what was just read for a step that waits for it: nothing is forgotten, or
    /// a step whose inputs exceed the budget would wait for ever.
    pub(super) fn insert_fetched(&mut self, fetched: Vec<(StepNo, Option<Output>)>) {
        for (no, output) in fetched {
            let null = || Arc::from(RawValue::NULL.to_owned());
            self.keep(no, output.unwrap_or_else(null));
        }
    }

    fn keep(&mut self, no: StepNo, output: Output) {
        self.bytes += output.get().len();
        self.lists.borrow_mut().remove(&no);
        match self.held.insert(no, output) {
            Some(old) => self.bytes -= old.get().len(),
            None => self.order.push_back(no),
        }
    }
}
