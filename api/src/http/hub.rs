//! The hub: one look at the database for all who follow projects.
//!
//! A follower subscribes first and reads what is recorded then, so nothing falls between. The
//! hub asks for the numbers of the latest events of all followed projects at once, reads what
//! is new of each once, and hands it to all its followers. Who is too slow to take it reads
//! it from the database instead: nobody waits for him.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dandori::{
    Engine, EventView, ProjectHandle, ProjectId,
    store::{ListFilter, ProjectRow},
};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::Instant,
};

use super::problem::Problem;

/// How often projects are looked at that another process may execute.
const POLL: Duration = Duration::from_millis(15);
/// How soon after a look the next one may come.
const PAUSE: Duration = Duration::from_millis(4);
/// So many events wait for a slow follower before he reads them himself.
const BEHIND: usize = 256;
/// So many projects are asked for at once.
const AT_ONCE: usize = 500;

/// How many projects the list has.
const LISTED: u32 = 100;
/// How often the list is read at most, and at least where another process executes.
const LIST_EVERY: Duration = Duration::from_millis(250);
const LIST_POLL: Duration = Duration::from_secs(1);

/// What followers of a project are told.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// This happened.
    Event(Arc<EventView>),
    /// It has ended, and all was told.
    Done,
}

/// Everybody who follows something.
#[derive(Clone, Debug)]
pub(super) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    feeds: Mutex<HashMap<ProjectId, Feed>>,
    /// Wakes the look when there is somebody to look for.
    wanted: tokio::sync::Notify,
    streams: AtomicUsize,
    most: usize,
    /// The newest projects, newest first, while somebody follows the list.
    newest: watch::Sender<Arc<Vec<ProjectRow>>>,
    list_wanted: tokio::sync::Notify,
}

#[derive(Debug)]
struct Feed {
    handle: ProjectHandle,
    /// The latest event that was handed on.
    last: i64,
    sender: broadcast::Sender<News>,
}

/// The place of a stream among all; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Stream(Arc<Inner>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    pub(super) fn new(engine: Engine, most: usize) -> Self {
        let inner = Arc::new(Inner {
            engine,
            feeds: Mutex::default(),
            wanted: tokio::sync::Notify::new(),
            streams: AtomicUsize::new(0),
            most,
            newest: watch::Sender::default(),
            list_wanted: tokio::sync::Notify::new(),
        });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(look(Arc::downgrade(&inner)));
            runtime.spawn(look_at_list(Arc::downgrade(&inner)));
        }
        Self(inner)
    }

    /// How many streams there are.
    pub(super) fn streams(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }

    /// Takes a place for a stream, if there is one.
    pub(super) fn stream(&self) -> Option<Stream> {
        let taken = self.0.streams.fetch_add(1, Ordering::Relaxed);
        let stream = Stream(Arc::clone(&self.0));
        (taken < self.0.most).then_some(stream)
    }

    /// Follows a project from now on.
    pub(super) async fn follow(
        &self,
        handle: &ProjectHandle,
    ) -> Result<broadcast::Receiver<News>, Problem> {
        if let Some(feed) = self.feeds().get(&handle.id()) {
            return Ok(feed.sender.subscribe());
        }
        let last = handle.row().await?.last_event;
        let mut feeds = self.feeds();
        let feed = feeds.entry(handle.id()).or_insert_with(|| Feed {
            handle: handle.clone(),
            last,
            sender: broadcast::channel(BEHIND).0,
        });
        let receiver = feed.sender.subscribe();
        drop(feeds);
        self.0.wanted.notify_one();
        Ok(receiver)
    }

    /// Follows the list of the newest projects: one reading for all who do.
    pub(super) fn newest(&self) -> watch::Receiver<Arc<Vec<ProjectRow>>> {
        if self.0.newest.receiver_count() == 0 {
            // Nobody has read it for a while.
            self.0.newest.send_replace(Arc::default());
        }
        let newest = self.0.newest.subscribe();
        self.0.list_wanted.notify_one();
        newest
    }

    /// Waits until a project has ended, or for a time; whether it has.
    pub(super) async fn ended(
        &self,
        handle: &ProjectHandle,
        timeout: Duration,
    ) -> Result<bool, Problem> {
        let until = Instant::now() + timeout;
        loop {
            // Anew each time: a replay may have opened what had ended.
            let mut news = self.follow(handle).await?;
            if handle.row().await?.state.is_terminal() {
                return Ok(true);
            }
            let told = async {
                while let Ok(News::Event(_)) | Err(RecvError::Lagged(_)) =
                    news.recv().await
                {}
            };
            let in_time = tokio::time::timeout_at(until, told).await.is_ok();
            if !in_time || Instant::now() >= until {
                return Ok(handle.row().await?.state.is_terminal());
            }
        }
    }

    fn feeds(&self) -> std::sync::MutexGuard<'_, HashMap<ProjectId, Feed>> {
        self.0.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks as long as there is a hub.
