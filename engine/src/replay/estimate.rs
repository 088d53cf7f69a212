//! How long a replay takes, by how long the same steps and kinds took.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    Error, ProjectHandle, Snapshot,
    plan::{Action, StepNo},
    run::{Run, StepState, StepView},
    store::ListFilter,
};

/// How many other projects are looked at for how long a kind takes.
const HISTORY: u32 = 3;

impl ProjectHandle {
    /// The longest way through what runs, in seconds, by how long it took before.
    pub(super) async fn estimate(
        &self,
        snapshot: &Snapshot,
        runs: &BTreeSet<StepNo>,
    ) -> Result<Option<f64>, Error> {
        let run = &snapshot.run;
        let mut known = durations(run);
        let is_run = |no: &StepNo| matches!(run.step(*no).action, Action::Run { .. });
        let kinds: BTreeSet<&str> = runs
            .iter()
            .filter(|no| is_run(no))
            .map(|no| run.step(*no).kind())
            .collect();
        for kind in kinds {
            if known.contains_key(kind) {
                continue;
            }
            let filter = ListFilter {
                kind: Some(kind.to_owned()),
                limit: HISTORY,
                ..ListFilter::default()
            };
            for row in self.engine().list(&filter).await? {
                let other = self.engine().project(row.id).snapshot().await?;
                if let Some(taken) = durations(&other.run).remove(kind) {
                    known.insert(kind.to_owned(), taken);
                    break;
                }
            }
            if !known.contains_key(kind) {
                return Ok(None);
            }
        }
        let mut ends: BTreeMap<StepNo, Duration> = BTreeMap::new();
        let mut longest = Duration::ZERO;
        for no in in_order_of_needs(run, runs) {
            let begins = run.needs(no).filter_map(|need| ends.get(&need)).max();
            let view = run.view(no);
            let of_kind = || known.get(run.step(no).kind()).copied();
            let takes = duration(&view).or_else(of_kind).unwrap_or_default();
            let end = begins.copied().unwrap_or_default() + takes;
            longest = longest.max(end);
            ends.insert(no, end);
        }
        Ok(Some(longest.as_secs_f64()))
    }
}

/// How long a success took.
fn duration(step: &StepView<'_>) -> Option<Duration> {
    let began = step.started_at.filter(|_| step.state == StepState::Succeeded)?;
    Some(step.at.since(began))
}

/// The mean time of successes by kind.
fn durations(run: &Run) -> BTreeMap<String, Duration> {
    let mut sums: BTreeMap<&str, (Duration, u32)> = BTreeMap::new();
    for no in run.steps_in_use() {
        if let Some(taken) = duration(&run.view(no)) {
            let sum = sums.entry(run.step(no).kind()).or_default();
            *sum = (sum.0 + taken, sum.1 + 1);
        }
    }
    sums.into_iter()
        .map(|(kind, (sum, count))| (kind.to_owned(), sum / count))
        .collect()
}

/// Steps, each after those of them that it needs.
fn in_order_of_needs(run: &Run, steps: &BTreeSet<StepNo>) -> Vec<StepNo> {
    let mut order = vec![];
    let mut seen = BTreeSet::new();
    for no in steps {
        let mut stack = vec![(*no, false)];
        while let Some((no, entered)) = stack.pop() {
            if entered {
                order.push(no);
            } else if seen.insert(no) {
                stack.push((no, true));
                let open = |need: &StepNo| steps.contains(need) && !seen.contains(need);
                stack.extend(run.needs(no).filter(open).map(|need| (need, false)));
            }
        }
    }
    order
}
