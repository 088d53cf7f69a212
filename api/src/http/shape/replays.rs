//! The shapes of replays.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// What a replay is asked for. Nothing at all is: what failed, and what depends on it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayOptions {
    /// Failed steps, and what depends on them: so where nothing else is chosen.
    #[schema(default = false)]
    failed: Option<bool>,
    /// Every step.
    #[schema(default = false)]
    all: Option<bool>,
    /// These steps, and what depends on them.
    from: Option<Vec<String>>,
    /// These steps; what depends on them keeps what it has.
    only: Option<Vec<String>>,
    /// The steps of these kinds, and what depends on them.
    kinds: Option<Vec<String>>,
    /// The steps with all of these labels, and what depends on them.
    labels: Option<BTreeMap<String, String>>,
    /// Inputs of steps from now on, as data; they run again.
    inputs: Option<BTreeMap<String, serde_json::Value>>,
    /// Inputs of the project from now on; steps that name one run again.
    project_inputs: Option<BTreeMap<String, serde_json::Value>>,
    /// Outputs of steps that do not run.
    pins: Option<BTreeMap<String, serde_json::Value>>,
    /// Limits of steps from now on.
    limits: Option<BTreeMap<String, Limits>>,
    /// Steps that may run again although their effect may happen twice.
    repeat: Option<Vec<String>>,
    /// Steps that run again go on from the checkpoints inside them.
    #[schema(default = false)]
    keep_checkpoints: Option<bool>,
    /// Why, for the history.
    reason: Option<String>,
}

/// The same, with the digest of the plan that was looked at.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayRequest {
    /// The digest of the plan.
    digest: String,
    /// What was asked for.
    #[serde(flatten)]
    options: ReplayOptions,
}

/// Limits of a step; durations as in documents, such as `30s`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Limits {
    /// How often it is tried again.
    max_retries: Option<u32>,
    /// How long it waits before that.
    retry_delay: Option<String>,
    /// After which time an attempt is told to stop.
    soft_timeout: Option<String>,
    /// After which time it is dropped.
    timeout: Option<String>,
}

/// What a replay would do.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayPlan {
    /// Names what was asked for and the state of the project.
    digest: String,
    /// Every step with what happens to it.
    steps: Vec<ReplayStep>,
    /// What is worth a second look.
    warnings: Vec<ReplayWarning>,
    /// How long it takes, by how long the same steps and kinds took; null where nothing is
    /// known of a kind.
    estimated_seconds: Option<f64>,
}

/// What a replay does with one step.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayStep {
    /// The step.
    name: String,
    /// `reuse`, `run` or `skip`.
    action: String,
    /// Why.
    reason: String,
}

/// Something about a step that is worth a second look.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayWarning {
    /// `repeats` or `stale`.
    code: String,
    /// The step.
    step: String,
    /// In a sentence.
    message: String,
    /// Whether it must be named under `repeat`.
    needs_consent: bool,
}

/// What became of a replay.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replayed {
    /// The project.
    id: String,
    /// Its state now.
    state: String,
    /// How many steps run.
    run: usize,
    /// How many are kept.
    reuse: usize,
}

/// A replay of the past.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayLine {
    /// The number of its event.
    event: i64,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// Who.
    who: String,
    /// Why.
    reason: String,
    /// What was asked for.
    detail: serde_json::Value,
}

/// The replays of a project.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replays {
    /// The oldest first.
    replays: Vec<ReplayLine>,
}

/// What is asked of a fork: options as those of a replay, or a new document.
#[derive(Serialize, ToSchema)]
pub(crate) struct ForkRequest {
    /// The digest of the plan; not where a plan is made.
    digest: Option<String>,
    /// What is chosen and edited of the same document.
    options: Option<ReplayOptions>,
    /// A new document as JSON, or its text (YAML or JSON) as a string.
    #[schema(nullable)]
    document: Option<serde_json::Value>,
    /// The values of its inputs.
    inputs: Option<BTreeMap<String, serde_json::Value>>,
    /// The texts that `file('…')` stands for, by name.
    files: Option<BTreeMap<String, String>>,
    /// The name of a project whose document has none.
    name: Option<String>,
}

/// A fork.
#[derive(Serialize, ToSchema)]
pub(crate) struct ForkLine {
    /// The fork.
    project: String,
    /// What it is a fork of.
    base: String,
    /// When it was made.
    #[schema(format = DateTime)]
    at: String,
    /// By whom.
    who: String,
    /// Why.
    reason: String,
}

/// What a project is a fork of, and its own forks.
#[derive(Serialize, ToSchema)]
pub(crate) struct Lineage {
    /// The oldest first.
    forks: Vec<ForkLine>,
}

/// What differs between two projects; equal parts are left out.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProjectDiff {
    /// The first.
    a: String,
    /// The second.
    b: String,
    /// Their states: an object with `a` and `b`, as everywhere here.
    #[schema(value_type = Option<Object>)]
    state: Option<serde_json::Value>,
    /// Inputs with other values, by name.
    inputs: Option<BTreeMap<String, serde_json::Value>>,
    /// Their outputs.
    #[schema(value_type = Option<Object>)]
    output: Option<serde_json::Value>,
    /// Steps that differ, in the order of the second; those that are gone come last.
    steps: Vec<StepDiff>,
    /// How many steps are the same.
    same: usize,
}

/// What differs between two attempts of a step: objects with `a` and `b`.
#[derive(Serialize, ToSchema)]
pub(crate) struct AttemptDiff {
    /// The step.
    step: String,
    /// Which they are, as `GENERATION.ATTEMPT`.
    #[schema(value_type = Object)]
    attempt: serde_json::Value,
    /// Their states, where these differ.
    #[schema(value_type = Option<Object>)]
    state: Option<serde_json::Value>,
    /// Their outputs, where these differ.
    #[schema(value_type = Option<Object>)]
    output: Option<serde_json::Value>,
    /// Their errors, where these differ.
    #[schema(value_type = Option<Object>)]
    error: Option<serde_json::Value>,
    /// How long they took, in seconds.
    #[schema(value_type = Object)]
    seconds: serde_json::Value,
}

/// A step that is in one of them alone, or differs.
#[derive(Serialize, ToSchema)]
pub(crate) struct StepDiff {
    /// Its name.
    name: String,
    /// `added`, `removed` or `changed`.
    change: String,
    /// Its states.
    #[schema(value_type = Option<Object>)]
    state: Option<serde_json::Value>,
    /// Its outputs.
    #[schema(value_type = Option<Object>)]
    output: Option<serde_json::Value>,
    /// Its errors.
    #[schema(value_type = Option<Object>)]
    error: Option<serde_json::Value>,
    /// How many attempts it had.
    #[schema(value_type = Option<Object>)]
    attempts: Option<serde_json::Value>,
    /// How long its latest attempt took, in seconds.
    #[schema(value_type = Option<Object>)]
    seconds: Option<serde_json::Value>,
}
