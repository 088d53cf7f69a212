//! The scheduler: one task that owns every run of this process.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot, watch,
    },
    task::JoinSet,
};

use super::{
    Config, Handle, Message, Then,
    attempt::Key,
    bind::{Binder, Bound, Input},
    owned::Owned,
};
use crate::{
    ErrorClass, Outcome, ProjectId, StepError, Timestamp,
    handler::Note,
    plan::{Plan, StepNo},
    run::{Decisions, Event, Output, Record, RecordKind},
    store::{LogLine, MAX_OUTPUT, Mail, MailKind, StoreError, StoreErrorKind},
};

/// A start is written with the next commit, at the latest after this.
const START_FLUSH: Duration = Duration::from_millis(25);
/// How often the file is asked whether another process has written.
const LOOK: Duration = Duration::from_millis(200);
/// At most so many transitions may wait to be written; above, nothing starts.
const MOST_UNCOMMITTED: usize = 4_096;
/// How often the progress of one step is recorded.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// After handlers were told to stop at the end of the grace.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A full or busy disk is tried again after this.
const RETRY_COMMIT: Duration = Duration::from_millis(500);
/// How often a failing commit is tried before the worker gives up.
const COMMIT_TRIES: u32 = 4;

pub(super) struct Scheduler {
    pub(super) config: Config,
    pub(super) projects: HashMap<ProjectId, Owned>,
    /// Free slots.
    pub(super) free: usize,
    /// Transitions that wait to be written.
    pub(super) uncommitted: usize,
    /// The one suspect that runs, and those that wait for it.
    pub(super) suspect: Option<(ProjectId, StepNo)>,
    pub(super) held_suspects: Vec<(ProjectId, StepNo)>,
    /// Inputs of steps whose start is being made durable.
    pub(super) inputs: HashMap<(ProjectId, StepNo), Input>,
    pub(super) attempts: JoinSet<()>,
    pub(super) inbox_sender: UnboundedSender<Message>,
    pub(super) draining: bool,
    inbox: UnboundedReceiver<Message>,
    /// Plans in use, by hash: equal projects share one.
    plans: HashMap<[u8; 32], std::sync::Weak<Plan>>,
    logs: Vec<LogLine>,
    progress: HashMap<Key, Timestamp>,
    committing: bool,
    /// When the oldest unwritten start must be written.
    flush_at: Option<tokio::time::Instant>,
    adoptions: VecDeque<ProjectId>,
    data_version: i64,
    commits: Arc<watch::Sender<u64>>,
    fatal: watch::Sender<Option<StoreError>>,
    shutdown: Option<oneshot::Sender<()>>,
}

/// Starts a worker. The caller has begun its session and holds the lock.
pub(crate) fn spawn(config: Config) -> Handle {
    let (inbox_sender, inbox) = mpsc::unbounded_channel();
    let commits = Arc::new(watch::Sender::new(0));
    let (fatal, fatal_receiver) = watch::channel(None);
    let handle = Handle {
        inbox: inbox_sender.clone(),
        commits: Arc::clone(&commits),
        fatal: fatal_receiver,
    };
    let scheduler = Scheduler {
        free: config.concurrency.max(1),
        config,
        projects: HashMap::new(),
        uncommitted: 0,
        suspect: None,
        held_suspects: vec![],
        inputs: HashMap::new(),
        attempts: JoinSet::new(),
        inbox_sender,
        draining: false,
        inbox,
        plans: HashMap::new(),
        logs: vec![],
        progress: HashMap::new(),
        committing: false,
        flush_at: None,
        adoptions: VecDeque::new(),
        data_version: -1,
        commits,
        fatal,
        shutdown: None,
    };
    tokio::spawn(scheduler.run());
    handle
}

impl Scheduler {
    pub(super) fn most_uncommitted(&self) -> usize {
        MOST_UNCOMMITTED.min(self.config.max_batch.saturating_mul(8))
    }

