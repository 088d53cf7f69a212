//! Coordinates: levels from left to right, steps of a level below one another.
//!
//! Owns geometry alone. Its invariant: boxes never overlap, whatever the order, because
//! every row is settled by a projection that keeps the distances.

use super::layers::{Layers, Part};
use super::order;
use super::shape::Shape;

/// Between two boxes of a level; an edge that passes between them still has air.
const GAP: f64 = 18.0;

/// Between two edges that pass side by side, or an edge and a box.
const POINT_GAP: f64 = 12.0;

/// Between connected parts.
const PART_GAP: f64 = 30.0;

/// The rows that steps without any edge fill before they begin another column.
const LONE_ROWS: usize = 6;

/// Between two levels; busy ones get more room, up to `CHANNEL_MOST`.
const CHANNEL: f64 = 44.0;
const CHANNEL_MOST: f64 = 130.0;

/// Sweeps to straighten edges, to and fro: by eye, more of them change nothing.
const SWEEPS: usize = 16;

/// A rectangle of the picture.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    fn middle(self) -> f64 {
        self.y + self.height / 2.0
    }
}

/// The line of an edge: a start, then smooth bends to each end followed by a straight
/// run through the level there.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) start: (f64, f64),
    /// Where a bend ends, and the horizontal position to which it then runs straight.
    pub(super) bends: Vec<(f64, f64, f64)>,
    /// Whether the edge was too long to be led round the boxes.
    pub(super) is_straight: bool,
}

/// A finished layout.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) boxes: Vec<Rect>,
    pub(super) lines: Vec<Line>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Lays out a graph whose boxes have the given widths and one height.
pub(super) fn lay_out(shape: &Shape, widths: &[f64], height: f64) -> Layout {
    let mut layers = Layers::of(shape);
    let lone =
        |node: usize| shape.needs[node].is_empty() && shape.dependents[node].is_empty();
    let columns = columns(shape, &layers, widths, lone);
    let mut across = vec![0.0; layers.level.len()];
    let mut top = 0.0;
    for part in layers.parts.iter_mut().filter(|part| part.vertices.len() > 1) {
        let mut at = order::arrange(part, height, GAP);
        straighten(part, height, &mut at);
        even(part, height, &mut at);
        let half =
            |vertex: usize| if part.is_point[vertex] { 0.0 } else { height / 2.0 };
        let ends = |sign: f64| {
            let ends = at.iter().enumerate().map(move |(v, y)| sign * y - half(v));
            ends.fold(f64::INFINITY, f64::min) * sign
        };
        let (least, most) = (ends(1.0), ends(-1.0));
        for (&vertex, y) in part.vertices.iter().zip(&at) {
            // Whole pixels: crisp, short in the file, and equal on every machine.
            across[vertex] = (y - least + top).round();
        }
        top += most - least + PART_GAP;
    }
    let mut boxes: Vec<_> = shape
        .level
        .iter()
        .enumerate()
        .map(|(node, &level)| {
            let (x, width) = columns[level];
            Rect { x, y: across[node] - height / 2.0, width, height }
        })
        .collect();
    let nodes: Vec<_> = (0..widths.len()).filter(|&node| lone(node)).collect();
    let below = scatter(&nodes, widths, &mut boxes, top.ceil());
    let lines = lines(&layers, &boxes, &columns, &across);
    let width = boxes.iter().map(|rect| rect.x + rect.width).fold(0.0, f64::max);
    let height = if nodes.is_empty() { (top - PART_GAP).max(0.0) } else { below };
    Layout { boxes, lines, width, height }
}

/// Puts the steps without any edge into a grid below the others, column by column, and
/// returns where it ends. One column of a thousand would be a picture nobody scrolls.
fn scatter(nodes: &[usize], widths: &[f64], boxes: &mut [Rect], top: f64) -> f64 {
    let width = nodes.iter().map(|&node| widths[node]).fold(0.0, f64::max);
    // Boxes are about twice as wide as high.
    let rows = LONE_ROWS.max((2 * nodes.len()).isqrt());
    let mut below = top;
    for (index, &node) in nodes.iter().enumerate() {
        let rect = &mut boxes[node];
        rect.x = (index / rows) as f64 * (width + GAP);
        rect.y = top + (index % rows) as f64 * (rect.height + GAP);
        rect.width = width;
        below = below.max(rect.y + rect.height);
    }
    below
}

/// The left end and the width of each level.
fn columns(
    shape: &Shape,
    layers: &Layers,
    widths: &[f64],
    lone: impl Fn(usize) -> bool,
) -> Vec<(f64, f64)> {
    let mut columns = vec![(0.0, 0.0_f64); shape.depth()];
    for (node, width) in widths.iter().enumerate().filter(|&(node, _)| !lone(node)) {
        let column = &mut columns[shape.level[node]];
        column.1 = column.1.max(*width);
    }
    let mut busy = vec![0_usize; columns.len()];
    for route in layers.routes.iter().filter(|route| route.through.is_empty()) {
        busy[layers.level[route.from]] += 1;
    }
    for &point in layers.routes.iter().flat_map(|route| &route.through) {
        busy[layers.level[point]] += 1;
    }
    let mut x = 0.0;
    for (column, edges) in columns.iter_mut().zip(busy) {
        column.0 = x;
        x += column.1 + (CHANNEL + 1.5 * edges as f64).min(CHANNEL_MOST).round();
    }
    columns
}

