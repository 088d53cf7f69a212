//! Starting: from the choice of a step to its running attempt.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    Message, Then,
    attempt::{Attempt, Key},
    bind::{Binder, Bound, Input},
    scheduler::Scheduler,
};
use crate::{
    Context, ProjectId, StepError,
    handler::Inner,
    plan::{Action, StepNo},
    run::{Event, Run, StepState},
};

/// From how many crashes on a step is a suspect: it starts alone, after a durable record.
const SUSPECT: u32 = 2;

/// More items than this are refused.
const MAX_ITEMS: u32 = Run::MAX_ITEMS;

impl Scheduler {
    /// Starts steps while there are slots.
    pub(super) fn start_steps(&mut self) {
        while self.free > 0
            && !self.draining
            && !self.config.steer_only
            && self.uncommitted < self.most_uncommitted()
        {
            let Some(project) = self.choose() else { return };
            let Some(owned) = self.projects.get_mut(&project) else { return };
            let Some(no) = owned.queue.pop(&owned.run) else { return };
            if owned.run.view(no).crashes >= SUSPECT && self.suspect.is_some() {
                self.held_suspects.push((project, no));
                continue;
            }
            self.prepare(project, no);
        }
    }

    /// Chooses the project whose next step starts: priority of project and step, then
    /// the fewest running steps, then the least service so far, then the longest path.
    fn choose(&mut self) -> Option<ProjectId> {
        let mut best = None;
        for (id, owned) in &mut self.projects {
            if !owned.run.may_start() {
                continue;
            }
            let Some((priority, remaining)) = owned.queue.peek(&owned.run) else {
                continue;
            };
            let rank = (
                owned.row.priority,
                priority,
                std::cmp::Reverse(owned.run.busy()),
                std::cmp::Reverse(owned.served),
                remaining,
                std::cmp::Reverse(*id),
            );
            if best.as_ref().is_none_or(|(most, _)| rank > *most) {
                best = Some((rank, *id));
            }
        }
        best.map(|(_, id)| id)
    }

    /// Works through joins and expansions, which need no slot, and evaluates conditions.
    pub(super) fn prepare(&mut self, project: ProjectId, no: StepNo) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if owned.run.step_state(no) != StepState::Ready {
            return;
        }
        let binder = || Binder::new(&owned.run, &owned.outputs, &owned.around);
        if !owned.run.step(no).conditions.is_empty() {
            match binder().conditions(no) {
                Bound::Value(true) => {}
                Bound::Value(false) => {
                    return self.apply(project, Event::ConditionFalse { no }, true);
                }
                Bound::Missing(steps) => {
                    return self.fetch(project, steps, Then::Start(no));
                }
                Bound::Failed(error) => return self.fail_unstarted(project, no, error),
            }
        }
        let input = match binder().input(no) {
            Bound::Value(input) => input,
            Bound::Missing(steps) => {
                return self.fetch(project, steps, Then::Start(no));
            }
            Bound::Failed(error) => return self.fail_unstarted(project, no, error),
        };
        match &owned.run.step(no).action {
            Action::Run { kind, .. } => {
                let kind = kind.clone();
                self.start(project, no, &kind, input);
            }
            Action::Join { .. } => {
                let output = input.with.into();
                self.apply(project, Event::Succeeded { no, attempt: 1, output }, true);
            }
            Action::ForEach(_) => self.expand(project, no, input),
        }
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
        if count > MAX_ITEMS {
            let message =
                format!("{count} items are more than the limit of {MAX_ITEMS}");
            return self.fail_unstarted(
                project,
                no,
                StepError::fail("too_large", message),
            );
        }
        let list = input.with.into();
        self.apply(project, Event::Expanded { no, items: count, list }, true);
    }

    fn fail_unstarted(&mut self, project: ProjectId, no: StepNo, error: StepError) {
        self.apply(project, Event::Failed { no, attempt: 1, error }, true);
    }

    /// Records the start; launches at once, or after the commit where the start must be
    /// durable before its effect.
    fn start(&mut self, project: ProjectId, no: StepNo, kind: &str, input: Input) {
        if self.config.kinds.get(kind).is_none() {
            let message = format!("this worker has no handler for `{kind}`");
            return self.fail_unstarted(
                project,
                no,
                StepError::fail("unknown_kind", message),
            );
        }
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let suspect = owned.run.view(no).crashes >= SUSPECT;
        let durable = suspect || owned.run.policy(no).at_most_once;
        owned.served += 1;
        owned.running.insert(no, CancellationToken::new());
        self.free -= 1;
        if suspect {
            self.suspect = Some((project, no));
        }
        self.apply(project, Event::Started { no }, false);
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
        let Some(stop) = owned.running.get(&no).cloned() else { return };
        let view = owned.run.view(no);
        let key = Key { project, no, attempt: view.attempt };
        let Some(handler) = self.config.kinds.get(owned.run.step(no).kind()) else {
            return;
        };
        let (soft, hard) = owned.run.limits(no);
        let inbox = self.inbox_sender.clone();
        let generation = view.generation;
        let notes = Box::new(move |note| {
            let _ = inbox.send(Message::Note { key, generation, note });
        });
        let context = Context::new(Inner {
            project,
            step: owned.run.name(no),
            attempt: view.attempt,
            generation,
            soft: CancellationToken::new(),
            soft_deadline: soft.map(|soft| self.config.clock.now().plus(soft)),
            state: self.config.state.clone(),
            notes,
            secrets: input.secrets,
        });
        let attempt = Attempt {
            key,
            handler: Arc::clone(handler),
            context,
            input: input.with,
            soft,
            hard,
            stop,
            clock: self.config.clock.clone(),
            inbox: self.inbox_sender.clone(),
        };
        self.attempts.spawn(attempt.run());
    }

    /// Reads outputs that are not in memory, then goes on.
    pub(super) fn fetch(&mut self, project: ProjectId, steps: Vec<StepNo>, then: Then) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let fresh = match then {
            Then::Start(no) => owned.fetching.insert(no),
            Then::Close => !std::mem::replace(&mut owned.closing, true),
        };
        if !fresh {
            return;
        }
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        self.attempts.spawn(async move {
            let outputs = store
                .outputs(project, &steps)
                .await
                .map(|outputs| steps.into_iter().zip(outputs).collect());
            let _ = inbox.send(Message::Fetched { project, outputs, then });
        });
    }
}
