//! What a process costs: CPU, memory, statements.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing_subscriber::{Layer, layer::SubscriberExt as _};

use crate::Anything;

/// The CPU time of this process, user and system: in hundredths of a second.
pub(crate) fn cpu() -> Result<Duration, Anything> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name, which may hold anything: fields 14 and 15 of proc(5).
    let (_, rest) = stat.rsplit_once(')').ok_or("/proc/self/stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || -> Result<u64, Anything> {
        Ok(fields.next().ok_or("/proc/self/stat")?.parse()?)
    };
    Ok(Duration::from_millis(10 * (next()? + next()?)))
}

/// Lets the most memory that is told be counted from here.
pub(crate) fn forget_peak() -> Result<(), Anything> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// The most memory that this process has held, in MB.
pub(crate) fn peak_memory() -> Result<f64, Anything> {
    told("VmHWM:")
}

/// The memory that this process holds now, in MB.
pub(crate) fn memory() -> Result<f64, Anything> {
    told("VmRSS:")
}

fn told(what: &str) -> Result<f64, Anything> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(what));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.ok_or("/proc/self/status")?.parse::<f64>()? / 1024.0)
}

/// Counts the statements that the driver executes: it tells each as an event.
pub(crate) struct Statements(Arc<AtomicU64>);

impl Statements {
    pub(crate) fn begin() -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let subscriber =
            tracing_subscriber::registry().with(Counter(Arc::clone(&count)));
        // The first one stays; a bench counts once.
        let _ = tracing::subscriber::set_global_default(subscriber);
        Self(count)
    }

    pub(crate) fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counter(Arc<AtomicU64>);

impl<S: tracing::Subscriber> Layer<S> for Counter {
    fn enabled(
        &self,
        metadata: &tracing::Metadata<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn on_event(
        &self,
        _: &tracing::Event<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
