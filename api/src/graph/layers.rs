//! The layers of a picture: steps and the points through which long edges pass.
//!
//! Owns the split into connected parts and levels. Order within a level is found in
//! `order`, coordinates in `place`.

use super::shape::Shape;

/// Points for long edges, at most; beyond it the longest edges run straight, behind
/// the boxes. A chain of 300 in which every step also needs the first takes 45,000.
const MOST_POINTS: usize = 20_000;

/// How one edge runs.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) from: usize,
    pub(super) to: usize,
    /// The points on the levels between; empty between neighbours, and for an edge that
    /// runs straight.
    pub(super) through: Vec<usize>,
}

/// All vertices of a picture: the steps first, then the points of long edges.
#[derive(Debug)]
pub(super) struct Layers {
    /// The level of each vertex.
    pub(super) level: Vec<usize>,
    /// One route for each edge.
    pub(super) routes: Vec<Route>,
    /// The connected parts, each drawn for itself, in the order of the document.
    pub(super) parts: Vec<Part>,
}

/// A connected part, its vertices numbered anew from zero.
#[derive(Debug)]
pub(super) struct Part {
    /// The vertex of the whole picture behind each vertex of this part.
    pub(super) vertices: Vec<usize>,
    /// Whether a vertex is a point of a long edge.
    pub(super) is_point: Vec<bool>,
    /// Neighbours on the level before.
    pub(super) before: Vec<Vec<usize>>,
    /// Neighbours on the level after.
    pub(super) after: Vec<Vec<usize>>,
    /// The vertices of each level, in the order in which they are drawn.
    pub(super) rows: Vec<Vec<usize>>,
    /// Whether some edge has no points and is unknown to the neighbourhoods.
    pub(super) has_straight: bool,
}

impl Layers {
    /// Builds the layers of a graph.
    pub(super) fn of(shape: &Shape) -> Self {
        let steps = shape.level.len();
        let mut level = shape.level.clone();
        let span =
            |&(need, node): &(usize, usize)| shape.level[node] - shape.level[need];
        let mut edges = shape.edges.clone();
        // Short edges first: they gain most from the points that there are.
        edges.sort_by_key(span);
        let mut routes = Vec::with_capacity(edges.len());
        for (from, to) in edges {
            let between = level[from] + 1..level[to];
            let mut through = Vec::new();
            if level.len() - steps + between.len() <= MOST_POINTS {
                through.extend(level.len()..level.len() + between.len());
                level.extend(between);
            }
            routes.push(Route { from, to, through });
        }
        routes.sort_by_key(|route| (route.from, route.to));
        let parts = parts(steps, &level, &routes);
        Self { level, routes, parts }
    }
}

/// Splits the vertices into connected parts.
fn parts(steps: usize, level: &[usize], routes: &[Route]) -> Vec<Part> {
    let mut root: Vec<usize> = (0..level.len()).collect();
    for route in routes {
        let from = find(&mut root, route.from);
        for &vertex in route.through.iter().chain([&route.to]) {
            let other = find(&mut root, vertex);
            root[other] = from;
        }
    }
    let mut part_of = vec![usize::MAX; level.len()];
    let mut local = vec![0; level.len()];
    let mut parts: Vec<Part> = Vec::new();
    for vertex in 0..level.len() {
        let head = find(&mut root, vertex);
        if part_of[head] == usize::MAX {
            part_of[head] = parts.len();
            parts.push(Part::empty());
        }
        let part = &mut parts[part_of[head]];
        local[vertex] = part.add(vertex, level[vertex], vertex >= steps);
    }
    for route in routes {
        let head = find(&mut root, route.from);
        let part = &mut parts[part_of[head]];
        if route.through.is_empty() && level[route.to] - level[route.from] > 1 {
            part.has_straight = true;
            continue;
        }
        let mut last = route.from;
        for &next in route.through.iter().chain([&route.to]) {
            part.after[local[last]].push(local[next]);
            part.before[local[next]].push(local[last]);
            last = next;
        }
    }
    parts
}

/// Finds the representative of a vertex, shortening the way for the next question.
fn find(root: &mut [usize], mut vertex: usize) -> usize {
    while root[vertex] != vertex {
        root[vertex] = root[root[vertex]];
        vertex = root[vertex];
    }
    vertex
}

impl Part {
    fn empty() -> Self {
        Self {
            vertices: Vec::new(),
            is_point: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            rows: Vec::new(),
            has_straight: false,
        }
    }

    fn add(&mut self, vertex: usize, level: usize, is_point: bool) -> usize {
        let local = self.vertices.len();
        self.vertices.push(vertex);
        self.is_point.push(is_point);
        self.before.push(Vec::new());
        self.after.push(Vec::new());
        if self.rows.len() <= level {
            self.rows.resize(level + 1, Vec::new());
        }
        self.rows[level].push(local);
        local
    }
}
