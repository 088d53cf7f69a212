//! Trigger rules: when a step may start, looking at how its needs ended.
//!
//! Invariant: a verdict, once given, does not change whatever the open needs do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number of things, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u8),
}

impl Amount {
    /// The least whole number that is at least this amount of `total`.
    pub fn at_least_of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(share) => scaled(total, share, 99),
        }
    }

    /// The greatest whole number that is at most this amount of `total`.
    pub fn at_most_of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(share) => scaled(total, share, 0),
        }
    }
}

fn scaled(total: u32, share: u8, round: u64) -> u32 {
    u32::try_from((u64::from(total) * u64::from(share) + round) / 100)
        .unwrap_or(u32::MAX)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

/// When a step may start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Every need succeeded.
    #[default]
    AllSucceeded,
    /// No need failed; skipped ones are fine.
    NoneFailed,
    /// Every need ended, however.
    AllDone,
    /// One need succeeded.
    AnySucceeded,
    /// One need failed.
    AnyFailed,
    /// So many needs succeeded.
    AtLeast(Amount),
    /// The join of a template: no last step failed and one succeeded.
    Joined,
    /// What is called after a failure: every need ended, and one failed.
    DoneWithFailure,
}

/// How the needs of a step have ended so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// All of them.
    pub total: u32,
    /// Succeeded.
    pub succeeded: u32,
    /// Failed with allowance: null for `all_succeeded` and `none_failed`.
    pub allowed: u32,
    /// Failed, upstream-failed or quarantined.
    pub failed: u32,
    /// Skipped.
    pub skipped: u32,
    /// Cancelled.
    pub cancelled: u32,
}

impl Needs {
    /// How many have not ended yet.
    pub fn open(&self) -> u32 {
        self.total
            - (self.succeeded
                + self.allowed
                + self.failed
                + self.skipped
                + self.cancelled)
    }
}

/// What a rule says about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not decided yet.
    Wait,
    /// It may start.
    Run,
    /// It is skipped.
    Skip,
    /// It fails because of its needs.
    UpstreamFailed,
    /// It is cancelled because its needs were.
    Cancel,
}

impl Rule {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Decides as soon as the outcome can no longer change.
    ///
    /// Where needs ended in several ways, a failure outweighs a cancellation, and that a
    /// skip: a failure is decided at once, so nothing later may overrule it.
    pub fn verdict(self, needs: &Needs) -> Verdict {
        let open = needs.open();
        let met = match self {
            Self::AllSucceeded => {
                open == 0 && needs.succeeded + needs.allowed == needs.total
            }
            Self::NoneFailed => open == 0 && needs.failed + needs.cancelled == 0,
            Self::AllDone => open == 0,
            Self::AnySucceeded => needs.succeeded > 0,
            Self::AnyFailed => needs.failed + needs.allowed > 0,
            Self::DoneWithFailure => open == 0 && needs.failed + needs.allowed > 0,
            Self::AtLeast(amount) => needs.succeeded >= amount.at_least_of(needs.total),
            Self::Joined => {
                open == 0
                    && needs.failed + needs.cancelled == 0
                    && needs.succeeded + needs.allowed > 0
            }
        };
        if met {
            return Verdict::Run;
        }
        // Whether a success can still come of the open needs.
        let hopeless = match self {
            Self::AllSucceeded | Self::NoneFailed | Self::Joined => needs.failed > 0,
            Self::AllDone
            | Self::AnyFailed
            | Self::AnySucceeded
            | Self::DoneWithFailure => open == 0,
            Self::AtLeast(amount) => {
                needs.succeeded + open < amount.at_least_of(needs.total)
                    && (open == 0 || needs.failed + needs.allowed > 0)
            }
        };
        if !hopeless && open > 0 {
            return Verdict::Wait;
        }
        let failures = match self {
            // Allowed failures count as failures where the rule asks for successes.
            Self::AnySucceeded | Self::AtLeast(_) => needs.failed + needs.allowed,
            Self::AllSucceeded
            | Self::NoneFailed
            | Self::AllDone
            | Self::AnyFailed
            | Self::DoneWithFailure
            | Self::Joined => needs.failed,
        };
        if failures > 0 {
            Verdict::UpstreamFailed
        } else if needs.cancelled > 0 {
            Verdict::Cancel
        } else {
            Verdict::Skip
        }
    }
}
