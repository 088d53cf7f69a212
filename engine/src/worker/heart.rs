//! The heart: one beat at a time on a thread and a connection of its own, so that neither
//! a busy runtime nor a busy pool costs a lease. Only where sessions live by leases.
//!
//! The beat is also the poll: its answer holds everything the session must know. It beats
//! only while the scheduler moves; a process whose scheduler stands still is ended, because
//! its projects would otherwise be held for ever.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc::UnboundedSender},
    time::Instant,
};

use super::Message;
use crate::{
    SessionId,
    store::{Beat, Pulse, Store},
};

/// The longest time between beats.
const SLOWEST: Duration = Duration::from_secs(1);
/// Hints make it beat sooner, but not sooner than this after the last beat.
const QUICKEST: Duration = Duration::from_millis(50);
/// After the listener was lost.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// What scheduler and heart share.
#[derive(Debug)]
pub(super) struct Vitals {
    /// Rises with every round of the scheduler.
    rounds: AtomicU64,
    busy: AtomicU32,
    hungry: AtomicU32,
    /// The queues whose steps the scheduler does not start.
    paused: Mutex<Vec<String>>,
    session: Mutex<SessionId>,
    /// Wakes the heart before its time.
    hint: Notify,
    /// Whether there is something to say, so that a look is not enough.
    say: AtomicBool,
    stopped: AtomicBool,
}

/// What the heart heard, for the scheduler.
#[derive(Debug)]
pub(crate) struct Heard {
    /// For which session it beat.
    pub(super) session: SessionId,
    pub(super) pulse: Pulse,
    /// When the beat was sent: leases count from there. `None`: it was only a look.
    pub(super) sent: Option<Instant>,
    /// When the answer arrived: the clock of the database was read before.
    pub(super) arrived: Instant,
    /// Sessions that may be declared dead, with the beat that was seen last and whether
    /// that holds whatever the clock of the database says.
    pub(super) expired: Vec<(SessionId, i64, bool)>,
    /// Whether this process may declare others dead.
    pub(super) steady: bool,
}

impl Vitals {
    pub(super) fn new(session: SessionId) -> Self {
        Self {
            rounds: AtomicU64::new(0),
            busy: AtomicU32::new(0),
            hungry: AtomicU32::new(0),
            paused: Mutex::default(),
            session: Mutex::new(session),
            hint: Notify::new(),
            say: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// The scheduler has gone round.
    pub(super) fn round(&self, busy: usize, hungry: usize) {
        let of = |count| u32::try_from(count).unwrap_or(u32::MAX);
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.busy.store(of(busy), Ordering::Relaxed);
        let hungry = of(hungry);
        // Who has become hungry says so at once.
        if self.hungry.swap(hungry, Ordering::Relaxed) == 0 && hungry > 0 {
            self.answer_soon();
        }
    }

    /// The scheduler starts nothing of these queues from now on, and others see that soon.
    pub(super) fn hold(&self, paused: Vec<String>) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
        self.answer_soon();
    }

    /// Beats at once, so that others see what there is to say.
    pub(super) fn answer_soon(&self) {
        self.say.store(true, Ordering::Relaxed);
        self.beat_soon();
    }

    pub(super) fn beat_soon(&self) {
        self.hint.notify_one();
    }

    pub(super) fn set_session(&self, session: SessionId) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    fn session(&self) -> SessionId {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the heart.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.hint.notify_one();
    }
}

/// Starts the heart on a thread of its own.
pub(super) fn start(
    store: Store,
    lease: Duration,
    vitals: Arc<Vitals>,
    inbox: UnboundedSender<Message>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("dandori-heart".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = beat(&store, lease, &vitals, &inbox) => {}
                () = listen(&store, &vitals) => {}
            }
        });
    })?;
    Ok(())
}

/// When others were seen to beat, by this process's own clock.
#[derive(Default)]
struct Watch(HashMap<SessionId, (i64, Instant)>);

impl Watch {
    /// How long the beat of a session has not changed.
    fn quiet(&mut self, session: SessionId, beat: i64, now: Instant) -> Duration {
        let seen = self.0.entry(session).or_insert((beat, now));
        if seen.0 != beat {
            *seen = (beat, now);
        }
        now - seen.1
    }

    /// Who may be declared dead: who is late by the clock of the database and was quiet for
    /// half its lease by ours, so that a clock that jumps kills nobody; or who was quiet for
    /// three of its leases, so that one that stands still saves nobody.
    fn expired(&mut self, pulse: &Pulse, now: Instant) -> Vec<(SessionId, i64, bool)> {
        let mut expired = vec![];
        for late in &pulse.late {
            if self.quiet(late.id, late.beat, now) >= late.lease / 2 {
                expired.push((late.id, late.beat, false));
            }
        }
        for other in &pulse.others {
            if self.quiet(other.id, other.beat, now) >= other.lease * 3 {
                expired.push((other.id, other.beat, true));
            }
        }
        if self.0.len() > 2 * (pulse.late.len() + pulse.others.len()) + 64 {
            self.0.clear();
        }
        expired
    }
}

