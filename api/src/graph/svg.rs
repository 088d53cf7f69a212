//! A picture for browsers and documents.
//!
//! Owns boxes, lines and colours; where they lie is found in `place`. A state is shown
//! by icon, words and colour, never by colour alone. The picture carries its style with
//! it and follows the reader's choice of light or dark.

use std::fmt::Write as _;

use super::place::{Layout, Line, Rect, lay_out};
use super::shape::Shape;
use super::{Graph, GraphNode, collapse, label, status};

/// The font of a name and of the small lines, in pixels.
const NAME: f64 = 13.0;
const SMALL: f64 = 11.0;
const TITLE: f64 = 15.0;

/// Columns of a name and of a small line: sixteen Japanese characters.
const NAME_COLUMNS: usize = 32;
const SMALL_COLUMNS: usize = 32;
const TITLE_COLUMNS: usize = 100;

/// Around the picture, and left and right in a box.
const MARGIN: f64 = 20.0;
const PADDING: f64 = 12.0;

/// The room of the title above the steps.
const HEADING: f64 = 34.0;

/// The narrowest box: shorter names look like loose letters otherwise.
const NARROWEST: f64 = 92.0;

/// From line to line in a box.
const LEADING: f64 = 17.0;

/// The words of one box, cut to fit.
struct Words {
    first: String,
    second: String,
    third: Option<String>,
    icon: Option<char>,
}

impl Words {
    fn of(node: &GraphNode) -> Self {
        let name = label::name(node);
        let mut second = Vec::new();
        let first = match label::some(node.label.as_deref()) {
            Some(title) => {
                second.push(label::cut(&name, 18));
                title
            }
            None => name,
        };
        second.extend(label::some(Some(&node.kind)));
        let mut third = Vec::new();
        third.extend(label::state(node));
        third.extend(label::some(node.note.as_deref()));
        let third = third.join(" · ");
        Self {
            first: label::cut(&first, NAME_COLUMNS),
            second: label::cut(&second.join(" · "), SMALL_COLUMNS),
            third: (!third.is_empty()).then(|| label::cut(&third, SMALL_COLUMNS)),
            icon: node.state.as_deref().map(|state| status::of(state).icon),
        }
    }

    /// The icon and the words of the state: the line that changes while a step runs.
    fn status_line(&self) -> Option<String> {
        match (self.icon, &self.third) {
            (Some(icon), Some(words)) => Some(format!("{icon} {words}")),
            (Some(icon), None) => Some(icon.to_string()),
            (None, words) => words.clone(),
        }
    }

    fn width(&self) -> f64 {
        let third = self.status_line().unwrap_or_default();
        let text = label::pixels(&self.first, NAME)
            .max(label::pixels(&self.second, SMALL))
            .max(label::pixels(&third, SMALL));
        (text + 2.0 * PADDING).max(NARROWEST).ceil()
    }
}

/// Draws a graph as a picture.
pub(super) fn render(graph: &Graph) -> String {
    let summary = summary(graph);
    let graph = &*collapse::for_picture(graph);
    let shape = Shape::of(graph);
    let words: Vec<_> = graph.nodes.iter().map(Words::of).collect();
    let widths: Vec<_> = words.iter().map(Words::width).collect();
    let lines =
        if words.iter().any(|words| words.status_line().is_some()) { 3.0 } else { 2.0 };
    let layout = lay_out(&shape, &widths, lines * 16.0 + 14.0);

    let title = label::clean(&graph.title);
    let heading = label::cut(&title, TITLE_COLUMNS);
    let inner = layout.width.max(label::pixels(&heading, TITLE)).max(NARROWEST);
    let width = (inner + 2.0 * MARGIN).ceil();
    let mut out = String::new();
    let empty = if graph.nodes.is_empty() { LEADING } else { 0.0 };
    let height = (layout.height + empty + HEADING + 2.0 * MARGIN).ceil();
    let aria = if title.is_empty() { summary } else { format!("{title}: {summary}") };
    let aria = escaped(&aria);
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"dandori-graph\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" aria-label=\"{aria}\">\n<title>{aria}</title>\n"
    );
    write_style(&mut out);
    out.push_str(
        "<defs><marker id=\"dandori-arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" \
         markerWidth=\"8\" markerHeight=\"8\" markerUnits=\"userSpaceOnUse\" \
         orient=\"auto\"><path class=\"tip\" d=\"M0 0.5L8 4L0 7.5z\"/></marker></defs>\n",
    );
    let _ =
        writeln!(out, "<rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>");
    let heading = escaped(&heading);
    let _ =
        writeln!(out, "<text class=\"title\" x=\"{MARGIN}\" y=\"30\">{heading}</text>");
    if graph.nodes.is_empty() {
        let y = HEADING + MARGIN + LEADING / 2.0;
        let _ = writeln!(
            out,
            "<text class=\"small\" x=\"{MARGIN}\" y=\"{y}\">no steps</text>"
        );
    }
    write_body(&mut out, graph, &words, &layout);
    out.push_str("</svg>\n");
    out
}

/// What a reader who sees no picture is told.
fn summary(graph: &Graph) -> String {
    let steps = graph.nodes.len();
    let mut text = format!("{steps} {}", if steps == 1 { "step" } else { "steps" });
    for look in &status::LOOKS {
        let state = |node: &&GraphNode| node.state.as_deref() == Some(look.state);
        let count = graph.nodes.iter().filter(state).count();
        if count > 0 {
            let _ = write!(text, ", {count} {}", look.state.replace('_', " "));
        }
    }
    text
}

