//! Guests: steps of projects that other workers own, run here under a claim.
//!
//! The claim is the right to run one attempt; the outcome is delivered under it and read
//! by the owner. A claim whose answer was lost is given back, because what it took is not
//! known. Inputs are evaluated here, from what is recorded, so that secrets never leave the
//! worker that uses them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use super::{
    Config, Message,
    attempt::{Attempt, Key, soft_token},
    bind::{Binder, Bound, Input, Surroundings},
    grow::{End, Ground},
    leash::Leash,
    outputs::Outputs,
    owned::surroundings,
    scheduler::Scheduler,
    start::MOST_INPUT,
};
use crate::{
    Context, ErrorClass, ProjectId, SessionId, StepError,
    checkpoint::Keeper,
    handler::Inner,
    plan::{Action, StepNo},
    run::{Run, StepState},
    store::{Claim, Delivery, Fence, HeldClaim, Store, StoreError, StoreErrorKind},
};

/// So many outcomes may wait to be delivered before nothing more is claimed.
const MOST_UNDELIVERED: usize = 256;
/// Projects of others that are kept in memory for their next step.
const MOST_HOSTED: usize = 64;
/// And how many steps they may have together.
const MOST_HOSTED_STEPS: u32 = 200_000;
/// So many outcomes are delivered by one transaction: each costs a round trip in it.
const DELIVERED_AT_ONCE: usize = 64;
/// After the database could not be asked.
const AGAIN: Duration = Duration::from_millis(300);

/// The guests of a worker.
#[derive(Debug, Default)]
pub(super) struct Guests {
    running: HashMap<(ProjectId, StepNo), Guest>,
    /// What is known of the projects they belong to.
    hosted: HashMap<ProjectId, Arc<Hosted>>,
    /// The claim on its way, and the slots that are kept free for it.
    claiming: Option<(Uuid, usize)>,
    /// Whether there may be offers that this worker can take.
    pub(super) offers: bool,
    pub(super) undelivered: Vec<(Claim, Delivery)>,
    /// The outcomes on their way.
    delivering: Arc<Vec<(Claim, Delivery)>>,
    /// Grants that the database calls ours and of which something is not in our hands.
    strays: HashSet<Uuid>,
}

#[derive(Debug)]
struct Guest {
    claim: Claim,
    leash: Leash,
    may_repeat: bool,
}

/// What is known of a project of another worker.
#[derive(Debug)]
pub(super) struct Hosted {
    run: Run,
    around: Surroundings,
}

/// Where a guest runs: what the attempt must know beside its input.
#[derive(Debug)]
pub(crate) struct Host {
    known: Arc<Hosted>,
}

/// The evaluated input of a guest.
#[derive(Debug)]
pub(crate) struct GuestInput(Input);

impl Guests {
    pub(super) fn count(&self) -> usize {
        self.running.len()
    }

    /// Slots that are kept free for a claim on its way.
    pub(super) fn reserved(&self) -> usize {
        self.claiming.map_or(0, |(_, slots)| slots)
    }

    /// Whether outcomes wait to be delivered.
    pub(super) fn is_delivering(&self) -> bool {
        !(self.delivering.is_empty() && self.undelivered.is_empty())
    }

    /// The claims in our hands.
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        let running = self.running.values().map(|guest| &guest.claim);
        let ended = self.undelivered.iter().chain(self.delivering.iter());
        running.chain(ended.map(|(claim, _)| claim))
    }

    /// Grants of which nothing is in our hands, for two pulses: the answer to the claim was
    /// lost, and it arrived after it was given back.
    fn lost_grants(&mut self, held: &[HeldClaim]) -> Vec<Uuid> {
        let coming = self.claiming.map(|(grant, _)| grant);
        let known: HashSet<_> =
            self.claims().map(|claim| (claim.project, claim.no, claim.id)).collect();
        let strays: HashSet<Uuid> = held
            .iter()
            .filter(|it| !known.contains(&(it.project, it.no, it.id)))
            .map(|it| it.id)
            .filter(|grant| Some(*grant) != coming)
            .collect();
        let mut lost: Vec<Uuid> = strays.intersection(&self.strays).copied().collect();
        lost.retain(|grant| self.claims().all(|claim| claim.id != *grant));
        self.strays = strays;
        lost
    }

    pub(super) fn stop_all(&self) {
        self.running.values().for_each(|guest| guest.leash.stop());
    }

    /// Stops those that must not outlive the lease.
    pub(super) fn stop_fragile(&mut self) {
        for guest in self.running.values_mut().filter(|guest| !guest.may_repeat) {
            guest.leash.cut();
        }
    }

    pub(super) fn stop(&self, project: ProjectId, no: StepNo, attempt: u32) {
        if let Some(guest) = self.running.get(&(project, no))
            && guest.claim.attempt == attempt
        {
            guest.leash.stop();
        }
    }
}

