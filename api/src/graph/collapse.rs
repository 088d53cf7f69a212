//! Makes a large graph small enough to look at.
//!
//! Owns the choice of what stands for what; the result is an ordinary [`Graph`].
//! Its invariant: boxes are joined within a level or over neighbouring levels only, so
//! that joining never closes a cycle.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::shape::Shape;
use super::{Graph, GraphNode, status};

/// Below this, groups are drawn member by member: a fan-out of 50 is still readable.
const GROUPS_ABOVE: usize = 200;

/// Fewer members than this gain nothing from being joined.
const GROUP_LEAST: usize = 4;

/// A picture of more boxes is unreadable, and layouts are measured up to here.
const MOST_NODES: usize = 2_000;

/// Three lines a box at the largest: a judgement, beyond which a picture is grey.
const MOST_EDGES: usize = 6_000;

/// At some 200 pixels each, a picture of more levels is scrolled, not read.
const MOST_LEVELS: usize = 300;

/// The boxes to which levels are joined, at most.
const MOST_BANDS: usize = 60;

/// Returns the graph, or a smaller one that stands for it, to be drawn as a picture.
pub(super) fn for_picture(graph: &Graph) -> Cow<'_, Graph> {
    let mut small = Cow::Borrowed(graph);
    if graph.nodes.len() > GROUPS_ABOVE
        && let Some(grouped) = by_group(graph)
    {
        small = Cow::Owned(grouped);
    }
    let shape = Shape::of(&small);
    let fits = small.nodes.len() <= MOST_NODES
        && shape.edges.len() <= MOST_EDGES
        && shape.depth() <= MOST_LEVELS;
    if fits { small } else { Cow::Owned(by_level(graph)) }
}

/// Joins the members of each group that stand on the same level.
///
/// Returns `None` if no group has enough members.
pub(super) fn by_group(graph: &Graph) -> Option<Graph> {
    let shape = Shape::of(graph);
    let mut members: BTreeMap<(&str, usize), Vec<usize>> = BTreeMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if let Some(group) = &node.group {
            members.entry((group, shape.level[index])).or_default().push(index);
        }
    }
    members.retain(|_, nodes| nodes.len() >= GROUP_LEAST);
    if members.is_empty() {
        return None;
    }
    // Each group takes the place of its first member, so that the order stays.
    let mut stands_for: Vec<Option<(&str, &[usize])>> = vec![None; graph.nodes.len()];
    let mut first: Vec<usize> = (0..graph.nodes.len()).collect();
    for ((group, _), nodes) in &members {
        stands_for[nodes[0]] = Some((group, nodes));
        for &node in nodes {
            first[node] = nodes[0];
        }
    }
    let mut place = vec![0; graph.nodes.len()];
    let mut nodes = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if first[index] != index {
            continue;
        }
        place[index] = nodes.len();
        nodes.push(match stands_for[index] {
            Some((group, members)) => joined(graph, group, members),
            None => node.clone(),
        });
    }
    let edge =
        |&(need, node): &(usize, usize)| (place[first[need]], place[first[node]]);
    let mut edges: Vec<_> = shape.edges.iter().map(edge).collect();
    edges.sort_unstable();
    edges.dedup();
    let all = graph.nodes.len();
    let title = format!("{} ({all} steps, groups as one box each)", graph.title);
    Some(Graph { title, nodes, edges })
}

/// One box for the members of a group.
fn joined(graph: &Graph, group: &str, members: &[usize]) -> GraphNode {
    let nodes = || members.iter().map(|&member| &graph.nodes[member]);
    let kind = &graph.nodes[members[0]].kind;
    let kind = if nodes().all(|node| node.kind == *kind) { kind } else { "" };
    let state = most_urgent(nodes());
    let done =
        nodes().filter(|node| node.state.as_deref() == Some("succeeded")).count();
    let note = match state {
        Some(_) => format!("{done}/{}", members.len()),
        None => format!("{} steps", members.len()),
    };
    GraphNode {
        name: group.to_owned(),
        label: None,
        kind: kind.to_owned(),
        state,
        group: Some(group.to_owned()),
        note: Some(note),
    }
}

/// Draws one box per level, or per several neighbouring levels.
///
/// Only neighbours are joined by an edge: every step beyond the first level has a need
/// on the level before, so an edge over several levels would say nothing more.
pub(super) fn by_level(graph: &Graph) -> Graph {
    let shape = Shape::of(graph);
    let depth = shape.depth();
    let per_band = depth.div_ceil(MOST_BANDS).max(1);
    let mut bands: Vec<Vec<&GraphNode>> = vec![Vec::new(); depth.div_ceil(per_band)];
    for (node, &level) in graph.nodes.iter().zip(&shape.level) {
        bands[level / per_band].push(node);
    }
    let band = |(index, nodes): (usize, &Vec<&GraphNode>)| {
        let first = index * per_band + 1;
        let last = (first + per_band - 1).min(depth);
        let levels = if first == last {
            format!("level {first}")
        } else {
            format!("levels {first}–{last}")
        };
        let steps = if nodes.len() == 1 { "step" } else { "steps" };
        GraphNode {
            name: format!("{levels}: {} {steps}", nodes.len()),
            kind: counts(nodes),
            state: most_urgent(nodes.iter().copied()),
            ..GraphNode::default()
        }
    };
    let nodes: Vec<_> = bands.iter().enumerate().map(band).collect();
    let edges = (1..nodes.len()).map(|index| (index - 1, index)).collect();
    let all = graph.nodes.len();
    let title = format!("{} ({all} steps, levels as one box each)", graph.title);
    Graph { title, nodes, edges }
}

/// The states of many steps in words: "3 failed, 120 succeeded".
fn counts(nodes: &[&GraphNode]) -> String {
    let mut counts: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for state in nodes.iter().filter_map(|node| node.state.as_deref()) {
        *counts.entry((status::urgency(state), state)).or_default() += 1;
    }
    let words = |((_, state), count): (&(usize, &str), &usize)| {
        format!("{count} {}", state.replace('_', " "))
    };
    counts.iter().take(3).map(words).collect::<Vec<_>>().join(", ")
}

/// The state to which many steps amount, `None` if all are only planned.
fn most_urgent<'a>(nodes: impl Iterator<Item = &'a GraphNode>) -> Option<String> {
    let states = nodes.filter_map(|node| node.state.as_deref());
    let worst = states.min_by_key(|state| status::urgency(state));
    worst.map(str::to_owned)
}
