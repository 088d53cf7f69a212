//! [`Names`]: what an expression can see.

use std::collections::BTreeMap;

use minijinja::{Value, value::Serde};
use serde::Serialize;

/// What an expression can see: names and their values. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<(&'static str, Value)>);

impl Names {
    /// The same names and one more (or another value for it).
    #[must_use]
    pub fn with(&self, name: &'static str, value: Value) -> Self {
        let mut names = self.0.clone();
        names.retain(|(existing, _)| *existing != name);
        names.push((name, value));
        Self(names)
    }

    /// The same names and one more, from anything that has a JSON form.
    #[must_use]
    pub fn with_json<T: Serialize>(&self, name: &'static str, value: &T) -> Self {
        self.with(name, json(value))
    }

    pub(super) fn root(&self) -> Value {
        let names: BTreeMap<&str, Value> = self.0.iter().cloned().collect();
        Value::from(names)
    }
}

/// Turns anything that has a JSON form into a value of the expression language.
pub fn json<T: Serialize>(value: &T) -> Value {
    Value::from(Serde(value))
}
