//! The language of Graphviz.
//!
//! Always complete, whatever the size: what reads it are tools.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::shape::Shape;
use super::{Graph, GraphNode, label, status};

/// Writes a graph as a `digraph`.
pub(super) fn render(graph: &Graph) -> String {
    let shape = Shape::of(graph);
    let title = quoted(&label::clean(&graph.title));
    let mut out = String::from("digraph dandori {\n  rankdir=LR;\n");
    // Writing to a string cannot fail, here and below.
    let _ =
        writeln!(out, "  graph [label={title}, labelloc=t, fontname=\"sans-serif\"];");
    out.push_str(
        "  node [shape=box, style=\"rounded,filled\", fillcolor=white, \
         fontname=\"sans-serif\"];\n",
    );
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        match label::some(node.group.as_deref()) {
            Some(group) => groups.entry(group).or_default().push(index),
            None => write_node(&mut out, "  ", index, node),
        }
    }
    for (cluster, (group, members)) in groups.iter().enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{cluster} {{");
        let _ = writeln!(out, "    label={}; style=dashed;", quoted(group));
        for &member in members {
            write_node(&mut out, "    ", member, &graph.nodes[member]);
        }
        out.push_str("  }\n");
    }
    for (need, node) in &shape.edges {
        let _ = writeln!(out, "  n{need} -> n{node};");
    }
    out.push_str("}\n");
    out
}

fn write_node(out: &mut String, indent: &str, index: usize, node: &GraphNode) {
    let look = node.state.as_deref().map(status::of);
    let name = label::name(node);
    let mut first = look.map_or_else(String::new, |look| format!("{} ", look.icon));
    first.push_str(&label::some(node.label.as_deref()).unwrap_or_else(|| name.clone()));
    let mut second = Vec::new();
    if label::some(node.label.as_deref()).is_some() {
        second.push(name.clone());
    }
    second.extend(label::some(Some(&node.kind)));
    second.extend(label::state(node));
    second.extend(label::some(node.note.as_deref()));
    let mut text = escaped(&first);
    if !second.is_empty() {
        // The break is Graphviz's own escape and must not be escaped itself.
        text.push_str("\\n");
        text.push_str(&escaped(&second.join(" · ")));
    }
    let _ =
        write!(out, "{indent}n{index} [label=\"{text}\", tooltip={}", quoted(&name));
    if let Some(look) = look {
        let (ink, fill) = look.light;
        let _ = write!(out, ", color=\"{ink}\", fillcolor=\"{fill}\"");
    }
    out.push_str("];\n");
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Escapes for a quoted string; Graphviz reads HTML entities even there.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('&', "&amp;")
}
