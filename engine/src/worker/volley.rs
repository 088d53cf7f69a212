//! Volleys: attempts that end at once share a task, because a task and the waking of a thread
//! for each would cost more than they do.
//!
//! Which kinds end at once is learned from their attempts. One that blocks after all keeps
//! those behind it waiting for a moment only: then they get tasks of their own, as every
//! attempt of another kind has from the beginning.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{sync::mpsc::UnboundedSender, task::AbortHandle, time::Instant};

use super::{
    Message,
    attempt::{Attempt, Key},
    grow::End,
    leash::Leash,
    scheduler::Scheduler,
};
use crate::{StepError, map::Map};

/// What ends in its first turn, and within this time, has ended at once.
const AT_ONCE: Duration = Duration::from_micros(50);
/// So many attempts of a kind in a row must have ended at once before they share a task.
const TRUSTED: u8 = 16;
/// The most attempts of a volley.
const LARGEST: usize = 64;
/// Attempts that wait longer for those before them get tasks of their own.
const PATIENCE: Duration = Duration::from_millis(5);

/// How quick the attempts of a kind are: how many of the latest have ended at once.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU8);

impl Pace {
    fn is_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= TRUSTED
    }

    /// An attempt has said something: its kind is not one of those that only end.
    pub(super) fn spoke(&self) {
        self.note(false);
    }

    fn note(&self, at_once: bool) {
        let seen = if at_once { self.0.load(Ordering::Relaxed) } else { 0 };
        self.0.store(
            seen.saturating_add(u8::from(at_once)).min(TRUSTED),
            Ordering::Relaxed,
        );
    }

    /// Does the work, and takes note of whether it has ended at once.
    pub(super) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut first = true;
        poll_fn(|context| {
            if !std::mem::replace(&mut first, false) {
                return work.as_mut().poll(context);
            }
            let began = Instant::now();
            let turn = work.as_mut().poll(context);
            self.note(turn.is_ready() && began.elapsed() <= AT_ONCE);
            turn
        })
        .await
    }
}

/// A task that ends with this, unless somebody has taken it: nobody would hold it else.
#[derive(Debug)]
pub(crate) struct Loose(Option<AbortHandle>);

impl Loose {
    pub(super) fn take(mut self) -> Option<AbortHandle> {
        self.0.take()
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Attempts that share a task, and how those ended that had their turn.
#[derive(Debug, Default)]
struct Volley {
    waiting: VecDeque<Attempt>,
    /// The one that has its turn.
    current: Option<Key>,
    ended: Vec<(Key, Result<End, StepError>)>,
}

type Shared = Arc<Mutex<Volley>>;

fn lock(volley: &Shared) -> MutexGuard<'_, Volley> {
    // Handlers run outside of it, so a panic of theirs leaves it whole.
    volley.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The volleys of a scheduler.
#[derive(Debug, Default)]
pub(super) struct Volleys {
    paces: Map<String, Arc<Pace>>,
    next: VecDeque<Attempt>,
    /// Since when, those with attempts that still wait for their turn.
    under_way: VecDeque<(Instant, Shared)>,
}

impl Volleys {
    /// How quick a kind is.
    pub(super) fn pace(&mut self, kind: &str) -> Arc<Pace> {
        match self.paces.get(kind) {
            Some(pace) => Arc::clone(pace),
            None => Arc::clone(self.paces.entry(kind.to_owned()).or_default()),
        }
    }

    /// Whether attempts of a kind end at once.
    pub(super) fn is_quick(&self, kind: &str) -> bool {
        self.paces.get(kind).is_some_and(|pace| pace.is_quick())
    }

    /// Takes an attempt that will end at once; gives it back where that is not likely. Its
    /// leash must know that it has no task.
    pub(super) fn take(&mut self, attempt: Attempt) -> Option<Attempt> {
        if !attempt.pace.is_quick() {
            return Some(attempt);
        }
        self.next.push_back(attempt);
        None
    }

    /// How many attempts are gathered for the next volleys.
    pub(super) fn gathered(&self) -> usize {
        self.next.len()
    }

    /// When somebody has waited for too long.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        self.under_way.front().map(|(since, _)| *since + PATIENCE)
    }

    /// Those that were not begun never will be.
    pub(super) fn clear(&mut self) {
        self.next.clear();
        for (_, volley) in self.under_way.drain(..) {
            lock(&volley).waiting.clear();
        }
    }
}

impl Scheduler {
    /// Starts the attempts that were gathered, and looks after those that wait.
    pub(super) fn fire(&mut self) {
        while !self.volleys.next.is_empty() {
            let most = self.volleys.next.len().min(LARGEST);
            let waiting: VecDeque<Attempt> = self.volleys.next.drain(..most).collect();
            let volley = Arc::new(Mutex::new(Volley { waiting, ..Volley::default() }));
            self.volleys.under_way.push_back((Instant::now(), Arc::clone(&volley)));
            tokio::spawn(run(volley, self.inbox_sender.clone()));
        }
        while let Some((since, volley)) = self.volleys.under_way.front() {
            let mut held = lock(volley);
            let over = held.waiting.is_empty()
                && held.current.is_none()
                && held.ended.is_empty();
            if !over && since.elapsed() < PATIENCE {
                return;
            }
            let Volley { waiting, current, mut ended } = std::mem::take(&mut *held);
            drop(held);
            self.volleys.under_way.pop_front();
            if let Some(leash) = current.and_then(|key| self.leash_of(key)) {
                leash.late();
                // Its start was held back until now.
                self.flush_soon();
            }
            for attempt in waiting {
                let key = attempt.key;
                match attempt.stop.is_cancelled() {
                    true => ended.push((key, Err(StepError::not_started()))),
                    false => self.apart(key, Some(attempt.start())),
                }
            }
            if !ended.is_empty() {
                let _ = self.inbox_sender.send(Message::AllEnded { ended });
            }
        }
    }