impl Scheduler {
    /// Takes offers of others, when nothing of our own waits for a slot.
    pub(super) fn claim_offers(&mut self) {
        let may = self.guests.offers
            && self.guests.claiming.is_none()
            && self.free > 0
            && self.config.all
            && self.line.is_empty()
            && self.may_begin()
            && self.guests.undelivered.len() < MOST_UNDELIVERED;
        if !may {
            return;
        }
        let most = self.free;
        let grant = SessionId::fresh().uuid();
        self.free = 0;
        self.guests.claiming = Some((grant, most));
        let (config, session) = (Arc::clone(&self.config), self.session);
        let (inbox, now) = (self.inbox_sender.clone(), self.config.clock.now());
        self.tasks.spawn(async move {
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            let store = &config.store;
            let result = store.claim(session, &config.serves, most, grant, now).await;
            let _ = inbox.send(Message::Claimed { grant, result });
        });
    }

    /// Offers were taken, or not.
    pub(super) fn claimed(
        &mut self,
        grant: Uuid,
        result: Result<Vec<Claim>, StoreError>,
    ) {
        // One of a session that is dead is none of ours.
        let ours = self.guests.claiming.take_if(|(claiming, _)| *claiming == grant);
        let Some((_, reserved)) = ours else { return self.unclaim(grant) };
        self.free += reserved;
        let claims = match result {
            Ok(claims) => claims,
            Err(error) => {
                tracing::warn!(%error, "offers could not be taken");
                self.guests.offers = false;
                return self.unclaim(grant);
            }
        };
        // Fewer than there were slots: there are no more for now.
        self.guests.offers = claims.len() >= reserved;
        if self.draining {
            return self.unclaim(grant);
        }
        let mut of: HashMap<ProjectId, Vec<Claim>> = HashMap::new();
        for claim in claims {
            self.free = self.free.saturating_sub(1);
            let Claim { project, no, attempt, .. } = claim;
            let leash =
                Leash::new(Key { project, no, attempt, epoch: 0 }, &self.inbox_sender);
            let guest = Guest { claim, leash, may_repeat: true };
            self.guests.running.insert((claim.project, claim.no), guest);
            of.entry(claim.project).or_default().push(claim);
        }
        for (project, claims) in of {
            let known = self.guests.hosted.get(&project).cloned();
            let (config, session) = (Arc::clone(&self.config), self.session);
            let inbox = self.inbox_sender.clone();
            self.tasks.spawn(async move {
                let mut known = known;
                for claim in claims {
                    let host = host(&config, session, &mut known, claim).await;
                    let _ = inbox.send(Message::Hosted { claim, host });
                }
            });
        }
    }

