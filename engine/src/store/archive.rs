//! The archive of a project: its tables as lines, the same from every database.
//!
//! Names what is stored of a project beside its ownership. A column that a later schema
//! adds is absent from older archives, and takes its default.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Store, StoreError};
use crate::{
    ProjectId, Timestamp,
    plan::{Plan, hex},
    store::Author,
};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    Number,
    Text,
    /// Bytes that are UTF-8 nearly always, and hexadecimal digits otherwise.
    Bytes,
    /// A hash.
    Hash,
}

/// A table with what belongs to a project.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Its columns beside `project`, the key first.
    pub(crate) columns: &'static [(&'static str, Holds)],
    /// How many of them are the key.
    pub(crate) key: usize,
    /// How many rows are read at once: values weigh up to 16 MiB.
    pub(crate) page: u32,
}

use Holds::{Bytes, Hash, Number, Text};

/// What is archived, in an order that the references between tables allow.
pub(crate) const TABLES: [Table; 9] = [
    Table {
        name: "project_data",
        columns: &[
            ("inputs", Bytes),
            ("labels", Text),
            ("fingerprint", Hash),
            ("output", Bytes),
        ],
        key: 0,
        page: 1,
    },
    Table {
        name: "steps",
        columns: &[
            ("no", Number),
            ("generation", Number),
            ("attempt", Number),
            ("failures", Number),
            ("crashes", Number),
            ("state", Text),
            ("at", Number),
            ("began_at", Number),
            ("started_at", Number),
            ("wait", Text),
            ("until", Number),
            ("first_child", Number),
            ("items", Number),
            ("output", Bytes),
            ("blob_size", Number),
            ("error", Text),
        ],
        key: 1,
        page: 1_000,
    },
    Table {
        name: "expansions",
        columns: &[("no", Number), ("body", Bytes)],
        key: 1,
        page: 8,
    },
    Table {
        name: "blobs",
        columns: &[("no", Number), ("generation", Number), ("body", Bytes)],
        key: 2,
        page: 8,
    },
    Table {
        name: "attempts",
        columns: &[
            ("no", Number),
            ("generation", Number),
            ("attempt", Number),
            ("state", Text),
            ("started_at", Number),
            ("finished_at", Number),
            ("error", Text),
            ("output", Bytes),
        ],
        key: 3,
        page: 8,
    },
    Table {
        name: "events",
        columns: &[("first", Number), ("last", Number), ("body", Bytes)],
        key: 1,
        page: 100,
    },
    Table {
        name: "logs",
        columns: &[
            ("no", Number),
            ("seq", Number),
            ("generation", Number),
            ("attempt", Number),
            ("at", Number),
            ("line", Text),
        ],
        key: 2,
        page: 500,
    },
    Table {
        name: "checkpoints",
        columns: &[
            ("no", Number),
            ("generation", Number),
            ("name", Text),
            ("at", Number),
            ("body", Bytes),
        ],
        key: 4,
        page: 8,
    },
    Table {
        name: "replays",
        columns: &[
            ("event", Number),
            ("at", Number),
            ("who", Text),
            ("reason", Text),
            ("detail", Text),
        ],
        key: 1,
        page: 100,
    },
];

/// Step numbers go up to this in an archive, dead ones included.
pub(crate) const MOST_NUMBERS: u32 = 2_000_000;

/// Whether a number is one that JSON holds exactly, and that sums do not overflow.
pub(crate) fn is_number(number: i64) -> bool {
    number.unsigned_abs() <= 1 << 53
}

/// A row of a table: its values in the order of the columns.
pub(crate) type ArchivedRow = Vec<Option<Cell>>;

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Cell {
    /// As JSON: bytes as the text they are, or `{"hex": …}`.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(_) => serde_json::json!({ "hex": hex(bytes) }),
            },
        }
    }

    /// From JSON, as a column holds it; `None` for what it does not hold.
    pub(crate) fn from_json(value: Value, holds: Holds) -> Option<Self> {
        Some(match (holds, value) {
            (Number, Value::Number(number)) => {
                Self::Number(number.as_i64().filter(|it| is_number(*it))?)
            }
            // PostgreSQL knows no NUL in a text.
            (Text, Value::String(text)) => Self::Text(text.replace('\0', "\u{fffd}")),
            (Bytes | Hash, Value::String(text)) => Self::Bytes(text.into_bytes()),
            (Bytes | Hash, Value::Object(object)) => {
                Self::Bytes(unhex(object.get("hex")?.as_str()?)?)
            }
            _ => return None,
        })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

/// The row of a project, without who owns it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArchivedProject {
    pub(crate) id: ProjectId,
    pub(crate) name: String,
    pub(crate) state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) priority: i32,
    pub(crate) last_event: i64,
    pub(crate) next_no: u32,
    pub(crate) counts: std::collections::BTreeMap<String, u32>,
    pub(crate) created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cancelled_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) finished_at: Option<i64>,
}

/// What the rows of a page are read after.
pub(crate) type Key = Vec<Option<Cell>>;

/// A project to be recorded from an archive.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) project: ArchivedProject,
    pub(crate) plan: Arc<Plan>,
    /// Rows of one table each time, and at the verified end `None`. Without it, or after an
    /// error, nothing is recorded.
    pub(crate) rows: tokio::sync::mpsc::Receiver<Result<Option<Rows>, String>>,
    pub(crate) author: Option<Author>,
    pub(crate) now: Timestamp,
}

/// Rows of one table.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) table: &'static Table,
    pub(crate) rows: Vec<ArchivedRow>,
}

impl Store {
    /// Reads a page of a table, after a key.
    pub(crate) async fn archived(
        &self,
        project: ProjectId,
        table: &'static Table,
        after: Option<Key>,
    ) -> Result<Vec<ArchivedRow>, StoreError> {
        on!(self, store => store.archived(project, table, after))
    }

    /// Records a project from an archive whole, or not; `false` where one has its id.
    pub(crate) async fn import(&self, import: Import) -> Result<bool, StoreError> {
        on!(self, store => store.import(import))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use sqlx::Connection as _;

    use super::*;

    /// Of a project, and not of its archive: who has it, what is on its way to it, by what it
    /// is found, and of what it is a fork.
    const LEFT: [&str; 6] =
        ["audit", "claims", "fork_steps", "forks", "mailbox", "project_labels"];

    #[tokio::test]
    async fn every_column_of_a_project_is_archived() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dandori.db");
        Store::open(&path, true).await.unwrap();
        let url = format!("sqlite:{}", path.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let columns: Vec<(String, String)> = sqlx::query_as(
            "select m.name, c.name from sqlite_master m, pragma_table_info(m.name) c
             where m.type = 'table'",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let mut stored: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (table, column) in &columns {
            stored.entry(table).or_default().insert(column);
        }
        stored.retain(|table, columns| {
            columns.remove("project") && !LEFT.contains(table)
        });
        let archived: BTreeMap<&str, BTreeSet<&str>> = TABLES
            .iter()
            .map(|it| (it.name, it.columns.iter().map(|(name, _)| *name).collect()))
            .collect();
        assert_eq!(archived, stored);
    }
}
