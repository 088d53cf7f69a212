//! The shapes of answers, for the OpenAPI document. The engine's views write them; a test
//! compares the two.

mod replays;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::replays::*;

/// A project.
#[derive(Serialize, ToSchema)]
pub(crate) struct Project {
    /// Its id.
    #[schema(example = "prj_0190d0f5-6f3c-7d0e-8f6a-000000000000")]
    id: String,
    /// Its name.
    name: String,
    /// `pending`, `running`, `paused`, `succeeded`, `failed` or `cancelled`.
    state: String,
    /// Why, beside its steps.
    reason: Option<String>,
    /// Its output; null unless it succeeded, and not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable)]
    output: Option<serde_json::Value>,
    /// When it was submitted.
    #[schema(format = DateTime)]
    created_at: String,
    /// When its first step could start.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    /// When it ended.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// Steps by state.
    counts: BTreeMap<String, u32>,
    /// Its labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    /// Its steps in document order, children after their task; where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<Step>>,
}

/// A step.
#[derive(Serialize, ToSchema)]
pub(crate) struct Step {
    /// Its full name, such as `reviews[3]/write`.
    name: String,
    /// Its kind.
    kind: String,
    /// `blocked`, `ready`, `running`, `waiting`, `succeeded`, `failed`, `upstream_failed`,
    /// `skipped`, `cancelled` or `quarantined`.
    state: String,
    /// How often it was deliberately run anew.
    generation: u32,
    /// How many attempts it had.
    attempts: u32,
    /// Its output.
    #[schema(nullable)]
    output: Option<serde_json::Value>,
    /// Why it failed or was skipped.
    error: Option<StepError>,
    /// For what and until when it waits.
    waiting: Option<Waiting>,
    /// The latest progress of a running attempt.
    progress: Option<Progress>,
    /// Its queue.
    queue: String,
    /// When its latest attempt started.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    /// When it ended.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
}

/// Why an attempt failed.
#[derive(Serialize, ToSchema)]
pub(crate) struct StepError {
    /// A stable code; see `docs/errors.md`.
    code: String,
    /// `retryable`, `permanent`, `cancelled` or `lost`.
    class: String,
    /// What happened.
    message: String,
    /// The step.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    /// The needs that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_needs: Option<Vec<String>>,
    /// The least time to wait before the next attempt, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// For what and until when a step waits.
#[derive(Serialize, ToSchema)]
pub(crate) struct Waiting {
    /// `retry` or `timer`.
    reason: String,
    /// Until when.
    #[schema(format = DateTime)]
    until: String,
}

/// How far an attempt is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Progress {
    /// From 0 to 1.
    fraction: f64,
    /// What it does.
    message: String,
}

/// Projects, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Projects {
    /// The projects.
    projects: Vec<Project>,
    /// The cursor of the next page; null on the last.
    next: Option<String>,
}

/// Steps of a project.
#[derive(Serialize, ToSchema)]
pub(crate) struct Steps {
    /// The steps, in document order.
    steps: Vec<Step>,
}

/// An attempt.
#[derive(Serialize, ToSchema)]
pub(crate) struct Attempt {
    /// The step.
    step: String,
    /// The generation, from 1.
    generation: u32,
    /// The attempt, from 1.
    attempt: u32,
    /// How it ended; `running` while it runs.
    state: String,
    /// When it started.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    /// When it ended.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// Why it failed.
    error: Option<StepError>,
}

/// Attempts of a step, or of all.
#[derive(Serialize, ToSchema)]
pub(crate) struct Attempts {
    /// The attempts, in the order of their starts.
    attempts: Vec<Attempt>,
}

/// A line of a log.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogLine {
    /// The step.
    step: String,
    /// The generation, from 1.
    generation: u32,
    /// The attempt, from 1.
    attempt: u32,
    /// When it was written.
    #[schema(format = DateTime)]
    at: String,
    /// The line.
    line: String,
}