async fn beat(
    store: &Store,
    lease: Duration,
    vitals: &Vitals,
    inbox: &UnboundedSender<Message>,
) {
    let period = SLOWEST.min(lease / 4);
    let deadline =
        (lease / 3).clamp(Duration::from_millis(300), Duration::from_secs(5));
    let mut watch = Watch::default();
    // Since when every beat succeeded, and the last that did.
    let mut steady_since: Option<Instant> = None;
    let mut last: Option<Instant> = None;
    let mut rounds = 0;
    let mut still = 0_u32;
    let mut due = Instant::now();
    loop {
        if vitals.stopped.load(Ordering::SeqCst) {
            return;
        }
        let session = vitals.session();
        let say = Beat {
            busy: vitals.busy.load(Ordering::Relaxed),
            hungry: vitals.hungry.load(Ordering::Relaxed),
            paused: vitals
                .paused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        };
        let sent = Instant::now();
        // A hint is answered by a look, which writes nothing.
        let beats = vitals.say.swap(false, Ordering::Relaxed) || sent >= due;
        let asked = store.beat(session, beats.then_some(say));
        let heard = tokio::time::timeout(deadline, asked).await;
        if beats {
            due = sent + period;
        }
        match heard {
            Ok(Ok(pulse)) => {
                let arrived = Instant::now();
                // Who was itself cut off, or stood still, may not judge others.
                if beats && last.is_none_or(|last| sent - last > lease / 2) {
                    steady_since = Some(sent);
                }
                if beats {
                    last = Some(sent);
                }
                let steady = steady_since.is_some_and(|since| arrived - since >= lease);
                let expired = watch.expired(&pulse, arrived);
                let sent = beats.then_some(sent);
                let heard = Heard { session, pulse, sent, arrived, expired, steady };
                if inbox.send(Message::Heard(Box::new(heard))).is_err() {
                    return;
                }
                // Counted in beats that succeeded, not in time: a process that was stopped
                // and goes on is not stuck.
                let now = vitals.rounds.load(Ordering::Relaxed);
                still = if now == rounds { still + u32::from(beats) } else { 0 };
                rounds = now;
                if period * still > lease.max(Duration::from_secs(5)) {
                    tracing::error!("the scheduler stands still: the process ends");
                    std::process::abort();
                }
            }
            Ok(Err(error)) => {
                steady_since = None;
                last = None;
                tracing::warn!(%error, "a beat failed");
            }
            Err(_) => {
                steady_since = None;
                last = None;
                tracing::warn!("a beat was not answered");
            }
        }
        let soon = sent + QUICKEST;
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = vitals.hint.notified() => tokio::time::sleep_until(soon).await,
        }
    }
}

/// Turns hints into early beats, as long as the heart beats.
async fn listen(store: &Store, vitals: &Vitals) {
    loop {
        let Some(hints) = store.hints().await else {
            return std::future::pending().await;
        };
        match hints {
            Ok(mut hints) => {
                vitals.beat_soon();
                while hints.next().await {
                    vitals.beat_soon();
                }
            }
            Err(error) => tracing::debug!(%error, "hints cannot be listened for"),
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Other, Serves};

    const LEASE: Duration = Duration::from_secs(10);

    fn other(session: SessionId, beat: i64, lease: Duration) -> Other {
        let serves = Serves::default();
        Other { id: session, beat, lease, slots: 1, hungry: 0, serves }
    }

    fn late(session: SessionId, beat: i64) -> Pulse {
        Pulse { late: vec![other(session, beat, LEASE)], ..Pulse::default() }
    }

    fn live(session: SessionId, beat: i64, lease: Duration) -> Pulse {
        Pulse { others: vec![other(session, beat, lease)], ..Pulse::default() }
    }

    #[test]
    fn a_clock_of_the_database_that_jumps_ahead_kills_nobody_who_beats() {
        let (mut watch, session) = (Watch::default(), SessionId::fresh());
        let start = Instant::now();
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            let beat = i64::try_from(second).unwrap();
            assert!(watch.expired(&late(session, beat), now).is_empty());
        }
        let now = start + Duration::from_secs(59) + LEASE / 2;
        assert_eq!(watch.expired(&late(session, 59), now), [(session, 59, false)]);
    }

    #[test]
    fn a_clock_of_the_database_that_stands_still_saves_nobody_who_is_quiet() {
        let (mut watch, session) = (Watch::default(), SessionId::fresh());
        let start = Instant::now();
        let live = |lease| live(session, 7, lease);
        assert!(watch.expired(&live(LEASE), start).is_empty());
        assert!(watch.expired(&live(LEASE), start + LEASE * 2).is_empty());
        let then = start + LEASE * 3;
        assert_eq!(watch.expired(&live(LEASE), then), [(session, 7, true)]);
        // It is the lease of the other that counts, not that of the judge.
        assert!(watch.expired(&live(LEASE * 2), then).is_empty());
    }
}
