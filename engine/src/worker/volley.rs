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
    task,
};
use crate::{StepError, map::Map};

/// What ends in its first turn, and within this time, has ended at once.
const AT_ONCE: Duration = Duration::from_micros(50);
/// So many attempts of a kind in a row must have ended at once before they share a task.
const TRUSTED: u8 = 16;
/// No more count: one that was slow, maybe because the machine had no time for its thread,
/// halves them, so that a second one soon after ends the trust.
const COUNTED: u8 = 2 * TRUSTED;
/// The most attempts of a volley.
const LARGEST: usize = 64;
/// What waits in a volley that has begun so long ago gets tasks of its own. A thread that the
/// machine has no time for must not look like one that is blocked.
const PATIENCE: Duration = Duration::from_millis(20);
/// The same for a volley that has not begun: the thread that would begin it is blocked.
const LONG_PATIENCE: Duration = Duration::from_millis(500);

/// How quick the attempts of a kind are: how many of the latest have ended at once.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU8);

impl Pace {
    fn is_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= TRUSTED
    }

    /// An attempt has said something: its kind is not one of those that only end.
    pub(super) fn spoke(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// An attempt has ended in its first turn, which took so long.
    fn ended(&self, took: Duration) {
        let next = |seen: u8| match took {
            at_once if at_once <= AT_ONCE => (seen < COUNTED).then_some(seen + 1),
            slow if slow < PATIENCE => Some(seen / 2),
            _ => Some(0),
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
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
            match turn.is_ready() {
                true => self.ended(began.elapsed()),
                false => self.spoke(),
            }
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
#[derive(Debug)]
struct Volley {
    made: Instant,
    /// When the first one had its turn.
    begun: Option<Instant>,
    waiting: VecDeque<Attempt>,
    /// The one that has its turn.
    current: Option<Key>,
    ended: Vec<Ended>,
}

/// How an attempt ended.
type Ended = (Key, Result<End, StepError>);

impl Volley {
    fn new(waiting: VecDeque<Attempt>) -> Self {
        let (made, begun) = (Instant::now(), None);
        Self { made, begun, waiting, current: None, ended: vec![] }
    }

    /// What waits, has its turn and has ended: it holds nothing any more.
    fn take(&mut self) -> (VecDeque<Attempt>, Option<Key>, Vec<Ended>) {
        let (waiting, ended) = (&mut self.waiting, &mut self.ended);
        (std::mem::take(waiting), self.current.take(), std::mem::take(ended))
    }

    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.current.is_none() && self.ended.is_empty()
    }

    fn is_blocked(&self, now: Instant) -> bool {
        match self.begun {
            Some(begun) => now.duration_since(begun) >= PATIENCE,
            None => now.duration_since(self.made) >= LONG_PATIENCE,
        }
    }
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
    /// Those with attempts that have not had their turn.
    under_way: VecDeque<Shared>,
    /// When they are looked at: whether one of them is blocked.
    look_at: Option<Instant>,
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

    /// When somebody may have waited for too long.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        self.look_at
    }

    /// Those that were not begun never will be.
    pub(super) fn clear(&mut self) {
        self.next.clear();
        for volley in self.under_way.drain(..) {
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
            let volley = Arc::new(Mutex::new(Volley::new(waiting)));
            self.volleys.under_way.push_back(Arc::clone(&volley));
            task::spawn(run(volley, self.inbox_sender.clone()));
        }
        while self.volleys.under_way.front().is_some_and(|it| lock(it).is_over()) {
            self.volleys.under_way.pop_front();
        }
        if self.volleys.under_way.is_empty() {
            self.volleys.look_at = None;
            return;
        }
        let now = Instant::now();
        let look_at = self.volleys.look_at.get_or_insert(now + PATIENCE);
        if *look_at <= now {
            *look_at = now + PATIENCE;
            self.part_blocked(now);
        }
    }

    /// Gives those that wait for too long tasks of their own.
    fn part_blocked(&mut self, now: Instant) {
        let is_blocked = |volley: &Shared| lock(volley).is_blocked(now);
        let under_way = std::mem::take(&mut self.volleys.under_way);
        let (blocked, under_way): (Vec<_>, Vec<_>) =
            under_way.into_iter().partition(is_blocked);
        self.volleys.under_way = under_way.into();
        for volley in blocked {
            let (waiting, current, mut ended) = lock(&volley).take();
            if let Some(key) = current {
                self.is_late(key);
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

    /// An attempt of a kind that was quick blocks its thread.
    fn is_late(&mut self, key: Key) {
        let Some(owned) = self.projects.get(&key.project) else { return };
        let kind = owned.run.step(key.no).kind();
        self.volleys.pace(kind).spoke();
        if let Some(leash) = self.leash_of(key) {
            leash.late();
            // Its start was held back until now.
            self.flush_soon();
        }
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
            volley.begun.get_or_insert_with(Instant::now);
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
        let turn = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        let waits = turn.is_pending();
        match turn {
            Poll::Ready(result) => lock(&volley).ended.push((key, result)),
            Poll::Pending => {
                let told = inbox.clone();
                let task = task::spawn(async move {
                    let result = work.await;
                    let _ = told.send(Message::Ended { key, result });
                });
                // Where nobody hears of it, it ends here.
                let task = Loose(Some(task.abort_handle()));
                let _ = inbox.send(Message::Apart { key, task });
            }
        }
        if waits || !pace.is_quick() {
            // It waits, was slow more than once, or has said something: whatever it woke stands
            // in the slot of this thread that no other thread takes from, and must not wait there
            // behind an attempt that blocks.
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

    #[test]
    fn one_attempt_that_took_long_is_forgiven_and_a_second_soon_after_is_not() {
        let pace = Pace::default();
        let end = |took, times| (0..times).for_each(|_| pace.ended(took));
        end(AT_ONCE, COUNTED);
        end(AT_ONCE * 100, 1);
        assert!(pace.is_quick());
        end(AT_ONCE, TRUSTED);
        end(AT_ONCE * 100, 1);
        assert!(pace.is_quick(), "long after the first");
        end(AT_ONCE * 100, 1);
        assert!(!pace.is_quick());
        end(AT_ONCE, TRUSTED / 2);
        assert!(pace.is_quick(), "it must earn it again");
        end(AT_ONCE, COUNTED);
        end(PATIENCE, 1);
        assert!(!pace.is_quick(), "no machine is as slow as that");
    }

    #[test]
    fn a_volley_is_blocked_a_while_after_it_has_begun_or_long_after_it_was_made() {
        let volley = Volley::new(VecDeque::new());
        let made = volley.made;
        assert!(!volley.is_blocked(made + PATIENCE), "no thread has had time for it");
        assert!(volley.is_blocked(made + LONG_PATIENCE));
        let begun = made + PATIENCE;
        let volley = Volley { begun: Some(begun), ..volley };
        assert!(!volley.is_blocked(made + PATIENCE));
        assert!(volley.is_blocked(begun + PATIENCE));
    }

    #[tokio::test]
    async fn a_task_that_nobody_has_taken_ends() {
        let task = tokio::spawn(std::future::pending::<()>());
        drop(Loose(Some(task.abort_handle())));
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
