//! [`Dynamic`]: a JSON value in which texts may hold `${{ }}` expressions.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// A JSON value in which texts may hold `${{ }}` expressions.
#[derive(Clone, Debug)]
pub struct Dynamic {
    raw: Box<RawValue>,
    has_expressions: bool,
}

impl Dynamic {
    /// Takes a JSON value as written.
    pub fn new(raw: Box<RawValue>) -> Self {
        // A false positive (an escaped or quoted text) only costs an evaluation.
        let has_expressions = raw.get().contains("${{");
        Self { raw, has_expressions }
    }

    /// Whether there is anything to evaluate.
    pub fn has_expressions(&self) -> bool {
        self.has_expressions
    }

    /// The value as written.
    pub fn raw(&self) -> &RawValue {
        &self.raw
    }

    /// The value as written, parsed.
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(self.raw.get()).unwrap_or_default()
    }
}

impl PartialEq for Dynamic {
    fn eq(&self, other: &Self) -> bool {
        self.raw.get() == other.raw.get()
    }
}

impl Serialize for Dynamic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Dynamic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::new)
    }
}
