//! Differences between two projects: a replayed one and its base, a fork, two nights of the
//! same document; and between two attempts of a step.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Error, ProjectHandle, ProjectId, ProjectView, StepDetails, StepError,
    run::{ProjectState, StepState},
};

/// What differs between two projects. Equal parts are left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectDiff {
    /// The first.
    pub a: ProjectId,
    /// The second.
    pub b: ProjectId,
    /// Their states, where these differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Pair<ProjectState>>,
    /// Inputs with other values, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Pair<Option<Box<RawValue>>>>,
    /// Their outputs, where these differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Pair<Option<Box<RawValue>>>>,
    /// Steps that differ, in the order of the second; those that are gone come last.
    pub steps: Vec<StepDiff>,
    /// How many steps are the same.
    pub same: usize,
}

/// The same thing here and there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair<T> {
    /// In the first.
    pub a: T,
    /// In the second.
    pub b: T,
}

/// A step that is in one of them alone, or differs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepDiff {
    /// Its name.
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// Its states, where these differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Pair<StepState>>,
    /// Its outputs, where these differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Pair<Option<Box<RawValue>>>>,
    /// Its errors, where these differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Pair<Option<StepError>>>,
    /// How many attempts it had, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Pair<u32>>,
    /// How long its latest attempt took, in seconds; never a reason by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<Pair<Option<f64>>>,
}

/// Which attempt of a step: its generation, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptNo {
    /// How often the step was deliberately run anew, from 1.
    pub generation: u32,
    /// Its number in the generation, from 1.
    pub attempt: u32,
}

/// A text that names no attempt.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no attempt: write GENERATION.ATTEMPT, such as 1.2")]
pub struct InvalidAttempt(String);

impl fmt::Display for AttemptNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.attempt)
    }
}

impl FromStr for AttemptNo {
    type Err = InvalidAttempt;

    fn from_str(text: &str) -> Result<Self, InvalidAttempt> {
        let parse = |(generation, attempt): (&str, &str)| {
            Some(Self {
                generation: generation.parse().ok()?,
                attempt: attempt.parse().ok()?,
            })
        };
        let parsed = text.split_once('.').and_then(parse);
        parsed.ok_or_else(|| InvalidAttempt(text.to_owned()))
    }
}

/// What differs between two attempts of a step. Equal parts are left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptDiff {
    /// The step.
    pub step: String,
    /// Which they are, as `GENERATION.ATTEMPT`.
    pub attempt: Pair<String>,
    /// Their states, where these differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Pair<StepState>>,
    /// Their outputs, where these differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Pair<Option<Box<RawValue>>>>,
    /// Their errors, where these differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Pair<Option<StepError>>>,
    /// How long they took, in seconds.
    pub seconds: Pair<Option<f64>>,
}

/// An attempt, as far as two can be compared.
struct Compared {
    no: AttemptNo,
    state: StepState,
    output: Option<Box<RawValue>>,
    error: Option<StepError>,
    seconds: Option<f64>,
}

impl ProjectHandle {
    /// Compares two attempts of a step; the last two when none are named.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such step, or it had no such attempts; or the
    /// database's.
    pub async fn diff_attempts(
        &self,
        step: &str,
        of: Option<(AttemptNo, AttemptNo)>,
    ) -> Result<AttemptDiff, Error> {
        let missing = |wanted: String, reason| Error::NotFound { wanted, reason };
        let snapshot = self.snapshot().await?;
        let no = snapshot
            .run
            .find(step)
            .ok_or_else(|| missing(step.to_owned(), "the project has no such step"))?;
        let past = self.attempts().await?.into_iter().filter(|it| it.no == no);
        let mut attempts: Vec<Compared> = past
            .map(|it| Compared {
                no: AttemptNo { generation: it.generation, attempt: it.attempt },
                state: it.state,
                output: it.output.map(|it| (*it).to_owned()),
                error: it.error,
                seconds: it
                    .started_at
                    .map(|began| it.finished_at.since(began).as_secs_f64()),
            })
            .collect();
        let latest = self.step(no).await?;
        let last =
            AttemptNo { generation: latest.generation, attempt: latest.attempts };
        if latest.attempts > 0 && attempts.iter().all(|it| it.no != last) {
            attempts.push(Compared {
                no: last,
                state: latest.state,
                output: output(&latest),
                error: latest.error.clone(),
                seconds: seconds(&latest),
            });
        }
        attempts.sort_by_key(|it| it.no);
        let (a, b) = match of {
            Some(of) => of,
            None => match attempts.as_slice() {
                [.., a, b] => (a.no, b.no),
                _ => {
                    return Err(missing(
                        step.to_owned(),
                        "the step had no two attempts",
                    ));
                }
            },
        };
        let find = |no: AttemptNo| {
            let found = attempts.iter().find(|it| it.no == no);
            found.ok_or_else(|| missing(no.to_string(), "the step had no such attempt"))
        };
        let (a, b) = (find(a)?, find(b)?);
        Ok(AttemptDiff {
            step: step.to_owned(),
            attempt: Pair { a: a.no.to_string(), b: b.no.to_string() },
            state: pair(a.state, b.state),
            output: values(a.output.clone(), b.output.clone()),
            error: pair(a.error.clone(), b.error.clone()),
            seconds: Pair { a: a.seconds, b: b.seconds },
        })
    }

