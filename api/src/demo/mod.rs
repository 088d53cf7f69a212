//! The demo: the first minute of a new user.
//!
//! Owns the document it runs, the services it runs it against, and what of the document is
//! shortened for the screen. The command itself is in `cli::demo`.

mod faults;
mod services;
mod words;

use std::{net::SocketAddr, path::Path, time::Duration};

use dandori::{
    Error, Project,
    plan::Retry,
    spec::{Document, Format, Source, Timeout, Treatment, format_duration},
};

/// The seed of the trouble that the services make.
pub(crate) const SEED: u64 = 2728;

/// The document, as it is in the repository.
const DOCUMENT: &str = include_str!("../../../examples/hands-on/project.yaml");

/// Waits of the document, and what the demo makes of them.
const SHORTENED: [(Duration, Duration); 4] = [
    (Duration::from_secs(60), Duration::from_secs(2)),
    (Duration::from_secs(10), Duration::from_secs(1)),
    (Duration::from_mins(9), Duration::from_secs(3)),
    (Duration::from_mins(10), Duration::from_secs(4)),
];

/// Reads the document.
pub(crate) fn project() -> Result<Project, Error> {
    Project::from_source(Source::new(Some("project.yaml"), DOCUMENT, Format::Yaml))
}

/// Starts a search service and a model that fail and stall now and then.
pub(crate) async fn services(
    seed: u64,
    witness: Option<&Path>,
) -> std::io::Result<SocketAddr> {
    services::start(seed, witness).await
}

/// Shortens the waits of the document.
pub(crate) fn shorten(document: &mut Document) {
    shorten_treatment(&mut document.defaults.all);
    for (_, treatment) in &mut document.defaults.kinds {
        shorten_treatment(treatment);
    }
}

fn shorten_treatment(treatment: &mut Treatment) {
    let short = |wait: Duration| {
        SHORTENED
            .iter()
            .find(|(long, _)| *long == wait)
            .map_or(wait, |(_, short)| *short)
    };
    treatment.retry = treatment
        .retry
        .take()
        .map(|retry| Retry { delay: short(retry.delay), ..retry });
    treatment.timeout = treatment.timeout.map(|limit| Timeout {
        soft: limit.soft.map(short),
        hard: limit.hard.map(short),
    });
}

/// How shortened waits are shown: (the wait, the words).
pub(crate) fn words() -> Vec<(String, String)> {
    let seconds = |time: Duration| match time.as_secs() {
        60 => "60s".to_owned(),
        _ => format_duration(time),
    };
    SHORTENED
        .iter()
        .map(|(long, short)| {
            let shown = format!("{}, shortened to {}", seconds(*long), seconds(*short));
            (seconds(*short), shown)
        })
        .collect()
}
