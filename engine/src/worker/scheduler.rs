//! The scheduler: one task that owns every run of this process.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot, watch,
    },
    task::JoinSet,
    time::Instant,
};

use super::{
    AdoptReply, Config, Handle, Message, Then,
    attempt::Key,
    bind::Input,
    grow::End,
    guests::Guests,
    heart::{self, Vitals},
    hold::Rests,
    leash::Leash,
    line::Line,
    owned::Owned,
    volley::Volleys,
};
use crate::{
    ErrorClass, ProjectId, SessionId, StepError, Timestamp,
    changes::Ends,
    handler::Note,
    map::Map,
    plan::StepNo,
    run::{Decisions, Event, Record, RecordKind},
    store::{Adoptable, ExecutorLock, LogLine, Other, StoreError, StoreErrorKind},
};

/// A start is written with the next commit, at the latest after this.
const START_FLUSH: Duration = Duration::from_millis(25);
/// How often the file is asked whether another process has written.
const LOOK: Duration = Duration::from_millis(200);
/// How long the end of the session may take.
const LEAVE: Duration = Duration::from_secs(2);
/// How often the progress of one step is recorded.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// After handlers were told to stop at the end of the grace.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// So many messages are handled before steps start and results are committed: a handler
/// that talks without end must not keep the rest waiting.
const MESSAGES_A_ROUND: usize = 1_024;
/// More lines of logs than this are not kept while a commit is behind.
const MOST_LOGS: usize = 10_000;

pub(super) struct Scheduler {
    pub(super) config: Arc<Config>,
    pub(super) session: SessionId,
    /// Whether the session has begun and was not declared dead.
    pub(super) alive: bool,
    pub(super) projects: Map<ProjectId, Owned>,
    /// Projects with something to write.
    pub(super) dirty: BTreeSet<ProjectId>,
    /// When the timers of projects are due.
    pub(super) timers: BTreeSet<(Timestamp, ProjectId)>,
    /// Ready steps that need no slot: joins and expansions.
    pub(super) instant: VecDeque<(ProjectId, StepNo)>,
    pub(super) line: Line,
    /// Free slots.
    pub(super) free: usize,
    /// How many steps wait for outputs to be read.
    pub(super) fetches: usize,
    /// Transitions and bytes of outputs that wait to be written.
    pub(super) uncommitted: usize,
    pub(super) uncommitted_bytes: usize,
    /// Those of the commit in flight.
    pub(super) in_flight: (usize, usize),
    /// Whether anything but starts waits to be written.
    pub(super) urgent: bool,
    /// The one suspect that runs, and those that wait for it.
    pub(super) suspect: Option<(ProjectId, StepNo)>,
    pub(super) held_suspects: Vec<(ProjectId, StepNo)>,
    /// Inputs of steps whose start is being made durable.
    pub(super) inputs: Map<(ProjectId, StepNo), Input>,
    pub(super) volleys: Volleys,
    /// What asks the database, and answers by message.
    pub(super) tasks: JoinSet<()>,
    pub(super) inbox_sender: UnboundedSender<Message>,
    pub(super) draining: bool,
    pub(super) logs: Vec<LogLine>,
    pub(super) committing: bool,
    /// When the oldest unwritten start must be written.
    pub(super) flush_at: Option<Instant>,
    /// Projects that are being taken over, and who waits for that.
    pub(super) adopting: HashMap<ProjectId, Vec<AdoptReply>>,
    /// Projects that wait for an owner, as heard last.
    pub(super) candidates: VecDeque<Adoptable>,
    /// Where more wait than were told: whether one of these was taken.
    pub(super) more_candidates: Option<bool>,
    /// Projects that are being given back.
    pub(super) releasing: HashSet<ProjectId>,
    pub(super) rests: Rests,
    /// Projects that the database calls ours and that are not in our hands.
    pub(super) strays: HashSet<ProjectId>,
    /// Projects that could not be loaded, and until when they are not tried again.
    pub(super) parked: HashMap<ProjectId, Instant>,
    /// Projects that this worker was asked to execute, where it does not execute all.
    pub(super) wanted: HashSet<ProjectId>,
    /// Unread messages for which projects were taken.
    pub(super) answered: HashMap<ProjectId, i64>,
    pub(super) commits: Arc<watch::Sender<u64>>,
    pub(super) ends: Ends,
    pub(super) session_sender: watch::Sender<SessionId>,
    /// What is shared with the heart, where there is one.
    pub(super) vitals: Option<Arc<Vitals>>,
    /// When the last beat was sent that was answered.
    pub(super) last_beat: Instant,
    /// The queues whose steps do not start; `None` until that is known.
    pub(super) held_queues: Option<HashSet<String>>,
    pub(super) held_sender: watch::Sender<Option<HashSet<String>>>,
    /// The other sessions.
    pub(super) others: Vec<Other>,
    /// Projects with steps that are offered to others or run there; some may have none any
    /// more.
    pub(super) offering: HashSet<ProjectId>,
    /// How many steps the projects have that are held.
    pub(super) nodes: usize,
    /// Steps of projects of others.
    pub(super) guests: Guests,
    /// When a step may be offered that is too young now.
    pub(super) offer_at: Option<Instant>,
    pub(super) reaping: bool,
    pub(super) looking: bool,
    pub(super) look_again: bool,
    pub(super) data_version: Option<(i64, u64)>,
    pub(super) inbox: UnboundedReceiver<Message>,
    pub(super) progress: Map<Key, Timestamp>,
    fatal: Arc<watch::Sender<Option<StoreError>>>,
    shutdown: Vec<oneshot::Sender<()>>,
    aborted: bool,
    room: Arc<AtomicBool>,
    lock: Option<ExecutorLock>,
}

