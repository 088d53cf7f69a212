//! From drafts to a [`Plan`]: names to numbers, petgraph, cycles, levels, hash.
//!
//! No recursion on the depth of the graph anywhere: a chain of a million steps is fine.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, OnceLock},
};

use petgraph::{Direction, algo, graph::DiGraph};
use sha2::{Digest, Sha256};
use unicode_normalization::{UnicodeNormalization, is_nfc_quick};

use crate::map::{Map, Set};

use super::{
    MAX_EDGES, MAX_STEPS, PLAN_FORMAT, Plan, Policy, Problem, Scope, Step, StepNo,
    Stored, nearest,
};

/// A step before its needs are resolved: everything by name.
#[derive(Debug)]
pub struct Draft {
    /// The step; its `needs` are filled in by the build.
    pub step: Step,
    /// The full names of what it needs, in document order.
    pub needs: Vec<String>,
}

/// What a plan says beside its steps.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) scopes: Vec<Scope>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) max_parallel: Option<u32>,
    pub(crate) fail_fast: bool,
    pub(crate) outputs: Option<super::Dynamic>,
    pub(crate) value: Option<super::Flow>,
}

impl Plan {
    /// Builds a plan, or tells everything that is wrong with it.
    ///
    /// # Errors
    /// All problems of the graph.
    pub(crate) fn build(
        drafts: Vec<Draft>,
        settings: Settings,
    ) -> Result<Self, Vec<Problem>> {
        let steps = resolve(drafts)?;
        let mut stored = Stored {
            format: PLAN_FORMAT,
            steps,
            scopes: settings.scopes,
            policies: settings.policies,
            max_parallel: settings.max_parallel,
            fail_fast: settings.fail_fast,
            outputs: settings.outputs,
            value: settings.value,
            leaves: vec![],
        };
        let mut needed = vec![false; stored.steps.len()];
        for need in stored.steps.iter().flat_map(|step| &step.needs) {
            needed[*need as usize] = true;
        }
        // The steps inside a template are not tasks: its join stands for them.
        stored.leaves = (0..)
            .zip(&stored.steps)
            .filter(|(no, step)| !needed[*no as usize] && !step.name.contains('/'))
            .map(|(no, _)| no)
            .collect();
        Self::assemble(stored)
    }

    /// Loads a stored plan.
    ///
    /// # Errors
    /// A sentence when the bytes are not a plan that this version can load.
    pub fn from_bytes(bytes: &Arc<[u8]>) -> Result<Self, String> {
        let stored: Stored =
            serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let mut plan = Self::from_stored(stored)?;
        // Keep the bytes as they are: their hash is the identity of the plan.
        plan.hash = Sha256::digest(bytes).into();
        plan.bytes = Arc::clone(bytes);
        Ok(plan)
    }

    pub(super) fn from_stored(stored: Stored) -> Result<Self, String> {
        if stored.format > PLAN_FORMAT {
            let format = stored.format;
            return Err(format!("plan format {format} is newer than {PLAN_FORMAT}"));
        }
        let count = stored.steps.len();
        let known = stored.steps.iter().all(|step| {
            step.needs.iter().all(|need| (*need as usize) < count)
                && (step.policy as usize) < stored.policies.len()
                && (step.scope as usize) < stored.scopes.len()
                && step.action.flows().all(|flow| flow.is_within(count))
                && step.action.is_within(count)
        }) && stored.value.iter().all(|value| value.is_within(count));
        if !known {
            return Err("the plan refers to something it does not hold".to_owned());
        }
        Self::assemble(stored).map_err(|problems| {
            problems.first().map(ToString::to_string).unwrap_or_default()
        })
    }

    fn assemble(stored: Stored) -> Result<Self, Vec<Problem>> {
        let graph = graph_of(stored.steps.iter().map(|step| &*step.needs));
        let order: Vec<StepNo> = match algo::toposort(&graph, None) {
            Ok(order) => {
                order.into_iter().map(|node| node.index()).map(number).collect()
            }
            Err(_) => {
                let names: Vec<&str> =
                    stored.steps.iter().map(|step| &*step.name).collect();
                return Err(cycles(&graph, &names));
            }
        };
        let mut level = vec![1_u32; order.len()];
        for no in &order {
            for need in &stored.steps[*no as usize].needs {
                level[*no as usize] =
                    level[*no as usize].max(level[*need as usize] + 1);
            }
        }
        let mut remaining = vec![1_u32; order.len()];
        for no in order.iter().rev() {
            let next = remaining[*no as usize] + 1;
            for need in &stored.steps[*no as usize].needs {
                remaining[*need as usize] = remaining[*need as usize].max(next);
            }
        }
        let bytes = serde_json::to_vec(&stored).unwrap_or_default();
        let hash = Sha256::digest(&bytes).into();
        let bytes = bytes.into();
        Ok(Self {
            stored,
            graph,
            order,
            level,
            remaining,
            index: OnceLock::new(),
            hash,
            bytes,
        })
    }
}

/// Finds every problem of names and rings among tasks that can need one another.
///
/// The build would find them too, but only of a graph that is whole; this serves
/// documents that have other faults as well.
pub(crate) fn survey(names: &[&str], needs: &[&[String]]) -> Vec<Problem> {
    let (numbers, mut problems) = number_needs(names, needs);
    problems.extend(rings(names, &numbers));
    problems
}