    /// Compares this project with another one: states, inputs, outputs, errors, attempts and
    /// times, step by step.
    ///
    /// # Errors
    /// The database's.
    pub async fn diff(&self, other: &Self) -> Result<ProjectDiff, Error> {
        let ((a, of_a), (b, of_b)) = (self.whole().await?, other.whole().await?);
        let mut before: BTreeMap<&str, &StepDetails> =
            a.steps.iter().map(|step| (step.name.as_str(), step)).collect();
        let mut steps = vec![];
        let mut same = 0;
        for step in &b.steps {
            match before.remove(step.name.as_str()) {
                None => steps.push(alone(step, "added")),
                Some(old) => match changed(old, step) {
                    Some(diff) => steps.push(diff),
                    None => same += 1,
                },
            }
        }
        let gone = |step: &&StepDetails| before.contains_key(step.name.as_str());
        steps.extend(a.steps.iter().filter(gone).map(|step| alone(step, "removed")));
        Ok(ProjectDiff {
            a: a.id,
            b: b.id,
            state: pair(a.state, b.state),
            inputs: differing(of_a, of_b),
            output: values(a.output, b.output),
            steps,
            same,
        })
    }

    /// The project and its inputs, of one moment.
    async fn whole(
        &self,
    ) -> Result<(ProjectView, BTreeMap<String, Box<RawValue>>), Error> {
        let snapshot = self.snapshot().await?;
        let view = ProjectView::read(&snapshot, self.engine().store(), true).await?;
        // An object: this engine has written it.
        let inputs =
            serde_json::from_slice(&snapshot.stored.inputs).unwrap_or_default();
        Ok((view, inputs))
    }
}

fn pair<T: PartialEq>(a: T, b: T) -> Option<Pair<T>> {
    (a != b).then_some(Pair { a, b })
}

fn values(
    a: Option<Box<RawValue>>,
    b: Option<Box<RawValue>>,
) -> Option<Pair<Option<Box<RawValue>>>> {
    let text = |it: &Option<Box<RawValue>>| it.as_ref().map(|it| it.get().to_owned());
    (text(&a) != text(&b)).then_some(Pair { a, b })
}

fn differing(
    mut a: BTreeMap<String, Box<RawValue>>,
    b: BTreeMap<String, Box<RawValue>>,
) -> BTreeMap<String, Pair<Option<Box<RawValue>>>> {
    let mut all: BTreeMap<String, _> = b
        .into_iter()
        .map(|(name, b)| (name.clone(), (a.remove(&name), Some(b))))
        .collect();
    all.extend(a.into_iter().map(|(name, a)| (name, (Some(a), None))));
    let differs = |(name, (a, b))| Some((name, values(a, b)?));
    all.into_iter().filter_map(differs).collect()
}

fn output(step: &StepDetails) -> Option<Box<RawValue>> {
    step.output.as_deref().map(ToOwned::to_owned)
}

fn seconds(step: &StepDetails) -> Option<f64> {
    Some(step.finished_at?.since(step.started_at?).as_secs_f64())
}

fn alone(step: &StepDetails, change: &str) -> StepDiff {
    StepDiff {
        name: step.name.clone(),
        change: change.to_owned(),
        state: None,
        output: None,
        error: None,
        attempts: None,
        seconds: None,
    }
}

/// A step that is in both; `None` where nothing but its time differs.
fn changed(a: &StepDetails, b: &StepDetails) -> Option<StepDiff> {
    let diff = StepDiff {
        state: pair(a.state, b.state),
        output: values(output(a), output(b)),
        error: pair(a.error.clone(), b.error.clone()),
        attempts: pair(a.attempts, b.attempts),
        ..alone(b, "changed")
    };
    let StepDiff { state, output, error, attempts, .. } = &diff;
    let same =
        state.is_none() && output.is_none() && error.is_none() && attempts.is_none();
    (!same).then(|| StepDiff {
        seconds: Some(Pair { a: seconds(a), b: seconds(b) }),
        ..diff
    })
}