/// Starts a worker. The caller has begun its session; the lock ends with the worker.
pub(crate) fn spawn(
    config: Config,
    session: SessionId,
    lock: Option<ExecutorLock>,
) -> Result<Handle, StoreError> {
    let (inbox_sender, inbox) = mpsc::unbounded_channel();
    let commits = Arc::new(watch::Sender::new(0));
    let (fatal, fatal_receiver) = watch::channel(None);
    let (session_sender, session_receiver) = watch::channel(session);
    let (held_sender, held_queues) = watch::channel(None);
    let fatal = Arc::new(fatal);
    let room = Arc::new(AtomicBool::new(true));
    let vitals = match config.store.is_shared() {
        true => {
            let vitals = Arc::new(Vitals::new(session));
            let (store, inbox) = (config.store.clone(), inbox_sender.clone());
            heart::start(store, config.lease, Arc::clone(&vitals), inbox)
                .map_err(|error| StoreError::new(StoreErrorKind::Other, error))?;
            Some(vitals)
        }
        false => None,
    };
    let ends = Ends::default();
    let handle = Handle {
        inbox: inbox_sender.clone(),
        commits: Arc::clone(&commits),
        ends: ends.clone(),
        fatal: fatal_receiver,
        session: session_receiver,
        held_queues,
        room: Arc::clone(&room),
    };
    let scheduler = Scheduler {
        free: config.concurrency.max(1),
        config: Arc::new(config),
        session,
        alive: true,
        projects: Map::default(),
        dirty: BTreeSet::new(),
        timers: BTreeSet::new(),
        instant: VecDeque::new(),
        line: Line::default(),
        fetches: 0,
        uncommitted: 0,
        uncommitted_bytes: 0,
        in_flight: (0, 0),
        urgent: false,
        suspect: None,
        held_suspects: vec![],
        inputs: Map::default(),
        volleys: Volleys::default(),
        tasks: JoinSet::new(),
        inbox_sender,
        draining: false,
        inbox,
        logs: vec![],
        progress: Map::default(),
        committing: false,
        flush_at: None,
        adopting: HashMap::new(),
        candidates: VecDeque::new(),
        more_candidates: None,
        releasing: HashSet::new(),
        rests: Rests::default(),
        strays: HashSet::new(),
        parked: HashMap::new(),
        wanted: HashSet::new(),
        answered: HashMap::new(),
        session_sender,
        vitals,
        last_beat: Instant::now(),
        held_queues: None,
        held_sender,
        others: vec![],
        offering: HashSet::new(),
        nodes: 0,
        guests: Guests::default(),
        offer_at: None,
        reaping: false,
        looking: false,
        look_again: false,
        data_version: None,
        commits: Arc::clone(&commits),
        ends: ends.clone(),
        fatal: Arc::clone(&fatal),
        shutdown: vec![],
        aborted: false,
        room,
        lock,
    };
    let work = tokio::spawn(scheduler.run());
    tokio::spawn(async move {
        // A panic of the scheduler itself: nobody may wait for it for ever.
        if let Err(error) = work.await {
            tracing::error!(%error, "the worker has stopped");
            fatal.send_replace(Some(StoreError::new(StoreErrorKind::Other, error)));
            commits.send_modify(|count| *count += 1);
            ends.tell_all();
        }
    });
    Ok(handle)
}