    async fn run(mut self) {
        let result = self.work().await;
        // Attempts end with the worker: their results could not be recorded.
        self.attempts.shutdown().await;
        if let Err(error) = result {
            tracing::error!(%error, "the worker stops");
            self.fatal.send_replace(Some(error));
        }
        // Readers that wait for a commit look once more.
        self.commits.send_modify(|count| *count += 1);
        if let Some(reply) = self.shutdown.take() {
            let _ = reply.send(());
        }
    }

    async fn work(&mut self) -> Result<(), StoreError> {
        let mut next_look = tokio::time::Instant::now();
        let mut grace_ends: Option<tokio::time::Instant> = None;
        let mut told_to_stop = false;
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                self.handle(message).await?;
                if self.uncommitted >= self.config.max_batch {
                    break;
                }
            }
            if next_look <= tokio::time::Instant::now() {
                next_look = tokio::time::Instant::now() + LOOK;
                self.look().await?;
            }
            self.adopt_waiting().await?;
            self.tick();
            self.start_steps();
            self.flush();
            if self.draining {
                let end = *grace_ends.get_or_insert_with(|| {
                    tokio::time::Instant::now() + self.config.grace
                });
                let running =
                    self.projects.values().any(|owned| !owned.running.is_empty());
                let over = tokio::time::Instant::now() >= end;
                if over && !told_to_stop {
                    told_to_stop = true;
                    self.stop_attempts();
                    grace_ends = Some(tokio::time::Instant::now() + LAST_WORDS);
                } else if (over || !running) && !self.committing && !self.is_dirty() {
                    return self.leave().await;
                } else if over && !self.committing {
                    // Only starts are left unwritten: the next flush takes them.
                    self.flush_at = Some(tokio::time::Instant::now());
                }
            }
            let timer = self.next_timer();
            let clock = self.config.clock.clone();
            let flush_at = self.flush_at.filter(|_| !self.committing);
            let look_at = grace_ends.map_or(next_look, |end| end.min(next_look));
            tokio::select! {
                biased;
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message).await?,
                    None => return Ok(()),
                },
                () = sleep_until(flush_at) => self.flush_starts(),
                () = async { match timer {
                    Some(due) => clock.sleep_until(due).await,
                    None => std::future::pending().await,
                } } => {}
                () = tokio::time::sleep_until(look_at) => {}
            }
            // Ended tasks are reaped so that the set does not grow.
            while self.attempts.try_join_next().is_some() {}
        }
    }

    async fn handle(&mut self, message: Message) -> Result<(), StoreError> {
        match message {
            Message::Adopt { project, reply } => {
                let result = self.adopt(project).await;
                let _ = reply.send(result.clone());
                result
            }
            Message::Ended { key, result } => {
                self.ended(key, result);
                Ok(())
            }
            Message::Note { key, generation, note } => {
                self.note(key, generation, note);
                Ok(())
            }
            Message::Fetched { project, outputs, then } => {
                let outputs = outputs?;
                if let Some(owned) = self.projects.get_mut(&project) {
                    owned.outputs.insert_fetched(outputs);
                    match then {
                        Then::Start(no) => {
                            owned.fetching.remove(&no);
                            self.prepare(project, no);
                        }
                        Then::Close => {
                            owned.closing = false;
                            self.close(project);
                        }
                    }
                }
                Ok(())
            }
            Message::Committed { result } => self.committed(result).await,
            Message::Look => self.look_now().await,
            Message::Shutdown { reply } => {
                self.shutdown = Some(reply);
                self.draining = true;
                // First of all: a death from here on charges no step with a crash.
                self.config.store.drain_session(self.config.session).await
            }
        }
    }

    fn ended(&mut self, key: Key, result: Result<Outcome, StepError>) {
        self.progress.remove(&key);
        let Some(owned) = self.projects.get_mut(&key.project) else { return };
        if owned.running.remove(&key.no).is_none() {
            return;
        }
        self.free += 1;
        if self.suspect == Some((key.project, key.no)) {
            self.suspect = None;
            for (project, no) in std::mem::take(&mut self.held_suspects) {
                if let Some(owned) = self.projects.get_mut(&project) {
                    owned.queue.push(&owned.run, no);
                }
            }
        }
        let Key { project, no, attempt } = key;
        let event = match result {
            Ok(Outcome::Done(output)) => {
                Event::Succeeded { no, attempt, output: output.into() }
            }
            Ok(Outcome::After { wait, output }) => {
                let until = self.config.clock.now().plus(wait);
                Event::Deferred { no, attempt, until, output: output.into() }
            }
            // Interrupted by the end of this process: the next one starts it again.
            Err(error) if self.draining && error.class == ErrorClass::Cancelled => {
                return;
            }
            Err(error) => Event::Failed { no, attempt, error },
        };
        self.apply(project, event, true);
    }

    fn note(&mut self, key: Key, generation: u32, note: Note) {
        let now = self.config.clock.now();
        let Key { project, no, attempt } = key;
        match note {
            Note::Log(line) => {
                self.logs.push(LogLine {
                    project,
                    no,
                    generation,
                    attempt,
                    at: now,
                    line,
                });
                self.flush_at.get_or_insert(tokio::time::Instant::now() + START_FLUSH);
            }
            Note::Progress(fraction, message) => {
                let last = self.progress.get(&key);
                if last.is_some_and(|last| now.since(*last) < PROGRESS_EVERY) {
                    return;
                }
                let Some(owned) = self.projects.get_mut(&project) else { return };
                if !owned.running.contains_key(&no) {
                    return;
                }
                self.progress.insert(key, now);
                let mut record = Record::step(RecordKind::StepProgressed, no, now);
                record.attempt = attempt;
                record.progress = Some((fraction, message));
                let decisions =
                    Decisions { records: vec![record], ..Decisions::default() };
                owned.record(decisions, false);
                self.flush_at.get_or_insert(tokio::time::Instant::now() + START_FLUSH);
            }
        }
    }

    /// Applies an event and adds what it records to the next commit.
    pub(super) fn apply(&mut self, project: ProjectId, event: Event, urgent: bool) {
        let now = self.config.clock.now();
        let Some(owned) = self.projects.get_mut(&project) else { return };
        match owned.run.apply(event, now) {
            Ok(decisions) => self.record(project, decisions, urgent),
            // A result that comes too late: of a step that was cancelled meanwhile.
            Err(illegal) => {
                tracing::debug!(%project, %illegal, "an event came too late")
            }
        }
    }

    fn record(&mut self, project: ProjectId, decisions: Decisions, urgent: bool) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let before = owned.pending.size();
        let complete = decisions.complete;
        // What became ready without anything to write (a timer) may start at once.
        if decisions.is_empty() {
            for no in decisions.ready {
                owned.queue.push(&owned.run, no);
            }
        } else {
            owned.record(decisions, urgent);
        }
        self.uncommitted += owned.pending.size() - before;
        if !urgent {
            self.flush_at.get_or_insert(tokio::time::Instant::now() + START_FLUSH);
        }
        if complete {
            self.close(project);
        }
    }

    /// All steps of a project have ended: evaluates its outputs and closes it.
    pub(super) fn close(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if !owned.run.is_complete() {
            return;
        }
        let failed = owned.run.will_fail();
        let outputs = if failed { Ok(None) } else { project_output(owned) };
        match outputs {
            Ok(output) => {
                owned.close(output, None);
                self.apply(project, Event::Closed { error: None }, true);
            }
            Err(Bound::Missing(steps)) => self.fetch(project, steps, Then::Close),
            Err(Bound::Failed(error)) => {
                owned.close(None, Some(error.to_string()));
                self.apply(project, Event::Closed { error: Some(error) }, true);
            }
            Err(Bound::Value(())) => {}
        }
    }

    /// Looks for messages and projects of other processes.
    async fn look(&mut self) -> Result<(), StoreError> {
        let version = self.config.store.data_version().await?;
        if std::mem::replace(&mut self.data_version, version) != version {
            self.look_now().await?;
        }
        Ok(())
    }

    async fn look_now(&mut self) -> Result<(), StoreError> {
        if self.draining {
            return Ok(());
        }
        for mail in self.config.store.mail(None).await? {
            if self.projects.contains_key(&mail.project) {
                self.deliver(mail);
            } else if self.config.all {
                self.adoptions.push_back(mail.project);
            }
        }
        if self.config.all {
            let open = self.config.store.open_projects().await?;
            self.adoptions.extend(open);
        }
        Ok(())
    }

    async fn adopt_waiting(&mut self) -> Result<(), StoreError> {
        while let Some(project) = self.adoptions.pop_front() {
            self.adopt(project).await?;
        }
        Ok(())
    }

    /// Takes a project over: restores it, settles what the process before left running.
    async fn adopt(&mut self, project: ProjectId) -> Result<(), StoreError> {
        if self.draining || self.projects.contains_key(&project) {
            return Ok(());
        }
        let adopted = self.config.store.adopt(self.config.session, project).await?;
        let damaged = |what: &dyn std::fmt::Display| {
            StoreError::new(StoreErrorKind::Corrupt, format!("{project}: {what}"))
        };
        let hash = adopted.project.row.plan_hash;
        let plan = match self.plans.get(&hash).and_then(std::sync::Weak::upgrade) {
            Some(plan) => plan,
            None => {
                let bytes = Arc::clone(&adopted.project.plan);
                let plan =
                    tokio::task::spawn_blocking(move || Plan::from_bytes(&bytes))
                        .await
                        .map_err(|error| damaged(&error))?
                        .map_err(|error| damaged(&error))?;
                let plan = Arc::new(plan);
                self.plans.insert(hash, Arc::downgrade(&plan));
                plan
            }
        };
        let owned = Owned::new(&adopted, plan, self.config.session)
            .map_err(|error| damaged(&error))?;
        let left: Vec<StepNo> = owned.run.running_steps().collect();
        let begun = owned.row.began_at.is_some();
        let complete = owned.run.is_complete();
        self.projects.insert(project, owned);
        let limit = self.config.crash_limit;
        for no in left {
            let charged = !adopted.drained;
            self.apply(project, Event::Lost { no, charged, limit }, true);
        }
        if !begun && let Some(owned) = self.projects.get_mut(&project) {
            let decisions = owned.run.begin(self.config.clock.now());
            self.record(project, decisions, true);
        }
        for mail in adopted.mail {
            self.deliver(mail);
        }
        if complete {
            self.close(project);
        }
        self.release_if_ended(project).await
    }

    fn deliver(&mut self, mail: Mail) {
        let Some(owned) = self.projects.get_mut(&mail.project) else { return };
        if owned.pending.mail_is_known(mail.id) || owned.mail_in_flight(mail.id) {
            return;
        }
        owned.consume(&mail);
        let event = match mail.kind {
            MailKind::Cancel => Event::Cancel,
            MailKind::Pause => Event::Pause,
            MailKind::Resume => Event::Resume,
        };
        self.apply(mail.project, event, true);
        // Even a message that came too late is consumed by a commit.
        self.uncommitted += 1;
    }

    fn tick(&mut self) {
        let now = self.config.clock.now();
        let due: Vec<ProjectId> = self
            .projects
            .iter()
            .filter(|(_, owned)| owned.run.next_due().is_some_and(|due| due <= now))
            .map(|(id, _)| *id)
            .collect();
        for project in due {
            self.apply(project, Event::Tick, true);
        }
    }

    fn next_timer(&self) -> Option<Timestamp> {
        self.projects.values().filter_map(|owned| owned.run.next_due()).min()
    }

    fn is_dirty(&self) -> bool {
        self.projects.values().any(|owned| !owned.pending.is_empty())
            || !self.logs.is_empty()
    }

    fn flush_starts(&mut self) {
        self.flush_at = None;
        for owned in self.projects.values_mut() {
            owned.pending.urgent |= !owned.pending.is_empty();
        }
        self.commit();
    }

    /// Commits if there is anything that should not wait.
    fn flush(&mut self) {
        let urgent = self.projects.values().any(|owned| owned.pending.urgent);
        let full = self.uncommitted >= self.config.max_batch;
        if urgent || full {
            self.commit();
        }
    }

    fn commit(&mut self) {
        if self.committing {
            return;
        }
        let session = self.config.session;
        let parts: Vec<_> = self
            .projects
            .values_mut()
            .filter(|owned| !owned.pending.is_empty())
            .map(|owned| owned.take_part(session))
            .collect();
        if parts.is_empty() && self.logs.is_empty() {
            return;
        }
        self.uncommitted = 0;
        self.flush_at = None;
        self.committing = true;
        let logs = std::mem::take(&mut self.logs);
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        let parts = Arc::new(parts);
        self.attempts.spawn(async move {
            let mut result = store.commit(Arc::clone(&parts), logs.clone()).await;
            for _ in 1..COMMIT_TRIES {
                // A refused commit wrote nothing, so the same bytes go again.
                if !result
                    .as_ref()
                    .is_err_and(|error| error.kind() == StoreErrorKind::Busy)
                {
                    break;
                }
                tokio::time::sleep(RETRY_COMMIT).await;
                result = store.commit(Arc::clone(&parts), logs.clone()).await;
            }
            let _ = inbox.send(Message::Committed { result });
        });
    }

    /// The commit is durable: carries out what was decided.
    async fn committed(
        &mut self,
        result: Result<Vec<ProjectId>, StoreError>,
    ) -> Result<(), StoreError> {
        self.committing = false;
        let lost = result?;
        for project in lost {
            tracing::warn!(%project, "the project was taken over by another process");
            if let Some(owned) = self.projects.remove(&project) {
                self.free += owned.running.len();
                owned
                    .running
                    .values()
                    .for_each(tokio_util::sync::CancellationToken::cancel);
            }
        }
        let mut launches = vec![];
        let mut finished = vec![];
        for (id, owned) in &mut self.projects {
            let Some(carry) = owned.in_flight.take() else { continue };
            owned.row.last_event = carry.upto;
            for no in carry.ready {
                owned.queue.push(&owned.run, no);
            }
            for no in carry.stop {
                if let Some(token) = owned.running.get(&no) {
                    token.cancel();
                }
            }
            launches.extend(carry.launch.into_iter().map(|no| (*id, no)));
            if owned.run.state().is_terminal() {
                finished.push(*id);
            }
        }
        for (project, no) in launches {
            if let Some(input) = self.inputs.remove(&(project, no)) {
                self.launch(project, no, input);
            }
        }
        for project in finished {
            self.release_if_ended(project).await?;
        }
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn release_if_ended(&mut self, project: ProjectId) -> Result<(), StoreError> {
        let Some(owned) = self.projects.get(&project) else { return Ok(()) };
        if !owned.run.state().is_terminal() || owned.is_busy() {
            return Ok(());
        }
        self.projects.remove(&project);
        Ok(())
    }

    fn stop_attempts(&mut self) {
        for owned in self.projects.values() {
            owned
                .running
                .values()
                .for_each(tokio_util::sync::CancellationToken::cancel);
        }
    }

    /// Ends the session; when steps still run, its row tells that it drained.
    async fn leave(&mut self) -> Result<(), StoreError> {
        let running = self
            .projects
            .values()
            .any(|owned| owned.run.running_steps().next().is_some());
        if !running {
            self.config.store.end_session(self.config.session).await?;
        }
        Ok(())
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The output of a project: what it declares, else the outputs of its last tasks.
fn project_output(owned: &Owned) -> Result<Option<Output>, Bound<()>> {
    let binder = Binder::new(&owned.run, &owned.outputs, &owned.around);
    let plan = Arc::clone(owned.run.plan());
    let bound = match plan.outputs() {
        Some(outputs) => binder.project(outputs),
        None => binder.leaves(plan.leaves()),
    };
    match bound {
        Bound::Value(input) if input.with.get().len() > MAX_OUTPUT => {
            if plan.outputs().is_none() {
                // Nobody asked for it: each output is still there step by step.
                return Ok(None);
            }
            let message =
                format!("the outputs of the project exceed {MAX_OUTPUT} bytes");
            Err(Bound::Failed(StepError::fail("too_large", message)))
        }
        Bound::Value(input) => Ok(Some(input.with.into())),
        Bound::Missing(steps) => Err(Bound::Missing(steps)),
        Bound::Failed(error) => Err(Bound::Failed(error)),
    }
}
