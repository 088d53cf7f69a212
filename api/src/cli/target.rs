//! [`Target`]: the project that a command is about, in a database or behind a server. The
//! commands are the same.

use std::collections::HashSet;

use dandori::{
    EventView, ProjectHandle, ProjectView, Why,
    run::{ProjectState, StepState},
};

use super::{
    args::Common,
    exit::Failure,
    server::{Line, PastAttempt, Remote},
};

/// A project, wherever it is.
pub(super) enum Target {
    /// In the database.
    Here(ProjectHandle),
    /// Behind a server.
    There(Remote),
}

/// What is asked of whoever executes a project.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request<'a> {
    Cancel,
    Pause,
    Resume,
    Retry(Option<&'a str>),
}

/// The log of a project or of a step, as far as it is written.
pub(super) struct Log {
    pub(super) lines: Vec<Line>,
    /// Whether no more lines come.
    pub(super) ended: bool,
    /// Whether steps run.
    pub(super) running: bool,
}

impl Common {
    /// The project that an argument means: an id, the end of one, a name, or `last`.
    pub(super) async fn target(&self, id: &str) -> Result<Target, Failure> {
        match self.remote()? {
            Some(server) => Ok(Target::There(server.find(id).await?)),
            None => Ok(Target::Here(self.connect().await?.find(id).await?)),
        }
    }
}

impl From<&ProjectHandle> for Target {
    fn from(project: &ProjectHandle) -> Self {
        Self::Here(project.clone())
    }
}

impl Target {
    pub(super) fn id(&self) -> String {
        match self {
            Self::Here(project) => project.id().to_string(),
            Self::There(remote) => remote.id.clone(),
        }
    }

    pub(super) async fn state(&self) -> Result<ProjectState, Failure> {
        Ok(match self {
            Self::Here(project) => project.row().await?.state,
            Self::There(remote) => remote.get::<ProjectView>(&[], &[]).await?.state,
        })
    }

    /// The project with its steps, and their outputs where these are wanted.
    pub(super) async fn view(&self, outputs: bool) -> Result<ProjectView, Failure> {
        Ok(match self {
            Self::Here(project) if outputs => project.view().await?,
            Self::Here(project) => project.outline().await?,
            Self::There(remote) => remote.view().await?,
        })
    }

    /// What happened after an event; nothing once the project has ended.
    pub(super) async fn next_events(
        &self,
        after: i64,
    ) -> Result<Vec<EventView>, Failure> {
        Ok(match self {
            Self::Here(project) => project.next_events(after).await?,
            Self::There(remote) => remote.next_event(after).await?,
        })
    }

    /// Asks; whether it is applied, or only recorded.
    pub(super) async fn ask(&self, request: Request<'_>) -> Result<bool, Failure> {
        let steered = match self {
            Self::Here(project) => match request {
                Request::Cancel => project.cancel().await?,
                Request::Pause => project.pause().await?,
                Request::Resume => project.resume().await?,
                Request::Retry(step) => project.retry(step).await?,
            },
            Self::There(remote) => {
                let answer = match request {
                    Request::Cancel => remote.post(&["cancel"]).await?,
                    Request::Pause => remote.post(&["pause"]).await?,
                    Request::Resume => remote.post(&["resume"]).await?,
                    Request::Retry(None) => remote.post(&["retry"]).await?,
                    Request::Retry(Some(step)) => {
                        remote.post(&["steps", step, "retry"]).await?
                    }
                };
                return Ok(answer.is_applied());
            }
        };
        Ok(steered == dandori::Steered::Applied)
    }

    pub(super) async fn why(&self, step: &str) -> Result<Why, Failure> {
        match self {
            Self::Here(project) => Ok(project.why(step).await?),
            Self::There(remote) => remote.why(step).await,
        }
    }

    /// Attempts that others followed. A server does not tell what late ones gave.
    pub(super) async fn attempts(
        &self,
        view: &ProjectView,
    ) -> Result<Vec<PastAttempt>, Failure> {
        match self {
            Self::Here(project) => {
                let snapshot = project.snapshot().await?;
                let run = &snapshot.run;
                let known = |no| no < run.len();
                let past = project.attempts().await?.into_iter();
                let past = past.filter(|past| known(past.no)).map(|past| PastAttempt {
                    step: run.name(past.no),
                    generation: past.generation,
                    attempt: past.attempt,
                    state: past.state,
                    started_at: past.started_at,
                    finished_at: Some(past.finished_at),
                    error: past.error,
                    output: past.output.map(|it| it.as_ref().to_owned()),
                });
                Ok(past.collect())
            }
            Self::There(remote) => {
                #[derive(serde::Deserialize)]
                struct Answer {
                    attempts: Vec<PastAttempt>,
                }
                let answer: Answer = remote.get(&["timeline"], &[]).await?;
                let latest: HashSet<(&str, u32, u32)> = view
                    .steps
                    .iter()
                    .map(|step| (step.name.as_str(), step.generation, step.attempts))
                    .collect();
                let is_past = |past: &PastAttempt| {
                    let key = (past.step.as_str(), past.generation, past.attempt);
                    !latest.contains(&key)
                        || past.state == StepState::Failed
                            && view.steps.iter().any(|step| {
                                step.name == past.step && step.waiting.is_some()
                            })
                };
                Ok(answer.attempts.into_iter().filter(is_past).collect())
            }
        }
    }

    /// The log; `None` where there is no such step now.
    pub(super) async fn log(&self, step: Option<&str>) -> Result<Option<Log>, Failure> {
        match self {
            Self::Here(project) => log_here(project, step).await,
            Self::There(remote) => log_there(remote, step).await,
        }
    }
}

async fn log_here(
    project: &ProjectHandle,
    step: Option<&str>,
) -> Result<Option<Log>, Failure> {
    let snapshot = project.snapshot().await?;
    let run = &snapshot.run;
    let no = match step.map(|name| run.find(name)) {
        None => None,
        Some(Some(no)) => Some(no),
        Some(None) => return Ok(None),
    };
    let lines = project.logs(no).await?;
    let lines = lines.into_iter().filter(|line| line.no < run.len()).map(|line| Line {
        at: line.at,
        step: run.name(line.no),
        generation: line.generation,
        attempt: line.attempt,
        line: line.line,
    });
    let ended = match no {
        Some(no) => run.step_state(no).is_terminal(),
        None => snapshot.stored.row.state.is_terminal(),
    };
    let running = run.count(StepState::Running) > 0;
    Ok(Some(Log { lines: lines.collect(), ended, running }))
}

async fn log_there(
    remote: &Remote,
    step: Option<&str>,
) -> Result<Option<Log>, Failure> {
    #[derive(serde::Deserialize)]
    struct Answer {
        lines: Vec<Line>,
    }
    #[derive(serde::Deserialize)]
    struct Step {
        state: StepState,
    }
    // First whether it has ended: a line that comes meanwhile is read after that.
    let (ended, running, path) = match step {
        Some(name) => {
            let state = match remote.get::<Step>(&["steps", name], &[]).await {
                Ok(step) => step.state,
                Err(Failure::Told { code, .. }) if code == "not_found" => {
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            };
            let running = state == StepState::Running;
            (state.is_terminal(), running, vec!["steps", name, "logs"])
        }
        None => {
            let view: ProjectView = remote.get(&[], &[]).await?;
            let running = view.counts.get("running").is_some_and(|count| *count > 0);
            (view.state.is_terminal(), running, vec!["logs"])
        }
    };
    let answer: Answer = remote.get(&path, &[]).await?;
    Ok(Some(Log { lines: answer.lines, ended, running }))
}