fn write_body(out: &mut String, graph: &Graph, words: &[Words], layout: &Layout) {
    let top = HEADING + MARGIN;
    let _ = writeln!(out, "<g transform=\"translate({MARGIN} {top})\">");
    out.push_str("<g class=\"edges\">\n");
    for line in &layout.lines {
        write_line(out, line);
    }
    out.push_str("</g>\n");
    for ((node, words), rect) in graph.nodes.iter().zip(words).zip(&layout.boxes) {
        write_node(out, node, words, *rect);
    }
    out.push_str("</g>\n");
}

fn write_line(out: &mut String, line: &Line) {
    let class = if line.is_straight { " class=\"far\"" } else { "" };
    let (mut x, mut y) = line.start;
    let _ = write!(out, "<path{class} d=\"M{} {}", number(x), number(y));
    for &(to, across, run) in &line.bends {
        let middle = number(f64::midpoint(x, to));
        let (end, across_end) = (number(to), number(across));
        if (across - y).abs() < 0.5 {
            let _ = write!(out, "H{end}");
        } else {
            let from = number(y);
            let _ = write!(
                out,
                "C{middle} {from} {middle} {across_end} {end} {across_end}"
            );
        }
        if run > to {
            let _ = write!(out, "H{}", number(run));
        }
        (x, y) = (run, across);
    }
    out.push_str("\"/>\n");
}

fn write_node(out: &mut String, node: &GraphNode, words: &Words, rect: Rect) {
    let class =
        node.state.as_deref().map_or("planned", |state| status::of(state).state);
    let name = escaped(&label::name(node));
    let _ = write!(out, "<g class=\"node s-{class}\" data-step=\"{name}\"");
    if let Some(group) = label::some(node.group.as_deref()) {
        let _ = write!(out, " data-group=\"{}\"", escaped(&group));
    }
    let more = [
        label::some(node.label.as_deref()),
        label::some(Some(&node.kind)),
        label::state(node),
        label::some(node.note.as_deref()),
        label::some(node.group.as_deref()).map(|group| format!("in {group}")),
    ];
    let more: String = more
        .into_iter()
        .flatten()
        .map(|word| format!(" · {}", escaped(&word)))
        .collect();
    let _ = write!(out, "><title>{name}{more}</title>");
    let Rect { x, y, width, height } = rect;
    let (left, top) = (number(x), number(y));
    let _ = write!(
        out,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" rx=\"8\"/>",
        number(width),
        number(height)
    );
    let text = number(x + PADDING);
    let lines = [
        ("name", Some(words.first.as_str())),
        ("small", Some(words.second.as_str()).filter(|second| !second.is_empty())),
        ("state", words.status_line().as_deref()),
    ]
    .map(|(class, line)| line.map(|line| (class, escaped(line))));
    // A box with fewer lines than its neighbours keeps them in the middle.
    let used = lines.iter().flatten().count() as f64;
    let mut base = y + (height - used * LEADING) / 2.0 + 13.0;
    for (class, line) in lines.into_iter().flatten() {
        let at = number(base);
        let _ = write!(
            out,
            "<text class=\"{class}\" x=\"{text}\" y=\"{at}\">{line}</text>"
        );
        base += LEADING;
    }
    out.push_str("</g>\n");
}

/// Writes the style. Every rule begins with the class of the picture, because the
/// style of a picture inside a page reaches the whole page.
fn write_style(out: &mut String) {
    const G: &str = ".dandori-graph";
    let _ = write!(
        out,
        "<style>\n\
         {G} text{{font-family:system-ui,\"Noto Sans CJK JP\",\"Hiragino Sans\",\
         sans-serif;white-space:pre}}\n\
         {G} .title{{font-size:{TITLE}px;font-weight:600}}\n\
         {G} .name{{font-size:{NAME}px}}\n\
         {G} .small,{G} .state{{font-size:{SMALL}px}}\n\
         {G} .node rect{{stroke-width:1.5}}\n\
         {G} .s-skipped rect,{G} .s-cancelled rect,{G} .s-upstream_failed rect\
         {{stroke-dasharray:5 3}}\n\
         {G} .s-running rect{{stroke-width:2.5}}\n\
         {G} .edges path{{fill:none;stroke-width:1.3;marker-end:url(#dandori-arrow)}}\n\
         {G} .edges .far{{stroke-dasharray:2 4}}\n"
    );
    write_colours(out, ["#ffffff", "#1f2328", "#59636e", "#8c96a1"], |look| look.light);
    out.push_str("@media (prefers-color-scheme:dark){\n");
    write_colours(out, ["#0f1318", "#e6edf3", "#a9b4c0", "#6e7985"], |look| look.dark);
    out.push_str("}\n</style>\n");
}

/// Writes the colours of ground, text, small text and lines, then those of the states.
fn write_colours(
    out: &mut String,
    [ground, ink, small, line]: [&str; 4],
    of: impl Fn(&status::Look) -> (&'static str, &'static str),
) {
    const G: &str = ".dandori-graph";
    let _ = write!(
        out,
        "{G} .ground{{fill:{ground}}}\n\
         {G} text{{fill:{ink}}}\n\
         {G} .small{{fill:{small}}}\n\
         {G} .edges path{{stroke:{line}}}\n\
         {G} .tip{{fill:{line}}}\n\
         {G} .s-planned rect{{fill:{ground};stroke:{line}}}\n"
    );
    for look in &status::LOOKS {
        let (state, (ink, fill)) = (look.state, of(look));
        let _ = writeln!(out, "{G} .s-{state} rect{{fill:{fill};stroke:{ink}}}");
        let _ = writeln!(out, "{G} .s-{state} .state{{fill:{ink}}}");
    }
}

/// A coordinate with at most one decimal.
fn number(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