fn lines(
    layers: &Layers,
    boxes: &[Rect],
    columns: &[(f64, f64)],
    across: &[f64],
) -> Vec<Line> {
    let line = |route: &super::layers::Route| {
        let (from, to) = (boxes[route.from], boxes[route.to]);
        let through = route.through.iter().map(|&point| {
            let (x, width) = columns[layers.level[point]];
            (x, across[point], x + width)
        });
        let span = layers.level[route.to] - layers.level[route.from];
        Line {
            start: (from.x + from.width, from.middle()),
            bends: through.chain([(to.x, to.middle(), to.x)]).collect(),
            is_straight: span > 1 && route.through.is_empty(),
        }
    };
    layers.routes.iter().map(line).collect()
}

/// Moves the vertices of a part towards their neighbours, without overlap.
fn straighten(part: &Part, height: f64, at: &mut [f64]) {
    for sweep in 0..SWEEPS {
        // The last sweeps look both ways, so that neither side of an edge is favoured.
        let both = sweep + 4 >= SWEEPS;
        let forward = sweep % 2 == 0;
        for step in 0..part.rows.len() {
            let level = if forward { step } else { part.rows.len() - 1 - step };
            let row = &part.rows[level];
            let wish = |&vertex: &usize| {
                let before = part.before[vertex].iter().filter(|_| both || forward);
                let after = part.after[vertex].iter().filter(|_| both || !forward);
                let mut weight = 0.05;
                let mut sum = weight * at[vertex];
                for &other in before.chain(after) {
                    // A long edge should be straight before anything else is.
                    let pull = match (part.is_point[vertex], part.is_point[other]) {
                        (true, true) => 8.0,
                        (true, false) | (false, true) => 2.0,
                        (false, false) => 1.0,
                    };
                    weight += pull;
                    sum += pull * at[other];
                }
                (sum / weight, weight)
            };
            let wishes: Vec<_> = row.iter().map(wish).collect();
            settle(part, row, height, &wishes, at);
        }
    }
}

/// Takes small steps out of long edges: as many points in sequence as have a height in
/// common that is free are put there.
fn even(part: &Part, height: f64, at: &mut [f64]) {
    let mut slot = vec![(0, 0); part.vertices.len()];
    for (level, row) in part.rows.iter().enumerate() {
        for (index, &vertex) in row.iter().enumerate() {
            slot[vertex] = (level, index);
        }
    }
    // Heads of long edges, in the order of the rows.
    let heads = part.rows.iter().flatten().copied().filter(|&vertex| {
        part.is_point[vertex] && part.before[vertex].iter().any(|&v| !part.is_point[v])
    });
    for head in heads {
        let mut run: Vec<usize> = Vec::new();
        let (mut least, mut most) = (f64::NEG_INFINITY, f64::INFINITY);
        let mut next = Some(head);
        while let Some(point) = next {
            let (level, index) = slot[point];
            let row = &part.rows[level];
            let low = index.checked_sub(1).map_or(f64::NEG_INFINITY, |before| {
                at[row[before]] + distance(part, row[before], point, height)
            });
            let high = row.get(index + 1).map_or(f64::INFINITY, |&after| {
                at[after] - distance(part, point, after, height)
            });
            if least.max(low) > most.min(high) {
                level_out(&run, least, most, at);
                run.clear();
                (least, most) = (low, high);
            } else {
                (least, most) = (least.max(low), most.min(high));
            }
            run.push(point);
            next = part.after[point].first().copied().filter(|&v| part.is_point[v]);
        }
        level_out(&run, least, most, at);
    }
}

/// Puts the points of a run on one height, their mean if it is free.
fn level_out(run: &[usize], least: f64, most: f64, at: &mut [f64]) {
    let mean =
        run.iter().map(|&point| at[point]).sum::<f64>() / run.len().max(1) as f64;
    for &point in run {
        at[point] = mean.min(most).max(least);
    }
}

/// The distance that two neighbours of a row keep, from middle to middle.
fn distance(part: &Part, one: usize, other: usize, height: f64) -> f64 {
    match (part.is_point[one], part.is_point[other]) {
        (true, true) => POINT_GAP,
        (true, false) | (false, true) => POINT_GAP + height / 2.0,
        (false, false) => GAP + height,
    }
}

/// Gives the vertices of a row the places nearest to their wishes that keep the
/// distances: an isotonic regression by pooling neighbours that would collide.
fn settle(
    part: &Part,
    row: &[usize],
    height: f64,
    wishes: &[(f64, f64)],
    at: &mut [f64],
) {
    let mut offsets = Vec::with_capacity(row.len());
    let mut offset = 0.0;
    for (index, &vertex) in row.iter().enumerate() {
        if index > 0 {
            offset += distance(part, row[index - 1], vertex, height);
        }
        offsets.push(offset);
    }
    // Each pool: the mean of its wishes, their weight, and how many they are.
    let mut pools: Vec<(f64, f64, usize)> = Vec::with_capacity(row.len());
    for (&(wish, weight), offset) in wishes.iter().zip(&offsets) {
        let mut pool = (wish - offset, weight, 1);
        while let Some(&last) = pools.last()
            && last.0 > pool.0
        {
            pools.pop();
            let weight = last.1 + pool.1;
            let mean = (last.0 * last.1 + pool.0 * pool.1) / weight;
            pool = (mean, weight, last.2 + pool.2);
        }
        pools.push(pool);
    }
    let means = pools.iter().flat_map(|&(mean, _, count)| vec![mean; count]);
    for ((&vertex, offset), mean) in row.iter().zip(&offsets).zip(means) {
        at[vertex] = mean + offset;
    }
}
