//! Edits of a plan: other inputs and limits of its steps. The steps, their numbers and their
//! needs stay, so what is recorded of them still fits.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{Action, Dynamic, Plan, StepNo, Stored};

/// What is to be changed of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// Its input, as data: nothing in it is an expression.
    pub input: Option<Value>,
    /// How often it is tried again.
    pub max_retries: Option<u32>,
    /// How long it waits before that.
    pub retry_delay: Option<Duration>,
    /// After which time an attempt is told to stop.
    pub soft: Option<Duration>,
    /// After which time it is dropped.
    pub hard: Option<Duration>,
}

impl Edit {
    fn has_limits(&self) -> bool {
        let Self { input: _, max_retries, retry_delay, soft, hard } = self;
        max_retries.is_some()
            || [retry_delay, soft, hard].into_iter().any(Option::is_some)
    }
}

impl Plan {
    /// The plan with edited steps. Limits of a `for_each` are those of its items.
    ///
    /// # Errors
    /// A sentence that says why a step cannot be edited so.
    pub fn edited(&self, edits: &BTreeMap<StepNo, Edit>) -> Result<Self, String> {
        let mut stored: Stored =
            serde_json::from_slice(&self.bytes).map_err(|error| error.to_string())?;
        for (no, edit) in edits {
            stored.edit(*no, edit)?;
        }
        Self::from_stored(stored)
    }
}

impl Stored {
    fn edit(&mut self, no: StepNo, edit: &Edit) -> Result<(), String> {
        let step = &mut self.steps[no as usize];
        let name = &step.name;
        match &mut step.action {
            Action::Run { with, call, .. } => {
                if let Some(input) = &edit.input {
                    let raw = serde_json::value::to_raw_value(&as_data(input.clone()));
                    *with = Some(Dynamic::new(raw.map_err(|error| error.to_string())?));
                    *call = None;
                }
            }
            Action::ForEach(for_each) => {
                if edit.input.is_some() {
                    return Err(format!(
                        "`{name}` has no input of its own: pin its output"
                    ));
                }
                let body = &for_each.body.0;
                let runs =
                    |no: &StepNo| matches!(body.step(*no).action, Action::Run { .. });
                let all = (0..body.len()).filter(runs).map(|no| (no, edit.clone()));
                for_each.body.0 = body.edited(&all.collect())?.into();
                return Ok(());
            }
            Action::Join { .. } | Action::Pass { .. } => {
                return Err(format!(
                    "`{name}` runs nothing itself: edit what it joins"
                ));
            }
        }
        if edit.has_limits() {
            let mut policy = self.policies[step.policy as usize].clone();
            policy.retry.max_retries =
                edit.max_retries.unwrap_or(policy.retry.max_retries);
            if let Some(delay) = edit.retry_delay {
                policy.retry.delay = delay;
                policy.retry.max_delay = policy.retry.max_delay.max(delay);
            }
            policy.soft = edit.soft.or(policy.soft);
            policy.hard = edit.hard.or(policy.hard);
            if policy.at_most_once && policy.retry.max_retries > 0 {
                return Err(format!(
                    "`{name}` runs at most once: it cannot be retried"
                ));
            }
            step.policy =
                u32::try_from(self.policies.len()).map_err(|e| e.to_string())?;
            self.policies.push(policy);
        }
        Ok(())
    }
}

/// A value whose texts stand for themselves.
fn as_data(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("${{", "$${{")),
        Value::Array(items) => items.into_iter().map(as_data).collect(),
        Value::Object(entries) => {
            let data = |(key, value): (String, Value)| {
                (key.replace("${{", "$${{"), as_data(value))
            };
            entries.into_iter().map(data).collect()
        }
        other => other,
    }
}