impl Scheduler {
    /// Works until told to stop, or until it cannot go on.
    async fn run(mut self) {
        let result = self.work().await;
        // Attempts end with the worker: their results could not be recorded.
        self.abort_attempts();
        let _unread = self.unread();
        let _ = tokio::time::timeout(LEAVE, self.tasks.shutdown()).await;
        if let Err(error) = result {
            tracing::error!(%error, "the worker has stopped");
            // Before anybody can see that it is gone.
            self.fatal.send_replace(Some(error));
        } else if self.draining {
            // Only now: nothing of ours runs any more when others take it.
            self.leave().await;
        }
        if let Some(vitals) = &self.vitals {
            vitals.stop();
        }
        self.inbox.close();
        drop(self.lock.take());
        // Readers that wait for a commit look once more.
        self.commits.send_modify(|count| *count += 1);
        self.ends.tell_all();
        for reply in self.shutdown.drain(..) {
            let _ = reply.send(());
        }
    }

    /// Ends the session: what it owns is free at once, and charged to nobody.
    fn leave(&self) -> impl Future<Output = ()> + Send + use<> {
        let (store, session) = (self.config.store.clone(), self.session);
        async move {
            match tokio::time::timeout(LEAVE, store.end_session(session)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the session was not ended"),
                Err(_) => tracing::warn!("the session was not ended in time"),
            }
        }
    }

