//! [`Changes`]: when something may have been written.

use std::time::Duration;

use tokio::sync::watch;

use crate::Engine;

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
