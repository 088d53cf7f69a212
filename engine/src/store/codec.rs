//! The packed form of events: a JSON list of `[kind, at, no, attempt, count, extra?]`.
//!
//! Neighbouring lines that differ only in the number of the step (a hundred thousand
//! cancelled steps) are one entry with a count.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Delivery;
use crate::{
    StepError, Timestamp,
    plan::Plan,
    run::{Record, RecordKind},
};

/// How a claimed attempt ended, as it waits for the owner.
#[derive(Serialize)]
struct PackedDelivery<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a StepError>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lost: bool,
    /// Whether the body is only added to the group, and there is an output.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    joins: bool,
}

pub(super) fn encode_delivery(delivery: &Delivery) -> Vec<u8> {
    let none = PackedDelivery {
        output: None,
        until: None,
        body: None,
        error: None,
        skipped: false,
        lost: false,
        joins: false,
    };
    let packed = match delivery {
        Delivery::Succeeded(output) => PackedDelivery { output: Some(output), ..none },
        Delivery::Deferred { until, output } => PackedDelivery {
            output: Some(output),
            until: Some(until.as_micros()),
            ..none
        },
        Delivery::Grown { body, output } => {
            // A plan is stored as JSON.
            let body = serde_json::from_slice(body.bytes()).unwrap_or(RawValue::NULL);
            let (output, joins) = (output.as_deref(), output.is_some());
            PackedDelivery { output, body: Some(body), joins, ..none }
        }
        Delivery::ConditionFalse => PackedDelivery { skipped: true, ..none },
        Delivery::Lost => PackedDelivery { lost: true, ..none },
        Delivery::Failed(error) => PackedDelivery { error: Some(error), ..none },
    };
    serde_json::to_vec(&packed).unwrap_or_default()
}

pub(super) fn decode_delivery(body: &[u8]) -> Result<Delivery, serde_json::Error> {
    #[derive(Deserialize)]
    struct Stored<'a> {
        // An output that is the JSON value null comes as none, and is made null again.
        #[serde(borrow, default)]
        output: Option<&'a RawValue>,
        until: Option<i64>,
        #[serde(borrow, default)]
        body: Option<&'a RawValue>,
        error: Option<StepError>,
        #[serde(default)]
        skipped: bool,
        #[serde(default)]
        lost: bool,
        #[serde(default)]
        joins: bool,
    }
    let stored: Stored<'_> = serde_json::from_slice(body)?;
    let output = || {
        let null = || RawValue::NULL.to_owned();
        Arc::from(stored.output.map_or_else(null, ToOwned::to_owned))
    };
    if let Some(body) = stored.body {
        let body = Plan::from_bytes(&Arc::from(body.get().as_bytes()));
        let body = body.map_err(serde::de::Error::custom)?;
        let output = stored.joins.then(output);
        return Ok(Delivery::Grown { body: Arc::new(body), output });
    }
    Ok(match (stored.error, stored.until) {
        _ if stored.skipped => Delivery::ConditionFalse,
        _ if stored.lost => Delivery::Lost,
        (Some(error), _) => Delivery::Failed(error),
        (None, Some(until)) => Delivery::Deferred {
            until: Timestamp::from_micros(until),
            output: output(),
        },
        (None, None) => Delivery::Succeeded(output()),
    })
}

#[derive(Default, Serialize, Deserialize)]
struct Extra {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<StepError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<(f64, String)>,
}

type Entry = (u8, i64, i64, u32, u32, Option<Extra>);

pub(super) fn encode_events(records: &[Record]) -> Vec<u8> {
    let mut entries: Vec<Entry> = Vec::with_capacity(records.len());
    for record in records {
        let plain = record.error.is_none()
            && record.until.is_none()
            && record.progress.is_none();
        let no = record.no.map_or(-1, i64::from);
        if let Some((kind, at, first, attempt, count, None)) = entries.last_mut()
            && plain
            && no >= 0
            && *kind == record.kind.code()
            && *at == record.at.as_micros()
            && *first + i64::from(*count) == no
            && *attempt == record.attempt
        {
            *count += 1;
            continue;
        }
        let extra = (!plain).then(|| Extra {
            error: record.error.clone(),
            until: record.until.map(Timestamp::as_micros),
            progress: record.progress.clone(),
        });
        let at = record.at.as_micros();
        entries.push((record.kind.code(), at, no, record.attempt, 1, extra));
    }
    serde_json::to_vec(&entries).unwrap_or_default()
}

/// Reads a packed row, numbering its events from `first`. Entries of a later version are
/// left out, and their numbers with them.
pub(crate) fn decode_events(
    first: i64,
    last: i64,
    body: &[u8],
) -> Result<Vec<(i64, Record)>, serde_json::Error> {
    let entries: Vec<Entry> = serde_json::from_slice(body)?;
    let mut records = Vec::with_capacity(entries.len());
    // What a row says it holds bounds what is made of it.
    let held: i64 =
        entries.iter().map(|(_, _, _, _, count, _)| i64::from(*count)).sum();
    if held != last.saturating_sub(first).saturating_add(1) {
        return Err(serde::de::Error::custom("a packed row does not hold its numbers"));
    }
    let mut next = first;
    for (kind, at, no, attempt, count, extra) in entries {
        let number = next;
        next += i64::from(count);
        let Some(kind) = RecordKind::from_code(kind) else { continue };
        let extra = extra.unwrap_or_default();
        for offset in 0..count {
            let record = Record {
                at: Timestamp::from_micros(at),
                kind,
                no: u32::try_from(no).ok().map(|no| no.saturating_add(offset)),
                attempt,
                error: extra.error.clone(),
                until: extra.until.map(Timestamp::from_micros),
                progress: extra.progress.clone(),
            };
            records.push((number + i64::from(offset), record));
        }
    }
    Ok(records)
}
