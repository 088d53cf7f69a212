//! [`Changes`]: when something may have been written. [`Ends`]: when a project leaves the
//! hands of the worker of this process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::watch;

use crate::{Engine, ProjectId, store::ProjectRow};

/// Tells when something may have been written: at once where this process has committed, and
/// after a moment in any case, because other processes write too.
#[derive(Debug)]
pub struct Changes(Option<watch::Receiver<u64>>);

impl Changes {
    pub(crate) fn of(engine: &Engine) -> Self {
        let worker = engine.inner().worker.as_ref();
        Self(worker.map(|worker| worker.commits.subscribe()))
    }

    /// What is committed by now is read now: only later commits count.
    pub fn seen(&mut self) {
        if let Some(commits) = &mut self.0 {
            commits.borrow_and_update();
        }
    }

    /// Waits for a commit of this process, or for a moment.
    pub async fn changed(&mut self, moment: Duration) {
        match &mut self.0 {
            Some(commits) => {
                let ended = tokio::time::timeout(moment, commits.changed()).await;
                // The worker has ended: only others write.
                if matches!(ended, Ok(Err(_))) {
                    tokio::time::sleep(moment).await;
                }
            }
            None => tokio::time::sleep(moment).await,
        }
    }
}

impl Engine {
    /// Tells when something may have been written, here or elsewhere.
    pub fn changes(&self) -> Changes {
        Changes::of(self)
    }
}

/// Tells who waits for the end of a project when the worker of this process lets go of it,
/// and how it has ended, so that nobody looks after every commit. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends(Arc<Mutex<HashMap<ProjectId, Weak<Told>>>>);

/// The row of a project that has ended here.
type Told = watch::Sender<Option<ProjectRow>>;

/// Somebody waits for the end of a project.
#[derive(Debug)]
pub(crate) struct Ending {
    ends: Ends,
    project: ProjectId,
    told: Arc<Told>,
}

impl Ends {
    fn all(&self) -> MutexGuard<'_, HashMap<ProjectId, Weak<Told>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits from now on for the end of a project.
    pub(crate) fn of(&self, project: ProjectId) -> Ending {
        let mut all = self.all();
        let known = all.get(&project).and_then(Weak::upgrade);
        let told = known.unwrap_or_else(|| Arc::new(watch::Sender::new(None)));
        all.insert(project, Arc::downgrade(&told));
        Ending { ends: self.clone(), project, told }
    }

    /// Whether somebody waits for the end of a project.
    pub(crate) fn is_awaited(&self, project: ProjectId) -> bool {
        let mut all = self.all();
        let awaited = all.get(&project).is_some_and(|told| told.strong_count() > 0);
        if !awaited {
            all.remove(&project);
        }
        awaited
    }

    /// What was told of a project counts no more: it runs.
    pub(crate) fn reset(&self, project: ProjectId) {
        let told = self.all().get(&project).and_then(Weak::upgrade);
        if let Some(told) = told {
            told.send_if_modified(|row| row.take().is_some());
        }
    }

    /// The worker lets go of a project that has ended, with its row; or of one that goes on
    /// elsewhere.
    pub(crate) fn tell(&self, project: ProjectId, row: Option<ProjectRow>) {
        let told = self.all().get(&project).and_then(Weak::upgrade);
        if let Some(told) = told {
            told.send_replace(row);
        }
    }

    /// The worker lets go of everything.
    pub(crate) fn tell_all(&self) {
        let all: Vec<_> = self.all().values().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|told| told.send_modify(|_| ()));
    }
}

impl Ending {
    /// What was told of it, from now on.
    pub(crate) fn told(&self) -> watch::Receiver<Option<ProjectRow>> {
        self.told.subscribe()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut all = self.ends.all();
        // The last one: nobody else can come meanwhile, the map is locked.
        if Arc::strong_count(&self.told) == 1 {
            all.remove(&self.project);
        }
    }
}
