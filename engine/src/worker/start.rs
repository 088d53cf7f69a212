//! Starting: from the choice of a step to its running attempt.

use std::{sync::Arc, time::Duration};

use super::{
    Message, Then,
    attempt::{Attempt, Key, soft_token},
    bind::{Binder, Bound, Input},
    grow::Ground,
    hold::is_held,
    leash::Leash,
    scheduler::Scheduler,
};
use crate::{
    Context, ProjectId, StepError,
    checkpoint::Keeper,
    handler::Inner,
    plan::{Action, MAX_STEPS, StepNo},
    run::{Event, ProjectState, Run, StepState},
    store::{Fence, MAX_OUTPUT},
};

/// From how many crashes on a step is a suspect: it starts alone, after a durable record.
const SUSPECT: u32 = 2;

/// So many steps that end at once a project starts in a row, before it is the turn of others
/// of its priority.
const TURN: usize = 32;

/// A step whose inputs come to more bytes is not started: its worker would not survive it.
pub(super) const MOST_INPUT: usize = 512 * 1024 * 1024;

/// After outputs could not be read.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// More items than this are refused.
const MAX_ITEMS: u32 = Run::MAX_ITEMS;

impl Scheduler {
    /// Takes note that a step may start.
    pub(super) fn make_ready(&mut self, project: ProjectId, no: StepNo) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if owned.run.step_state(no) != StepState::Ready || owned.steered {
            return;
        }
        match &owned.run.step(no).action {
            Action::Run { kind, .. } => {
                if owned.offers.contains_key(&no) {
                    return;
                }
                let queue = &owned.run.policy(no).queue;
                let here = !self.config.store.is_shared()
                    || self.config.serves.has(queue, kind);
                if !here || is_held(self.held_queues.as_ref(), queue) {
                    return owned.push_foreign(no);
                }
                owned.queue.push(&owned.run, no);
                self.place(project);
            }
            // They cost no slot, so they wait for none.
            Action::Join { .. } | Action::Pass { .. } | Action::ForEach(_) => {
                self.instant.push_back((project, no));
            }
        }
    }

    /// Starts steps while there are slots.
    pub(super) fn start_steps(&mut self) {
        // Not before it is known which queues are paused.
        if self.config.steer_only || self.held_queues.is_none() || !self.may_begin() {
            return;
        }
        self.look_at_held();
        loop {
            self.work_off_instants();
            self.fill_slots();
            // A condition that was false may have decided a join.
            if self.instant.is_empty() || !self.may_record() {
                return;
            }
        }
    }

    /// Works through joins and expansions, which need no slot.
    fn work_off_instants(&mut self) {
        while self.may_record()
            && let Some((project, no)) = self.instant.pop_front()
        {
            let Some(owned) = self.projects.get_mut(&project) else { continue };
            if owned.run.state() == ProjectState::Paused {
                owned.held_instant.push(no);
            } else if owned.run.step_state(no) == StepState::Ready {
                self.prepare(project, no);
            }
        }
    }

    fn fill_slots(&mut self) {
        while self.has_slot()
            && let Some((priority, project)) = self.choose()
        {
            // What ends at once holds no slot, so it takes none from others; a few in a row
            // are written together.
            for _ in 0..TURN {
                let at_once = self.start_next(project);
                if !at_once || !self.has_slot() || !self.has_next(priority, project) {
                    break;
                }
            }
            self.place(project);
        }
    }

    /// Whether one more step may start.
    fn has_slot(&self) -> bool {
        let most_fetches = self.config.concurrency.max(1) * 2;
        self.free > 0 && self.fetches < most_fetches && self.may_record()
    }

    /// Starts the next step of a project; tells whether it will end at once.
    fn start_next(&mut self, project: ProjectId) -> bool {
        let Some(owned) = self.projects.get_mut(&project) else { return false };
        let Some(no) = owned.queue.pop(&owned.run) else { return false };
        if is_held(self.held_queues.as_ref(), &owned.run.policy(no).queue) {
            owned.push_foreign(no);
            self.release_if_ended(project);
            return false;
        }
        if owned.run.view(no).crashes >= SUSPECT && self.suspect.is_some() {
            self.held_suspects.push((project, no));
            return false;
        }
        let gathered = self.volleys.gathered();
        self.prepare(project, no);
        self.volleys.gathered() > gathered
    }

    /// The suspect has ended: the next one may start.
    pub(super) fn free_suspects(&mut self) {
        self.suspect = None;
        for (project, no) in std::mem::take(&mut self.held_suspects) {
            self.make_ready(project, no);
        }
    }

    /// Evaluates the conditions and the input of a step, and starts it; a join ends here.
    pub(super) fn prepare(&mut self, project: ProjectId, no: StepNo) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if owned.run.step_state(no) != StepState::Ready {
            return;
        }
        let unwritten = |seen| owned.is_unwritten(seen);
        let sees_ahead = owned.is_plain(no, &self.config.kinds);
        let binder = || {
            let binder = Binder::new(&owned.run, &owned.outputs, &owned.around);
            if sees_ahead { binder } else { binder.without(&unwritten) }
        };
        if !owned.run.step(no).conditions.is_empty() {
            match binder().conditions(no) {
                Bound::Value(true) => {}
                Bound::Value(false) => {
                    return self.apply(project, Event::ConditionFalse { no }, true);
                }
                Bound::Missing(steps) => return self.start_with(project, no, steps),
                Bound::Failed(error) => return self.fail_unstarted(project, no, error),
            }
        }
        if binder().is_idle(no) {
            return self.apply(project, Event::ConditionFalse { no }, true);
        }
        let input = match binder().input(no, &self.config.kinds) {
            Bound::Value(input) => input,
            Bound::Missing(steps) => return self.start_with(project, no, steps),
            Bound::Failed(error) => return self.fail_unstarted(project, no, error),
        };
        match &owned.run.step(no).action {
            Action::Run { kind, .. } if self.config.kinds.get(kind).is_none() => {
                let message = format!("this worker has no handler for `{kind}`");
                let error = StepError::fail("unknown_kind", message);
                self.fail_unstarted(project, no, error);
            }
            Action::Run { .. } => self.start(project, no, input),
            Action::Join { .. } | Action::Pass { .. }
                if input.with.get().len() > MAX_OUTPUT =>
            {
                let message = format!("it has more than {MAX_OUTPUT} bytes");
                let error = StepError::fail("too_large", message);
                self.fail_unstarted(project, no, error);
            }
            Action::Join { .. } | Action::Pass { .. } => {
                let output = input.with.into();
                self.apply(project, Event::Succeeded { no, attempt: 1, output }, true);
            }
            Action::ForEach(_) => self.expand(project, no, input),
        }
    }

    /// A step that needs outputs which are not in memory, or must be written first.
    fn start_with(&mut self, project: ProjectId, no: StepNo, steps: Vec<StepNo>) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let sees_ahead = owned.is_plain(no, &self.config.kinds);
        if !sees_ahead && owned.sees_unwritten(&steps) {
            if owned.put_off(no) {
                self.dirty.insert(project);
                self.urgent = true;
            }
            return;
        }
        self.fetch(project, steps, Then::Start(no), MOST_INPUT);
    }

    fn expand(&mut self, project: ProjectId, no: StepNo, input: Input) {
        let items: Result<Vec<&serde_json::value::RawValue>, _> =
            serde_json::from_str(input.with.get());
        let count = match items {
            Ok(items) => u32::try_from(items.len()).unwrap_or(u32::MAX),
            Err(_) => {
                let error = StepError::fail("expression", "`for_each` gave no list");
                return self.fail_unstarted(project, no, error);
            }
        };
        let Some(owned) = self.projects.get(&project) else { return };
        let Action::ForEach(for_each) = &owned.run.step(no).action else { return };
        let steps = u64::from(owned.run.len())
            + u64::from(count) * u64::from(for_each.body.0.len());
        if count > MAX_ITEMS || steps > MAX_STEPS as u64 {
            let message = format!(
                "{count} items make {steps} steps; the limits are {MAX_ITEMS} and {MAX_STEPS}"
            );
            return self.fail_unstarted(
                project,
                no,
                StepError::fail("too_large", message),
            );
        }
        let list = input.with.into();
        self.apply(project, Event::Expanded { no, items: count, list }, true);
    }

    pub(super) fn fail_unstarted(
        &mut self,
        project: ProjectId,
        no: StepNo,
        error: StepError,
    ) {
        self.apply(project, Event::Failed { no, attempt: 1, error }, true);
    }

    /// Records the start; launches at once, or after the commit where the start must be
    /// durable before its effect.
    fn start(&mut self, project: ProjectId, no: StepNo, input: Input) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let suspect = owned.run.view(no).crashes >= SUSPECT;
        let durable =
            suspect || owned.run.policy(no).at_most_once || owned.careful.remove(&no);
        owned.served += 1;
        let attempt = owned.run.view(no).attempt + 1;
        let key = Key { project, no, attempt, epoch: owned.row.epoch };
        owned.running.insert(no, Leash::new(key, &self.inbox_sender));
        debug_assert!(self.free > 0, "a start has a slot");
        self.free -= 1;
        if suspect {
            self.suspect = Some((project, no));
        }
        self.apply(project, Event::Started { no }, durable);
        if durable {
            self.inputs.insert((project, no), input);
            if let Some(owned) = self.projects.get_mut(&project) {
                owned.launch_after_commit(no);
            }
        } else {
            self.launch(project, no, input);
        }
    }

    pub(super) fn launch(&mut self, project: ProjectId, no: StepNo, input: Input) {
        let Some(owned) = self.projects.get(&project) else { return };
        let Some(running) = owned.running.get(&no) else { return };
        let (key, stop) = (running.key(), running.token().clone());
        let attempt = key.attempt;
        let view = owned.run.view(no);
        if stop.is_cancelled() {
            // Cancelled in the commit that recorded the start: the effect never began.
            let result = Err(StepError::not_started());
            let _ = self.inbox_sender.send(Message::Ended { key, result });
            return;
        }
        let Some(handler) = self.config.kinds.get(owned.run.step(no).kind()) else {
            return;
        };
        let (soft, hard) = owned.run.limits(no);
        let inbox = self.inbox_sender.clone();
        let generation = view.generation;
        let pace = self.volleys.pace(owned.run.step(no).kind());
        let heard = Arc::clone(&pace);
        let notes = Box::new(move |note| {
            heard.spoke();
            let _ = inbox.send(Message::Note { key, generation, note });
        });
        let context = Context::new(Inner {
            project,
            step: owned.run.name(no),
            attempt,
            generation,
            stop: stop.clone(),
            soft: soft_token(soft.or(hard)),
            soft_deadline: soft.map(|soft| self.config.clock.now().plus(soft)),
            state: self.config.state.clone(),
            notes,
            secrets: input.secrets,
            added: Default::default(),
            // What a pure one builds on may not be written yet: it keeps nothing before that.
            keeper: (!handler.is_pure()).then(|| Keeper {
                store: self.config.store.clone(),
                clock: self.config.clock.clone(),
                project,
                step: (no, generation),
                fence: Fence::Owner { session: self.session, epoch: owned.row.epoch },
                known: Default::default(),
            }),
        });
        let attempt = Attempt {
            key,
            handler: Arc::clone(handler),
            context,
            input: input.with,
            soft,
            hard,
            stop,
            ground: Ground::of(&owned.run, no),
            config: Arc::clone(&self.config),
            inbox: self.inbox_sender.clone(),
            pace,
        };
        let task = self.volleys.take(attempt).map(Attempt::start);
        if let Some(owned) = self.projects.get_mut(&project)
            && let Some(running) = owned.running.get_mut(&no)
        {
            match task {
                Some(task) => running.hold(task),
                None => running.share(),
            }
        }
    }

    /// Stops what must not outlive the lease: what may not be repeated, and processes.
    pub(super) fn stop_fragile(&mut self) {
        self.guests.stop_fragile();
        for owned in self.projects.values_mut() {
            for (no, running) in &mut owned.running {
                let handler = self.config.kinds.get(owned.run.step(*no).kind());
                let fragile = owned.run.policy(*no).at_most_once
                    || handler.is_some_and(|handler| handler.stops_with_lease());
                if fragile && !running.is_cut() {
                    running.cut();
                }
            }
        }
    }

    /// Reads outputs that are not in memory, then goes on. More than `within` bytes are
    /// not read.
    pub(super) fn fetch(
        &mut self,
        project: ProjectId,
        steps: Vec<StepNo>,
        then: Then,
        within: usize,
    ) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let fresh = match then {
            Then::Start(no) => owned.fetching.insert(no),
            Then::Close => !std::mem::replace(&mut owned.closing, true),
        };
        if !fresh {
            return;
        }
        self.fetches += 1;
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        self.tasks.spawn(async move {
            let outputs = store.outputs_within(project, &steps, within).await;
            if outputs.is_err() {
                // Whatever it was, asking again at once would not cure it.
                tokio::time::sleep(READ_AGAIN).await;
            }
            let outputs = outputs
                .map(|read| read.map(|read| steps.into_iter().zip(read).collect()));
            let _ = inbox.send(Message::Fetched { project, outputs, then });
        });
    }
}
