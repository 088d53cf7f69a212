//! The language of diagrams in Markdown.
//!
//! Mermaid refuses a diagram beyond limits that a document cannot lift, so a graph that
//! exceeds them is collapsed until it passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::shape::Shape;
use super::{Graph, GraphNode, collapse, label, status};

/// Mermaid's default `maxEdges`, which only the site can change.
const MOST_EDGES: usize = 500;

/// Mermaid's default `maxTextSize`, in characters.
const MOST_CHARS: usize = 50_000;

/// Columns of a name; the rest would make boxes wider than a page.
const MOST_COLUMNS: usize = 60;

/// Writes a graph as a `flowchart`.
pub(super) fn render(graph: &Graph) -> String {
    let whole = (graph.nodes.len() <= MOST_CHARS).then(|| written(graph)).flatten();
    whole
        .or_else(|| collapse::by_group(graph).as_ref().and_then(written))
        .or_else(|| written(&collapse::by_level(graph)))
        .unwrap_or_default()
}

/// The diagram, or `None` if Mermaid would refuse it.
fn written(graph: &Graph) -> Option<String> {
    let shape = Shape::of(graph);
    if shape.edges.len() > MOST_EDGES {
        return None;
    }
    let title = label::cut(&label::clean(&graph.title), 200);
    let title = title.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = format!("---\ntitle: \"{title}\"\n---\nflowchart LR\n");
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        match label::some(node.group.as_deref()) {
            Some(group) => groups.entry(group).or_default().push(index),
            None => write_node(&mut out, "  ", index, node),
        }
    }
    for (number, (group, members)) in groups.iter().enumerate() {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "  subgraph g{number}[\"{}\"]", escaped(group));
        for &member in members {
            write_node(&mut out, "    ", member, &graph.nodes[member]);
        }
        out.push_str("  end\n");
    }
    for (need, node) in &shape.edges {
        let _ = writeln!(out, "  n{need} --> n{node}");
    }
    let states = graph.nodes.iter().filter_map(|node| node.state.as_deref());
    let used: BTreeSet<_> = states.map(|state| status::of(state).state).collect();
    for look in status::LOOKS.iter().filter(|look| used.contains(look.state)) {
        let (ink, fill) = look.light;
        let name = look.state;
        let _ =
            writeln!(out, "  classDef s_{name} fill:{fill},stroke:{ink},color:{ink}");
    }
    (out.chars().count() <= MOST_CHARS).then_some(out)
}

fn write_node(out: &mut String, indent: &str, index: usize, node: &GraphNode) {
    let look = node.state.as_deref().map(status::of);
    let name = escaped(&label::name(node));
    let mut text = look.map_or_else(String::new, |look| format!("{} ", look.icon));
    let mut second = Vec::new();
    match label::some(node.label.as_deref()) {
        Some(title) => {
            text.push_str(&escaped(&title));
            second.push(name);
        }
        None => text.push_str(&name),
    }
    let more = [
        label::some(Some(&node.kind)),
        label::state(node),
        label::some(node.note.as_deref()),
    ];
    second.extend(more.into_iter().flatten().map(|word| escaped(&word)));
    if !second.is_empty() {
        text.push_str("<br/>");
        text.push_str(&second.join(" · "));
    }
    let _ = write!(out, "{indent}n{index}[\"{text}\"]");
    if let Some(look) = look {
        let _ = write!(out, ":::s_{}", look.state);
    }
    out.push('\n');
}

/// Escapes with Mermaid's own entities: no quote ends the label, no tag is read as HTML,
/// and no back-tick turns it into Markdown.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in label::cut(text, MOST_COLUMNS).chars() {
        match c {
            '"' => out.push_str("#quot;"),
            '#' => out.push_str("#35;"),
            '&' => out.push_str("#amp;"),
            '<' => out.push_str("#lt;"),
            '>' => out.push_str("#gt;"),
            '`' => out.push_str("#96;"),
            c => out.push(c),
        }
    }
    out
}
