//! Progress on stderr: a live picture on a terminal, plain lines elsewhere.

use std::{
    collections::{BTreeMap, HashSet},
    io::IsTerminal as _,
    time::Duration,
};

use dandori::{EventView, run::RecordKind};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize as _;

use super::{
    exit::Failure,
    target::Target,
    text::{clock, cut, one_line},
};

/// Shows how a project goes.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    colours: bool,
    /// What runs now, by step.
    running: BTreeMap<String, String>,
    /// The number of the latest event shown.
    pub(super) seen: i64,
    /// Whether there are too many steps to give each a line.
    quiet_steps: bool,
    /// Steps whose latest attempt failed: their wait is one for a retry.
    retrying: HashSet<String>,
    /// Waits, and the words that are shown for them.
    words: Vec<(String, String)>,
}

impl Progress {
    /// Progress of a project of so many steps; nothing at all for `--json` off a terminal.
    pub(super) fn new(steps: u64, seen: i64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(
                Some(steps),
                ProgressDrawTarget::stderr_with_hz(15),
            );
            let style = ProgressStyle::with_template(
                "{spinner:.cyan} {bar:28.cyan/blue} {pos}/{len} {elapsed:>4} {wide_msg}",
            );
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let quiet_steps = steps > 500;
        let choice = anstream::AutoStream::choice(&std::io::stderr());
        Self {
            bar,
            colours: choice != anstream::ColorChoice::Never,
            running: BTreeMap::new(),
            seen,
            quiet_steps,
            retrying: HashSet::new(),
            words: vec![],
        }
    }

    /// Words to be shown in place of others (a shortened wait says so).
    pub(super) fn with_words(mut self, words: Vec<(String, String)>) -> Self {
        self.words = words;
        self
    }

    /// A line of its own.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            // The bar writes as it is told; colours are wanted or not as everywhere.
            Some(bar) if self.colours => bar.println(line),
            Some(bar) => bar.println(anstream::adapter::strip_str(line).to_string()),
            None => anstream::eprintln!("{line}"),
        }
    }

    /// Shows events.
    pub(super) fn show(&mut self, events: &[EventView]) {
        for event in events {
            self.seen = event.seq;
            self.show_one(event);
        }
        if let Some(bar) = &self.bar {
            let running: Vec<&str> = self.running.keys().map(String::as_str).collect();
            bar.set_message(cut(&running.join(", "), 60));
        }
    }

    fn show_one(&mut self, event: &EventView) {
        let step = event.step.clone().unwrap_or_default();
        let ended = matches!(
            event.record,
            RecordKind::StepSucceeded
                | RecordKind::StepFailed
                | RecordKind::StepUpstreamFailed
                | RecordKind::StepSkipped
                | RecordKind::StepCancelled
                | RecordKind::StepQuarantined
        );
        if event.record == RecordKind::StepStarted {
            self.running.insert(step.clone(), String::new());
        } else if event.record != RecordKind::StepProgressed {
            self.running.remove(&step);
        }
        if let Some(bar) = self.bar.as_ref().filter(|_| ended) {
            bar.inc(1);
        }
        let line = self.line(event, &step);
        if event.record == RecordKind::StepAttemptFailed {
            self.retrying.insert(step);
        } else {
            self.retrying.remove(&step);
        }
        if let Some(line) = line {
            self.say(&line);
        }
    }

    /// The line of an event, where it is worth one.
    fn line(&self, event: &EventView, step: &str) -> Option<String> {
        let name = one_line(step);
        let again = event.attempt.filter(|attempt| *attempt > 1);
        let attempt = again.map(|n| format!(" (attempt {n})")).unwrap_or_default();
        let error = event.error.as_ref().map(|e| cut(&one_line(&e.to_string()), 160));
        let error = self.with_own_words(error.unwrap_or_default());
        let text = match event.record {
            RecordKind::StepStarted if self.bar.is_some() || self.quiet_steps => {
                return None;
            }
            RecordKind::StepSucceeded if self.quiet_steps => return None,
            RecordKind::StepStarted => format!("{} {name}{attempt}", "▸".cyan()),
            RecordKind::StepSucceeded => format!("{} {name}{attempt}", "✓".green()),
            RecordKind::StepFailed => format!("{} {name}{attempt}: {error}", "✗".red()),
            RecordKind::StepAttemptFailed => {
                format!("{} {name}{attempt}: {error}", "!".yellow())
            }
            RecordKind::StepWaiting => {
                let until = event.until?;
                let wait = self.wait(until.since(event.at));
                let what =
                    if self.retrying.contains(step) { "retry after" } else { "waits" };
                format!("{} {name}: {what} {wait}", "…".yellow())
            }
            RecordKind::StepUpstreamFailed => {
                format!("{} {name}: not run, a need failed", "↯".red())
            }
            RecordKind::StepSkipped => {
                format!("{} {name}: skipped {error}", "⊘".dimmed())
            }
            RecordKind::StepCancelled => format!("{} {name}: cancelled", "■".dimmed()),
            RecordKind::StepQuarantined => format!("{} {name}: {error}", "☢".red()),
            RecordKind::StepLost => {
                format!(
                    "{} {name}{attempt}: its worker died, starting again",
                    "!".yellow()
                )
            }
            RecordKind::StepProgressed => {
                let progress = event.progress.as_ref()?;
                let percent = progress.fraction * 100.0;
                format!("  {name}: {percent:.0}% {}", one_line(&progress.message))
            }
            RecordKind::StepExpanded => return None,
            RecordKind::ProjectFailed if event.error.is_some() => {
                format!("{} {error}", "✗".red())
            }
            RecordKind::ProjectPaused => {
                "paused: running steps finish; `dandori resume ID` goes on".to_owned()
            }
            RecordKind::ProjectResumed => "going on".to_owned(),
            RecordKind::ProjectCancelRequested => {
                "cancelling: running steps stop".to_owned()
            }
            RecordKind::ProjectReplayed => {
                "replayed: failed steps run again".to_owned()
            }
            RecordKind::ProjectSubmitted
            | RecordKind::ProjectStarted
            | RecordKind::ProjectSucceeded
            | RecordKind::ProjectFailed
            | RecordKind::ProjectCancelled => return None,
        };
        Some(format!("{} {text}", clock(event.at).dimmed()))
    }

    fn wait(&self, wait: Duration) -> String {
        let text = dandori::spec::format_duration(Duration::from_millis(
            // Rounded to what was meant: the time of the event is a little later.
            u64::try_from((wait.as_millis() + 5) / 10 * 10).unwrap_or(u64::MAX),
        ));
        let other = self.words.iter().find(|(from, _)| *from == text);
        other.map_or(text, |(_, to)| to.clone())
    }

    /// A time limit in an error is a wait too.
    fn with_own_words(&self, error: String) -> String {
        self.words.iter().fold(error, |error, (from, to)| {
            error.replace(&format!("limit of {from} "), &format!("limit of {to}, "))
        })
    }

    /// Ends the picture.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows events until the project has ended.
pub(super) async fn follow(
    project: &Target,
    progress: &mut Progress,
) -> Result<(), Failure> {
    loop {
        let events = project.next_events(progress.seen).await?;
        if events.is_empty() {
            return Ok(());
        }
        progress.show(&events);
    }
}
