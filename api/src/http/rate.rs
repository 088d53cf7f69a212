//! How often somebody may ask: a bucket of permits for each token, refilled steadily, and
//! one for each source of guesses.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::{access::Caller, listen::Peer};

/// So many bad tokens of one source in a row, and how many a second after that.
const GUESSES: (f64, f64) = (20.0, 1.0);
/// The most buckets that are kept.
const BUCKETS: usize = 10_000;

/// What somebody has left.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    permits: f64,
    at: Instant,
}

/// Buckets by whatever asks.
#[derive(Debug)]
struct Buckets<K> {
    burst: f64,
    per_second: f64,
    of: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(burst: f64, per_second: f64) -> Self {
        Self { burst, per_second, of: Mutex::default() }
    }

    /// Takes a permit, if there is one.
    fn take(&self, key: K) -> bool {
        let now = Instant::now();
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let refilled = |bucket: &Bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.permits + since * self.per_second).min(self.burst)
        };
        if of.len() >= BUCKETS {
            of.retain(|_, bucket| refilled(bucket) < self.burst);
        }
        if of.len() >= BUCKETS && !of.contains_key(&key) {
            return false;
        }
        let full = Bucket { permits: self.burst, at: now };
        let bucket = of.entry(key).or_insert(full);
        let permits = refilled(bucket);
        *bucket = Bucket { permits: (permits - 1.0).max(0.0), at: now };
        permits >= 1.0
    }
}

/// Everybody's buckets.
#[derive(Debug)]
pub(super) struct Rates {
    reads: Buckets<Option<[u8; 32]>>,
    writes: Buckets<Option<[u8; 32]>>,
    guesses: Buckets<Option<std::net::IpAddr>>,
}

impl Rates {
    /// `per_second` requests of each token, reading and changing apart.
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second.max(1));
        let burst = per_second * 2.0;
        Self {
            reads: Buckets::new(burst, per_second),
            writes: Buckets::new(burst, per_second),
            guesses: Buckets::new(GUESSES.0, GUESSES.1),
        }
    }

    pub(super) fn ask(&self, caller: &Caller, reads: bool) -> bool {
        match reads {
            true => self.reads.take(caller.token),
            false => self.writes.take(caller.token),
        }
    }

    pub(super) fn guess(&self, peer: Option<Peer>) -> bool {
        self.guesses.take(peer.map(|peer| peer.0.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_is_empty_refuses_and_harms_no_other() {
        let buckets = Buckets::new(3.0, 0.001);
        let taken = (0..5).filter(|_| buckets.take("a")).count();
        assert_eq!(taken, 3);
        assert!(buckets.take("b"));
    }
}
