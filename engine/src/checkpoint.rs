//! Checkpoints inside a step: a long one goes on from the last, after a crash or on retry.
//!
//! A checkpoint belongs to a step and its generation, and is written under the right to run
//! it: what lost its lease keeps nothing.

use std::{collections::HashMap, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use crate::{
    Clock, Context, Error, ProjectHandle, ProjectId, StepError, parse_input,
    plan::StepNo,
    store::{Checkpoint, Fence, MAX_OUTPUT, Store},
    to_raw,
    worker::{mask_value, patiently},
};

/// The longest name of a checkpoint, in bytes.
const LONGEST_NAME: usize = 200;
/// The most checkpoints of a step.
const MOST: usize = 10_000;
/// The most bytes of all values of a step together: whoever goes on from them holds them.
const MOST_BYTES: usize = 64 << 20;

/// Keeps the checkpoints of one attempt.
pub(crate) struct Keeper {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) project: ProjectId,
    pub(crate) step: (StepNo, u32),
    pub(crate) fence: Fence,
    /// Those that are known, once they were read.
    pub(crate) known: Mutex<Option<HashMap<String, Arc<RawValue>>>>,
}

impl Context {
    /// Gives the value that an earlier attempt of this generation kept under this name; else
    /// does the work and keeps its value before anything else happens. A failure keeps
    /// nothing. Secrets in a value are masked, as in outputs.
    ///
    /// A handler that is [pure](crate::Handler::is_pure) keeps nothing: its work is done each time.
    ///
    /// The work is done at least once for each name: a crash between its effect and the
    /// record repeats it. One name after the other: two at once may both do their work.
    ///
    /// ```
    /// # use dandori::{Context, StepError};
    /// async fn guide(ctx: Context, topic: String) -> Result<String, StepError> {
    ///     let found: Vec<String> = ctx.checkpoint("search", async { Ok(vec![topic]) }).await?;
    ///     let text: String = ctx.checkpoint("write", async { Ok(found.join("\n")) }).await?;
    ///     Ok(text)
    /// }
    /// ```
    ///
    /// # Errors
    /// That of the work; `invalid_output` for a value that has no JSON form, is over 16 MiB
    /// (64 MiB with the others of the step), or is not what is stored; `checkpoint` when the
    /// database did not keep it; a cancelled attempt when the right to run the step is lost.
    /// While a server does not answer it is asked again, until the attempt ends.
    pub async fn checkpoint<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        let Some(keeper) = self.keeper() else { return work.await };
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') {
            let message = "the name of a checkpoint has 1 to 200 bytes, and no NUL";
            return Err(StepError::fail("invalid_output", message));
        }
        if let Some(value) = keeper.find(name).await? {
            return read(&value);
        }
        let mut value = to_raw(&work.await?)?;
        if self.has_secrets() {
            // In the values, not in their JSON, which writes quotes in another way.
            let mut parsed: serde_json::Value = parse_input(&value)?;
            mask_value(self, &mut parsed);
            value = to_raw(&parsed)?;
        }
        if value.get().len() > MAX_OUTPUT {
            let message = format!("a checkpoint has at most {MAX_OUTPUT} bytes");
            return Err(StepError::fail("invalid_output", message));
        }
        read(&keeper.keep(name, value).await?)
    }
}

fn read<T: DeserializeOwned>(value: &RawValue) -> Result<T, StepError> {
    serde_json::from_str(value.get())
        .map_err(|error| StepError::fail("invalid_output", error))
}

impl Keeper {
    async fn find(&self, name: &str) -> Result<Option<Arc<RawValue>>, StepError> {
        let mut known = self.known.lock().await;
        if known.is_none() {
            let read = self.read().await?;
            let pair = |it: Checkpoint| (it.name, Arc::from(it.value));
            *known = Some(read.into_iter().map(pair).collect());
        }
        Ok(known.as_ref().and_then(|known| known.get(name).cloned()))
    }

    async fn keep(
        &self,
        name: &str,
        value: Box<RawValue>,
    ) -> Result<Arc<RawValue>, StepError> {
        let mut known = self.known.lock().await;
        let known = known.get_or_insert_default();
        if known.len() >= MOST {
            let message = format!("a step keeps at most {MOST} checkpoints");
            return Err(StepError::fail("invalid_output", message));
        }
        let held: usize = known.values().map(|value| value.get().len()).sum();
        if held + value.get().len() > MOST_BYTES {
            let message =
                format!("the checkpoints of a step have at most {MOST_BYTES} bytes");
            return Err(StepError::fail("invalid_output", message));
        }
        let checkpoint = Checkpoint {
            name: name.to_owned(),
            at: self.clock.now(),
            value: value.clone(),
        };
        let put = || {
            let checkpoint = checkpoint.clone();
            self.store.put_checkpoint(self.project, self.step, self.fence, checkpoint)
        };
        let put = patiently(&self.store, put).await;
        if !put.map_err(|error| not_kept(&error))? {
            // A lost answer was a yes, another attempt was quicker, or this one has lost its
            // right.
            let mut read = self.read().await?.into_iter();
            let Some(kept) = read.find(|it| it.name == name) else {
                return Err(StepError::cancelled());
            };
            let kept: Arc<RawValue> = kept.value.into();
            known.insert(name.to_owned(), Arc::clone(&kept));
            return Ok(kept);
        }
        let value: Arc<RawValue> = value.into();
        known.insert(name.to_owned(), Arc::clone(&value));
        Ok(value)
    }
}

impl Keeper {
    async fn read(&self) -> Result<Vec<Checkpoint>, StepError> {
        let read = || self.store.checkpoints(self.project, self.step);
        patiently(&self.store, read).await.map_err(|error| not_kept(&error))
    }
}

fn not_kept(error: &crate::store::StoreError) -> StepError {
    StepError::retry("checkpoint", format!("the database did not keep it: {error}"))
}

impl ProjectHandle {
    /// The checkpoints of a step in its latest generation, by name.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the project has no such step, or the database's.
    pub async fn checkpoints(&self, step: &str) -> Result<Vec<Checkpoint>, Error> {
        let snapshot = self.snapshot().await?;
        let no = snapshot.run.find(step).ok_or_else(|| Error::NotFound {
            wanted: step.to_owned(),
            reason: "the project has no such step",
        })?;
        let generation = snapshot.run.view(no).generation;
        Ok(self.engine().store().checkpoints(self.id(), (no, generation)).await?)
    }
}
