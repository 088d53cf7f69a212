//! Views: a project, its steps and its events as JSON, the same from the command line,
//! the library and the server.

use std::{collections::BTreeMap, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer, de::Error as _,
    ser::SerializeStruct as _,
};
use serde_json::value::RawValue;

use crate::{
    ProjectId, StepError, Timestamp,
    plan::StepNo,
    run::{
        Output, ProjectState, Record, RecordKind, Run, Source, StepState, WaitReason,
    },
    store::{Store, StoreError, StoredProject},
};

/// What is stored of a project, and the run that it folds to.
#[derive(Debug)]
pub struct Snapshot {
    /// What is stored.
    pub stored: StoredProject,
    /// What it folds to.
    pub run: Run,
}

/// A project as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectView {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: ProjectState,
    /// Why, beside its steps.
    pub reason: Option<String>,
    /// Its output; null unless it succeeded.
    #[serde(default)]
    pub output: Option<Box<RawValue>>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its first step could start.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Steps by state.
    pub counts: BTreeMap<String, u32>,
    /// Its steps in document order, children after their task.
    #[serde(default)]
    pub steps: Vec<StepDetails>,
}

/// A step as JSON.
#[derive(Clone, Debug)]
pub struct StepDetails {
    /// Its number in the project; not part of the JSON form.
    pub no: StepNo,
    /// Its full name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its state.
    pub state: StepState,
    /// How often it was deliberately run anew.
    pub generation: u32,
    /// How many attempts it had.
    pub attempts: u32,
    /// Its output.
    pub output: Option<Output>,
    /// Why it failed or was skipped.
    pub error: Option<StepError>,
    /// For what and until when it waits.
    pub waiting: Option<(WaitReason, Timestamp)>,
    /// The latest progress of a running attempt.
    pub progress: Option<Progress>,
    /// Its queue.
    pub queue: String,
    /// When its latest attempt started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// From 0 to 1.
    pub fraction: f64,
    /// What it does.
    pub message: String,
}

impl Serialize for StepDetails {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Waiting {
            reason: &'static str,
            until: Timestamp,
        }
        let mut step = serializer.serialize_struct("Step", 12)?;
        step.serialize_field("name", &self.name)?;
        step.serialize_field("kind", &self.kind)?;
        step.serialize_field("state", &self.state)?;
        step.serialize_field("generation", &self.generation)?;
        step.serialize_field("attempts", &self.attempts)?;
        step.serialize_field("output", &self.output)?;
        step.serialize_field("error", &self.error)?;
        let waiting = self
            .waiting
            .map(|(reason, until)| Waiting { reason: reason.as_str(), until });
        step.serialize_field("waiting", &waiting)?;
        step.serialize_field("progress", &self.progress)?;
        step.serialize_field("queue", &self.queue)?;
        step.serialize_field("started_at", &self.started_at)?;
        step.serialize_field("finished_at", &self.finished_at)?;
        step.end()
    }
}

impl<'de> Deserialize<'de> for StepDetails {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Step {
            name: String,
            kind: String,
            state: StepState,
            generation: u32,
            attempts: u32,
            output: Option<Box<RawValue>>,
            error: Option<StepError>,
            waiting: Option<Waiting>,
            progress: Option<Progress>,
            queue: String,
            started_at: Option<Timestamp>,
            finished_at: Option<Timestamp>,
        }
        #[derive(Deserialize)]
        struct Waiting {
            reason: WaitReason,
            until: Timestamp,
        }
        let step = Step::deserialize(deserializer)?;
        Ok(Self {
            no: 0,
            name: step.name,
            kind: step.kind,
            state: step.state,
            generation: step.generation,
            attempts: step.attempts,
            output: step.output.map(Arc::from),
            error: step.error,
            waiting: step.waiting.map(|it| (it.reason, it.until)),
            progress: step.progress,
            queue: step.queue,
            started_at: step.started_at,
            finished_at: step.finished_at,
        })
    }
}

impl ProjectView {
    /// Reads steps with their outputs: all, or one with what its output is made of.
    pub(crate) async fn read_steps(
        snapshot: &Snapshot,
        store: &Store,
        only: Option<StepNo>,
    ) -> Result<Vec<StepDetails>, StoreError> {
        let run = &snapshot.run;
        let mut order = match only {
            Some(no) => vec![no],
            None => run.in_document_order(),
        };
        // What the output of one is made of stands after it.
        let mut at = 0;
        while only.is_some() && at < order.len() {
            match run.source(order[at]) {
                Source::Own => {}
                Source::Of(result) => order.push(result),
                Source::Items => order.extend(run.results(order[at])),
            }
            at += 1;
        }
        let mut outputs = outputs(snapshot, store, &order).await?;
        order.truncate(only.map_or(order.len(), |_| 1));
        let progress = progress(snapshot, store).await?;
        let details = |no| StepDetails {
            output: outputs.remove(&no),
            progress: progress.get(&no).cloned(),
            ..StepDetails::of(run, no)
        };
        Ok(order.into_iter().map(details).collect())
    }

    /// Builds the view, reading the outputs of its steps.
    pub(crate) async fn read(
        snapshot: &Snapshot,
        store: &Store,
        outputs_wanted: bool,
    ) -> Result<Self, StoreError> {
        let run = &snapshot.run;
        let row = &snapshot.stored.row;
        let steps = match outputs_wanted {
            true => Self::read_steps(snapshot, store, None).await?,
            false => {
                let progress = progress(snapshot, store).await?;
                let details = |no| StepDetails {
                    progress: progress.get(&no).cloned(),
                    ..StepDetails::of(run, no)
                };
                run.in_document_order().into_iter().map(details).collect()
            }
        };
        let counts = run
            .counts()
            .into_iter()
            .map(|(state, count)| (state.to_owned(), count))
            .collect();
        Ok(Self {
            id: row.id,
            name: row.name.clone(),
            state: row.state,
            reason: row.reason.clone(),
            output: snapshot.stored.output.clone(),
            created_at: row.created_at,
            started_at: row.began_at,
            finished_at: row.finished_at,
            counts,
            steps,
        })
    }
}

