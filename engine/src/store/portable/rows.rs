//! From rows to values: the same columns in the same order on every database.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::{collections::BTreeMap, time::Duration};

use serde_json::value::RawValue;
use sqlx::Row as _;
use uuid::Uuid;

use super::Row;
use crate::{
    ProjectId, SessionId, StepError, Timestamp,
    run::{Expansion, Fact, PastAttempt, ProjectState, StepState, WaitReason},
    store::{
        Adoptable, ClaimOutcome, ClaimRow, HeldClaim, Mail, MailKind, Other,
        ProjectRow, Pulse, SessionRow, StoreError, codec::decode_delivery, damaged,
    },
};

pub(super) fn project_row(row: &Row) -> Result<ProjectRow, StoreError> {
    let state: String = row.try_get(2)?;
    let plan: Vec<u8> = row.try_get(4)?;
    let counts: String = row.try_get(12)?;
    let counts: BTreeMap<String, u32> =
        serde_json::from_str(&counts).map_err(damaged)?;
    Ok(ProjectRow {
        id: project_id(row, 0)?,
        name: row.try_get(1)?,
        state: ProjectState::parse(&state).ok_or_else(|| damaged(&state))?,
        reason: row.try_get(3)?,
        plan_hash: plan.try_into().map_err(|_| damaged("the hash of a plan"))?,
        priority: signed(row, 5)?,
        session: row.try_get::<Option<Uuid>, _>(6)?,
        epoch: row.try_get(7)?,
        loads: row.try_get(8)?,
        last_event: row.try_get(9)?,
        mail: row.try_get(10)?,
        next_no: number(row, 11)?,
        counts,
        created_at: Timestamp::from_micros(row.try_get(13)?),
        began_at: time(row, 14)?,
        cancelled_at: time(row, 15)?,
        finished_at: time(row, 16)?,
        charged: row.try_get(17)?,
        writes: row.try_get(18)?,
        adoptions: row.try_get(19)?,
    })
}

pub(super) fn fact(row: &Row) -> Result<Fact, StoreError> {
    let state: String = row.try_get(5)?;
    let wait: Option<String> = row.try_get(9)?;
    let first: Option<i64> = row.try_get(11)?;
    let expansion = match first {
        Some(_) => Some(Expansion { first: number(row, 11)?, items: number(row, 12)? }),
        None => None,
    };
    Ok(Fact {
        no: number(row, 0)?,
        generation: number(row, 1)?,
        attempt: number(row, 2)?,
        failures: number(row, 3)?,
        crashes: number(row, 4)?,
        state: StepState::parse(&state).ok_or_else(|| damaged(&state))?,
        at: Timestamp::from_micros(row.try_get(6)?),
        began_at: time(row, 7)?,
        started_at: time(row, 8)?,
        wait: wait.as_deref().and_then(WaitReason::parse),
        until: time(row, 10)?,
        expansion,
        output: None,
        error: error(row.try_get(13)?)?,
        body: None,
    })
}

pub(super) fn claim_row(row: &Row) -> Result<ClaimRow, StoreError> {
    Ok(ClaimRow {
        no: number(row, 0)?,
        generation: number(row, 1)?,
        attempt: number(row, 2)?,
        claimed_at: time(row, 4)?,
        session: row.try_get(5)?,
    })
}

pub(super) fn outcome(row: &Row) -> Result<ClaimOutcome, StoreError> {
    let body: Option<Vec<u8>> = row.try_get(6)?;
    Ok(ClaimOutcome {
        no: number(row, 0)?,
        generation: number(row, 1)?,
        attempt: number(row, 2)?,
        claimed_at: time(row, 4)?.unwrap_or_default(),
        charged: row.try_get(5)?,
        delivery: body
            .map(|body| decode_delivery(&body).map_err(damaged))
            .transpose()?,
    })
}

pub(super) fn past_attempt(row: &Row) -> Result<PastAttempt, StoreError> {
    let state: String = row.try_get(3)?;
    let output: Option<Vec<u8>> = row.try_get(7)?;
    Ok(PastAttempt {
        no: number(row, 0)?,
        generation: number(row, 1)?,
        attempt: number(row, 2)?,
        state: StepState::parse(&state).ok_or_else(|| damaged(&state))?,
        started_at: time(row, 4)?,
        finished_at: Timestamp::from_micros(row.try_get(5)?),
        error: error(row.try_get(6)?)?,
        output: output.map(raw).transpose()?.map(std::sync::Arc::from),
    })
}

pub(super) fn mail_row(row: &Row) -> Result<Mail, StoreError> {
    let kind: String = row.try_get(2)?;
    Ok(Mail {
        id: row.try_get(0)?,
        project: project_id(row, 1)?,
        kind: MailKind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(|| damaged(&kind))?,
        no: row
            .try_get::<Option<i64>, _>(3)?
            .map(|no| u32::try_from(no).map_err(damaged))
            .transpose()?,
    })
}

