//! Two sessions on one project, in every order of what they do: whatever comes first, one
//! of them owns, nothing that was accepted is lost or counted twice, and no wake-up is lost.
//!
//! First with verbs as steps, in every merge of two lists. Then with the last verbs of both
//! lists at the same time: a third session holds the row of the project until both wait.

mod check;
pub(crate) mod crossings;
mod hold;
mod scripts;
mod world;

use std::{collections::BTreeSet, sync::Arc};

use dandori::{
    ProjectId, SessionId,
    run::{Record, RecordKind},
    store::{
        Beat as Said, Claim as Grant, ClaimOutcome, Consumed, Delivery, Letters,
        MailKind, NewProject, Part, Reopening, Store, StoreError, Submitted,
    },
};
use tokio::sync::Mutex;

use self::{Do::*, world::Ground};
use crate::{
    backend::{Backend, figure},
    fixture::*,
    gate::Gate,
};

/// What an actor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Do {
    Adopt,
    Commit,
    /// A commit that consumes what was read with it.
    Read,
    Finish,
    Release,
    Send,
    Beat,
    /// Declares the other actor dead.
    Expire,
    Reap,
    Leave,
    Drain,
    Offer,
    Withdraw,
    Stop,
    Claim,
    Deliver,
    Unclaim,
    Park,
    Submit,
    Replay,
}

/// A session and what it knows.
#[derive(Debug)]
struct Actor {
    /// Its process.
    store: Store,
    id: SessionId,
    /// The epoch in which it believes to own the project.
    epoch: Option<i64>,
    last_event: i64,
    writes: i64,
    claims: Vec<Grant>,
}

/// What has happened, to be compared with what is stored.
#[derive(Debug, Default)]
struct History {
    /// The epochs of accepted commits, in their order.
    epochs: Vec<i64>,
    output: Option<String>,
    sent: usize,
    read: usize,
    /// Steps whose outcome was accepted, and whose outcome was consumed.
    delivered: Vec<u32>,
    consumed: Vec<u32>,
    withdrawn: Vec<u32>,
    claimed: Vec<u32>,
    submitted: usize,
    events: i64,
}

struct World {
    store: Store,
    project: NewProject,
    ids: [SessionId; 2],
    actors: [Mutex<Actor>; 2],
    history: Mutex<History>,
}

impl World {
    /// The first actor owns the project; of both the lease is over when somebody asks.
    async fn new(ground: &Ground, owned: bool) -> Self {
        let store = ground.stores[0].clone();
        let mut actors = vec![];
        let ids = [begin(&store, OVER).await, begin(&store, OVER).await];
        for (id, process) in ids.into_iter().zip(&ground.stores) {
            actors.push(Mutex::new(Actor {
                store: process.clone(),
                id,
                epoch: None,
                last_event: 1,
                writes: 0,
                claims: vec![],
            }));
        }
        let actors: [Mutex<Actor>; 2] = actors.try_into().unwrap();
        let project = project();
        store.submit(Arc::new(project.clone())).await.unwrap();
        let history = Mutex::new(History { events: 1, ..History::default() });
        let world = Self { store, project, ids, actors, history };
        if owned {
            world.act(0, Adopt).await;
        }
        world
    }

    fn id(&self) -> ProjectId {
        self.project.id
    }

    async fn act(&self, who: usize, what: Do) {
        let other = self.ids[1 - who];
        // One actor acts once at a time: its verbs follow each other.
        let mut actor = self.actors[who].lock().await;
        loop {
            match self.attempt(&mut actor, other, what).await {
                // A deadlock or a lock that took too long: the same again.
                Err(error) if error.is_transient() => {}
                Err(error) => panic!("{what:?}: {error:?}"),
                Ok(()) => return,
            }
        }
    }