/// The outputs of steps, in an order in which what one is made of stands after it.
async fn outputs(
    snapshot: &Snapshot,
    store: &Store,
    order: &[StepNo],
) -> Result<BTreeMap<StepNo, Output>, StoreError> {
    let run = &snapshot.run;
    let done: Vec<StepNo> = order
        .iter()
        .copied()
        .filter(|no| run.step_state(*no) == StepState::Succeeded)
        .filter(|no| run.source(*no) == Source::Own)
        .collect();
    let id = snapshot.stored.row.id;
    let read = store.outputs_within(id, &done, usize::MAX).await?.unwrap_or_default();
    let mut outputs: BTreeMap<StepNo, Output> = done
        .into_iter()
        .zip(read)
        .filter_map(|(no, output)| output.map(|output| (no, output)))
        .collect();
    // Backwards every list is complete.
    for no in order.iter().rev() {
        if run.step_state(*no) != StepState::Succeeded {
            continue;
        }
        match run.source(*no) {
            Source::Own => {}
            Source::Of(result) => {
                if let Some(output) = outputs.get(&result).cloned() {
                    outputs.insert(*no, output);
                }
            }
            Source::Items => {
                let list: Vec<Option<&Output>> =
                    run.results(*no).map(|result| outputs.get(&result)).collect();
                if let Ok(list) = serde_json::value::to_raw_value(&list) {
                    outputs.insert(*no, Arc::from(list));
                }
            }
        }
    }
    Ok(outputs)
}

/// Looks for progress among the latest events only: what is older is not worth reading
/// the history of a large project.
async fn progress(
    snapshot: &Snapshot,
    store: &Store,
) -> Result<BTreeMap<StepNo, Progress>, StoreError> {
    const LOOKED_AT: i64 = 2_000;
    if snapshot.run.count(StepState::Running) == 0 {
        return Ok(BTreeMap::new());
    }
    let after = snapshot.stored.row.last_event - LOOKED_AT;
    let mut latest = BTreeMap::new();
    let events = store.events(snapshot.stored.row.id, after.max(0), 1_000).await?;
    for (_, record) in events {
        let Some(no) = record.no.filter(|no| *no < snapshot.run.len()) else {
            continue;
        };
        if let Some((fraction, message)) = record.progress {
            let view = snapshot.run.view(no);
            if view.state == StepState::Running && view.attempt == record.attempt {
                latest.insert(no, Progress { fraction, message });
            }
        }
    }
    Ok(latest)
}

impl StepDetails {
    /// The view of a step without its output.
    pub fn of(run: &Run, no: StepNo) -> Self {
        let view = run.view(no);
        let mut error = view.error.cloned();
        if view.state == StepState::UpstreamFailed {
            let failed =
                run.failed_needs(no).into_iter().map(|need| run.name(need)).collect();
            let mut upstream =
                StepError::fail("upstream_failed", "a need of the step failed");
            upstream.failed_needs = failed;
            error = Some(upstream);
        }
        if view.state == StepState::Succeeded {
            error = None;
        }
        Self {
            no,
            name: run.name(no),
            kind: run.step(no).kind().to_owned(),
            state: view.state,
            generation: view.generation,
            attempts: view.attempt,
            output: None,
            error: error.map(|error| StepError { step: Some(run.name(no)), ..error }),
            waiting: view.wait.map(|wait| (wait.reason, wait.until)),
            progress: None,
            queue: run.policy(no).queue.clone(),
            started_at: view.started_at,
            finished_at: view.state.is_terminal().then_some(view.at),
        }
    }
}

/// An event as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct EventView {
    /// Its number in the project: from 1, without gaps.
    pub seq: i64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The step.
    pub step: Option<String>,
    /// The attempt.
    pub attempt: Option<u32>,
    /// The state it led to.
    pub state: Option<&'static str>,
    /// The error.
    pub error: Option<StepError>,
    /// How far the attempt is.
    pub progress: Option<Progress>,
    /// Until when the step waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What happened, for programs in this language.
    #[serde(skip)]
    pub record: RecordKind,
}

impl<'de> Deserialize<'de> for EventView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Event {
            seq: i64,
            at: Timestamp,
            r#type: String,
            step: Option<String>,
            attempt: Option<u32>,
            error: Option<StepError>,
            progress: Option<Progress>,
            #[serde(default)]
            until: Option<Timestamp>,
        }
        let event = Event::deserialize(deserializer)?;
        let record = RecordKind::parse(&event.r#type).ok_or_else(|| {
            D::Error::custom(format_args!("there is no event `{}`", event.r#type))
        })?;
        Ok(Self {
            seq: event.seq,
            at: event.at,
            kind: record.as_str(),
            step: event.step,
            attempt: event.attempt,
            state: record.state(),
            error: event.error,
            progress: event.progress,
            until: event.until,
            record,
        })
    }
}

impl EventView {
    pub(crate) fn of(seq: i64, record: Record, run: &Run) -> Self {
        let step = record.no.map(|no| run.name(no));
        let progress = record.progress;
        Self {
            seq,
            at: record.at,
            kind: record.kind.as_str(),
            attempt: (record.attempt > 0).then_some(record.attempt),
            state: record.kind.state(),
            error: record.error.map(|error| StepError { step: step.clone(), ..error }),
            progress: progress
                .map(|(fraction, message)| Progress { fraction, message }),
            until: record.until,
            record: record.kind,
            step,
        }
    }
}
