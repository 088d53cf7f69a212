//! What the engine counts, through the facade `metrics`: whoever installs a recorder gets it.
//!
//! Nothing is counted until somebody asks for it ([`observe`]), because the names of kinds
//! are copied for each step that ends.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::run::{Fact, Run};

static OBSERVED: AtomicBool = AtomicBool::new(false);

/// Begins to count, for all engines of this process.
///
/// - `dandori_steps_total{kind, state}`: steps that ended;
/// - `dandori_step_seconds{kind}`: how long their last attempts took;
/// - `dandori_commits_total`, `dandori_commit_transitions`: commits, and how much is in one;
/// - `dandori_leases_lost_total`: how often the session was declared dead and began anew.
///
/// No label is that of a project.
pub fn observe() {
    metrics::describe_counter!("dandori_steps_total", "Steps that ended");
    metrics::describe_histogram!(
        "dandori_step_seconds",
        metrics::Unit::Seconds,
        "How long the last attempts of steps took"
    );
    metrics::describe_counter!("dandori_commits_total", "Commits");
    metrics::describe_histogram!("dandori_commit_transitions", "Changes in one commit");
    metrics::describe_counter!(
        "dandori_leases_lost_total",
        "How often the session was declared dead"
    );
    OBSERVED.store(true, Ordering::Relaxed);
}

fn is_observed() -> bool {
    OBSERVED.load(Ordering::Relaxed)
}

/// Counts steps that ended.
pub(crate) fn ended(run: &Run, facts: &[Fact]) {
    if !is_observed() {
        return;
    }
    for fact in facts.iter().filter(|fact| fact.state.is_terminal()) {
        let kind = run.step(fact.no).kind().to_owned();
        let state = fact.state.as_str();
        metrics::counter!("dandori_steps_total", "kind" => kind.clone(), "state" => state)
            .increment(1);
        if let Some(started) = fact.started_at {
            let took = fact.at.since(started).as_secs_f64();
            metrics::histogram!("dandori_step_seconds", "kind" => kind).record(took);
        }
    }
}

/// Counts a commit.
#[expect(clippy::cast_precision_loss, reason = "there are never so many in one commit")]
pub(crate) fn committed(transitions: usize) {
    if is_observed() {
        metrics::counter!("dandori_commits_total").increment(1);
        metrics::histogram!("dandori_commit_transitions").record(transitions as f64);
    }
}

/// Counts a session that was declared dead.
pub(crate) fn lease_lost() {
    if is_observed() {
        metrics::counter!("dandori_leases_lost_total").increment(1);
    }
}