    async fn attempt(
        &self,
        actor: &mut Actor,
        other: SessionId,
        what: Do,
    ) -> Result<(), StoreError> {
        let (store, id) = (actor.store.clone(), self.id());
        match what {
            Adopt => {
                if let Some(adopted) = store.adopt(actor.id, id).await? {
                    let row = &adopted.project.row;
                    actor.epoch = Some(row.epoch);
                    actor.last_event = row.last_event;
                    actor.writes = row.writes;
                    // Facts must not be older than the ownership.
                    let stored = adopted.project.facts.first().map(|fact| fact.attempt);
                    let history = self.history.lock().await;
                    if let (Some(_), None) = (&history.output, stored) {
                        panic!("the adopter does not see what was committed");
                    }
                }
            }
            Commit => {
                let output = format!("\"{}\"", SessionId::fresh());
                self.commit(actor, &output, |part| part).await?;
            }
            Read => {
                let Letters { mail, outcomes } = store.letters(id).await?;
                let consumed: Vec<Consumed> = outcomes
                    .iter()
                    .map(|it| Consumed {
                        no: it.no,
                        generation: it.generation,
                        attempt: it.attempt,
                    })
                    .collect();
                let numbers: Vec<u32> = consumed.iter().map(|it| it.no).collect();
                let mail: Vec<i64> = mail.iter().map(|it| it.id).collect();
                let read = mail.len();
                let change = |part| Part { mail, consumed, ..part };
                if self.commit(actor, "\"read\"", change).await? {
                    let mut history = self.history.lock().await;
                    history.read += read;
                    history.consumed.extend(numbers);
                }
            }
            Finish => {
                if self.commit(actor, "\"end\"", finished).await? {
                    actor.epoch = None;
                }
            }
            Release => {
                if let Some(epoch) = actor.epoch
                    && store.release(actor.id, id, epoch, 0, None).await?
                {
                    actor.epoch = None;
                }
            }
            Send => {
                store.send(id, MailKind::Pause, NOW).await?;
                self.history.lock().await.sent += 1;
            }
            Beat => {
                let pulse = store.beat(actor.id, Some(Said::default())).await?;
                if !pulse.alive {
                    actor.epoch = None;
                }
            }
            Expire => {
                let pulse = store.look(actor.id).await?;
                let late = pulse.late.into_iter().find(|late| late.id == other);
                if let Some(late) = late {
                    store.expire(late.id, late.beat, false).await?;
                }
            }
            Reap => {
                store.reap().await?;
            }
            Leave => {
                store.end_session(actor.id).await?;
                actor.epoch = None;
            }
            Drain => store.drain_session(actor.id).await?,
            Offer => {
                let offers = vec![offer(0), offer(1)];
                self.commit(actor, "\"offer\"", |part| Part { offers, ..part }).await?;
            }
            Withdraw => {
                let withdraw = vec![0, 1];
                self.commit(actor, "\"withdraw\"", |part| Part { withdraw, ..part })
                    .await?;
            }
            Stop => {
                let stop = vec![0, 1];
                self.commit(actor, "\"stop\"", |part| Part { stop, ..part }).await?;
            }
            Claim => {
                let grant = raw_id(SessionId::fresh());
                let claims = store.claim(actor.id, &serves(), 2, grant, NOW).await?;
                let mut history = self.history.lock().await;
                history.claimed.extend(claims.iter().map(|claim| claim.no));
                actor.claims.extend(claims);
            }
            Deliver => {
                for claim in std::mem::take(&mut actor.claims) {
                    let delivery = Delivery::Succeeded(raw("1"));
                    let batch = Arc::new(vec![(claim, delivery)]);
                    if store.deliver(batch).await?.is_empty() {
                        self.history.lock().await.delivered.push(claim.no);
                    }
                }
            }
            Unclaim => {
                if let Some(claim) = actor.claims.first() {
                    store.unclaim(claim.id).await?;
                }
            }
            Park => {
                if let Some(epoch) = actor.epoch {
                    let before = store.row(id).await?.unwrap().last_event;
                    store.park(actor.id, id, epoch, "poison", NOW).await?;
                    let after = store.row(id).await?.unwrap().last_event;
                    self.history.lock().await.events += after - before;
                    actor.epoch = None;
                }
            }
            Submit => {
                let submitted = store.submit(Arc::new(self.project.clone())).await?;
                assert_eq!(submitted, Submitted::Existing);
                self.history.lock().await.submitted += 1;
            }
            Replay => {
                let row = store.row(id).await?.unwrap();
                let replay = Reopening::default();
                let guard = (row.plan_hash, row.last_event);
                if store.replay(id, guard, replay, NOW).await? {
                    let mut history = self.history.lock().await;
                    history.events += 1;
                    // What was unread before came too late.
                    history.sent = history.read;
                }
            }
        }
        Ok(())
    }

