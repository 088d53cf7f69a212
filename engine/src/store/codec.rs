//! The packed form of events: a JSON list of `[kind, at, no, attempt, count, extra?]`.
//!
//! Neighbouring lines that differ only in the number of the step (a hundred thousand
//! cancelled steps) are one entry with a count.

use serde::{Deserialize, Serialize};

use crate::{
    StepError, Timestamp,
    run::{Record, RecordKind},
};

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
    body: &[u8],
) -> Result<Vec<(i64, Record)>, serde_json::Error> {
    let entries: Vec<Entry> = serde_json::from_slice(body)?;
    let mut records = Vec::with_capacity(entries.len());
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
                no: u32::try_from(no).ok().map(|no| no + offset),
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
