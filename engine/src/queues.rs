//! Queues: what waits in them, and whether their steps start.

use std::{collections::HashMap, time::Duration};

use crate::{
    Engine, Error, SessionId, Steered,
    project::REQUEST_WAIT,
    spec,
    store::{Author, QueueRow},
};

/// How often it is looked whether the others have heard.
const POLL: Duration = Duration::from_millis(20);

impl Engine {
    /// The queues in which something waits for a worker, or that are paused. Steps that the
    /// owner of their project runs itself wait in its memory and are not counted.
    ///
    /// # Errors
    /// The database's.
    pub async fn queues(&self) -> Result<Vec<QueueRow>, Error> {
        Ok(self.store().queues().await?)
    }

    /// Starts no further steps of a queue, of any project, on any worker; what runs is left
    /// to end. A queue need not exist: it is whatever documents name.
    ///
    /// [`Steered::Applied`] once every worker has heard of it; workers that begin later hear
    /// of it before they start anything.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no queue can have that name, or the database's.
    pub async fn pause_queue(
        &self,
        queue: &str,
        author: Option<Author>,
    ) -> Result<Steered, Error> {
        self.hold_queue(queue, true, author).await
    }

    /// Lets the steps of a queue start again.
    ///
    /// # Errors
    /// As [`Engine::pause_queue`].
    pub async fn resume_queue(
        &self,
        queue: &str,
        author: Option<Author>,
    ) -> Result<Steered, Error> {
        self.hold_queue(queue, false, author).await
    }

    async fn hold_queue(
        &self,
        queue: &str,
        paused: bool,
        author: Option<Author>,
    ) -> Result<Steered, Error> {
        if spec::fault(queue).is_some() {
            let reason = "no queue can have this name";
            return Err(Error::NotFound { wanted: queue.to_owned(), reason });
        }
        let now = self.now();
        self.store().hold_queue(queue.to_owned(), paused, author, now).await?;
        let heard = tokio::time::timeout(REQUEST_WAIT, self.all_hear(queue, paused));
        match heard.await {
            Ok(Ok(true)) => Ok(Steered::Applied),
            Ok(Ok(false)) | Err(_) => Ok(Steered::Recorded),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Waits until every worker has heard of a queue; `false` where that does not show.
    async fn all_hear(&self, queue: &str, paused: bool) -> Result<bool, Error> {
        let here = self.inner().worker.as_ref();
        if let Some(worker) = here {
            worker.look();
            worker.hears_of(queue, paused).await;
        }
        if !self.store().is_shared() {
            // On a file the one executor hears, and another process cannot know of it.
            return Ok(here.is_some() || self.live_beats().await?.is_empty());
        }
        // The beat that a worker is at may have looked before the change was written: the one
        // after it has not.
        let before = self.live_beats().await?;
        self.store().hint();
        loop {
            let now = self.live_beats().await?;
            let later = |(id, beat): (&SessionId, &i64)| {
                now.get(id).is_none_or(|now| *now >= beat + 2)
            };
            if before.iter().all(later) {
                return Ok(true);
            }
            tokio::time::sleep(POLL).await;
            self.store().hint();
        }
    }

    /// How often each of the other live workers has beaten.
    async fn live_beats(&self) -> Result<HashMap<SessionId, i64>, Error> {
        let own = self.inner().worker.as_ref().map(|worker| *worker.session.borrow());
        let live = |it: &crate::store::SessionRow| {
            it.state == "live" && it.slots > 0 && Some(it.id) != own
        };
        let sessions = self.store().sessions().await?;
        Ok(sessions.into_iter().filter(live).map(|it| (it.id, it.beat)).collect())
    }
}
