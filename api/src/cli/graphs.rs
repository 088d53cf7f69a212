//! `graph`: a document or a project as a picture.

use std::path::Path;

use dandori::{
    plan::{Plan, StepNo},
    run::Run,
};

use super::{
    args::{Common, Graph as GraphArgs},
    document,
    exit::{Exit, Failure},
    target::Target,
};
use crate::{
    graph::{Graph, GraphNode, render},
    http::shape,
};

pub(super) async fn graph(common: &Common, args: &GraphArgs) -> Result<Exit, Failure> {
    let is_file = args.what == "-" || Path::new(&args.what).is_file();
    let graph = if is_file {
        let project = document::read(Path::new(&args.what), &[])?;
        let (compiled, _) = project.compile(None)?;
        of_plan(&compiled.name, &compiled.plan)
    } else {
        match common.target(&args.what).await? {
            Target::Here(project) => {
                let snapshot = project.snapshot().await?;
                of_run(&snapshot.stored.row.name, &snapshot.run)
            }
            Target::There(remote) => of_answer(remote.get(&["graph"], &[]).await?),
        }
    };
    out!("{}", render(&graph, args.format).trim_end());
    Ok(Exit::Succeeded)
}

/// The graph of a project that a server tells of.
fn of_answer(graph: shape::Graph) -> Graph {
    let nodes = graph.nodes.into_iter().map(|it| GraphNode {
        group: group(&it.name),
        name: it.name,
        label: it.title,
        kind: it.kind,
        state: Some(it.state),
        note: it.note,
    });
    let nodes: Vec<GraphNode> = nodes.collect();
    let edges = graph.edges.into_iter().map(|[need, no]| (need, no));
    let edges = edges.filter(|(need, no)| need.max(no) < &nodes.len()).collect();
    Graph { title: graph.name, nodes, edges }
}

/// The graph of a plan: no states.
fn of_plan(title: &str, plan: &Plan) -> Graph {
    let nodes =
        (0..plan.len()).map(|no| node(plan.step(no), &plan.step(no).name)).collect();
    let edges = (0..plan.len())
        .flat_map(|no| {
            plan.step(no).needs.iter().map(move |need| (*need as usize, no as usize))
        })
        .collect();
    Graph { title: title.to_owned(), nodes, edges }
}

/// The graph of a project in flight. Children of a `for_each` are counted, not drawn.
pub(crate) fn of_run(title: &str, run: &Run) -> Graph {
    let mut graph = of_plan(title, run.plan());
    for (no, node) in (0..).zip(&mut graph.nodes) {
        let view = run.view(no);
        node.state = Some(view.state.as_str().to_owned());
        node.note = note(run, no);
    }
    graph
}

fn note(run: &Run, no: StepNo) -> Option<String> {
    if let Some((done, all)) = run.items_done(no) {
        return Some(format!("{done}/{all}"));
    }
    let attempt = run.view(no).attempt;
    (attempt > 1).then(|| format!("attempt {attempt}"))
}

fn node(step: &dandori::plan::Step, name: &str) -> GraphNode {
    GraphNode {
        name: name.to_owned(),
        label: step.title.clone(),
        kind: step.kind().to_owned(),
        state: None,
        group: group(name),
        note: None,
    }
}

/// The template instance that a step belongs to.
fn group(name: &str) -> Option<String> {
    name.rsplit_once('/').map(|(group, _)| group.to_owned())
}
