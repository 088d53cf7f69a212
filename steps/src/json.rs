//! `json.transform`: a value through a jq filter.
//!
//! Owns the handler and the thread that a filter runs on. What a filter may do is decided
//! in `filter`, and that it cannot call itself in `recursion`.

mod filter;
mod recursion;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use dandori::{Context, Handler, Outcome, Parameter, StepError};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::contract::{Contract, NAME, read_input, static_text};

/// Filters are short programs; a longer one only serves to exhaust the parser.
const MAX_FILTER: usize = 16 * 1024;

/// Parsing and dropping are recursive. The space is only reserved, not taken.
const STACK: usize = 256 * 1024 * 1024;

/// How many verdicts on filters are remembered: templates repeat the same few.
const MAX_VERDICTS: usize = 256;

/// Handler of `json.transform`.
#[derive(Debug)]
pub(crate) struct Transform {
    contract: Contract,
    timeout: Duration,
    verdicts: Mutex<HashMap<String, Result<(), String>>>,
}

impl Transform {
    pub(crate) fn new(timeout: Duration) -> Self {
        let contract = Contract::new([
            Parameter::required("input", ""),
            Parameter::required("filter", NAME),
        ]);
        Self { contract, timeout, verdicts: Mutex::default() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    input: Box<RawValue>,
    filter: String,
}

#[async_trait]
impl Handler for Transform {
    fn kind(&self) -> &'static str {
        "json.transform"
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.contract.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.contract.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.contract.check(with)?;
        let Some(text) = static_text(with, "filter") else { return Ok(()) };
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdict) = verdicts.get(text) {
            return verdict.clone();
        }
        check_length(text)?;
        let filter = text.to_owned();
        let verdict = on_own_thread(move || filter::check(&filter))
            .and_then(|thread| {
                thread.join().map_err(|_| "the filter breaks jq".to_owned())
            })?
            .map_err(|reason| format!("`filter`: {reason}"));
        if verdicts.len() >= MAX_VERDICTS {
            verdicts.clear();
        }
        verdicts.insert(text.to_owned(), verdict.clone());
        verdict
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: Input = read_input(input)?;
        check_length(&input.filter)
            .map_err(|reason| StepError::fail("invalid_filter", reason))?;
        // A thread cannot be ended from outside. The filter looks at this flag, which is
        // also raised when the attempt is dropped.
        let stop = CancellationToken::new();
        let _stop_on_drop = stop.clone().drop_guard();
        let (send, receive) = oneshot::channel();
        on_own_thread(move || {
            let _ = send.send(filter::run(&input.filter, input.input.get(), &stop));
        })
        .map_err(|reason| StepError::retry("transform", reason))?;
        tokio::select! {
            result = receive => match result {
                Ok(result) => result.map(Outcome::Done),
                Err(_) => Err(StepError::fail("transform", "the filter breaks jq")),
            },
            () = tokio::time::sleep(self.timeout) => Err(StepError::fail(
                "transform",
                format!("the filter takes longer than {:?}", self.timeout),
            )),
            () = ctx.cancellation().cancelled() => Err(StepError::cancelled()),
        }
    }
}

fn check_length(filter: &str) -> Result<(), String> {
    if filter.len() > MAX_FILTER {
        return Err(format!("`filter` is longer than {MAX_FILTER} bytes"));
    }
    Ok(())
}

/// Starts work that needs a deep stack. Threads of the runtime have a shallow one, and an
/// overflow would end the whole worker.
fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, String> {
    thread::Builder::new()
        .name("dandori-jq".to_owned())
        .stack_size(STACK)
        .spawn(work)
        .map_err(|error| format!("no thread for the filter: {error}"))
}
