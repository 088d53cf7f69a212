//! A tree for terminals.
//!
//! Each step is written once, under the last of its needs; others are named behind it.
//! A sequence goes straight down with arrows instead of ever deeper, and the tree stops
//! indenting at a limit, so that the text is linear in the size of the graph.

use std::fmt::Write as _;
use std::rc::Rc;

use super::shape::Shape;
use super::{Graph, label, status};

/// Levels of indentation; a terminal of 80 columns still shows names at the last one.
const DEEPEST: usize = 12;

/// How a step hangs on the one before.
#[derive(Clone, Copy, Debug)]
enum Link {
    Root,
    /// A branch among several, with whether it is the last.
    Branch(bool),
    /// The only continuation: straight on.
    Next,
    /// A branch where the tree may not grow deeper, so that its need must be named.
    Capped,
}

/// A step still to be written.
#[derive(Debug)]
struct Pending {
    node: usize,
    link: Link,
    depth: usize,
    /// What stands at the left of the line.
    prefix: Rc<str>,
}

/// Writes a graph as a tree.
pub(super) fn render(graph: &Graph) -> String {
    let shape = Shape::of(graph);
    let homes = Homes::of(&shape);
    let title = label::clean(&graph.title);
    let steps = match graph.nodes.len() {
        1 => "1 step".to_owned(),
        count => format!("{count} steps"),
    };
    let mut out = if title.is_empty() {
        format!("{steps}\n")
    } else {
        format!("{title} ({steps})\n")
    };
    let mut shown = vec![false; graph.nodes.len()];
    let no_prefix: Rc<str> = Rc::from("");
    let roots = shape.order.iter().rev().filter(|&&node| shape.needs[node].is_empty());
    let mut stack: Vec<_> = roots
        .map(|&node| Pending {
            node,
            link: Link::Root,
            depth: 0,
            prefix: Rc::clone(&no_prefix),
        })
        .collect();
    while let Some(pending) = stack.pop() {
        let Pending { node, link, depth, prefix } = pending;
        shown[node] = true;
        let (mark, below) = match link {
            Link::Root => ("", None),
            Link::Branch(false) => ("├─ ", Some("│  ")),
            Link::Branch(true) => ("└─ ", Some("   ")),
            Link::Next | Link::Capped => ("↓ ", None),
        };
        out.push_str(&prefix);
        out.push_str(mark);
        write_step(&mut out, graph, &shape, node, matches!(link, Link::Capped));
        let prefix: Rc<str> = match below {
            Some(below) => Rc::from(format!("{prefix}{below}")),
            None => prefix,
        };
        let children = &homes.children[node];
        // Steps that hang elsewhere and were met before are pointed to, not repeated.
        let elsewhere: Vec<_> = shape.dependents[node]
            .iter()
            .filter(|&&dependent| {
                homes.need[dependent] != Some(node) && shown[dependent]
            })
            .map(|&dependent| &graph.nodes[dependent])
            .collect();
        if let Some(names) = label::list(elsewhere.into_iter()) {
            let mark = match (depth >= DEEPEST, children.is_empty()) {
                (true, _) => "",
                (false, false) => "├─ ",
                (false, true) => "└─ ",
            };
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(out, "{prefix}{mark}↑ {names}");
        }
        for (index, &child) in children.iter().enumerate().rev() {
            let is_sequence =
                shape.dependents[node].len() == 1 && shape.needs[child].len() == 1;
            let (link, depth) = if is_sequence {
                (Link::Next, depth)
            } else if depth >= DEEPEST {
                (Link::Capped, depth)
            } else {
                (Link::Branch(index + 1 == children.len()), depth + 1)
            };
            stack.push(Pending {
                node: child,
                link,
                depth,
                prefix: Rc::clone(&prefix),
            });
        }
    }
    out
}

fn write_step(
    out: &mut String,
    graph: &Graph,
    shape: &Shape,
    node: usize,
    capped: bool,
) {
    let step = &graph.nodes[node];
    if let Some(state) = &step.state {
        let _ = write!(out, "{} ", status::of(state).icon);
    }
    out.push_str(&label::name(step));
    if let Some(kind) = label::some(Some(&step.kind)) {
        let _ = write!(out, " [{kind}]");
    }
    let words = [
        label::some(step.label.as_deref()),
        label::state(step),
        label::some(step.note.as_deref()),
    ];
    let words: Vec<_> = words.into_iter().flatten().collect();
    if !words.is_empty() {
        let _ = write!(out, " {}", words.join(" · "));
    }
    let needs = &shape.needs[node];
    if (needs.len() > 1 || capped)
        && let Some(names) = label::list(needs.iter().map(|&need| &graph.nodes[need]))
    {
        let _ = write!(out, " (after: {names})");
    }
    out.push('\n');
}

/// Where each step is written.
#[derive(Debug)]
struct Homes {
    /// The need under which a step hangs.
    need: Vec<Option<usize>>,
    /// The steps that hang under each, in topological order.
    children: Vec<Vec<usize>>,
}

impl Homes {
    fn of(shape: &Shape) -> Self {
        let last = |needs: &Vec<usize>| {
            needs.iter().copied().max_by_key(|&need| shape.rank[need])
        };
        let need: Vec<_> = shape.needs.iter().map(last).collect();
        let mut children = vec![Vec::new(); need.len()];
        for &node in &shape.order {
            if let Some(home) = need[node] {
                children[home].push(node);
            }
        }
        Self { need, children }
    }
}