async fn look(hub: Weak<Inner>) {
    let mut changes = match hub.upgrade() {
        Some(inner) => inner.engine.changes(),
        None => return,
    };
    loop {
        let Some(inner) = hub.upgrade() else { return };
        let projects: Vec<ProjectId> = {
            let mut feeds = inner.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            feeds.retain(|_, feed| feed.sender.receiver_count() > 0);
            feeds.keys().copied().collect()
        };
        if projects.is_empty() {
            tokio::select! {
                () = inner.wanted.notified() => {}
                // So that the end of the hub is noticed.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            continue;
        }
        changes.seen();
        for projects in projects.chunks(AT_ONCE) {
            tell(&inner, projects).await;
        }
        drop(inner);
        changes.changed(POLL).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads the newest projects as long as somebody follows the list.
async fn look_at_list(hub: Weak<Inner>) {
    let mut changes = match hub.upgrade() {
        Some(inner) => inner.engine.changes(),
        None => return,
    };
    loop {
        let Some(inner) = hub.upgrade() else { return };
        if inner.newest.receiver_count() == 0 {
            tokio::select! {
                () = inner.list_wanted.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            continue;
        }
        changes.seen();
        let filter = ListFilter { limit: LISTED, ..ListFilter::default() };
        match inner.engine.list(&filter).await {
            Ok(rows) => {
                inner.newest.send_if_modified(|newest| {
                    let is_new = |(old, new): (&ProjectRow, &ProjectRow)| {
                        (old.id, old.last_event) != (new.id, new.last_event)
                    };
                    let differs = newest.len() != rows.len()
                        || newest.iter().zip(&rows).any(is_new);
                    *newest = Arc::new(rows);
                    differs
                });
            }
            Err(error) => tracing::warn!(%error, "the list could not be read"),
        }
        drop(inner);
        tokio::time::sleep(LIST_EVERY).await;
        changes.changed(LIST_POLL).await;
    }
}

/// Hands on what is new of some projects.
async fn tell(hub: &Inner, projects: &[ProjectId]) {
    let numbers = match hub.engine.store().last_events(projects).await {
        Ok(numbers) => numbers,
        Err(error) => {
            tracing::warn!(%error, "followed projects could not be looked at");
            return tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    for (project, upto, ended) in numbers {
        let known = {
            let feeds = hub.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            feeds
                .get(&project)
                .map(|feed| (feed.handle.clone(), feed.last, feed.sender.clone()))
        };
        let Some((handle, mut last, sender)) = known else { continue };
        while last < upto {
            let events = match handle.events(last).await {
                Ok(events) if !events.is_empty() => events,
                _ => break,
            };
            for event in events {
                last = event.seq;
                // Nobody is there any more, or only slow ones: they read it themselves.
                let _ = sender.send(News::Event(Arc::new(event)));
            }
        }
        if ended && last >= upto {
            let _ = sender.send(News::Done);
        }
        let mut feeds = hub.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        if ended && last >= upto {
            // A replay may open it again: whoever comes then follows anew.
            feeds.remove(&project);
        } else if let Some(feed) = feeds.get_mut(&project) {
            feed.last = last;
        }
    }
}
