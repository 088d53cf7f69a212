//! Archives: a project with everything that is stored of it as one file, for another
//! database of either kind.
//!
//! Lines of JSON: a head, the plan, the rows of tables, and an end that tells how many lines
//! there were and what they hash to, so that a part of a file is no file. Who owns a project
//! and what was on its way to it stay behind; outputs that a fork shares with its base come
//! along.

use std::{
    collections::BTreeMap,
    io::{BufRead, Read as _, Write},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::{
    Engine, Error, ProjectHandle, ProjectId, Snapshot,
    plan::{Plan, StepNo, hex},
    store::{
        Author, StoreErrorKind,
        archive::{
            ArchivedProject, ArchivedRow, Cell, Holds, Import, MOST_NUMBERS, Rows,
            TABLES, Table, is_number,
        },
    },
};

/// The format that is written; older ones are read.
pub const ARCHIVE_FORMAT: u32 = 1;

/// The longest line that is read, in bytes: a plan may have a million steps.
const LONGEST_LINE: u64 = 512 << 20;
/// Rows are recorded in portions of so many, or of so many bytes.
const ROWS: usize = 200;
const BYTES: usize = 4 << 20;
/// Outputs of the base of a fork that are read at once.
const LENT: usize = 16;

/// Options of an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Whether the project gets another id: where the database has one with its own.
    pub fresh_id: bool,
    /// Who does it, for the audit.
    pub author: Option<Author>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    /// The format.
    dandori_archive: u32,
    project: ArchivedProject,
}

#[derive(Serialize, Deserialize)]
struct End {
    lines: u64,
    sha256: String,
}

