//! Time as a parameter: [`Timestamp`] (microseconds since the Unix epoch) and [`Clock`].
//!
//! Owns the only call of the wall clock.
//! Invariant: nothing in `plan` or `run` reads a clock; they receive a [`Timestamp`].

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tokio::{sync::watch, time::Instant};

/// A point in time, in microseconds since the Unix epoch.
///
/// Stored as an integer in every database, so that it sorts and compares the same
/// everywhere; shown as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// Makes a timestamp from microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Adds a duration, saturating at the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// Returns the time from `earlier` to `self`, zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(
            u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0),
        )
    }

    /// Parses an RFC 3339 time such as `2026-11-23T08:00:00Z`.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|time| Self(time.as_microsecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("not an RFC 3339 time: {text}")))
    }
}

/// Where an engine takes its time from: the system, or a hand-turned clock in tests.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Database(Arc<Synchronized>),
    Manual(Arc<Manual>),
}

/// The clock of a database: its time when it was asked last, and what has passed since the
/// answer arrived. Never ahead of it, and never back.
#[derive(Debug)]
struct Synchronized {
    read: Mutex<(Timestamp, Instant)>,
    last: AtomicI64,
}

impl Synchronized {
    fn now(&self) -> Timestamp {
        let (time, arrived) = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = time.plus(arrived.elapsed()).as_micros();
        Timestamp(self.last.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

#[derive(Debug)]
struct Manual {
    now: Mutex<Timestamp>,
    changed: watch::Sender<Timestamp>,
}

impl Clock {
    /// The clock of the operating system.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// The clock of a database, as it was just read.
    pub(crate) fn of_database(now: Timestamp) -> Self {
        Self(Source::Database(Arc::new(Synchronized {
            read: Mutex::new((now, Instant::now())),
            last: AtomicI64::new(now.0),
        })))
    }

    /// Sets the clock of a database by what it said, `arrived` then. Other clocks stay.
    pub(crate) fn synchronize(&self, now: Timestamp, arrived: Instant) {
        if let Source::Database(clock) = &self.0 {
            *clock.read.lock().unwrap_or_else(PoisonError::into_inner) = (now, arrived);
        }
    }

    /// Whether it is the clock of the operating system.
    pub(crate) fn is_system(&self) -> bool {
        matches!(self.0, Source::System)
    }

    /// A clock that stands still until [`Clock::advance`] turns it.
    pub fn manual(start: Timestamp) -> Self {
        let changed = watch::Sender::new(start);
        Self(Source::Manual(Arc::new(Manual { now: Mutex::new(start), changed })))
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => system_now(),
            Source::Database(clock) => clock.now(),
            Source::Manual(manual) => {
                *manual.now.lock().unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    /// Turns a manual clock forward and wakes who sleeps on it; does nothing to the
    /// system clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let mut now = manual.now.lock().unwrap_or_else(PoisonError::into_inner);
            *now = now.plus(by);
            manual.changed.send_replace(*now);
        }
    }

    /// Waits until `deadline`. Never returns before [`Clock::now`] has reached it.
    pub async fn sleep_until(&self, deadline: Timestamp) {
        match &self.0 {
            Source::System | Source::Database(_) => loop {
                let left = deadline.since(self.now());
                if left.is_zero() {
                    return;
                }
                // Long sleeps are cut so that a wall clock set by hand is noticed.
                tokio::time::sleep(left.min(Duration::from_secs(30))).await;
            },
            Source::Manual(manual) => {
                let mut changed = manual.changed.subscribe();
                while self.now() < deadline {
                    if changed.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
fn system_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
