//! Draws a graph of steps as SVG, Graphviz, Mermaid or text.
//!
//! Owns the drawing alone: what to draw comes in as a [`Graph`], whether it was read
//! from a document or from a project in flight.
//! It does not read a store, decide states or write files.
//!
//! Its invariant: [`render`] returns for every graph, its output is linear in the
//! size of the graph, and the same graph gives the same bytes.
//! Names may be hostile, edges may repeat, point nowhere or form a cycle; nothing here
//! recurses on the depth of a graph.

mod collapse;
mod dot;
mod label;
mod layers;
mod mermaid;
mod order;
mod place;
mod shape;
mod status;
mod svg;
mod text;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// What is drawn, independent of where it comes from.
///
/// ```
/// use dandori_server::graph::{Format, Graph, GraphNode, render};
///
/// let step = |name: &str| GraphNode { name: name.into(), ..GraphNode::default() };
/// let graph = Graph {
///     title: "nightly".into(),
///     nodes: vec![step("fetch"), step("load")],
///     edges: vec![(0, 1)],
/// };
/// assert_eq!(render(&graph, Format::Text), "nightly (2 steps)\nfetch\n↓ load\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// The heading of the drawing, usually the name of the project.
    pub title: String,
    /// The steps, in the order of the document: it decides between equal placements.
    pub nodes: Vec<GraphNode>,
    /// Pairs of indices into `nodes`: the need first, then its dependent.
    pub edges: Vec<(usize, usize)>,
}

/// One step of a [`Graph`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphNode {
    /// The name by which other steps need this one.
    pub name: String,
    /// The title written for people, shown before the name where there is room.
    pub label: Option<String>,
    /// The kind of step, such as `http` or `shell`; may be empty.
    pub kind: String,
    /// The state in lower snake case, or `None` while the step is only planned.
    pub state: Option<String>,
    /// The `for_each` parent or template instance to which the step belongs.
    pub group: Option<String>,
    /// A short remark, such as `12/50` or `attempt 2`.
    pub note: Option<String>,
}

/// The language of a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A picture for browsers and documents, light and dark.
    Svg,
    /// The language of Graphviz; always complete, however large the graph.
    Dot,
    /// The language of diagrams in Markdown.
    Mermaid,
    /// A tree for terminals; always complete, however large the graph.
    Text,
}

impl Format {
    /// Every format, in the order in which help texts list them.
    pub const ALL: [Self; 4] = [Self::Svg, Self::Dot, Self::Mermaid, Self::Text];

    /// Returns the name by which the command line and the interface know the format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Dot => "dot",
            Self::Mermaid => "mermaid",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|format| format.as_str() == name);
        found.ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

/// The error for a name that is no [`Format`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat(String);

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Format::ALL.map(Format::as_str).join(", ");
        write!(f, "unknown format {:?}, expected one of {known}", self.0)
    }
}

impl Error for UnknownFormat {}

/// Draws a graph.
///
/// A picture of thousands of boxes helps nobody, and Mermaid refuses one: in
/// [`Format::Svg`] and [`Format::Mermaid`] a graph that is too large is drawn with its
/// groups, and if need be its levels, as one box each, and the title says so.
#[must_use]
pub fn render(graph: &Graph, format: Format) -> String {
    match format {
        Format::Svg => svg::render(graph),
        Format::Dot => dot::render(graph),
        Format::Mermaid => mermaid::render(graph),
        Format::Text => text::render(graph),
    }
}

/// The character that stands for a state, the same in every format.
#[must_use]
pub fn state_icon(state: &str) -> char {
    status::of(state).icon
}