/// Lines of a log.
#[derive(Serialize, ToSchema)]
pub(crate) struct Log {
    /// The lines, in the order of time.
    lines: Vec<LogLine>,
}

/// Why a step does not run yet.
#[derive(Serialize, ToSchema)]
pub(crate) struct Why {
    /// The step.
    step: String,
    /// Its state.
    state: String,
    /// What it waits for; nothing when it runs or has ended.
    reasons: Vec<Reason>,
}

/// One thing that a step waits for.
#[derive(Serialize, ToSchema)]
pub(crate) struct Reason {
    /// `needs`, `slot`, `retry`, `timer`, `limit`, `paused`, `queue` or `no_worker`.
    code: String,
    /// In a sentence.
    message: String,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    until: Option<String>,
    /// The needs that have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<Vec<String>>,
    /// The queue that nobody serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
}

/// Something that happened to a project.
#[derive(Serialize, ToSchema)]
pub(crate) struct Event {
    /// Its number in the project: from 1, without gaps.
    seq: i64,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// What, in the past tense, such as `step.succeeded`.
    #[serde(rename = "type")]
    kind: String,
    /// The step.
    step: Option<String>,
    /// The attempt.
    attempt: Option<u32>,
    /// The state it led to.
    state: Option<String>,
    /// Why.
    error: Option<StepError>,
    /// How far the attempt is.
    progress: Option<Progress>,
    /// Until when the step waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// Events of a project.
#[derive(Serialize, ToSchema)]
pub(crate) struct Events {
    /// The events, in order.
    events: Vec<Event>,
    /// The number after which the next ones are to be asked for.
    next: i64,
    /// Whether the project has ended and these are its last.
    done: bool,
}

/// What became of a request to steer a project.
#[derive(Serialize, ToSchema)]
pub(crate) struct Steered {
    /// The project.
    id: String,
    /// `applied`, or `recorded` when its owner will apply it soon.
    request: String,
    /// Its state now.
    state: String,
}

/// What a document compiles to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Validation {
    /// Whether it would be accepted.
    valid: bool,
    /// What is wrong with it, or probably not meant.
    #[schema(value_type = Vec<Object>)]
    diagnostics: Vec<serde_json::Value>,
    /// How many tasks it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<u64>,
    /// How many steps these become.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u64>,
    /// How many needs there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    edges: Option<u64>,
    /// How many steps are on the longest path.
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<u32>,
    /// How many steps may run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u64>,
    /// The hash of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    /// The steps of each level: those of one may run side by side.
    #[serde(skip_serializing_if = "Option::is_none")]
    levels: Option<Vec<Vec<String>>>,
    /// The longest path.
    #[serde(skip_serializing_if = "Option::is_none")]
    critical_path: Option<Vec<String>>,
}

/// The graph of a project.
#[derive(Serialize, Deserialize, ToSchema)]
pub(crate) struct Graph {
    /// The name of the project.
    pub(crate) name: String,
    /// The hash of the plan.
    pub(crate) hash: String,
    /// The steps of the plan, in document order.
    pub(crate) nodes: Vec<Node>,
    /// Pairs of positions in `nodes`: the need first.
    pub(crate) edges: Vec<[usize; 2]>,
}

/// A step in a graph.
#[derive(Serialize, Deserialize, ToSchema)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Its title, for people.
    pub(crate) title: Option<String>,
    /// Its kind.
    pub(crate) kind: String,
    /// Its state.
    pub(crate) state: String,
    /// A short remark: how many items of a `for_each` are done, or which attempt it is.
    pub(crate) note: Option<String>,
}

/// A process that executes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Worker {
    /// Its session.
    id: String,
    /// `live`, `silent`, `draining`, `drained` or `dead`.
    state: String,
    /// Where it runs.
    host: String,
    /// Its process there.
    process: i64,
    /// What it was started as.
    command: String,
    /// When it began.
    #[schema(format = DateTime)]
    started_at: String,
    /// How many steps it runs at once.
    slots: u32,
    /// How many it runs.
    busy: u32,
    /// How many projects it owns.
    projects: u32,
    /// How many steps of others it runs.
    claims: u32,
    /// The queues that it serves; `*`: all.
    queues: Vec<String>,
    /// The kinds that it has.
    kinds: Vec<String>,
}

