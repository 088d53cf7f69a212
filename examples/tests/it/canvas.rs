//! What a canvas means, case by case: the values that Celery's own tests and documents give,
//! and better ones where Celery hangs, reverses or loses.

mod cases;
mod execution;
mod failures;
mod growth;

use std::collections::BTreeMap;

use dandori::{Engine, Error, Project, ProjectView, run::ProjectState};
use dandori_examples::calculator;

use self::{
    cases::{Case, Ends, chains, chords, combinations, groups},
    execution::{execution, patient},
    failures::failures,
    growth::{additions, replacements, siblings},
};
use crate::cluster::Cluster;

async fn run(
    engine: &Engine,
    case: &Case,
) -> Result<(ProjectView, Vec<String>), Error> {
    let text = case.document.to_string();
    let handle = engine.submit(Project::from_json(&text)?).await?;
    let limit = std::time::Duration::from_secs(60);
    let view = tokio::time::timeout(limit, handle.wait()).await;
    let view = view.unwrap_or_else(|_| panic!("{} hangs", case.number))?;
    let mut notes: Vec<String> =
        handle.logs(None).await?.into_iter().map(|line| line.line).collect();
    if !case.ordered {
        notes.sort();
    }
    Ok((view, notes))
}

/// What is wrong with how a case ended.
async fn judge(engine: &Engine, case: &Case) -> Option<String> {
    let (view, notes) = match (run(engine, case).await, &case.ends) {
        (Ok(ended), _) => ended,
        (Err(Error::Invalid(found)), Ends::Refused(code)) => {
            let codes: Vec<&str> = found.iter().map(|it| &*it.code).collect();
            let clear = found.iter().all(|it| it.help.is_some() && it.line > 0);
            let fits = codes.contains(code) && clear;
            return (!fits).then(|| format!("{codes:?}"));
        }
        (Err(error), _) => return Some(error.to_string()),
    };
    let open = view.steps.iter().find(|step| !step.state.is_terminal());
    if let Some(step) = open {
        return Some(format!("{} is {}", step.name, step.state));
    }
    if notes != case.notes {
        return Some(format!("noted {notes:?}"));
    }
    let output =
        view.output.as_ref().map(|output| serde_json::from_str(output.get()).unwrap());
    match &case.ends {
        Ends::Value(value) => {
            let fits =
                view.state == ProjectState::Succeeded && output.as_ref() == Some(value);
            (!fits).then(|| format!("{} {output:?}", view.state))
        }
        Ends::Failed(expected) => {
            let said: BTreeMap<&str, String> = view
                .steps
                .iter()
                .map(|step| {
                    // What never ran because of its needs only points at them.
                    let own =
                        step.error.as_ref().filter(|it| it.code != "upstream_failed");
                    let code = own.map_or(String::new(), |it| format!(" {}", it.code));
                    (step.name.as_str(), format!("{}: {}{code}", step.name, step.state))
                })
                .collect();
            let missing: Vec<_> = expected
                .iter()
                .filter(|it| !said.values().any(|said| said == *it))
                .collect();
            let fits = view.state == ProjectState::Failed && missing.is_empty();
            (!fits).then(|| {
                format!("{} without {missing:?}: {:?}", view.state, said.values())
            })
        }
        Ends::Refused(code) => Some(format!("accepted without {code}: {}", view.state)),
    }
}

async fn all_on(engine: Engine) {
    let cases = [
        chains(),
        groups(),
        combinations(),
        chords(),
        failures(),
        replacements(),
        additions(),
        siblings(),
        execution(),
    ];
    let cases: Vec<_> = cases.into_iter().flatten().collect();
    let mut wrong = vec![];
    for case in &cases {
        if let Some(what) = judge(&engine, case).await {
            wrong.push(format!("{}: {what}", case.number));
        }
    }
    engine.shutdown().await;
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_holds_on_sqlite() {
    all_on(calculator().handler(patient()).temporary().start().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_holds_on_postgres() {
    let place = Cluster::shared().fresh();
    // Alone: among others an unknown kind might be another worker's.
    all_on(
        calculator()
            .handler(patient())
            .postgres(&place)
            .only_own()
            .start()
            .await
            .unwrap(),
    )
    .await;
}