/// Turns names into numbers and collects every problem of names.
fn resolve(drafts: Vec<Draft>) -> Result<Vec<Step>, Vec<Problem>> {
    let mut problems = vec![];
    let edges: usize = drafts.iter().map(|draft| draft.needs.len()).sum();
    if drafts.is_empty() {
        problems.push(Problem::Empty);
    }
    if drafts.len() > MAX_STEPS {
        problems.push(Problem::TooManySteps { count: drafts.len(), limit: MAX_STEPS });
    }
    if edges > MAX_EDGES {
        problems.push(Problem::TooManyEdges { count: edges, limit: MAX_EDGES });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let names: Vec<&str> = drafts.iter().map(|draft| &*draft.step.name).collect();
    let needs: Vec<&[String]> = drafts.iter().map(|draft| &*draft.needs).collect();
    let (numbers, mut problems) = number_needs(&names, &needs);
    if !problems.is_empty() {
        problems.extend(rings(&names, &numbers));
        return Err(problems);
    }
    let fill = |(draft, needs): (Draft, _)| Step { needs, ..draft.step };
    Ok(drafts.into_iter().zip(numbers).map(fill).collect())
}

/// Turns the names of needs into numbers, as far as they have one.
fn number_needs(
    names: &[&str],
    needs: &[&[String]],
) -> (Vec<Vec<StepNo>>, Vec<Problem>) {
    let mut problems = vec![];
    let mut index = Map::with_capacity_and_hasher(names.len(), Default::default());
    let mut unusual: Vec<&str> = vec![];
    for (no, name) in names.iter().enumerate() {
        if index.insert(*name, number(no)).is_some() {
            problems.push(Problem::DuplicateName { name: (*name).to_owned() });
        }
        if !name.is_ascii() {
            unusual.push(name);
        }
    }
    look_alikes(&unusual, &mut problems);
    let mut resolved = Vec::with_capacity(names.len());
    // One set for all steps; cleared, not dropped.
    let mut seen = Set::default();
    for (name, needs) in names.iter().zip(needs) {
        let mut numbers = Vec::with_capacity(needs.len());
        seen.clear();
        for need in *needs {
            match index.get(need.as_str()) {
                _ if need == name => {
                    problems.push(Problem::SelfNeed { step: (*name).to_owned() });
                }
                Some(no) if seen.insert(*no) => numbers.push(*no),
                Some(_) => {}
                None => {
                    // Nobody reads a thousand suggestions, and each costs a search.
                    let nearest = (problems.len() < Problem::SUGGESTED)
                        .then(|| nearest(need, names.iter().copied()))
                        .flatten();
                    problems.push(Problem::MissingNeed {
                        step: (*name).to_owned(),
                        need: need.clone(),
                        nearest,
                    });
                }
            }
        }
        resolved.push(numbers);
    }
    (resolved, problems)
}

/// Finds rings in what is known of a graph.
fn rings(names: &[&str], needs: &[Vec<StepNo>]) -> Vec<Problem> {
    let graph = graph_of(needs.iter().map(Vec::as_slice));
    match algo::toposort(&graph, None) {
        Ok(_) => vec![],
        Err(_) => cycles(&graph, names),
    }
}

/// The graph of steps that need the given ones.
fn graph_of<'n>(
    needs: impl ExactSizeIterator<Item = &'n [StepNo]> + Clone,
) -> DiGraph<(), (), StepNo> {
    let edges = needs.clone().map(<[StepNo]>::len).sum();
    let mut graph = DiGraph::with_capacity(needs.len(), edges);
    for _ in needs.clone() {
        graph.add_node(());
    }
    for (no, needs) in (0_u32..).zip(needs) {
        for need in needs {
            graph.add_edge((*need).into(), no.into(), ());
        }
    }
    graph
}

/// Finds names that differ in bytes but not to the eye (NFC and NFD of one word).
fn look_alikes(names: &[&str], problems: &mut Vec<Problem>) {
    let mut forms: HashMap<String, &str> = HashMap::new();
    for name in names {
        let normal =
            if is_nfc_quick(name.chars()) == unicode_normalization::IsNormalized::Yes {
                (*name).to_owned()
            } else {
                name.nfc().collect()
            };
        match forms.insert(normal, name) {
            Some(other) if other != *name => problems.push(Problem::LookAlike {
                name: (*name).to_owned(),
                other: other.to_owned(),
            }),
            _ => {}
        }
    }
}

/// Finds rings: Kosaraju's components (iterative), then the shortest way round each.
fn cycles(graph: &DiGraph<(), (), StepNo>, names: &[&str]) -> Vec<Problem> {
    let mut rings: Vec<_> =
        algo::kosaraju_scc(graph).into_iter().filter(|ring| ring.len() > 1).collect();
    rings.sort_by_key(|ring| ring.iter().min().copied());
    rings
        .into_iter()
        .take(Problem::CYCLES_REPORTED)
        .filter_map(|component| {
            let start = *component.iter().min()?;
            let members: HashSet<_> = component.into_iter().collect();
            // Breadth first from `start` until an edge leads back to it.
            let mut came_from = HashMap::from([(start, start)]);
            let mut queue = VecDeque::from([start]);
            let last = 'search: loop {
                let node = queue.pop_front()?;
                for next in graph.neighbors_directed(node, Direction::Outgoing) {
                    if next == start {
                        break 'search node;
                    }
                    if members.contains(&next) && !came_from.contains_key(&next) {
                        came_from.insert(next, node);
                        queue.push_back(next);
                    }
                }
            };
            let mut ring = vec![last];
            while let Some(node) = ring.last().copied().filter(|node| *node != start) {
                ring.push(came_from[&node]);
            }
            ring.reverse();
            let length = ring.len();
            let path = ring
                .into_iter()
                .take(Problem::CYCLE_SHOWN)
                .map(|node| names[node.index()].to_owned())
                .collect();
            Some(Problem::Cycle { path, length })
        })
        .collect()
}

fn number(index: usize) -> StepNo {
    StepNo::try_from(index).unwrap_or(StepNo::MAX)
}
