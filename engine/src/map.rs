//! Maps and sets of the hot paths: their hash is seeded for each process, and costs a fraction
//! of the standard one. Keys are our own ids and numbers, or names that were checked.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

pub(crate) type Map<K, V> = HashMap<K, V, RandomState>;
pub(crate) type Set<K> = HashSet<K, RandomState>;
