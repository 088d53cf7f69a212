//! [`Positions`]: where the values of a document stand, built only for diagnostics.

use super::{Path, Segment};

/// Line and column, both from 1.
pub(super) type Position = (u32, u32);

/// The values of a document with their places, as a flat tree.
#[derive(Debug, Default)]
pub(super) struct Positions(Vec<Value>);

#[derive(Debug)]
struct Value {
    at: Position,
    is_collection: bool,
    /// The key under which it stands, and the key's place.
    key: Option<(String, Position)>,
    children: Vec<usize>,
}

impl Positions {
    /// Adds a value below `parent`; returns its handle.
    pub(super) fn add(
        &mut self,
        parent: Option<usize>,
        key: Option<(String, Position)>,
        at: Position,
        is_collection: bool,
    ) -> usize {
        let handle = self.0.len();
        self.0.push(Value { at, is_collection, key, children: vec![] });
        if let Some(parent) = parent {
            self.0[parent].children.push(handle);
        }
        handle
    }

    /// The place of a path, or of its deepest part that exists.
    pub(super) fn locate(&self, path: &Path) -> Position {
        let Some(mut value) = self.0.first() else { return (1, 1) };
        let mut at = value.at;
        for segment in &path.0 {
            let child = match segment {
                Segment::Index(index) => value.children.get(*index),
                Segment::Key(name) | Segment::KeyName(name) => {
                    // The last one: where a key is doubled, that is the wrong one.
                    value.children.iter().rev().find(|child| {
                        self.0[**child].key.as_ref().is_some_and(|(key, _)| key == name)
                    })
                }
            };
            let Some(child) = child.map(|child| &self.0[*child]) else { break };
            at = match (segment, &child.key) {
                (Segment::KeyName(_), Some((_, key_at))) => *key_at,
                // A block value starts on the next line; its key says more.
                (Segment::Key(_), Some((_, key_at)))
                    if child.is_collection && child.at.0 != key_at.0 =>
                {
                    *key_at
                }
                _ => child.at,
            };
            value = child;
        }
        at
    }
}