    /// Gives back what a claim took: nothing of it was begun.
    fn unclaim(&mut self, grant: Uuid) {
        let store = self.config.store.clone();
        self.tasks.spawn(async move {
            while let Err(error) = store.unclaim(grant).await {
                tracing::warn!(%error, "a claim could not be given back yet");
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// What the database calls claimed by this session: some of it may have to stop, and some
    /// nobody knows of.
    pub(super) fn held_claims(&mut self, held: &[HeldClaim]) {
        for it in held.iter().filter(|it| it.stop) {
            self.guests.stop(it.project, it.no, it.attempt);
        }
        for grant in self.guests.lost_grants(held) {
            tracing::warn!(%grant, "a claim was ours and nobody knew");
            self.unclaim(grant);
        }
    }

    /// A claimed step is ready to run here, or has ended before it began.
    pub(super) fn hosted(
        &mut self,
        claim: Claim,
        host: Result<(Host, GuestInput), Delivery>,
    ) {
        let at = (claim.project, claim.no);
        let Some(guest) = self.guests.running.get(&at) else { return };
        if guest.claim != claim {
            return;
        }
        let stopped = guest.leash.token().is_cancelled();
        // Its queue may have been paused since.
        let held = |host: &Host| self.is_held(&host.known.run.policy(claim.no).queue);
        match host {
            // Through no fault of its own.
            Ok((host, _)) if self.draining || held(&host) => {
                self.end_guest(claim, Delivery::Lost);
            }
            Ok((host, input)) if !stopped => self.launch_guest(claim, &host, input),
            Ok(_) => {
                self.end_guest(claim, Delivery::Failed(StepError::not_started()));
            }
            Err(delivery) => self.end_guest(claim, delivery),
        }
    }

    fn launch_guest(&mut self, claim: Claim, host: &Host, input: GuestInput) {
        let Claim { project, no, generation, attempt, .. } = claim;
        let run = &host.known.run;
        let GuestInput(input) = input;
        let Some(handler) = self.config.kinds.get(run.step(no).kind()).cloned() else {
            let message = "the worker that took it has no handler for it";
            let error = StepError::fail("unknown_kind", message);
            return self.end_guest(claim, Delivery::Failed(error));
        };
        let may_repeat = !run.policy(no).at_most_once && !handler.stops_with_lease();
        let key = Key { project, no, attempt, epoch: 0 };
        let (soft, hard) = run.limits(no);
        let inbox = self.inbox_sender.clone();
        let notes = Box::new(move |note| {
            let _ = inbox.send(Message::Note { key, generation, note });
        });
        let Some(guest) = self.guests.running.get_mut(&(project, no)) else { return };
        guest.may_repeat = may_repeat;
        let context = Context::new(Inner {
            project,
            step: run.name(no),
            attempt,
            generation,
            stop: guest.leash.token().clone(),
            soft: soft_token(soft.or(hard)),
            soft_deadline: soft.map(|soft| self.config.clock.now().plus(soft)),
            state: self.config.state.clone(),
            notes,
            secrets: input.secrets,
            added: Default::default(),
            keeper: (!handler.is_pure()).then(|| Keeper {
                store: self.config.store.clone(),
                clock: self.config.clock.clone(),
                project,
                step: (no, generation),
                fence: Fence::Claim(claim.id),
                known: Default::default(),
            }),
        });
        let known = Arc::clone(&host.known);
        let attempt = Attempt {
            key,
            handler,
            context,
            input: input.with,
            soft,
            hard,
            stop: guest.leash.token().clone(),
            ground: Ground::of(run, no),
            config: Arc::clone(&self.config),
            inbox: self.inbox_sender.clone(),
            pace: Arc::default(),
        };
        guest.leash.hold(attempt.start());
        let steps = |hosted: &Arc<Hosted>| hosted.run.len();
        let held: u32 = self.guests.hosted.values().map(steps).sum();
        if self.guests.hosted.len() >= MOST_HOSTED
            || held.saturating_add(steps(&known)) > MOST_HOSTED_STEPS
        {
            self.guests.hosted.clear();
        }
        self.guests.hosted.insert(project, known);
    }

    /// An attempt ended that may have been a guest's; whether it was.
    pub(super) fn guest_ended(
        &mut self,
        key: Key,
        result: &mut Option<Result<End, StepError>>,
    ) -> bool {
        let Some(guest) = self.guests.running.get(&(key.project, key.no)) else {
            return false;
        };
        if guest.claim.attempt != key.attempt || key.epoch != 0 {
            return false;
        }
        let (claim, cut) = (guest.claim, guest.leash.is_cut());
        let delivery = match result.take() {
            Some(Ok(end)) => end.delivery(self.config.clock.now()),
            // Interrupted by the end of this process: the claim ends with the session.
            Some(Err(error))
                if self.draining && error.class == ErrorClass::Cancelled =>
            {
                self.guests.running.remove(&(key.project, key.no));
                self.free += 1;
                return true;
            }
            Some(Err(error)) if cut && error.class == ErrorClass::Cancelled => {
                Delivery::Lost
            }
            Some(Err(error)) => Delivery::Failed(error),
            None => return false,
        };
        self.end_guest(claim, delivery);
        true
    }

    fn end_guest(&mut self, claim: Claim, delivery: Delivery) {
        if self.guests.running.remove(&(claim.project, claim.no)).is_some() {
            self.free += 1;
        }
        self.guests.undelivered.push((claim, delivery));
    }

    /// Sends outcomes on their way: one batch in flight, and the next one gathers.
    pub(super) fn deliver_outcomes(&mut self) {
        let guests = &mut self.guests;
        if !guests.delivering.is_empty() || guests.undelivered.is_empty() {
            return;
        }
        let most = guests.undelivered.len().min(DELIVERED_AT_ONCE);
        guests.delivering = Arc::new(guests.undelivered.drain(..most).collect());
        let batch = Arc::clone(&guests.delivering);
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        self.tasks.spawn(async move {
            let mut refused = vec![];
            // All at once; one by one where the database refuses something.
            let mut batches = vec![batch];
            while let Some(batch) = batches.pop() {
                match store.deliver(Arc::clone(&batch)).await {
                    Ok(lost) => {
                        for Claim { project, no, .. } in lost {
                            tracing::debug!(%project, no, "a claim was lost");
                        }
                    }
                    // The same again does no harm: what was delivered is no longer claimed.
                    Err(error) if store.may_pass(&error) => {
                        tracing::warn!(%error, "outcomes could not be delivered yet");
                        tokio::time::sleep(AGAIN).await;
                        batches.push(batch);
                    }
                    Err(error) => match batch.as_slice() {
                        [(claim, _)] => refused.push((*claim, error)),
                        many => batches
                            .extend(many.iter().map(|one| Arc::new(vec![one.clone()]))),
                    },
                }
            }
            let _ = inbox.send(Message::Delivered { refused });
        });
    }

    /// Outcomes were delivered. A step whose outcome the database refuses has failed.
    pub(super) fn delivered(&mut self, refused: Vec<(Claim, StoreError)>) {
        self.guests.delivering = Arc::default();
        for (claim, error) in refused {
            tracing::error!(project = %claim.project, no = claim.no, %error, "refused");
            if error.kind() == StoreErrorKind::Refused {
                let error = StepError::fail(
                    "store_refused",
                    "the database refuses the outcome",
                );
                self.guests.undelivered.push((claim, Delivery::Failed(error)));
            }
        }
    }

    /// Drops all guests: the session they were claimed for is dead.
    pub(super) fn drop_guests(&mut self) {
        let guests = std::mem::take(&mut self.guests);
        self.free += guests.running.len() + guests.claiming.map_or(0, |(_, most)| most);
        self.guests.delivering = guests.delivering;
    }
}

/// Evaluates the input of a claimed step, reading what it needs.
async fn host(
    config: &Config,
    session: SessionId,
    known: &mut Option<Arc<Hosted>>,
    claim: Claim,
) -> Result<(Host, GuestInput), Delivery> {
    let fits = |known: &Hosted| {
        claim.no < known.run.len()
            // A wait that is over is not recorded as such: its owner knows that it is.
            && matches!(
                known.run.step_state(claim.no),
                StepState::Ready | StepState::Waiting
            )
            && known.run.view(claim.no).attempt + 1 == claim.attempt
            && known.run.view(claim.no).generation == claim.generation
    };
    if !known.as_deref().is_some_and(fits) {
        *known = Some(Arc::new(load(config, session, claim.project).await?));
    }
    // What was claimed is not what is stored: nothing began, and its owner knows better.
    let Some(known) = known.clone().filter(|known| fits(known)) else {
        return Err(Delivery::Lost);
    };
    if !matches!(known.run.step(claim.no).action, Action::Run { .. }) {
        return Err(Delivery::Lost);
    }
    let mut outputs = Outputs::default();
    loop {
        let missing = {
            let binder = || Binder::new(&known.run, &outputs, &known.around);
            match binder().conditions(claim.no) {
                Bound::Value(true) => match binder().input(claim.no, &config.kinds) {
                    Bound::Value(input) => {
                        let host = Host { known: Arc::clone(&known) };
                        return Ok((host, GuestInput(input)));
                    }
                    Bound::Missing(steps) => steps,
                    Bound::Failed(error) => return Err(Delivery::Failed(error)),
                },
                Bound::Value(false) => return Err(Delivery::ConditionFalse),
                Bound::Missing(steps) => steps,
                Bound::Failed(error) => return Err(Delivery::Failed(error)),
            }
        };
        let store = &config.store;
        let ask = || store.outputs_within(claim.project, &missing, MOST_INPUT);
        let read = again(store, ask).await?;
        let Some(read) = read else {
            let message = "the outputs it uses are more than a worker may hold";
            return Err(Delivery::Failed(StepError::fail("too_large", message)));
        };
        outputs.insert_fetched(missing.into_iter().zip(read).collect());
    }
}

async fn load(
    config: &Config,
    session: SessionId,
    project: ProjectId,
) -> Result<Hosted, Delivery> {
    let store = &config.store;
    let stored = again(store, || store.project(project)).await?;
    let Some(stored) = stored else { return Err(Delivery::Lost) };
    let hash = stored.row.plan_hash;
    let plan = again(store, || config.plans.get(store, hash)).await?;
    let loaded = tokio::task::spawn_blocking(move || {
        let around = surroundings(&stored, session)?;
        let seed = *stored.row.id.uuid().as_bytes();
        let restored = stored.row.restored();
        let run = Run::restore(plan, seed, stored.facts, &restored);
        Ok::<_, serde_json::Error>(Hosted { run, around })
    })
    .await;
    match loaded {
        Ok(Ok(hosted)) => Ok(hosted),
        Ok(Err(error)) => Err(Delivery::Failed(StepError::fail("corrupt", error))),
        Err(error) => Err(Delivery::Failed(StepError::fail("corrupt", error))),
    }
}

/// Asks the database until it answers.
async fn again<T, F: Future<Output = Result<T, StoreError>>>(
    store: &Store,
    ask: impl Fn() -> F,
) -> Result<T, Delivery> {
    loop {
        match ask().await {
            Ok(value) => return Ok(value),
            Err(error) if store.may_pass(&error) => tokio::time::sleep(AGAIN).await,
            Err(error) => {
                return Err(Delivery::Failed(StepError::retry("database", error)));
            }
        }
    }
}
