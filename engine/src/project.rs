//! [`ProjectHandle`]: one project of an engine, to be watched and steered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use crate::{
    Changes, Engine, Error, ProjectId,
    changes::Ending,
    plan::{Plan, StepNo},
    run::{PastAttempt, ProjectState, Run, WaitReason},
    store::{Author, LogLine, MailKind, ProjectRow, StoredProject, Summary},
    view::{EventView, ProjectView, Snapshot, StepDetails},
};

/// How often another process's work is looked at.
const POLL: Duration = Duration::from_millis(200);
/// The most that whoever has waited for long for the end of one lets pass between two looks.
const SELDOM: Duration = Duration::from_secs(1);
/// The same for a project in the hands of this process, which tells of its end.
const OURS: Duration = Duration::from_secs(5);
/// How long a server may be away while somebody waits for a project.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a request waits to be applied before it is left to the owner.
pub(crate) const REQUEST_WAIT: Duration = Duration::from_secs(2);
/// Packed rows of events read at once.
const EVENT_ROWS: u32 = 500;

/// How long whoever has waited so long for the end of another process's work does not look:
/// many may wait for projects that rest for hours. Nobody hears of an end later than by this.
fn pause_after(waited: Duration) -> Duration {
    (waited / 20).clamp(POLL, SELDOM)
}

/// One project of an engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProjectHandle {
    engine: Engine,
    id: ProjectId,
    /// The run as it was folded last: names of steps do not change, so it serves events
    /// until one is about a step that it does not know yet.
    names: Arc<Folded>,
    /// In whose name it is steered, for the audit.
    author: Option<Author>,
    /// Told of its end, where it was born in this process.
    ending: Option<Arc<Ending>>,
}

/// The names of the steps of a project, as they were folded last.
type Folded = Mutex<Option<Arc<Run>>>;

/// What all handles of a project in this process share: many follow the same one.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<HashMap<ProjectId, Weak<Folded>>>);

impl Names {
    fn of(&self, id: ProjectId) -> Arc<Folded> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = all.get(&id).and_then(Weak::upgrade) {
            return names;
        }
        // So seldom that it costs nothing, and often enough that they do not add up.
        if all.len() == all.capacity() {
            all.retain(|_, names| names.strong_count() > 0);
        }
        let names = Arc::default();
        all.insert(id, Arc::downgrade(&names));
        names
    }
}

/// How a request to steer a project ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steered {
    /// It is applied and on disk.
    Applied,
    /// It is on disk and will be applied by whoever executes the project.
    Recorded,
}

impl ProjectHandle {
    pub(crate) fn new(engine: Engine, id: ProjectId) -> Self {
        let names = engine.inner().names.of(id);
        Self { engine, id, names, author: None, ending: None }
    }

    /// The engine that it was found through.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same project, steered in somebody's name: the audit keeps it.
    #[must_use]
    pub fn by(mut self, author: Author) -> Self {
        self.author = Some(author);
        self
    }

    /// In whose name it is steered.
    pub(crate) fn author(&self) -> Option<&Author> {
        self.author.as_ref()
    }

    /// The id of the project.
    pub fn id(&self) -> ProjectId {
        self.id
    }

    /// Reads the narrow row of the project.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's.
    pub async fn row(&self) -> Result<ProjectRow, Error> {
        let row = self.engine.store().row(self.id).await?;
        row.ok_or_else(|| self.not_found())
    }

    /// Reads the project with its steps and their outputs.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's.
    pub async fn view(&self) -> Result<ProjectView, Error> {
        let snapshot = self.snapshot().await?;
        Ok(ProjectView::read(&snapshot, self.engine.store(), true).await?)
    }

    /// Reads the project with its steps, but without the outputs of the steps: for looking
    /// at a project whose outputs are large.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's.
    pub async fn outline(&self) -> Result<ProjectView, Error> {
        let snapshot = self.snapshot().await?;
        Ok(ProjectView::read(&snapshot, self.engine.store(), false).await?)
    }