impl ProjectHandle {
    /// Gives an archive of the project line by line, each with its line end. The project has
    /// ended, or is paused with nothing running; should it be changed meanwhile, the last
    /// item is [`Error::PlanChanged`].
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Illegal`], or the database's.
    pub async fn export_lines(
        &self,
    ) -> Result<mpsc::Receiver<Result<String, Error>>, Error> {
        let snapshot = self.snapshot().await?;
        self.quiet_at(&snapshot, "export")?;
        let (lines, receiver) = mpsc::channel(4);
        let handle = self.clone();
        tokio::spawn(async move {
            let mut export =
                Export { handle, lines, hash: Sha256::new(), count: 0, gone: false };
            if let Err(error) = export.all(&snapshot).await {
                let _ = export.lines.send(Err(error)).await;
            }
        });
        Ok(receiver)
    }

    /// Writes an archive of the project: a file that [`Engine::import`] reads, on this
    /// database or on another one. Returns how many bytes there were.
    ///
    /// # Errors
    /// Those of [`ProjectHandle::export_lines`]; [`Error::Archive`] when it cannot be
    /// written. What was written until then is no archive.
    pub async fn export(
        &self,
        mut to: impl Write + Send + 'static,
    ) -> Result<u64, Error> {
        let mut lines = self.export_lines().await?;
        let written = tokio::task::spawn_blocking(move || {
            let mut bytes = 0;
            while let Some(line) = lines.blocking_recv() {
                let line = line?;
                to.write_all(line.as_bytes()).map_err(|error| unwritten(&error))?;
                bytes += line.len() as u64;
            }
            to.flush().map_err(|error| unwritten(&error))?;
            Ok(bytes)
        });
        written.await.unwrap_or_else(|error| Err(unwritten(&error)))
    }
}

fn unwritten(error: &dyn std::fmt::Display) -> Error {
    Error::Archive { line: 0, message: format!("it cannot be written: {error}") }
}

struct Export {
    handle: ProjectHandle,
    lines: mpsc::Sender<Result<String, Error>>,
    hash: Sha256,
    count: u64,
    /// Whether nobody reads any more.
    gone: bool,
}

impl Export {
    async fn all(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let row = &snapshot.stored.row;
        let micros = |time: Option<crate::Timestamp>| time.map(|it| it.as_micros());
        let head = Head {
            dandori_archive: ARCHIVE_FORMAT,
            project: ArchivedProject {
                id: row.id,
                name: row.name.clone(),
                state: row.state.as_str().to_owned(),
                reason: row.reason.clone(),
                priority: row.priority,
                last_event: row.last_event,
                next_no: row.next_no,
                counts: row.counts.clone(),
                created_at: row.created_at.as_micros(),
                began_at: micros(row.began_at),
                cancelled_at: micros(row.cancelled_at),
                finished_at: micros(row.finished_at),
            },
        };
        self.put(&head).await;
        let plan = String::from_utf8_lossy(snapshot.run.plan().bytes()).into_owned();
        self.put(&json!({ "plan": plan })).await;
        let lineage = self.handle.lineage().await?;
        let forked = lineage.iter().any(|fork| fork.project == row.id);
        for table in &TABLES {
            self.table(table, forked).await?;
        }
        let now = self.handle.row().await?;
        if (now.last_event, now.state) != (row.last_event, row.state) {
            return Err(Error::PlanChanged(row.id));
        }
        let sha256 = hex(&self.hash.clone().finalize());
        self.put(&json!({ "end": End { lines: self.count, sha256 } })).await;
        Ok(())
    }

    async fn put(&mut self, what: &impl Serialize) {
        // Numbers, texts and maps with keys of text: their JSON form always exists.
        let mut line = serde_json::to_string(what).unwrap_or_default();
        line.push('\n');
        self.hash.update(&line);
        self.count += 1;
        self.gone |= self.lines.send(Ok(line)).await.is_err();
    }

    async fn row(&mut self, table: &Table, row: &[Option<Cell>]) {
        let cells = table.columns.iter().zip(row);
        let cells: Map<String, Value> = cells
            .filter_map(|((name, _), cell)| {
                Some(((*name).to_owned(), cell.as_ref()?.to_json()))
            })
            .collect();
        self.put(&json!({ table.name: cells })).await;
    }

    async fn table(
        &mut self,
        table: &'static Table,
        forked: bool,
    ) -> Result<(), Error> {
        let (store, id) = (self.handle.engine().store().clone(), self.handle.id());
        let mut after = None;
        loop {
            let rows = store.archived(id, table, after.take()).await?;
            for row in &rows {
                self.row(table, row).await;
            }
            if forked && table.name == "steps" {
                self.lent(&rows).await?;
            }
            match rows.last() {
                Some(last) if table.key > 0 && !self.gone => {
                    after = Some(last[..table.key].to_vec());
                }
                _ => return Ok(()),
            }
        }
    }

    /// Outputs that a fork has from its base: as if they were its own.
    async fn lent(&mut self, steps: &[ArchivedRow]) -> Result<(), Error> {
        let at = |name: &str| {
            let columns = TABLES.iter().find(|it| it.name == "steps");
            let columns = columns.map_or(&[][..], |it| it.columns);
            columns.iter().position(|(column, _)| *column == name).unwrap_or(0)
        };
        let [no, generation, state, items, wait] =
            ["no", "generation", "state", "items", "wait"].map(at);
        let [output, size] = ["output", "blob_size"].map(at);
        let lacks = |row: &&ArchivedRow| {
            let done = row[state] == Some(Cell::Text("succeeded".to_owned()));
            let sleeps = row[wait] == Some(Cell::Text("timer".to_owned()));
            (done || sleeps || row[items].is_some())
                && row[output].is_none()
                && row[size].is_none()
        };
        let lacking: Vec<&ArchivedRow> = steps.iter().filter(lacks).collect();
        let blobs = TABLES.iter().find(|it| it.name == "blobs");
        for rows in lacking.chunks(LENT) {
            let numbers = rows.iter().map(|row| match row[no] {
                Some(Cell::Number(no)) => StepNo::try_from(no).unwrap_or(StepNo::MAX),
                _ => StepNo::MAX,
            });
            let store = self.handle.engine().store().clone();
            let numbers: Vec<StepNo> = numbers.collect();
            let outputs =
                store.outputs_within(self.handle.id(), &numbers, usize::MAX).await?;
            for (row, found) in rows.iter().zip(outputs.into_iter().flatten()) {
                if let (Some(found), Some(blobs)) = (found, blobs) {
                    let body = Cell::Bytes(found.get().as_bytes().to_vec());
                    let row = [row[no].clone(), row[generation].clone(), Some(body)];
                    self.row(blobs, &row).await;
                }
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Records a project from an archive, whole or not at all: with its steps, outputs,
    /// attempts, events, logs and checkpoints. It is as it was: ended, or paused; a replay or
    /// `resume` goes on with it.
    ///
    /// # Errors
    /// [`Error::Archive`] with the line, when it is none, ends too early, is of a newer
    /// format, or does not fit together; [`Error::Exists`] when the database has a project of
    /// this id; or the database's.
    pub async fn import(
        &self,
        from: impl BufRead + Send + 'static,
        options: ImportOptions,
    ) -> Result<ProjectHandle, Error> {
        let mut source = Source { from, hash: Sha256::new(), line: 0 };
        let begun = tokio::task::spawn_blocking(move || {
            let begun = source.begin()?;
            Ok::<_, Error>((begun, source))
        });
        let ((mut project, plan), source) = begun.await.unwrap_or_else(|error| {
            Err(Error::Archive { line: 0, message: error.to_string() })
        })?;
        if options.fresh_id {
            project.id = ProjectId::fresh();
        }
        let id = project.id;
        let (sender, rows) = mpsc::channel(2);
        let reading = tokio::task::spawn_blocking(move || source.rest(&sender));
        let import = Import {
            project,
            plan: Arc::new(plan),
            rows,
            author: options.author,
            now: self.now(),
        };
        let recorded = self.store().import(import).await;
        // What was wrong with the archive says more than that it was not recorded.
        let read = reading.await.unwrap_or_else(|error| {
            Err(Error::Archive { line: 0, message: error.to_string() })
        });
        match (recorded, read) {
            (Ok(false), _) => Err(Error::Exists(id)),
            (_, Err(error)) => Err(error),
            (Ok(true), Ok(())) => Ok(self.project(id)),
            (Err(error), Ok(())) if error.kind() == StoreErrorKind::Refused => {
                Err(Error::Archive { line: 0, message: error.to_string() })
            }
            (Err(error), Ok(())) => Err(error.into()),
        }
    }
}

struct Source<R> {
    from: R,
    hash: Sha256,
    line: u64,
}

impl<R: BufRead> Source<R> {
    fn fault(&self, message: impl Into<String>) -> Error {
        Error::Archive { line: self.line, message: message.into() }
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<String>, Error> {
        self.line += 1;
        let mut line = String::new();
        let read = self.from.by_ref().take(LONGEST_LINE).read_line(&mut line);
        match read {
            Ok(0) => Ok(None),
            Ok(_) if line.ends_with('\n') => Ok(Some(line)),
            Ok(_) => {
                Err(self.fault("the line has no end: a part of the file is missing"))
            }
            Err(error) => Err(self.fault(error.to_string())),
        }
    }

    fn expect(&mut self, what: &str) -> Result<String, Error> {
        let line = self.next()?.ok_or_else(|| {
            self.fault(format!("{what} is missing: a part of the file is"))
        })?;
        self.hash.update(&line);
        Ok(line)
    }

    fn begin(&mut self) -> Result<(ArchivedProject, Plan), Error> {
        let line = self.expect("the head")?;
        let head: Map<String, Value> = serde_json::from_str(&line)
            .map_err(|_| self.fault("this is no archive"))?;
        match head.get("dandori_archive").and_then(Value::as_u64) {
            None => return Err(self.fault("this is no archive of a project")),
            Some(format) if format > u64::from(ARCHIVE_FORMAT) => {
                return Err(self.fault(format!(
                    "its format is {format}, and this program reads up to {ARCHIVE_FORMAT}: \
                     use a newer one"
                )));
            }
            Some(_) => {}
        }
        let head: Head = serde_json::from_value(head.into())
            .map_err(|error| self.fault(error.to_string()))?;
        if !["succeeded", "failed", "cancelled", "paused"]
            .contains(&head.project.state.as_str())
        {
            return Err(self.fault("`state` is not that of an ended or paused project"));
        }
        #[derive(Deserialize)]
        struct Body {
            plan: String,
        }
        let line = self.expect("the plan")?;
        let body: Body = serde_json::from_str(&line)
            .map_err(|error| self.fault(error.to_string()))?;
        let plan = Plan::from_bytes(&Arc::from(body.plan.into_bytes()))
            .map_err(|error| self.fault(format!("the plan: {error}")))?;
        let project = &head.project;
        let times = [project.began_at, project.cancelled_at, project.finished_at];
        let numbers = [Some(project.created_at), Some(project.last_event)];
        let right = numbers.into_iter().chain(times).flatten().all(is_number)
            && (plan.len()..=MOST_NUMBERS).contains(&project.next_no)
            && project.last_event >= 0;
        match right {
            true => Ok((head.project, plan)),
            false => Err(self.fault("a number of the head is out of range")),
        }
    }

    fn rest(
        mut self,
        sender: &mpsc::Sender<Result<Option<Rows>, String>>,
    ) -> Result<(), Error> {
        let sent = self.rows(sender);
        if let Err(error) = &sent {
            let _ = sender.blocking_send(Err(error.to_string()));
        }
        sent
    }

    fn rows(
        &mut self,
        sender: &mpsc::Sender<Result<Option<Rows>, String>>,
    ) -> Result<(), Error> {
        let mut portion: Option<Rows> = None;
        let mut bytes = 0;
        loop {
            let before = (self.line, self.hash.clone());
            let line = self.expect("the end")?;
            let named: BTreeMap<String, Map<String, Value>> =
                serde_json::from_str(&line)
                    .map_err(|error| self.fault(error.to_string()))?;
            let mut named = named.into_iter();
            let (Some((name, cells)), None) = (named.next(), named.next()) else {
                return Err(self.fault("a line has one row"));
            };
            if name == "end" {
                let end: End = serde_json::from_value(cells.into())
                    .map_err(|error| self.fault(error.to_string()))?;
                let found = (before.0, hex(&before.1.finalize()));
                if (end.lines, end.sha256) != found {
                    return Err(self.fault("the lines are not those that were written"));
                }
                if self.next()?.is_some() {
                    return Err(self.fault("there is more after the end"));
                }
                let _ = portion.map(|rows| sender.blocking_send(Ok(Some(rows))));
                // Verified: what has no such end is not recorded.
                let _ = sender.blocking_send(Ok(None));
                return Ok(());
            }
            let Some(table) = TABLES.iter().find(|table| table.name == name) else {
                return Err(
                    self.fault(format!("`{name}` is not known: use a newer program"))
                );
            };
            let row = self.cells(table, cells)?;
            let full = portion.as_ref().is_some_and(|rows| {
                rows.table.name != table.name
                    || rows.rows.len() >= ROWS
                    || bytes >= BYTES
            });
            if full && let Some(rows) = portion.take() {
                bytes = 0;
                if sender.blocking_send(Ok(Some(rows))).is_err() {
                    // Not recorded; why is told by who does not listen any more.
                    return Ok(());
                }
            }
            bytes += line.len();
            portion.get_or_insert(Rows { table, rows: vec![] }).rows.push(row);
        }
    }

    fn cells(
        &self,
        table: &Table,
        mut cells: Map<String, Value>,
    ) -> Result<ArchivedRow, Error> {
        let row = table.columns.iter().map(|(column, holds)| {
            let Some(value) = cells.remove(*column) else { return Ok(None) };
            let cell = Cell::from_json(value, *holds);
            let is_json =
                |bytes: &[u8]| serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
            let fits = |cell: &Cell| match cell {
                Cell::Bytes(bytes) if *holds == Holds::Bytes => is_json(bytes),
                _ => true,
            };
            match cell.filter(fits) {
                Some(cell) => Ok(Some(cell)),
                None => Err(self.fault(format!(
                    "`{column}` of {} is not such a value",
                    table.name
                ))),
            }
        });
        let row = row.collect::<Result<_, Error>>()?;
        match cells.keys().next() {
            None => Ok(row),
            Some(column) => Err(self.fault(format!(
                "`{column}` of {} is not known: use a newer program",
                table.name
            ))),
        }
    }
}
