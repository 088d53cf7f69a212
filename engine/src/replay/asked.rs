//! What a replay is asked for: from names and words to numbers of steps and edits of the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, value::RawValue};

use super::{Limits, ReplayOptions, impossible};
use crate::{
    Error,
    plan::{Action, Edit, Scope, StepNo},
    run::{Choice, Output, Run},
    spec::parse_duration,
};

/// What was asked for, by the numbers of the steps.
pub(super) struct Asked {
    pub(super) choice: Choice,
    pub(super) edits: BTreeMap<StepNo, Edit>,
    pub(super) inputs: Inputs,
}

impl Asked {
    pub(super) fn read(
        options: &ReplayOptions,
        run: &Run,
        inputs: &[u8],
    ) -> Result<Self, Error> {
        let find = |name: &String| {
            run.find(name).ok_or_else(|| Error::NotFound {
                wanted: name.clone(),
                reason: "the project has no such step",
            })
        };
        let mut edits: BTreeMap<StepNo, Edit> = BTreeMap::new();
        let of_plan = |name: &String| {
            let no = find(name)?;
            match run.parent(no) {
                None => Ok(no),
                Some(parent) => {
                    let parent = run.name(parent);
                    let what = format!(
                        "`{name}` was made by `{parent}`: edit that, or pin its output"
                    );
                    Err(impossible(what))
                }
            }
        };
        for (name, input) in &options.inputs {
            edits.entry(of_plan(name)?).or_default().input = Some(input.clone());
        }
        let edited: BTreeSet<StepNo> = edits.keys().copied().collect();
        for (name, limits) in &options.limits {
            limits.add_to(name, edits.entry(of_plan(name)?).or_default())?;
        }
        for name in &options.repeat {
            find(name)?;
        }
        let mut pins = BTreeMap::new();
        for (name, value) in &options.pins {
            let raw: Box<RawValue> = crate::to_raw(value)
                .map_err(|error| impossible(format!("`{name}`: {error}")))?;
            pins.insert(find(name)?, Output::from(raw));
        }
        let mut seeds = BTreeSet::new();
        for name in options.from.iter().chain(&options.only) {
            seeds.insert(find(name)?);
        }
        let only = !options.only.is_empty();
        let others = options.all
            || options.failed
            || !(options.from.is_empty()
                && options.kinds.is_empty()
                && options.labels.is_empty());
        if only && others {
            return Err(impossible(
                "`only` stands alone: nothing else is chosen".into(),
            ));
        }
        for no in run.steps_in_use() {
            let is_run = matches!(run.step(no).action, Action::Run { .. });
            let labels = &run.policy(no).labels;
            let labelled = !options.labels.is_empty()
                && options
                    .labels
                    .iter()
                    .all(|(name, value)| labels.get(name) == Some(value));
            if options.all
                || is_run
                    && options.kinds.iter().any(|kind| kind == run.step(no).kind())
                || is_run && labelled
            {
                seeds.insert(no);
            }
        }
        if options.failed || !(only || others) {
            seeds.extend(run.failed_steps());
        }
        let (inputs, named) = project_inputs(options, run, inputs)?;
        if !only {
            seeds.extend(edited);
            seeds.extend(named);
        }
        seeds.retain(|no| !pins.contains_key(no));
        Ok(Self { choice: Choice { seeds, pins, only }, edits, inputs })
    }
}

impl Limits {
    fn add_to(&self, step: &str, edit: &mut Edit) -> Result<(), Error> {
        let time = |text: &Option<String>| {
            let parsed = text.as_deref().map(parse_duration).transpose();
            parsed.map_err(|error| impossible(format!("`{step}`: {error}")))
        };
        edit.max_retries = self.max_retries;
        edit.retry_delay = time(&self.retry_delay)?;
        edit.soft = time(&self.soft_timeout)?;
        edit.hard = time(&self.timeout)?;
        if let (Some(soft), Some(hard)) = (edit.soft, edit.hard)
            && soft > hard
        {
            let what = format!("`{step}`: the soft time limit is over the hard one");
            return Err(impossible(what));
        }
        Ok(())
    }
}

/// Inputs as they are to be stored.
type Inputs = Option<Arc<[u8]>>;

/// The inputs of the project as they are to be, and the steps that may see a difference.
fn project_inputs(
    options: &ReplayOptions,
    run: &Run,
    stored: &[u8],
) -> Result<(Inputs, Vec<StepNo>), Error> {
    if options.project_inputs.is_empty() {
        return Ok((None, vec![]));
    }
    let mut inputs: serde_json::Map<String, Value> = serde_json::from_slice(stored)
        .map_err(|error| impossible(error.to_string()))?;
    let mut changed = vec![];
    for (name, value) in &options.project_inputs {
        let Some(input) = inputs.get_mut(name) else {
            return Err(impossible(format!("the project has no input `{name}`")));
        };
        if input != value {
            *input = value.clone();
            changed.push(name.as_str());
        }
    }
    let plan = run.plan();
    // By its text: one that only looks like it runs again for nothing, and none is missed.
    let mentions = |text: String| {
        text.contains("inputs") && changed.iter().any(|name| text.contains(name))
    };
    let sees = |no: &StepNo| {
        let step = plan.step(*no);
        let scopes = plan.scopes_of(*no).any(|scope| match scope {
            Scope::Template { params: Some(params), .. } => {
                mentions(params.raw().get().to_owned())
            }
            Scope::Template { params: None, .. } | Scope::Root | Scope::Item => false,
        });
        scopes || mentions(serde_json::to_string(step).unwrap_or_default())
    };
    let named = (0..plan.len()).filter(sees).collect();
    let bytes = serde_json::to_vec(&inputs).unwrap_or_default();
    Ok((Some(bytes.into()), named))
}
