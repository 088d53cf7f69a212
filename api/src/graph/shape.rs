//! The structure beneath a drawing: clean edges, an order and levels.
//!
//! Owns what every format needs to know about who depends on whom, and nothing about
//! looks. Its invariant: every edge kept goes forward in `order` and up in `level`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Graph;

/// The acyclic structure of a graph, without repeated or impossible edges.
#[derive(Debug)]
pub(super) struct Shape {
    /// Edges kept, sorted: need first, then dependent.
    pub(super) edges: Vec<(usize, usize)>,
    /// What each node needs, ascending.
    pub(super) needs: Vec<Vec<usize>>,
    /// What needs each node, ascending.
    pub(super) dependents: Vec<Vec<usize>>,
    /// All nodes, each after its needs; among free ones the document's order holds.
    pub(super) order: Vec<usize>,
    /// The place of each node in `order`.
    pub(super) rank: Vec<usize>,
    /// The length of the longest path from a root to each node.
    pub(super) level: Vec<usize>,
}

impl Shape {
    /// Reads the structure of a graph.
    ///
    /// A plan is checked long before it is drawn, but a drawing of a broken plan is of
    /// more use than a panic: edges that close a cycle are left out.
    pub(super) fn of(graph: &Graph) -> Self {
        let count = graph.nodes.len();
        let mut edges = graph.edges.clone();
        edges.retain(|&(need, node)| need < count && node < count && need != node);
        edges.sort_unstable();
        edges.dedup();

        let order = sorted(count, &edges);
        let mut rank = vec![0; count];
        for (place, &node) in order.iter().enumerate() {
            rank[node] = place;
        }
        edges.retain(|&(need, node)| rank[need] < rank[node]);

        let mut needs = vec![Vec::new(); count];
        let mut dependents = vec![Vec::new(); count];
        for &(need, node) in &edges {
            needs[node].push(need);
            dependents[need].push(node);
        }
        let mut level = vec![0; count];
        for &node in &order {
            let below = needs[node].iter().map(|&need: &usize| level[need] + 1).max();
            level[node] = below.unwrap_or(0);
        }
        Self { edges, needs, dependents, order, rank, level }
    }

    /// The number of levels.
    pub(super) fn depth(&self) -> usize {
        self.level.iter().max().map_or(0, |deepest| deepest + 1)
    }
}

/// Sorts the nodes topologically, taking the first of the document where it is free.
fn sorted(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut open = vec![0_usize; count];
    let mut dependents = vec![Vec::new(); count];
    for &(need, node) in edges {
        open[node] += 1;
        dependents[need].push(node);
    }
    let mut order = Vec::with_capacity(count);
    let mut taken = vec![false; count];
    let mut free: BinaryHeap<_> =
        (0..count).filter(|&node| open[node] == 0).map(Reverse).collect();
    let mut first = 0;
    while order.len() < count {
        let node = if let Some(Reverse(node)) = free.pop() {
            node
        } else {
            // Only cycles are left: break one open at its first node.
            while taken[first] {
                first += 1;
            }
            first
        };
        if taken[node] {
            continue;
        }
        taken[node] = true;
        order.push(node);
        for &dependent in &dependents[node] {
            open[dependent] -= 1;
            if open[dependent] == 0 && !taken[dependent] {
                free.push(Reverse(dependent));
            }
        }
    }
    order
}