    async fn commit(
        &self,
        actor: &mut Actor,
        output: &str,
        change: impl FnOnce(Part) -> Part,
    ) -> Result<bool, StoreError> {
        let Some(epoch) = actor.epoch else { return Ok(false) };
        let record = Record {
            at: NOW,
            kind: RecordKind::StepStarted,
            no: Some(0),
            attempt: 1,
            error: None,
            until: None,
            progress: None,
        };
        let part = Part {
            from: actor.last_event,
            writes: actor.writes,
            records: vec![record],
            ..part(self.id(), actor.id, epoch, output)
        };
        let part = change(part);
        let asked = part.withdraw.clone();
        let committed = actor.store.commit(Arc::new(vec![part]), vec![]).await?;
        let mut history = self.history.lock().await;
        if !committed.lost.is_empty() {
            actor.epoch = None;
            return Ok(false);
        }
        actor.last_event += 1;
        actor.writes += 1;
        history.events += 1;
        history.epochs.push(epoch);
        history.output = Some(output.to_owned());
        let taken = committed.withdrawn.iter().map(|(_, no)| *no);
        history.withdrawn.extend(taken.inspect(|no| assert!(asked.contains(no))));
        Ok(true)
    }

    /// What must hold after every order.
    async fn check(&self, order: &str) {
        let (store, id) = (&self.store, self.id());
        let history = self.history.lock().await;
        let row = store.row(id).await.unwrap().unwrap();
        let letters = store.letters(id).await.unwrap();
        let sessions = store.sessions().await.unwrap();
        let known = |session: Option<uuid::Uuid>| {
            session.is_none_or(|id| sessions.iter().any(|it| raw_id(it.id) == id))
        };
        let unread = letters.mail.len() + letters.outcomes.len();
        assert_eq!(row.mail, i64::try_from(unread).unwrap(), "{order}: the counter");
        assert_eq!(letters.mail.len() + history.read, history.sent, "{order}: mail");
        assert!(known(row.session), "{order}: the owner is gone for good");
        if row.session.is_none() && unread > 0 {
            let watcher = SessionId::fresh();
            let adoptable = store.look(watcher).await.unwrap().adoptable;
            let woken = adoptable.iter().any(|it| it.project == id);
            assert!(woken, "{order}: a wake-up is lost");
        }
        assert!(history.epochs.is_sorted(), "{order}: an older owner wrote");
        assert_eq!(row.last_event, history.events, "{order}: the event number");
        let numbers: Vec<i64> =
            store.events(id, 0, 100).await.unwrap().iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, (1..=history.events).collect::<Vec<_>>(), "{order}");
        let output = store.outputs_within(id, &[0], usize::MAX).await.unwrap().unwrap();
        let output = output[0].as_ref().map(|it| it.get().to_owned());
        assert_eq!(output, history.output, "{order}: the result");
        let stored = store.project(id).await.unwrap().unwrap();
        for claim in &stored.claims {
            assert!(
                known(claim.session) || is_over(&letters, claim.no),
                "{order}: {claim:?}"
            );
        }
        let unread: Vec<u32> = letters
            .outcomes
            .iter()
            .filter(|it| it.delivery.is_some())
            .map(|it| it.no)
            .collect();
        for no in &history.delivered {
            let times = unread.iter().chain(&history.consumed).filter(|it| *it == no);
            assert_eq!(times.count(), 1, "{order}: the outcome of {no}");
        }
        for no in &history.withdrawn {
            assert!(!history.claimed.contains(no), "{order}: {no} runs in two places");
        }
        let twice = history.claimed.iter().collect::<BTreeSet<_>>().len();
        assert_eq!(twice, history.claimed.len(), "{order}: claimed twice");
    }

    /// Ends everything, so that the next world on the same database finds nothing of it.
    async fn clear(&self) {
        let store = &self.store;
        for id in self.ids {
            store.end_session(id).await.unwrap();
        }
        let cleaner = begin(store, LONG).await;
        let adopted = store.adopt(cleaner, self.id()).await.unwrap().unwrap();
        let row = adopted.project.row;
        let consumed = |it: &ClaimOutcome| Consumed {
            no: it.no,
            generation: it.generation,
            attempt: it.attempt,
        };
        let part = Part {
            from: row.last_event,
            writes: row.writes,
            mail: adopted.letters.mail.iter().map(|it| it.id).collect(),
            consumed: adopted.letters.outcomes.iter().map(consumed).collect(),
            withdraw: vec![0, 1],
            ..finished(empty(self.id(), cleaner, row.epoch))
        };
        store.commit(Arc::new(vec![part]), vec![]).await.unwrap();
        store.end_session(cleaner).await.unwrap();
    }
}

