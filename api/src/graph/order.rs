//! The order within the levels, chosen so that few edges cross.
//!
//! Two ways are tried and the one with fewer crossings is taken: rust-sugiyama, and
//! barycentre sweeps of our own. The second is also the way out: rust-sugiyama panics
//! on input that it does not expect and recurses on the size of a level, so it is given
//! only parts of a moderate size, on a thread of its own.
//!
//! Coordinates that rust-sugiyama returns are a first guess for `place`.

use std::thread;

use rust_sugiyama::configure::{Config, CrossingMinimization, RankingType};
use rust_sugiyama::from_vertices_and_edges;

use super::layers::Part;

/// Vertices, points of edges included, beyond which our own order is used: measured at
/// 15 ms for 2,000.
const MOST_FOR_SUGIYAMA: usize = 2_000;

/// Room for a recursion over every vertex of the largest part, with much to spare.
const STACK: usize = 16 << 20;

/// Sweeps of our own, of which the best is kept; they end early when nothing crosses.
const SWEEPS: usize = 12;

/// Puts the vertices of each row in order and returns first coordinates across them.
pub(super) fn arrange(part: &mut Part, height: f64, gap: f64) -> Vec<f64> {
    let own = swept(part);
    let guess = sugiyama(part, height, gap).map(|at| {
        let mut rows = part.rows.clone();
        for row in &mut rows {
            row.sort_by(|&a, &b| at[a].total_cmp(&at[b]));
        }
        (rows, at)
    });
    let mut at = match guess {
        // On a tie our own is taken: it keeps to the order of the document.
        Some((rows, at)) if crossings(part, &rows) < crossings(part, &own) => {
            part.rows = rows;
            at
        }
        _ => {
            part.rows = own;
            stacked(part, height, gap)
        }
    };
    if is_upside_down(part) {
        part.rows.iter_mut().for_each(|row| row.reverse());
        at.iter_mut().for_each(|across| *across = -*across);
    }
    at
}

/// Coordinates of rows whose vertices stand close together.
fn stacked(part: &Part, height: f64, gap: f64) -> Vec<f64> {
    let mut at = vec![0.0; part.vertices.len()];
    for row in &part.rows {
        let mut next = 0.0;
        for &vertex in row {
            at[vertex] = next;
            next += if part.is_point[vertex] { gap } else { height + gap };
        }
    }
    at
}

/// Whether the picture would follow the document better if it were mirrored, which
/// crosses as many edges: neighbours in a row are compared.
fn is_upside_down(part: &Part) -> bool {
    let steps = |row: &[usize]| {
        let steps = row.iter().copied().filter(|&vertex| !part.is_point[vertex]);
        steps.collect::<Vec<_>>()
    };
    let mut balance = 0_i64;
    for row in &part.rows {
        for pair in steps(row).windows(2) {
            balance += if pair[0] < pair[1] { 1 } else { -1 };
        }
    }
    balance < 0
}

/// Asks rust-sugiyama; `None` if the part is not for it or it fails.
fn sugiyama(part: &Part, height: f64, gap: f64) -> Option<Vec<f64>> {
    let count = part.vertices.len();
    if count > MOST_FOR_SUGIYAMA || part.has_straight {
        return None;
    }
    let mut vertices = Vec::with_capacity(count);
    let mut edges = Vec::new();
    for vertex in 0..count {
        let id = u32::try_from(vertex).ok()?;
        let height = if part.is_point[vertex] { 1.0 } else { height };
        vertices.push((id, (height, 1.0)));
        for &next in &part.after[vertex] {
            edges.push((id, u32::try_from(next).ok()?));
        }
    }
    let config = Config {
        minimum_length: 1,
        vertex_spacing: gap,
        // The points are in already, and its own would not be returned.
        dummy_vertices: true,
        dummy_size: 1.0,
        // The default, network simplex, takes 13 s for 1,000 vertices; this one 6 ms.
        ranking_type: RankingType::Up,
        c_minimization: CrossingMinimization::Barycenter,
        transpose: false,
    };
    let worker = thread::Builder::new()
        .name("graph-layout".to_owned())
        .stack_size(STACK)
        .spawn(move || from_vertices_and_edges(&vertices, &edges, &config))
        .ok()?;
    let layouts = worker.join().ok()?;
    let [(positions, _, _)] = layouts.as_slice() else { return None };
    let mut at = vec![f64::NAN; count];
    for &(vertex, (across, _)) in positions {
        *at.get_mut(vertex)? = across;
    }
    at.iter().all(|across| across.is_finite()).then_some(at)
}

/// Sweeps over the levels to and fro, pulling each vertex to the middle of its
/// neighbours, and returns the best order seen.
fn swept(part: &Part) -> Vec<Vec<usize>> {
    let mut rows = part.rows.clone();
    let mut place = vec![0_usize; part.vertices.len()];
    for row in &rows {
        number(row, &mut place);
    }
    let mut best = (crossings(part, &rows), rows.clone());
    for sweep in 0..SWEEPS {
        if best.0 == 0 {
            break;
        }
        let forward = sweep % 2 == 0;
        let neighbours = if forward { &part.before } else { &part.after };
        for step in 0..rows.len() {
            let level = if forward { step } else { rows.len() - 1 - step };
            let middle = |vertex: usize| match neighbours[vertex].as_slice() {
                [] => place[vertex] as f64,
                near => {
                    let sum: usize = near.iter().map(|&other| place[other]).sum();
                    sum as f64 / near.len() as f64
                }
            };
            let mut keyed: Vec<_> =
                rows[level].iter().map(|&vertex| (middle(vertex), vertex)).collect();
            // Equal middles are turned round on every second pair of sweeps, or two
            // vertices that cross for no reason would never change places.
            if sweep % 4 >= 2 {
                keyed.reverse();
            }
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            rows[level] = keyed.into_iter().map(|(_, vertex)| vertex).collect();
            number(&rows[level], &mut place);
        }
        let count = crossings(part, &rows);
        if count < best.0 {
            best = (count, rows.clone());
        }
    }
    best.1
}

fn number(row: &[usize], place: &mut [usize]) {
    for (index, &vertex) in row.iter().enumerate() {
        place[vertex] = index;
    }
}

/// Counts the pairs of edges that cross, as inversions in a Fenwick tree.
fn crossings(part: &Part, rows: &[Vec<usize>]) -> usize {
    let mut place = vec![0_usize; part.vertices.len()];
    for row in rows {
        number(row, &mut place);
    }
    let mut total = 0;
    for pair in rows.windows(2) {
        let mut seen = vec![0_usize; pair[1].len() + 1];
        let mut count = 0;
        for &vertex in &pair[0] {
            let mut ends: Vec<_> =
                part.after[vertex].iter().map(|&next| place[next]).collect();
            ends.sort_unstable();
            for &end in &ends {
                let mut index = end + 1;
                let mut not_after = 0;
                while index > 0 {
                    not_after += seen[index];
                    index &= index - 1;
                }
                total += count - not_after;
            }
            for end in ends {
                let mut index = end + 1;
                while index < seen.len() {
                    seen[index] += 1;
                    index += index & index.wrapping_neg();
                }
                count += 1;
            }
        }
    }
    total
}
