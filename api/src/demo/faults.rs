//! When the services of the demo fail and stall: a pure function of (seed, task, attempt).
//!
//! The number of faults belongs to the task, and attempts only count up, so that a crash in
//! between can spare a fault but never add one: every run ends the same.

use std::time::Duration;

/// Which service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// The web search.
    Search,
    /// The language model.
    Model,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The service answers 503.
    Unavailable,
    /// The service answers 429 and asks to wait.
    RateLimited,
    /// The service never answers.
    Stall,
}

/// What happens to one request: how long it takes, and whether it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) latency: Duration,
    pub(super) fault: Option<Fault>,
}

/// Decides the fate of a request.
pub(super) fn fate(seed: u64, service: Service, task: &str, attempt: u32) -> Fate {
    let name = match service {
        Service::Search => "search",
        Service::Model => "model",
    };
    let roll = |what: &str, of: u64| {
        mix([name, task, what].iter().fold(seed, |hash, part| {
            part.bytes().fold(mix(hash), |hash, byte| mix(hash ^ u64::from(byte)))
        })) % of
    };
    let (fault, times) = match (service, roll("fault", 20)) {
        // The search that never works: its task allows the failure.
        (Service::Search, 0) => (Fault::Unavailable, u32::MAX),
        (Service::Search, 1 | 2) => (Fault::Unavailable, 1),
        (Service::Search, 3) => (Fault::Stall, 1),
        (Service::Search, 4) | (Service::Model, 1) => (Fault::RateLimited, 1),
        (Service::Model, 0) => (Fault::Unavailable, 1),
        _ => (Fault::Unavailable, 0),
    };
    let latency = match service {
        Service::Search => 100 + roll("latency", 200),
        Service::Model => 250 + roll("latency", 350),
    };
    Fate {
        latency: Duration::from_millis(latency),
        fault: (attempt <= times).then_some(fault),
    }
}

/// The finalizer of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [&str; 20] = [
        "idea",
        "roles",
        "repo",
        "sketch",
        "model",
        "schema",
        "api",
        "sign-in",
        "shell",
        "editor",
        "storage",
        "sync",
        "conflicts",
        "find",
        "tests",
        "load",
        "deploy",
        "readme",
        "pitch",
        "rehearse",
    ];

    fn count(seed: u64, wanted: impl Fn(Service, Fault, bool) -> bool) -> usize {
        [Service::Search, Service::Model]
            .into_iter()
            .flat_map(|service| TASKS.map(|task| (service, task)))
            .filter(|(service, task)| {
                let again = fate(seed, *service, task, 1_000).fault.is_some();
                fate(seed, *service, task, 1)
                    .fault
                    .is_some_and(|f| wanted(*service, f, again))
            })
            .count()
    }

    #[test]
    fn the_seed_of_the_demo_shows_every_kind_of_trouble() {
        let seed = super::super::SEED;
        assert_eq!(count(seed, |_, _, for_good| for_good), 1, "one search never works");
        assert_eq!(
            count(seed, |_, fault, _| fault == Fault::Stall),
            1,
            "one search stalls"
        );
        assert!(count(seed, |_, fault, _| fault == Fault::RateLimited) >= 1);
        assert!(count(seed, |service, _, _| service == Service::Model) >= 1);
    }

    #[test]
    fn later_attempts_never_meet_more_faults() {
        for task in TASKS {
            let faults: Vec<bool> = (1..6)
                .map(|attempt| fate(7, Service::Search, task, attempt).fault.is_some())
                .collect();
            assert!(
                faults.is_sorted_by(|earlier, later| earlier >= later),
                "{task}: {faults:?}"
            );
        }
    }
}
