//! What flows along a canvas, put together from outputs: the arguments of a call, the list
//! of a group, the record of a failure.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::bind::{Binder, Bound, Input, Spot};
use crate::{
    Kinds, StepError,
    call::Form,
    plan::{Action, Amount, Call, Flow, StepNo},
    run::{Output, StepState},
};

/// One failed step, as error handlers and tolerant lists see it.
#[derive(Serialize)]
struct Failed<'e> {
    step: String,
    kind: String,
    code: &'e str,
    message: &'e str,
    attempts: u32,
}

/// What an error handler is told: the first failure, and all of them.
#[derive(Serialize)]
struct Record<'r, 'e> {
    #[serde(flatten)]
    first: &'r Failed<'e>,
    failed: &'r [Failed<'e>],
}

impl Binder<'_> {
    /// The input of a call.
    pub(super) fn call(
        mut self,
        no: StepNo,
        kind: &str,
        call: &Call,
        kinds: &Kinds,
    ) -> Bound<Input> {
        let form = match kinds.get(kind) {
            Some(handler) if !call.whole => handler.form(),
            _ => Form::Value,
        };
        let spot = self.spot(no);
        let bound = (|| {
            let args = call
                .args
                .iter()
                .map(|flow| self.flow(flow, spot))
                .collect::<Result<Vec<_>, _>>()?;
            let kwargs = call
                .kwargs
                .iter()
                .map(|(name, flow)| Ok((name.as_str(), self.flow(flow, spot)?)))
                .collect::<Result<Vec<_>, StepError>>()?;
            match self.missing.is_empty() {
                true => form.arrange(kind, &args, &kwargs).map(Some),
                false => Ok(None),
            }
        })();
        self.bound(bound)
    }

    /// The value that a step passes on.
    pub(super) fn pass(
        mut self,
        no: StepNo,
        value: &Flow,
        tolerate: Option<Amount>,
    ) -> Bound<Input> {
        let spot = self.spot(no);
        if let (Flow::List(_), Some(tolerate)) = (value, tolerate)
            && let Err(error) = self.tolerated(&self.run.members(no), tolerate)
        {
            return Bound::Failed(error);
        }
        let bound = self.flow(value, spot).map(|value| Some((*value).to_owned()));
        self.bound(bound)
    }

    /// The value of a canvas.
    pub(super) fn value(mut self, value: &Flow) -> Bound<Input> {
        let spot = Spot { plan: self.run.plan(), base: 0, no: 0 };
        let bound = self.flow(value, spot).map(|value| Some((*value).to_owned()));
        self.bound(bound)
    }

    fn bound(
        &mut self,
        value: Result<Option<Box<RawValue>>, StepError>,
    ) -> Bound<Input> {
        if !self.missing.is_empty() {
            let missing = std::mem::take(&mut self.missing);
            return Bound::Missing(missing.into_iter().collect());
        }
        match value {
            Ok(with) => {
                let with = with.unwrap_or_else(|| RawValue::NULL.to_owned());
                Bound::Value(Input { with, secrets: std::mem::take(&mut self.secrets) })
            }
            Err(error) => Bound::Failed(error),
        }
    }

    fn flow(&mut self, flow: &Flow, spot: Spot<'_>) -> Result<Output, StepError> {
        match flow {
            // What a handler has made is data, whatever it looks like.
            Flow::Given(dynamic) if self.run.is_grown(spot.no) => {
                Ok(Arc::from(dynamic.raw().to_owned()))
            }
            Flow::Given(dynamic) => {
                let mut secrets = std::mem::take(&mut self.secrets);
                let scope = self.run.step(spot.no).scope;
                match self.render(dynamic, scope, spot) {
                    Bound::Value(input) => {
                        secrets.extend(input.secrets);
                        self.secrets = secrets;
                        Ok(Arc::from(input.with))
                    }
                    Bound::Missing(steps) => {
                        self.missing.extend(steps);
                        Ok(Arc::from(RawValue::NULL.to_owned()))
                    }
                    Bound::Failed(error) => Err(error),
                }
            }
            Flow::Output(no) => self.assembled(spot.base + no),
            // Only joins have lists.
            Flow::List(list) => {
                let mut values = Vec::with_capacity(list.len());
                for no in self.run.members(spot.no) {
                    values.push(self.slot(no)?);
                }
                crate::to_raw(&values).map(Arc::from)
            }
            Flow::Failure(_) => {
                let failed = self.failures(spot.no);
                let first = failed.first();
                let record = first.map(|first| Record { first, failed: &failed });
                crate::to_raw(&record).map(Arc::from)
            }
        }
    }

    /// The value of a member: that of its last step, or why there is none.
    fn slot(&mut self, no: StepNo) -> Result<Output, StepError> {
        if !self.run.step_state(no).is_failure() {
            return self.assembled(no);
        }
        #[derive(Serialize)]
        struct Slot<'e> {
            error: Failed<'e>,
        }
        let slot = Slot { error: self.failed(no) };
        crate::to_raw(&slot).map(Arc::from)
    }

    /// What has failed where a step did, or because of which it did.
    fn failed(&self, no: StepNo) -> Failed<'_> {
        let no = self.run.root_failure(no);
        let view = self.run.view(no);
        Failed {
            step: self.run.name(no),
            kind: self.run.step(no).kind().to_owned(),
            code: view.error.map_or("", |error| &error.code),
            message: view.error.map_or("", |error| &error.message),
            attempts: view.attempt,
        }
    }

    /// Whether a step has nothing to pass on: no failure of its scope is its own.
    pub(super) fn is_idle(&self, no: StepNo) -> bool {
        let Action::Pass { value: Flow::Failure(end), .. } = &self.run.step(no).action
        else {
            return false;
        };
        let end = self.spot(no).base + end;
        !self.run.step_state(end).is_failure() || self.failures(no).is_empty()
    }

    /// What failed by itself among the needs of a step, in the order of the document.
    fn failures(&self, no: StepNo) -> Vec<Failed<'_>> {
        let own = |no: &StepNo| {
            let state = self.run.step_state(*no);
            state.is_failure() && state != StepState::UpstreamFailed
        };
        let mut failed = std::collections::BTreeSet::new();
        let mut records = vec![no];
        // A record among them stands for the scope that it is about.
        while let Some(record) = records.pop() {
            for need in self.run.needs(record) {
                if own(&need) {
                    failed.insert(need);
                }
                let added = self.run.added_to(need);
                let failed_ones =
                    added.filter(|no| self.run.step_state(*no).is_failure());
                failed.extend(failed_ones.map(|no| self.run.root_failure(no)));
                let action = &self.run.step(need).action;
                if matches!(action, Action::Pass { value: Flow::Failure(_), .. }) {
                    records.push(need);
                }
            }
        }
        failed.into_iter().map(|no| self.failed(no)).collect()
    }

    /// Whether so few members of a list failed that it counts.
    fn tolerated(&self, list: &[StepNo], tolerate: Amount) -> Result<(), StepError> {
        let is_failed = |no: &StepNo| self.run.step_state(*no).is_failure();
        let of = list.iter().copied();
        let failed = of.clone().filter(is_failed).count();
        let failed = u32::try_from(failed).unwrap_or(u32::MAX);
        let total = u32::try_from(list.len()).unwrap_or(u32::MAX);
        if failed <= tolerate.at_most_of(total) {
            return Ok(());
        }
        let names: Vec<String> =
            of.filter(is_failed).take(10).map(|no| self.run.name(no)).collect();
        let message = format!(
            "{failed} of {total} members failed, {tolerate} may: {}",
            names.join(", ")
        );
        Err(StepError::fail("members_failed", message))
    }
}
