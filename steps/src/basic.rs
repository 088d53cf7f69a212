//! `noop`, `fail` and `sleep`: the kinds that touch nothing outside.

use std::time::Duration;

use async_trait::async_trait;
use dandori::{Context, Handler, Outcome, Parameter, StepError};
use jiff::fmt::friendly::SpanParser;
use serde::Deserialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use crate::contract::{Contract, NAME, TEXT, TRUTH, invalid, read_input, static_text};

/// From this length on a sleeping step gives its slot back.
const WITHOUT_SLOT: Duration = Duration::from_secs(1);

/// Ten years: longer waits are a slip of the pen, and times beyond overflow clocks.
const LONGEST_SLEEP: Duration = Duration::from_hours(10 * 365 * 24);

/// Handler of `noop`.
#[derive(Debug)]
pub(crate) struct Noop(Contract);

impl Noop {
    pub(crate) fn new() -> Self {
        Self(Contract::new([Parameter::optional("output", "")]))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoopInput {
    #[serde(default)]
    output: Option<Box<RawValue>>,
}

#[async_trait]
impl Handler for Noop {
    fn kind(&self) -> &'static str {
        "noop"
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.0.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.0.output())
    }

    async fn run(&self, _ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: NoopInput = read_input(input)?;
        Ok(Outcome::Done(input.output.unwrap_or_else(null)))
    }
}

const OUTPUT_OF_FAIL: &str = r#"{"type":"object","required":["attempts"],
    "properties":{"attempts":{"type":"integer","minimum":1}}}"#;

/// Handler of `fail`.
#[derive(Debug)]
pub(crate) struct Fail(Contract);

impl Fail {
    pub(crate) fn new() -> Self {
        Self(
            Contract::new([
                Parameter::optional("message", TEXT),
                Parameter::optional("code", NAME),
                Parameter::optional("times", r#"{"type":"integer","minimum":0}"#),
                Parameter::optional("permanent", TRUTH),
            ])
            .gives(OUTPUT_OF_FAIL),
        )
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailInput {
    message: Option<String>,
    code: Option<String>,
    times: Option<u32>,
    #[serde(default)]
    permanent: bool,
}

#[async_trait]
impl Handler for Fail {
    fn kind(&self) -> &'static str {
        "fail"
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.0.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.0.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.0.check(with)
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: FailInput = read_input(input)?;
        if input.times.is_some_and(|times| ctx.attempt() > times) {
            return Outcome::done(&json!({ "attempts": ctx.attempt() }));
        }
        let code = input.code.unwrap_or_else(|| "failed".to_owned());
        let message = input.message.unwrap_or_else(|| "asked to fail".to_owned());
        Err(if input.permanent {
            StepError::fail(code, message)
        } else {
            StepError::retry(code, message)
        })
    }
}

/// Handler of `sleep`.
#[derive(Debug)]
pub(crate) struct Sleep(Contract);

impl Sleep {
    pub(crate) fn new() -> Self {
        Self(
            Contract::new([Parameter::required("for", NAME)])
                .gives(r#"{"type":"null"}"#),
        )
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SleepInput {
    r#for: String,
}

#[async_trait]
impl Handler for Sleep {
    fn kind(&self) -> &'static str {
        "sleep"
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.0.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.0.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        if let Some(number) = with.get("for").filter(|value| value.is_number()) {
            return Err(format!("`for`: {number} has no unit; write `{number}s`"));
        }
        self.0.check(with)?;
        match static_text(with, "for").map(parse_duration) {
            Some(Err(wrong)) => Err(format!("`for`: {wrong}")),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: SleepInput = read_input(input)?;
        let wait = parse_duration(&input.r#for).map_err(invalid)?;
        if wait >= WITHOUT_SLOT {
            return Ok(Outcome::After { wait, output: null() });
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(Outcome::Done(null())),
            () = ctx.cancellation().cancelled() => Err(StepError::cancelled()),
        }
    }
}

/// Reads `500ms`, `10s` or `1h30m`. A bare number has no unit and is refused.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{text}` is not a duration; write one such as `500ms`, `10s` or `1h30m`"
        )
    };
    let duration =
        SpanParser::new().parse_duration(text.trim()).map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    if duration > LONGEST_SLEEP {
        return Err(format!("`{text}` is longer than ten years"));
    }
    Ok(duration)
}

fn null() -> Box<RawValue> {
    to_raw_value(&()).expect("null is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_without_a_unit_is_refused_with_the_remedy() {
        let refused = Sleep::new().check(&json!({"for": 5})).unwrap_err();
        assert_eq!(refused, "`for`: 5 has no unit; write `5s`");
        let refused = Sleep::new().check(&json!({"for": "5 minuets"})).unwrap_err();
        assert!(refused.starts_with("`for`: `5 minuets` is not"), "{refused}");
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "10", "-1s", "1s ago", "ten", "PT5S", "1e3s", "99999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