pub(super) fn session_row(row: &Row) -> Result<SessionRow, StoreError> {
    let serves: String = row.try_get(8)?;
    Ok(SessionRow {
        id: SessionId::from_uuid(row.try_get(0)?),
        state: row.try_get(1)?,
        host: row.try_get(2)?,
        process: row.try_get(3)?,
        command: row.try_get(4)?,
        started_at: Timestamp::from_micros(row.try_get(5)?),
        slots: number(row, 6)?,
        busy: number(row, 7)?,
        serves: serde_json::from_str(&serves).map_err(damaged)?,
        lease_left: row.try_get(9)?,
        projects: number(row, 10)?,
        claims: number(row, 11)?,
        lease: micros(row.try_get(12)?),
        paused: serde_json::from_str(&row.try_get::<String, _>(13)?)
            .map_err(damaged)?,
    })
}

/// Sorts the lines of the statement `look` by what they are about.
pub(super) fn pulse(rows: &[Row]) -> Result<Pulse, StoreError> {
    let mut pulse = Pulse::default();
    for row in rows {
        let what: String = row.try_get(0)?;
        let id: Uuid = row.try_get(1)?;
        let first: i64 = row.try_get(2)?;
        let text = || -> Result<String, StoreError> {
            Ok(row.try_get::<Option<String>, _>(4)?.unwrap_or_default())
        };
        match what.as_str() {
            "now" => pulse.now = Timestamp::from_micros(first),
            "alive" => pulse.alive = true,
            "own" => pulse.own.push((ProjectId::from_uuid(id), first)),
            "adopt" => {
                pulse.adoptable.push(Adoptable {
                    project: ProjectId::from_uuid(id),
                    priority: signed(row, 2)?,
                    mail: row.try_get(3)?,
                });
            }
            "claim" => {
                let text = text()?;
                let (grant, stop) = text.split_once(' ').unwrap_or((&text, ""));
                pulse.claims.push(HeldClaim {
                    project: ProjectId::from_uuid(id),
                    no: number(row, 2)?,
                    attempt: number(row, 3)?,
                    id: Uuid::parse_str(grant).map_err(damaged)?,
                    stop: !stop.is_empty(),
                });
            }
            "offer" => {
                let text = text()?;
                let (queue, kind) = text.split_once('\n').unwrap_or((&text, ""));
                let count = number(row, 2)?;
                pulse.offers.push((queue.to_owned(), kind.to_owned(), count));
            }
            "paused" => {
                pulse.paused.insert(text()?);
            }
            "ended" => pulse.ended.push(SessionId::from_uuid(id)),
            "other" | "late" => {
                let other = Other {
                    id: SessionId::from_uuid(id),
                    beat: first,
                    lease: Duration::ZERO,
                    slots: 0,
                    hungry: number(row, 3)?,
                    serves: serde_json::from_str(&text()?).unwrap_or_default(),
                };
                match what == "late" {
                    true => pulse.late.push(other),
                    false => pulse.others.push(other),
                }
            }
            "slots" => {
                let lease: i64 = row.try_get(3)?;
                let others = pulse.others.iter_mut().chain(&mut pulse.late);
                for other in others.filter(|other| other.id.uuid() == id) {
                    other.slots = number(row, 2)?;
                    other.lease = micros(lease);
                }
            }
            _ => {}
        }
    }
    // Most urgent first, in whatever order the database found them.
    pulse.adoptable.sort_by_key(|it| std::cmp::Reverse(it.priority));
    Ok(pulse)
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(super) fn project_id(row: &Row, at: usize) -> Result<ProjectId, StoreError> {
    Ok(ProjectId::from_uuid(row.try_get(at)?))
}

pub(super) fn number(row: &Row, at: usize) -> Result<u32, StoreError> {
    u32::try_from(row.try_get::<i64, _>(at)?).map_err(damaged)
}

fn signed(row: &Row, at: usize) -> Result<i32, StoreError> {
    i32::try_from(row.try_get::<i64, _>(at)?).map_err(damaged)
}

pub(super) fn time(row: &Row, at: usize) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.try_get::<Option<i64>, _>(at)?.map(Timestamp::from_micros))
}

fn error(text: Option<String>) -> Result<Option<StepError>, StoreError> {
    text.map(|text| serde_json::from_str(&text).map_err(damaged)).transpose()
}

pub(super) fn raw(body: Vec<u8>) -> Result<Box<RawValue>, StoreError> {
    let text = String::from_utf8(body).map_err(damaged)?;
    RawValue::from_string(text).map_err(damaged)
}
