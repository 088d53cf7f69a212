//! [`Retry`]: the durable retry policy of a step, and [`Backoff`], the same under the
//! names and defaults of the `backoff` crate.
//!
//! A durable retry is a stored time, not a sleeping loop. The jitter is a hash, so that
//! every process computes the same delay for the same attempt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ErrorClass, StepError};

/// What follows a failed attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// How many attempts may follow the first.
    pub max_retries: u32,
    /// The wait before the second attempt.
    pub delay: Duration,
    /// What each further wait is multiplied by; 1 keeps it the same.
    pub multiplier: f64,
    /// The longest wait.
    pub max_delay: Duration,
    /// By which share of itself a wait may differ, 0 to 1.
    pub jitter: f64,
    /// No attempt starts later than this after the first one started.
    pub max_elapsed: Option<Duration>,
    /// Codes and classes of errors that are retried.
    pub retry_on: Vec<String>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_retries: 0,
            delay: Duration::from_millis(500),
            multiplier: 1.0,
            max_delay: Duration::from_secs(60),
            jitter: 0.0,
            max_elapsed: None,
            retry_on: vec![ErrorClass::Retryable.as_str().to_owned()],
        }
    }
}

impl Retry {
    /// Whether an error is one that this policy retries.
    pub fn covers(&self, error: &StepError) -> bool {
        let class = error.class.as_str();
        self.retry_on.iter().any(|entry| entry == class || *entry == error.code)
    }

    /// The wait after the failure of `attempt` (from 1). `seed` names the step and the
    /// attempt; equal seeds give equal jitter.
    pub fn wait(&self, attempt: u32, error: &StepError, seed: u64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let ideal = self.delay.as_secs_f64() * self.multiplier.powi(exponent);
        let capped = ideal.min(self.max_delay.max(self.delay).as_secs_f64());
        // Uniform in [-1, 1) from the upper 53 bits, as many as an f64 holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
        let unit = (mix(seed) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
        let jittered = Duration::try_from_secs_f64(capped * (1.0 + self.jitter * unit))
            .unwrap_or(self.max_delay);
        jittered.max(Duration::from_millis(error.retry_after_ms.unwrap_or(0)))
    }
}

/// Makes a seed for [`Retry::wait`] from what names an attempt (FNV-1a, 64 bit).
pub(crate) fn seed(parts: &[&[u8]]) -> u64 {
    parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// The finalizer of SplitMix64: spreads neighbouring seeds over all 64 bits.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Exponential back-off under the names and with the defaults of the `backoff` crate,
/// which is no longer maintained; converts into [`Retry`].
///
/// ```
/// use dandori::plan::{Backoff, Retry};
///
/// let retry = Retry::from(Backoff::default());
/// assert_eq!(retry.delay.as_millis(), 500);
/// assert_eq!(retry.multiplier, 1.5);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backoff {
    /// The first wait: 500 ms.
    pub initial_interval: Duration,
    /// By which share of itself a wait may differ: 0.5.
    pub randomization_factor: f64,
    /// What each further wait is multiplied by: 1.5.
    pub multiplier: f64,
    /// The longest wait: 60 s.
    pub max_interval: Duration,
    /// No attempt starts later than this after the first: 15 min; `None` is no limit.
    pub max_elapsed_time: Option<Duration>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial_interval: Duration::from_millis(500),
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_interval: Duration::from_secs(60),
            max_elapsed_time: Some(Duration::from_secs(15 * 60)),
        }
    }
}

impl From<Backoff> for Retry {
    fn from(backoff: Backoff) -> Self {
        Self {
            // The time limit ends it, as in the crate; without one it goes on.
            max_retries: u32::MAX,
            delay: backoff.initial_interval,
            multiplier: backoff.multiplier,
            max_delay: backoff.max_interval,
            jitter: backoff.randomization_factor,
            max_elapsed: backoff.max_elapsed_time,
            ..Self::default()
        }
    }
}
