//! [`Positions`]: where the values of a document stand, walked only for diagnostics.
//!
//! A document may hold a million values and a hundred findings, so that only the places
//! on the way to a finding are kept.

use std::collections::HashMap;

use super::{Path, Segment};

/// Line and column, both from 1.
pub(super) type Position = (u32, u32);

/// The places that are asked for, as a tree of paths.
#[derive(Debug, Default)]
pub(super) struct Positions {
    nodes: Vec<Node>,
    /// How many have no place yet.
    open: usize,
}

/// The number of a place that somebody asked for, or `None`: nobody did.
pub(super) type Wanted = Option<usize>;

#[derive(Debug, Default)]
struct Node {
    keys: HashMap<String, usize>,
    items: HashMap<usize, usize>,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    at: Position,
    is_collection: bool,
    /// The place of the key under which it stands.
    key_at: Option<Position>,
}

impl Positions {
    /// The tree of paths, still without places. Its root is number 0.
    pub(super) fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let mut positions = Self { nodes: vec![Node::default()], open: 0 };
        for path in paths {
            let mut node = 0;
            for segment in &path.0 {
                let next = positions.nodes.len();
                let Node { keys, items, .. } = &mut positions.nodes[node];
                node = match segment {
                    Segment::Key(name) | Segment::KeyName(name) => {
                        *keys.entry(name.clone()).or_insert(next)
                    }
                    Segment::Index(index) => *items.entry(*index).or_insert(next),
                };
                if node == next {
                    positions.nodes.push(Node::default());
                }
            }
        }
        positions.open = positions.nodes.len();
        positions
    }

    /// Whether every place is known, so that the rest of the text need not be walked.
    pub(super) fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// The value of a key.
    pub(super) fn key(&self, parent: Wanted, key: &str) -> Wanted {
        self.nodes[parent?].keys.get(key).copied()
    }

    /// An item of a list.
    pub(super) fn item(&self, parent: Wanted, index: usize) -> Wanted {
        self.nodes[parent?].items.get(&index).copied()
    }

    /// Keeps a place, where it is wanted.
    pub(super) fn keep(
        &mut self,
        wanted: Wanted,
        at: Position,
        is_collection: bool,
        key_at: Option<Position>,
    ) {
        let Some(node) = wanted else { return };
        let place = Place { at, is_collection, key_at };
        if self.nodes[node].place.replace(place).is_none() {
            self.open -= 1;
        }
    }

    /// The place of a path, or of its deepest part that exists.
    pub(super) fn locate(&self, path: &Path) -> Position {
        let mut at = self.nodes.first().and_then(|root| root.place.as_ref());
        let mut found = at.map_or((1, 1), |place| place.at);
        let mut node = Some(0);
        for segment in &path.0 {
            node = match segment {
                Segment::Key(name) | Segment::KeyName(name) => self.key(node, name),
                Segment::Index(index) => self.item(node, *index),
            };
            at = node.and_then(|node| self.nodes[node].place.as_ref());
            let Some(place) = at else { break };
            found = match (segment, place.key_at) {
                (Segment::KeyName(_), Some(key_at)) => key_at,
                // A block value starts on the next line; its key says more.
                (Segment::Key(_), Some(key_at))
                    if place.is_collection && place.at.0 != key_at.0 =>
                {
                    key_at
                }
                _ => place.at,
            };
        }
        found
    }
}