    /// Reads the project and folds its facts.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let stored = self.engine.store().project(self.id).await?;
        let stored = stored.ok_or_else(|| self.not_found())?;
        let plans = &self.engine.inner().plans;
        let plan = plans.get(self.engine.store(), stored.row.plan_hash).await?;
        Ok(Snapshot::fold(stored, plan))
    }

    /// Reads what is stored of the project beside its steps: its row, labels and output.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's.
    pub async fn summary(&self) -> Result<Summary, Error> {
        let summary = self.engine.store().summary(self.id).await?;
        summary.ok_or_else(|| self.not_found())
    }

    /// Reads one step, with its output.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's.
    pub async fn step(&self, no: StepNo) -> Result<StepDetails, Error> {
        let snapshot = self.snapshot().await?;
        let only = ProjectView::read_steps(&snapshot, self.engine.store(), Some(no));
        let step = only.await?.pop();
        step.ok_or_else(|| self.not_found())
    }

    /// Reads the attempts that another one followed.
    ///
    /// # Errors
    /// The database's.
    pub async fn attempts(&self) -> Result<Vec<PastAttempt>, Error> {
        Ok(self.engine.store().attempts(self.id).await?)
    }

    /// Reads the log of a step, or of all.
    ///
    /// # Errors
    /// The database's.
    pub async fn logs(&self, no: Option<StepNo>) -> Result<Vec<LogLine>, Error> {
        Ok(self.engine.store().logs(self.id, no).await?)
    }

    /// Reads the events after a number. The numbers have no gaps.
    ///
    /// # Errors
    /// The database's.
    pub async fn events(&self, after: i64) -> Result<Vec<EventView>, Error> {
        let events = self.engine.store().events(self.id, after, EVENT_ROWS).await?;
        let Some(most) = events.iter().map(|(_, record)| record.no).max() else {
            return Ok(vec![]);
        };
        let run = self.names(most).await?;
        Ok(events
            .into_iter()
            .map(|(seq, record)| EventView::of(seq, record, &run))
            .collect())
    }

    /// The numbers of the first events of all commits: what became durable together.
    ///
    /// # Errors
    /// The database's.
    pub async fn commits(&self) -> Result<Vec<i64>, Error> {
        Ok(self.engine.store().commits(self.id).await?)
    }

    /// A fold that knows the names of steps up to a number.
    async fn names(&self, most: Option<StepNo>) -> Result<Arc<Run>, Error> {
        let known = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(run) if most.is_none_or(|most| most < run.len()) => Ok(run),
            _ => {
                let run = Arc::new(self.snapshot().await?.run);
                let mut names =
                    self.names.lock().unwrap_or_else(PoisonError::into_inner);
                *names = Some(Arc::clone(&run));
                Ok(run)
            }
        }
    }

    /// Waits until there are events after a number, and reads them. Returns nothing when
    /// the project has ended and all its events were read.
    ///
    /// # Errors
    /// The database's, or that of the worker in this process.
    pub async fn next_events(&self, after: i64) -> Result<Vec<EventView>, Error> {
        let mut commits = Changes::of(&self.engine);
        loop {
            commits.seen();
            let row = self.patiently(|| self.row()).await?;
            let events = self.patiently(|| self.events(after)).await?;
            if !events.is_empty() || row.state.is_terminal() {
                return Ok(events);
            }
            commits.changed(POLL).await;
            self.engine.check_worker()?;
        }
    }

    /// Told of the end from its birth on, so that nothing is missed and nothing read.
    pub(crate) fn told(self, ending: Option<Ending>) -> Self {
        Self { ending: ending.map(Arc::new), ..self }
    }

    /// Waits until the project has ended, and reads it.
    ///
    /// # Errors
    /// The database's, or that of the worker in this process.
    pub async fn wait(&self) -> Result<ProjectView, Error> {
        loop {
            self.ended().await?;
            let view = self.patiently(|| self.view()).await?;
            // Else somebody has opened it again meanwhile.
            if view.state.is_terminal() {
                return Ok(view);
            }
        }
    }

    /// Waits until the project has ended, and tells its row alone.
    ///
    /// # Errors
    /// The database's, or that of the worker in this process.
    pub async fn ended(&self) -> Result<ProjectRow, Error> {
        let worker = self.engine.inner().worker.as_ref();
        let ending = match &self.ending {
            Some(ending) => Some(Arc::clone(ending)),
            None => worker.map(|worker| Arc::new(worker.ends.of(self.id))),
        };
        // An end that comes while the row is read is told all the same.
        let mut told = ending.as_ref().map(|ending| ending.told());
        // What was told before may be out of date: somebody has opened it again.
        let old = told.as_ref().is_some_and(|told| told.borrow().is_some());
        if let (true, Some(worker)) = (old, worker) {
            worker.ends.reset(self.id);
        }
        let mut read = old || self.ending.is_none();
        let began = tokio::time::Instant::now();
        loop {
            if let Some(row) =
                told.as_mut().and_then(|it| it.borrow_and_update().clone())
            {
                return Ok(row);
            }
            let mut moment = OURS;
            if std::mem::replace(&mut read, true) {
                let row = self.patiently(|| self.row()).await?;
                if row.state.is_terminal() {
                    return Ok(row);
                }
                let here = worker.map(|worker| worker.session.borrow().uuid());
                moment = match row.session.is_some() && row.session == here {
                    true => OURS,
                    false => pause_after(began.elapsed()),
                };
            }
            match &mut told {
                Some(told) => drop(tokio::time::timeout(moment, told.changed()).await),
                None => tokio::time::sleep(moment).await,
            }
            self.engine.check_worker()?;
        }
    }

    /// Asks a server that is away again, for a while: whoever waits for a project outlives
    /// a restart of the database.
    async fn patiently<T, F: Future<Output = Result<T, Error>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, Error> {
        let began = tokio::time::Instant::now();
        loop {
            match ask().await {
                Err(Error::Store(error))
                    if error.is_transient()
                        && self.engine.store().is_shared()
                        && began.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(POLL).await;
                }
                answer => return answer,
            }
        }
    }

    /// Stops the project: no step starts any more, running ones are told to stop.
    ///
    /// # Errors
    /// [`Error::Illegal`] when the project has ended.
    pub async fn cancel(&self) -> Result<Steered, Error> {
        self.steer(MailKind::Cancel, None).await
    }

    /// Starts no further steps; running ones finish.
    ///
    /// # Errors
    /// [`Error::Illegal`] when the project has ended.
    pub async fn pause(&self) -> Result<Steered, Error> {
        self.steer(MailKind::Pause, None).await
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// [`Error::Illegal`] when the project is not paused.
    pub async fn resume(&self) -> Result<Steered, Error> {
        self.steer(MailKind::Resume, None).await
    }

    /// Starts the next attempt now: of a step that waits for its retry, or of all that do.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such step, [`Error::Illegal`] when nothing waits
    /// for a retry.
    pub async fn retry(&self, step: Option<&str>) -> Result<Steered, Error> {
        let snapshot = self.snapshot().await?;
        let run = &snapshot.run;
        let retries = |no: StepNo| {
            let wait = run.view(no).wait;
            wait.is_some_and(|wait| wait.reason == WaitReason::Retry)
        };
        let (step, waits, state) = match step {
            Some(name) => {
                let no = run.find(name).ok_or_else(|| Error::NotFound {
                    wanted: name.to_owned(),
                    reason: "the project has no such step",
                })?;
                (Some((no, run.name(no))), retries(no), run.step_state(no).as_str())
            }
            None => (None, (0..run.len()).any(retries), run.state().as_str()),
        };
        match waits {
            true => self.steer(MailKind::Retry, step).await,
            false => Err(Error::Illegal { project: self.id, state, wanted: "retry" }),
        }
    }

    /// The state of the project once the messages sent so far are applied, or after a
    /// moment of waiting for that.
    ///
    /// # Errors
    /// The database's.
    pub async fn settled_state(&self) -> Result<ProjectState, Error> {
        let asked = tokio::time::Instant::now();
        let store = self.engine.store();
        while asked.elapsed() < REQUEST_WAIT
            && !store.letters(self.id).await?.mail.is_empty()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(self.row().await?.state)
    }

    async fn steer(
        &self,
        kind: MailKind,
        step: Option<(StepNo, String)>,
    ) -> Result<Steered, Error> {
        let wanted = kind.as_str();
        let row = self.row().await?;
        let fits = match kind {
            MailKind::Cancel => !row.state.is_terminal() && row.cancelled_at.is_none(),
            MailKind::Pause => {
                matches!(row.state, ProjectState::Pending | ProjectState::Running)
            }
            MailKind::Resume => row.state == ProjectState::Paused,
            // Its caller has looked at the steps.
            MailKind::Retry => true,
        };
        if !fits {
            let (project, state) = (self.id, row.state.as_str());
            return Err(Error::Illegal { project, state, wanted });
        }
        let store = self.engine.store();
        let (now, author) = (self.engine.inner().clock.now(), self.author.clone());
        store.send_by(self.id, (kind, step), author, now).await?;
        let worker = self.engine.inner().worker.as_ref();
        if let Some(worker) = worker {
            worker.look();
        }
        let asked = tokio::time::Instant::now();
        let mut take_at = asked;
        while asked.elapsed() < REQUEST_WAIT {
            if store.letters(self.id).await?.mail.is_empty() {
                return self.answer(kind).await;
            }
            // Nobody has it, or whoever had it has ended just now.
            if take_at.elapsed() > Duration::ZERO && self.is_free().await? {
                match worker {
                    Some(worker) => worker.unread(self.id),
                    None => self.apply_if_unowned().await?,
                }
                take_at = tokio::time::Instant::now() + POLL;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match self.row().await?.state.is_terminal() {
            true => self.answer(kind).await,
            false => Ok(Steered::Recorded),
        }
    }

    /// The message was read: whether it came in time shows in the project.
    async fn answer(&self, kind: MailKind) -> Result<Steered, Error> {
        let row = self.row().await?;
        let applied = match kind {
            MailKind::Cancel => row.cancelled_at.is_some(),
            MailKind::Pause => row.state == ProjectState::Paused,
            MailKind::Resume => {
                row.state != ProjectState::Paused && row.cancelled_at.is_none()
            }
            // One that had begun by itself meanwhile has done what was asked.
            MailKind::Retry => row.cancelled_at.is_none(),
        };
        match applied {
            true => Ok(Steered::Applied),
            false => {
                let (project, state) = (self.id, row.state.as_str());
                Err(Error::Illegal { project, state, wanted: kind.as_str() })
            }
        }
    }

    /// Whether nobody owns the project. On a file only the lock tells.
    async fn is_free(&self) -> Result<bool, Error> {
        let shared = self.engine.store().is_shared();
        Ok(!shared || self.row().await?.session.is_none())
    }

    /// When nobody executes, this process takes the project for the moment: a worker
    /// without slots applies the message and starts nothing.
    async fn apply_if_unowned(&self) -> Result<(), Error> {
        let started = Engine::builder()
            .store(self.engine.store().clone())
            .clock(self.engine.inner().clock.clone())
            .command("applying a request")
            // A loss is noted here; what follows from it is for whoever executes.
            .crash_limit(0)
            .only_own()
            .steer_only()
            .start()
            .await;
        match started {
            Ok(engine) => {
                // It starts nothing, so it needs no handlers.
                if let Some(worker) = &engine.inner().worker {
                    worker.adopt(self.id).await?;
                }
                engine.shutdown().await;
                Ok(())
            }
            Err(Error::Locked(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn not_found(&self) -> Error {
        Error::NotFound {
            wanted: self.id.to_string(),
            reason: "no project has this id",
        }
    }
}

impl Snapshot {
    /// Folds what is stored of a project.
    fn fold(stored: StoredProject, plan: Arc<Plan>) -> Self {
        let seed = *stored.row.id.uuid().as_bytes();
        let restored = stored.row.restored();
        let mut run = Run::restore(plan, seed, stored.facts.clone(), &restored);
        for claim in &stored.claims {
            // Its owner hears of it at the end; who looks sees that it runs.
            if let Some(since) = claim.claimed_at
                && claim.no < run.len()
                && run.view(claim.no).attempt + 1 == claim.attempt
            {
                let no = claim.no;
                // A wait that is over is not recorded as such.
                let _ = run.apply(crate::run::Event::Tick, since);
                let _ = run.apply(crate::run::Event::Claimed { no, since }, since);
            }
        }
        Self { stored, run }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_longer_looks_less_often() {
        let pauses = [0, 4, 10, 20, 3_600].map(Duration::from_secs).map(pause_after);
        let expected = [200, 200, 500, 1_000, 1_000].map(Duration::from_millis);
        assert_eq!(pauses, expected);
    }
}
