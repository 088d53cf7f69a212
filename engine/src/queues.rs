//! Queues: what waits in them, and whether their steps start.

use std::time::Duration;

use crate::{
    Engine, Error, Steered,
    project::REQUEST_WAIT,
    spec,
    store::{Author, QueueRow, SessionRow},
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
            return Ok(here.is_some() || self.workers().await?.is_empty());
        }
        // A worker that hears of a change says so with a beat.
        while !self.others_know(queue, paused).await? {
            tokio::time::sleep(POLL).await;
        }
        Ok(true)
    }

    /// Whether each of the other live workers was told of it.
    async fn others_know(&self, queue: &str, paused: bool) -> Result<bool, Error> {
        let own = self.inner().worker.as_ref().map(|worker| *worker.session.borrow());
        // Without a lease it may begin nothing.
        let executes =
            |it: &SessionRow| it.state == "live" && it.slots > 0 && it.lease_left >= 0;
        let sessions = self.store().sessions().await?;
        let mut others =
            sessions.iter().filter(|it| executes(it) && Some(it.id) != own);
        Ok(others.all(|it| it.paused.contains(queue) == paused))
    }
}