/// The workers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Workers {
    /// All that are known.
    workers: Vec<Worker>,
}

/// A queue.
#[derive(Serialize, ToSchema)]
pub(crate) struct Queue {
    /// Its name.
    name: String,
    /// How many steps wait for a worker that takes them.
    depth: u32,
    /// How many steps workers have taken.
    taken: u32,
    /// How long the oldest one waits, in seconds.
    age: Option<f64>,
    /// How many live workers serve it.
    workers: u32,
    /// Since when its steps do not start; null when they do.
    #[schema(format = DateTime)]
    paused_at: Option<String>,
}

/// What became of a request to pause a queue or to go on with it.
#[derive(Serialize, ToSchema)]
pub(crate) struct QueueSteered {
    /// The queue.
    name: String,
    /// `applied`, or `recorded` when its workers will have heard of it soon.
    request: String,
    /// Whether it is paused now.
    paused: bool,
}

/// The queues.
#[derive(Serialize, ToSchema)]
pub(crate) struct Queues {
    /// Those that somebody serves, in which something waits, or that are paused.
    queues: Vec<Queue>,
}

/// A kind.
#[derive(Serialize, ToSchema)]
pub(crate) struct Kind {
    /// Its name.
    name: String,
    /// Whether this server runs it.
    here: bool,
    /// How many live workers run it.
    workers: u32,
    /// The JSON Schema of its input, where it declares one.
    #[schema(nullable)]
    input: Option<serde_json::Value>,
    /// The JSON Schema of its output, where it says what it gives.
    #[schema(nullable)]
    output: Option<serde_json::Value>,
    /// Whether its attempts do nothing but make their output, as far as this server knows.
    #[schema(nullable)]
    pure: Option<bool>,
}

/// The kinds.
#[derive(Serialize, ToSchema)]
pub(crate) struct Kinds {
    /// Those that this server or a live worker has.
    kinds: Vec<Kind>,
}

/// Whether the server reaches its database.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ready {
    /// Whether it does.
    ready: bool,
}

/// A token, without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Token {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) role: String,
    /// When it was made.
    #[schema(format = DateTime)]
    pub(crate) created_at: String,
    /// When it was revoked.
    #[schema(format = DateTime)]
    pub(crate) revoked_at: Option<String>,
    /// Its secret: only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// The tokens.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tokens {
    /// All of them, revoked ones too.
    pub(crate) tokens: Vec<Token>,
}

/// A change that somebody asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct Audited {
    /// Its number.
    pub(crate) seq: i64,
    /// When.
    #[schema(format = DateTime)]
    pub(crate) at: String,
    /// Who: the name of a token.
    pub(crate) who: String,
    /// What, such as `project.cancel`.
    pub(crate) what: String,
    /// To which project.
    pub(crate) project: Option<String>,
    /// To what else.
    pub(crate) detail: String,
    /// The id of the request.
    pub(crate) request: String,
}

/// The audit, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Audit {
    /// The changes.
    pub(crate) changes: Vec<Audited>,
    /// The number before which the next page ends; null on the last.
    pub(crate) next: Option<i64>,
}

/// A value that a step has kept inside itself.
#[derive(Serialize, ToSchema)]
pub(crate) struct Checkpoint {
    /// Its name.
    name: String,
    /// When it was kept.
    #[schema(format = DateTime)]
    at: String,
    /// The value.
    value: serde_json::Value,
}

/// The checkpoints of a step.
#[derive(Serialize, ToSchema)]
pub(crate) struct Checkpoints {
    /// The oldest first.
    checkpoints: Vec<Checkpoint>,
}