    async fn work(&mut self) -> Result<(), StoreError> {
        let mut next_look = Instant::now();
        let mut grace_ends: Option<Instant> = None;
        let mut told_to_stop = false;
        let mut stop_waiting: Option<Instant> = None;
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(next_look));
        loop {
            for _ in 0..MESSAGES_A_ROUND {
                let Ok(message) = self.inbox.try_recv() else { break };
                self.handle(message)?;
                if self.uncommitted >= self.config.max_batch {
                    break;
                }
            }
            if self.aborted {
                return Ok(());
            }
            if next_look <= Instant::now() {
                next_look = Instant::now() + LOOK;
                self.look(false);
            }
            self.check_lease();
            self.adopt_waiting();
            self.tick();
            self.start_steps();
            self.offer_steps();
            self.settle_line();
            self.claim_offers();
            self.poll_letters();
            self.fire();
            self.flush();
            self.deliver_outcomes();
            self.give_back_resting();
            self.room.store(self.has_room(), Ordering::Relaxed);
            if let Some(vitals) = &self.vitals {
                let idle = self.free + self.guests.reserved();
                vitals
                    .round(self.config.concurrency.saturating_sub(idle), self.hunger());
            }
            if self.draining {
                self.give_back_unbegun();
                let end = *grace_ends
                    .get_or_insert_with(|| Instant::now() + self.config.grace);
                let running = self.guests.count() > 0
                    || self.projects.values().any(|owned| !owned.running.is_empty());
                let over = Instant::now() >= end;
                let busy = self.committing || self.guests.is_delivering();
                if over && !told_to_stop {
                    told_to_stop = true;
                    self.stop_attempts();
                    grace_ends = Some(Instant::now() + LAST_WORDS);
                } else if (over || !running) && !busy && !self.is_dirty() {
                    return Ok(());
                } else if (over || !running) && self.is_dirty() {
                    // Only starts are left unwritten: the next flush takes them.
                    self.flush_at = Some(Instant::now());
                }
                // The database is away: what is not written by then is not waited for.
                if over && told_to_stop {
                    let last = *stop_waiting.get_or_insert(end + LEAVE);
                    if Instant::now() >= last {
                        return Ok(());
                    }
                }
            }
            let (timer, clock) =
                (self.timers.first().copied(), self.config.clock.clone());
            let drained = stop_waiting.or(grace_ends);
            let flush_at = self.flush_at.filter(|_| !self.committing);
            let (poll, patience) = (self.next_poll(), self.volleys.patience_ends());
            let wake_at = [drained, flush_at, poll, self.offer_at, patience];
            let wake_at = wake_at.into_iter().flatten().fold(next_look, Instant::min);
            // One that goes off too early costs less than a new one for every turn, which
            // would wake whoever waits for the earliest.
            if alarm.is_elapsed() || wake_at < alarm.deadline() {
                alarm.as_mut().reset(wake_at);
            }
            tokio::select! {
                biased;
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message)?,
                    None => return Ok(()),
                },
                () = async { match timer {
                    Some((due, _)) => clock.sleep_until(due).await,
                    None => std::future::pending().await,
                } } => {}
                () = &mut alarm => {}
            }
            // Ended tasks are reaped so that the set does not grow.
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn handle(&mut self, message: Message) -> Result<(), StoreError> {
        match message {
            Message::Adopt { project, reply } => {
                if !self.config.all || self.config.steer_only {
                    self.wanted.insert(project);
                }
                // Its trouble is its own: the others go on.
                self.begin_adoption(project, Some(reply));
            }
            Message::Born { owned } => self.born(*owned),
            Message::Adopted { project, result } => self.adopted(project, result),
            Message::Released { project, released } => self.released(project, released),
            Message::Rested { asked, released } => self.rested(asked, &released),
            Message::Ended { key, result } => {
                let mut result = Some(result);
                if !self.guest_ended(key, &mut result)
                    && let Some(result) = result
                {
                    self.ended(key, result);
                }
            }
            Message::AllEnded { ended } => {
                ended.into_iter().for_each(|(key, result)| self.ended(key, result));
            }
            Message::Apart { key, task } => self.apart(key, task.take()),
            Message::Note { key, generation, note } => {
                self.note(key, generation, note);
            }
            Message::Fetched { project, outputs, then } => {
                self.fetched(project, outputs, then);
            }
            Message::Committed { result } => self.committed(result)?,
            Message::Letters { project, epoch, at, result } => {
                self.letters(project, (epoch, at), result);
            }
            Message::Looked { result } => self.looked(result),
            Message::Heard(heard) => self.heard(*heard),
            Message::Claimed { grant, result } => self.claimed(grant, result),
            Message::Hosted { claim, host } => self.hosted(claim, host),
            Message::Delivered { refused } => self.delivered(refused),
            Message::Reaped => self.reaping = false,
            Message::Reborn { result } => self.reborn(result)?,
            Message::Look => self.look_for_new(),
            Message::Unread { project } => self.begin_adoption(project, None),
            Message::Abort { reply } => {
                self.shutdown.push(reply);
                self.aborted = true;
            }
            Message::Shutdown { reply } => {
                self.shutdown.push(reply);
                if !std::mem::replace(&mut self.draining, true) {
                    self.announce_end();
                }
            }
        }
        Ok(())
    }

    /// First of all: a death from here on charges no step with a crash.
    fn announce_end(&mut self) {
        let (store, session) = (self.config.store.clone(), self.session);
        self.tasks.spawn(async move {
            while let Err(error) = store.drain_session(session).await {
                tracing::warn!(%error, "the end was not announced yet");
                tokio::time::sleep(LOOK).await;
            }
        });
    }

    /// How many steps of others this worker could run, those that it runs already included:
    /// the window of offers must not run empty while they last.
    fn hunger(&self) -> usize {
        match self.config.all && self.may_begin() && !self.line.may_start() {
            true => self.free + self.guests.reserved() + self.guests.count(),
            false => 0,
        }
    }

    fn ended(&mut self, key: Key, result: Result<End, StepError>) {
        self.progress.remove(&key);
        let Some(owned) = self.projects.get_mut(&key.project) else { return };
        // An attempt of an earlier ownership may report late.
        if owned.running.get(&key.no).is_none_or(|running| running.key() != key) {
            return;
        }
        let cut = owned.running.remove(&key.no).is_some_and(Leash::ended);
        self.free += 1;
        if self.suspect == Some((key.project, key.no)) {
            self.free_suspects();
        }
        let Key { project, no, attempt, .. } = key;
        let event = match result {
            Ok(end) => {
                let Some(owned) = self.projects.get(&project) else { return };
                end.event(&owned.run, no, attempt, self.config.clock.now())
            }
            // Interrupted by the end of this process: the next one starts it again.
            Err(error) if self.draining && error.class == ErrorClass::Cancelled => {
                return;
            }
            // Interrupted because the lease was over: through no fault of its own.
            Err(error) if cut && error.class == ErrorClass::Cancelled => {
                Event::Lost { no, charged: false, limit: 0 }
            }
            Err(error) => Event::Failed { no, attempt, error },
        };
        self.apply(project, event, true);
    }

    fn note(&mut self, key: Key, generation: u32, note: Note) {
        let now = self.config.clock.now();
        let Key { project, no, attempt, .. } = key;
        match note {
            Note::Log(line) => {
                if self.logs.len() < MOST_LOGS {
                    let at = now;
                    let line = LogLine { project, no, generation, attempt, at, line };
                    self.logs.push(line);
                }
                self.flush_soon();
            }
            Note::Progress(fraction, message) => {
                let last = self.progress.get(&key);
                if last.is_some_and(|last| now.since(*last) < PROGRESS_EVERY) {
                    return;
                }
                let Some(owned) = self.projects.get_mut(&project) else { return };
                if owned.running.get(&no).is_none_or(|it| it.key() != key) {
                    return;
                }
                self.progress.insert(key, now);
                let mut record = Record::step(RecordKind::StepProgressed, no, now);
                record.attempt = attempt;
                record.progress = Some((fraction, message));
                let records = vec![record];
                let decisions = Decisions { records, ..Decisions::default() };
                self.record(project, decisions, false);
            }
        }
    }

    fn fetched(
        &mut self,
        project: ProjectId,
        outputs: Result<Option<super::Fetched>, StoreError>,
        then: Then,
    ) {
        self.fetches -= 1;
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let outputs = outputs.unwrap_or_else(|error| {
            tracing::warn!(%project, %error, "outputs could not be read; again later");
            Some(vec![])
        });
        let fits = outputs.is_some();
        owned.outputs.insert_fetched(outputs.unwrap_or_default());
        match then {
            // It takes its place in the order again: slots, pauses and limits may have
            // changed meanwhile.
            Then::Start(no) if fits => {
                owned.fetching.remove(&no);
                self.make_ready(project, no);
            }
            Then::Start(no) => {
                owned.fetching.remove(&no);
                let message = "the outputs it uses are more than a worker may hold";
                let error = StepError::fail("too_large", message);
                self.fail_unstarted(project, no, error);
            }
            Then::Close => {
                owned.closing = false;
                owned.outputs_too_large |= !fits;
                self.close(project);
            }
        }
    }

    /// Lets the time pass for projects whose timers are due.
    fn tick(&mut self) {
        let now = self.config.clock.now();
        while let Some((due, project)) = self.timers.first().copied() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            match self.projects.get_mut(&project) {
                Some(owned) => owned.armed = None,
                // Given back while it was paused.
                None => self.begin_adoption(project, None),
            }
            self.apply(project, Event::Tick, true);
            self.release_if_ended(project);
        }
    }

    pub(super) fn flush_soon(&mut self) {
        self.flush_at.get_or_insert(Instant::now() + START_FLUSH);
    }

    fn abort_attempts(&mut self) {
        self.drop_guests();
        self.volleys.clear();
        self.projects.values_mut().for_each(|owned| owned.running.clear());
    }

    fn stop_attempts(&mut self) {
        self.guests.stop_all();
        for owned in self.projects.values() {
            owned.stop_all();
        }
    }
}
