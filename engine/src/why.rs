//! Why a step does not run yet: what it waits for, for people and programs.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    Error, ProjectHandle, Timestamp,
    plan::{Action, StepNo},
    run::{ProjectState, Run, StepState, WaitReason},
    store::{Serves, SessionRow},
};

/// Why a step does not run yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The step.
    pub step: String,
    /// Its state.
    pub state: StepState,
    /// What it waits for; nothing when it runs or has ended.
    pub reasons: Vec<Reason>,
}

/// One thing that a step waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// `needs`, `slot`, `retry`, `timer`, `limit`, `paused`, `queue` or `no_worker`.
    pub code: Cow<'static, str>,
    /// In a sentence.
    pub message: String,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The needs that have not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// The queue that nobody serves, or that is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
}

/// The most needs that are named.
const NAMED: usize = 100;

impl ProjectHandle {
    /// Tells why a step does not run yet.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the project has no such step, or the database's.
    pub async fn why(&self, step: &str) -> Result<Why, Error> {
        let snapshot = self.snapshot().await?;
        let workers = self.engine().workers().await?;
        let queues = self.engine().queues().await?;
        let paused = |queue: &str| {
            queues.iter().any(|it| it.queue == queue && it.paused_at.is_some())
        };
        let mut run = snapshot.run;
        // A wait that is over is not recorded as such.
        let _ = run.apply(crate::run::Event::Tick, self.engine().now());
        let run = &run;
        let Some(no) = run.find(step) else {
            let reason = "the project has no such step";
            return Err(Error::NotFound { wanted: step.to_owned(), reason });
        };
        let shared = self.engine().store().is_shared();
        let mut reasons = reasons(run, no, &workers, shared);
        let queue = &run.policy(no).queue;
        if run.step_state(no) == StepState::Ready && paused(queue) {
            // Whoever could run it does not now.
            reasons.retain(|it| it.code != "slot");
            let message = format!("the queue `{queue}` is paused");
            let queue = Some(queue.clone());
            reasons.push(Reason { queue, ..Reason::new("queue", message) });
        }
        Ok(Why { step: run.name(no), state: run.step_state(no), reasons })
    }
}

fn reasons(run: &Run, no: StepNo, workers: &[SessionRow], shared: bool) -> Vec<Reason> {
    let view = run.view(no);
    let mut reasons = vec![];
    if view.state.is_terminal() || view.state == StepState::Running {
        return reasons;
    }
    if run.state() == ProjectState::Paused {
        reasons.push(Reason::new("paused", "the project is paused"));
    }
    if let Some(wait) = view.wait {
        let (code, what) = match wait.reason {
            WaitReason::Retry => ("retry", "its next attempt"),
            WaitReason::Timer => ("timer", "its time"),
        };
        let message = format!("it waits for {what} until {}", wait.until);
        let until = Some(wait.until);
        reasons.push(Reason { until, ..Reason::new(code, message) });
    }
    if view.state == StepState::Blocked {
        reasons.push(of_needs(run, no));
    }
    if view.state == StepState::Ready {
        reasons.push(of_ready(run, no, workers, shared));
    }
    reasons
}

fn of_needs(run: &Run, no: StepNo) -> Reason {
    let open = |need: &StepNo| !run.step_state(*need).is_terminal();
    let mut needs: Vec<String> =
        run.needs(no).filter(open).map(|need| run.name(need)).collect();
    // A step of a body waits for the window of its items, or its parent.
    if needs.is_empty() {
        return Reason::new("limit", "other items come first");
    }
    let count = needs.len();
    needs.truncate(NAMED);
    let message = match count {
        1 => format!("it needs {}, which has not ended", needs[0]),
        _ => format!("it needs {count} steps that have not ended"),
    };
    Reason { needs, ..Reason::new("needs", message) }
}

fn of_ready(run: &Run, no: StepNo, workers: &[SessionRow], shared: bool) -> Reason {
    let queue = &run.policy(no).queue;
    let live = workers.iter().filter(|worker| worker.state == "live");
    let serves = |serves: &Serves| match &run.step(no).action {
        Action::Run { kind, .. } => serves.has(queue, kind),
        Action::Join { .. } | Action::Pass { .. } | Action::ForEach(_) => true,
    };
    // On a file the one worker runs every queue.
    let mut able = live.filter(|worker| {
        let queues = shared.then(|| worker.serves.queues.clone());
        let kinds = worker.serves.kinds.clone();
        serves(&Serves { queues: queues.unwrap_or_default(), kinds })
    });
    if able.next().is_none() {
        let kind = run.step(no).kind();
        let message = format!("no worker runs `{kind}` of the queue `{queue}`");
        let queue = Some(queue.clone());
        return Reason { queue, ..Reason::new("no_worker", message) };
    }
    match run.plan().max_parallel() {
        Some(most) if run.busy() >= most => {
            let message = format!("the project runs {most} steps at once, as it may");
            Reason::new("limit", message)
        }
        _ => Reason::new("slot", "it waits for a free slot of a worker"),
    }
}

impl Reason {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            until: None,
            needs: vec![],
            queue: None,
        }
    }
}