/// Whether a claim is done or lost, and only its outcome is left.
fn is_over(letters: &Letters, no: u32) -> bool {
    letters.outcomes.iter().any(|it| it.no == no)
}

/// A script: a name, what happens before, and the lists of both actors. The first owns the
/// project, where `owned`.
struct Script {
    name: &'static str,
    owned: bool,
    before: &'static [(usize, Do)],
    lists: [&'static [Do]; 2],
}

const fn script(
    name: &'static str,
    before: &'static [(usize, Do)],
    first: &'static [Do],
    second: &'static [Do],
) -> Script {
    Script { name, owned: true, before, lists: [first, second] }
}

const OFFERED: &[(usize, Do)] = &[(0, Offer)];
const CLAIMED: &[(usize, Do)] = &[(0, Offer), (1, Claim)];

const SCRIPTS: &[Script] = &[
    Script {
        name: "adopt, adopt",
        owned: false,
        before: &[],
        lists: [&[Adopt, Commit], &[Adopt, Commit]],
    },
    Script {
        name: "submit, submit",
        owned: false,
        before: &[],
        lists: [&[Submit, Adopt], &[Submit, Adopt]],
    },
    script(
        "the old owner commits, the new one adopts",
        &[],
        &[Commit, Commit],
        &[Expire, Reap, Adopt, Commit],
    ),
    script("release, send", &[], &[Release, Adopt, Read], &[Send, Send]),
    script("finish, send", &[], &[Commit, Finish], &[Send, Adopt, Read]),
    script("beat, expire", &[], &[Beat, Commit], &[Expire, Reap, Adopt]),
    script("reap, reap", &[], &[Commit, Reap], &[Expire, Reap, Adopt]),
    script("leave, reap", &[], &[Commit, Leave], &[Expire, Reap, Adopt]),
    script("drain, expire", &[], &[Drain, Commit], &[Expire, Reap, Adopt, Commit]),
    script("claim, claim", OFFERED, &[Claim, Commit], &[Claim, Deliver]),
    script("withdraw, claim", OFFERED, &[Withdraw, Commit], &[Claim, Deliver]),
    script("deliver, consume", CLAIMED, &[Read, Read], &[Deliver]),
    script("deliver, stop", CLAIMED, &[Stop, Read], &[Beat, Deliver]),
    script("deliver, reap of its worker", CLAIMED, &[Expire, Reap, Read], &[Deliver]),
    script(
        "deliver, the owner is reaped",
        CLAIMED,
        &[Commit, Read],
        &[Expire, Deliver, Reap, Adopt, Read],
    ),
    script(
        "claim, reap of its worker",
        OFFERED,
        &[Expire, Reap, Read],
        &[Claim, Deliver],
    ),
    script("claim, leave", OFFERED, &[Read, Commit], &[Claim, Leave]),
    script("unclaim, deliver", CLAIMED, &[Read], &[Unclaim, Deliver]),
    script("unclaim, consume", CLAIMED, &[Read, Withdraw, Read], &[Unclaim]),
    script("park, send", &[], &[Park, Adopt, Read], &[Send]),
    script(
        "adopt, reap of the adopter",
        &[(0, Release)],
        &[Expire, Reap, Adopt],
        &[Adopt, Commit],
    ),
    script("replay, send", &[(0, Finish)], &[Replay, Adopt, Read], &[Send]),
    script("replay, replay", &[(0, Finish)], &[Replay, Adopt], &[Replay, Adopt]),
    script(
        "replay, a late answer",
        &[(0, Finish), (0, Send)],
        &[Replay],
        &[Adopt, Read],
    ),
];

/// All merges of two lists, as who is next.
fn merges(first: usize, second: usize) -> Vec<Vec<usize>> {
    if first == 0 && second == 0 {
        return vec![vec![]];
    }
    let mut all = vec![];
    for (who, left) in [(0, first), (1, second)] {
        if left == 0 {
            continue;
        }
        for mut rest in merges(first - (1 - who), second - who) {
            rest.insert(0, who);
            all.push(rest);
        }
    }
    all
}

async fn prepared(ground: &Ground, script: &Script) -> World {
    let world = World::new(ground, script.owned).await;
    for (who, what) in script.before {
        world.act(*who, *what).await;
    }
    world
}

pub(crate) async fn every_order_of_verbs_keeps_the_promises(backend: Backend) {
    let ground = Ground::new(backend).await;
    let mut orders = 0;
    for script in SCRIPTS {
        let [first, second] = script.lists;
        for order in merges(first.len(), second.len()) {
            let world = prepared(&ground, script).await;
            let mut lists = [first.iter(), second.iter()];
            let mut said = format!("{}:", script.name);
            for who in order {
                let what = lists[who].next().unwrap();
                said.push_str(&format!(" {who}.{what:?}"));
                world.act(who, *what).await;
            }
            world.check(&said).await;
            world.clear().await;
            orders += 1;
        }
    }
    let what = "interleavings of two sessions (20 scripts): scripts, orders";
    figure("pg7", what, format!("{}, {orders}", SCRIPTS.len()));
    assert!(SCRIPTS.len() >= 20 && orders >= 150, "{orders}");
}

/// The last verbs of both lists at once, in both orders of their arrival.
pub(crate) async fn verbs_that_wait_for_each_other_keep_the_promises(backend: Backend) {
    let ground = Ground::new(backend).await;
    let mut waited = 0;
    for script in SCRIPTS {
        for first in [0, 1] {
            let world = Arc::new(prepared(&ground, script).await);
            for who in [0, 1] {
                let list = script.lists[who];
                for what in &list[..list.len() - 1] {
                    world.act(who, *what).await;
                }
            }
            let mut gate = Gate::close(&ground.place, world.id()).await;
            let mut tasks = vec![];
            for who in [first, 1 - first] {
                let last = *script.lists[who].last().unwrap();
                let acting = Arc::clone(&world);
                tasks.push(tokio::spawn(async move { acting.act(who, last).await }));
                waited += gate.until_waiting(&tasks).await;
            }
            gate.open().await;
            for task in tasks {
                task.await.unwrap();
            }
            world.check(&format!("{}, at once, {first} first", script.name)).await;
            world.clear().await;
        }
    }
    figure("pg7", "verbs that waited for a lock and went on", waited);
    assert!(waited > 20, "{waited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order() {
    every_order_of_verbs_keeps_the_promises(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once() {
    verbs_that_wait_for_each_other_keep_the_promises(Backend::Postgres).await;
}