    /// What nobody will read any more: an attempt that went apart ends with it at once, and
    /// whoever waits for an answer hears last that there is none.
    pub(super) fn unread(&mut self) -> Vec<Message> {
        let unread = std::iter::from_fn(|| self.inbox.try_recv().ok());
        unread.filter(|message| !matches!(message, Message::Apart { .. })).collect()
    }

    /// An attempt runs in a task of its own after all.
    pub(super) fn apart(&mut self, key: Key, task: Option<AbortHandle>) {
        let Some(task) = task else { return };
        match self.leash_of(key) {
            Some(leash) => leash.hold(task),
            None => task.abort(),
        }
        // Its start was held back until now.
        self.flush_soon();
    }

    fn leash_of(&mut self, key: Key) -> Option<&mut Leash> {
        self.projects
            .get_mut(&key.project)
            .and_then(|owned| owned.running.get_mut(&key.no))
            .filter(|leash| leash.key() == key)
    }
}

/// Gives each attempt its turn.
async fn run(volley: Shared, inbox: UnboundedSender<Message>) {
    loop {
        let next = {
            let mut volley = lock(&volley);
            let next = volley.waiting.pop_front();
            volley.current = next.as_ref().map(|attempt| attempt.key);
            next
        };
        let Some(attempt) = next else { break };
        let (key, pace) = (attempt.key, Arc::clone(&attempt.pace));
        if attempt.stop.is_cancelled() {
            // Its leash is gone, or it was cancelled before its effect began.
            lock(&volley).ended.push((key, Err(StepError::not_started())));
            continue;
        }
        let watched = Arc::clone(&pace);
        let mut work = Box::pin(async move { watched.watch(attempt.run()).await });
        match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            Poll::Ready(result) => lock(&volley).ended.push((key, result)),
            Poll::Pending => {
                let told = inbox.clone();
                let task = tokio::spawn(async move {
                    let result = work.await;
                    let _ = told.send(Message::Ended { key, result });
                });
                // Where nobody hears of it, it ends here.
                let task = Loose(Some(task.abort_handle()));
                let _ = inbox.send(Message::Apart { key, task });
            }
        }
        if !pace.is_quick() {
            // It waits, was slow, or has said something: whatever it woke stands in the slot
            // of this thread that no other thread takes from, and must not wait there behind
            // an attempt that blocks.
            tokio::task::yield_now().await;
        }
    }
    let ended = std::mem::take(&mut lock(&volley).ended);
    if !ended.is_empty() {
        // The scheduler is gone only when the process ends.
        let _ = inbox.send(Message::AllEnded { ended });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kind_is_quick_after_many_that_ended_at_once_and_until_one_did_not() {
        let pace = Pace::default();
        for _ in 0..TRUSTED {
            assert!(!pace.is_quick());
            pace.watch(async {}).await;
        }
        assert!(pace.is_quick());
        pace.watch(tokio::task::yield_now()).await;
        assert!(!pace.is_quick());
    }

    #[tokio::test]
    async fn a_task_that_nobody_has_taken_ends() {
        let task = tokio::spawn(std::future::pending::<()>());
        drop(Loose(Some(task.abort_handle())));
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
