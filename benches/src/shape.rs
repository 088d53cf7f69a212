//! Shapes of projects.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::ValueEnum;
use dandori::{Project, spec::Task};
use serde::Deserialize;

use crate::Anything;

/// The steps of a project of the shape `projects`: 1 → 18 → 1.
const SMALL: usize = 20;

#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Chain,
    Fanout,
    Projects,
    Dag(PathBuf),
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "chain" => Self::Chain,
            "fanout" => Self::Fanout,
            "projects" => Self::Projects,
            other => match other.strip_prefix("dag:") {
                Some(file) => Self::Dag(file.into()),
                None => return Err("chain, fanout, projects or dag:FILE".to_owned()),
            },
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => f.write_str("chain"),
            Self::Fanout => f.write_str("fanout"),
            Self::Projects => f.write_str("projects"),
            Self::Dag(file) => write!(f, "dag:{}", file.display()),
        }
    }
}

/// A graph in a file: one object with `tasks`.
#[derive(Deserialize)]
struct Graph {
    tasks: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    needs: Vec<String>,
}

/// The kind of all steps. Both do nothing but give their output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StepKind {
    /// Pure: it goes ahead of the commit of what it builds on.
    Noop,
    /// Stands for a call with effects: it waits for that commit.
    Call,
}

impl StepKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Call => "call",
        }
    }
}

impl Shape {
    /// What its steps are, where nothing else is asked for: a hop of a chain is one from a
    /// durable result to the next.
    pub(crate) fn kind(&self) -> StepKind {
        match self {
            Self::Chain => StepKind::Call,
            Self::Fanout | Self::Projects | Self::Dag(_) => StepKind::Noop,
        }
    }

    pub(crate) fn documents(
        &self,
        steps: usize,
        kind: StepKind,
    ) -> Result<Vec<Project>, Anything> {
        let task = |at: usize| Task::new(format!("t{at}"), kind.name());
        let all = 0..steps;
        Ok(match self {
            Self::Chain => vec![all.fold(Project::named("chain"), |project, at| {
                let needs = at.checked_sub(1).map(|before| format!("t{before}"));
                project.task(task(at).needs(needs))
            })],
            Self::Fanout => {
                vec![all.fold(Project::named("fanout"), |project, at| {
                    project.task(task(at))
                })]
            }
            Self::Projects => {
                let small = (0..SMALL).fold(Project::named("small"), |project, at| {
                    let needs = match at {
                        0 => vec![],
                        last if last == SMALL - 1 => {
                            (1..last).map(|at| format!("t{at}")).collect()
                        }
                        _ => vec!["t0".to_owned()],
                    };
                    project.task(task(at).needs(needs))
                });
                vec![small; steps / SMALL]
            }
            Self::Dag(file) => {
                let graph: Graph = serde_json::from_slice(&std::fs::read(file)?)?;
                // Names of the format may be no names of tasks.
                let number: std::collections::HashMap<&str, usize> = graph
                    .tasks
                    .iter()
                    .enumerate()
                    .map(|(at, it)| (&*it.id, at))
                    .collect();
                let all = graph.tasks.iter().enumerate();
                vec![all.fold(Project::named("dag"), |project, (at, node)| {
                    let needs =
                        node.needs.iter().filter_map(|need| number.get(&**need));
                    project.task(task(at).needs(needs.map(|at| format!("t{at}"))))
                })]
            }
        })
    }
}
