//! Up to three sessions of two processes on two projects, what they do, and a book of what
//! they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use dandori::{
    ProjectId, SessionId,
    run::{Fact, Record, RecordKind, Replay, SetBack, StepState},
    store::{
        Beat, Claim, ClaimOutcome, Consumed, Delivery, Letters, MailKind, NewProject,
        NewSession, Offer, Part, Reopening, Resting, Serves, Store, Submitted,
    },
};

use crate::{
    backend::{Backend, Database},
    cluster::Cluster,
    fixture::{LONG, NOW, OVER, empty, finished, offer, project, raw, raw_id, session},
};

/// A session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    A,
    B,
    C,
    /// Begins at the end and takes everything.
    Heir,
}

/// One verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Adopt(Who, usize),
    /// Reads the letters, for a later commit.
    Read(Who, usize),
    Commit(Who, usize, Act),
    /// One commit with a part of each project, which also stops step 0.
    Both(Who),
    Release(Who, usize),
    /// Gives it back for as long as the queue is paused.
    Rest(Who, usize),
    PauseQueue,
    ResumeQueue,
    Park(Who, usize),
    Send(usize),
    Replay(usize),
    /// Submits the third project under one key, with this fingerprint.
    Submit(u8),
    /// Submits it as its own.
    SubmitOwned(Who),
    /// Claims at most so many.
    Claim(Who, u32),
    /// Delivers everything that it has claimed, the later project first.
    Deliver(Who),
    Unclaim(Who),
    Beat(Who),
    /// Declares the session dead, by the beat with which it began.
    Expire(Who),
    Reap,
    End(Who),
    Drain(Who),
}

/// What a commit does beside its fact and its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Plain,
    /// Consumes what was read.
    Consume,
    Offer(&'static [u32]),
    Withdraw(u32),
    Stop(u32),
    Finish,
    /// Consumes and finishes.
    Settle,
}

/// What an owner knows of its project.
#[derive(Clone, Debug)]
pub(super) struct Hand {
    pub(super) epoch: i64,
    last_event: i64,
    writes: i64,
    letters: Letters,
}

#[derive(Debug)]
pub(super) struct Adoption {
    pub(super) project: usize,
    pub(super) who: Who,
    pub(super) epoch: i64,
    pub(super) last_event: i64,
    pub(super) steps: BTreeSet<u32>,
}

/// A commit that counted.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) project: usize,
    pub(super) epoch: i64,
    pub(super) upto: i64,
    pub(super) step: u32,
}

/// What everybody was told, to be compared with what is stored.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) hands: BTreeMap<(Who, usize), Hand>,
    pub(super) adoptions: Vec<Adoption>,
    pub(super) commits: Vec<Done>,
    /// Steps of commits, whether they counted or not.
    steps: u32,
    pub(super) sent: Vec<usize>,
    pub(super) read: Vec<(usize, i64)>,
    pub(super) offered: Vec<(usize, u32)>,
    pub(super) withdrawn: Vec<(usize, u32)>,
    pub(super) grants: Vec<(Who, usize, Claim)>,
    /// Deliveries, and whether they were accepted.
    pub(super) delivered: Vec<(Claim, bool)>,
    pub(super) consumed: Vec<(usize, ClaimOutcome)>,
    pub(super) submitted: Vec<(u8, Submitted)>,
    pub(super) replayed: Vec<usize>,
    /// Projects that were given back to sleep, and in which epoch.
    pub(super) released: Vec<(usize, i64)>,
    /// Those that a paused queue holds, and whether it has gone on.
    pub(super) rested: Vec<(usize, i64)>,
    pub(super) resumed: bool,
    pub(super) parked: Vec<usize>,
    pub(super) finished: Vec<(usize, i64)>,
    pub(super) beaten: Vec<Who>,
    /// Drained and declared dead, in the order in which it was known.
    pub(super) fates: Vec<(Who, &'static str)>,
    pub(super) ended: Vec<Who>,
}

impl Book {
    /// Whether the session has ended, in whatever way.
    pub(super) fn is_gone(&self, who: Who) -> bool {
        self.ended.contains(&who) || self.fates.contains(&(who, "expired"))
    }
}

/// A database for many worlds, and two processes on it.
pub(super) struct Ground {
    pub(super) place: String,
    pub(super) stores: [Store; 2],
}

impl Ground {
    pub(super) async fn new(backend: Backend) -> Self {
        if backend == Backend::Sqlite {
            let store = Store::open_temporary().await.unwrap();
            return Self { place: String::new(), stores: [store.clone(), store] };
        }
        // Nobody pulls the plug here: a commit need not wait for the disk.
        let fast = "options[synchronous_commit]=off&schema=";
        let place = Cluster::shared().fresh().replace("schema=", fast);
        let database = Database::at(backend, place.clone());
        let stores = [database.open().await, database.open().await];
        Self { place, stores }
    }
}

pub(super) struct World {
    pub(super) stores: [Store; 2],
    /// What its sessions serve and its steps need: claims do not cross worlds.
    kind: String,
    pub(super) sessions: BTreeMap<Who, SessionId>,
    /// Two projects in the order of their ids, and one to be submitted.
    pub(super) projects: [NewProject; 3],
    dying: &'static [Who],
    book: Mutex<Book>,
}

impl World {
    /// Who is `dying` has a lease that is over when somebody asks.
    pub(super) async fn new(
        ground: &Ground,
        who: &[Who],
        dying: &'static [Who],
    ) -> Self {
        let mut projects = [project(), project(), project()];
        projects[..2].sort_by_key(|project| project.id);
        let kind = format!("x-{}", projects[2].id);
        let mut world = Self {
            stores: ground.stores.clone(),
            kind,
            sessions: BTreeMap::new(),
            projects,
            dying,
            book: Mutex::default(),
        };
        for project in &world.projects[..2] {
            world.stores[0].submit(Arc::new(project.clone())).await.unwrap();
        }
        for who in who {
            world.begin(*who).await;
        }
        world
    }

    pub(super) async fn begin(&mut self, who: Who) {
        let id = SessionId::fresh();
        let lease = if self.dying.contains(&who) { OVER } else { LONG };
        let session = NewSession { serves: self.serves(), ..session(id, lease) };
        self.stores[0].begin_session(session).await.unwrap();
        self.sessions.insert(who, id);
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(super) fn id(&self, project: usize) -> ProjectId {
        self.projects[project].id
    }

    fn index(&self, id: ProjectId) -> usize {
        self.projects.iter().position(|project| project.id == id).unwrap()
    }

    fn serves(&self) -> Serves {
        Serves { queues: BTreeSet::new(), kinds: BTreeSet::from([self.kind.clone()]) }
    }

    /// Does one verb in a process. Nobody may be chosen to give way: a deadlock is a fault.
    pub(super) async fn act(&self, process: usize, op: Op) {
        let store = &self.stores[process];
        match op {
            Op::Adopt(who, at) => self.adopt(store, who, at).await,
            Op::Read(who, at) => {
                let letters = store.letters(self.id(at)).await.unwrap();
                if let Some(hand) = self.book().hands.get_mut(&(who, at)) {
                    hand.letters = letters;
                }
            }
            Op::Commit(who, at, act) => self.commit(store, who, &[(at, act)]).await,
            Op::Both(who) => {
                self.commit(store, who, &[(0, Act::Stop(0)), (1, Act::Stop(0))]).await;
            }
            Op::Release(who, at) => {
                let Some(epoch) = self.epoch(who, at) else { return };
                let (session, id) = (self.sessions[&who], self.id(at));
                if store.release(session, id, epoch, 0, None).await.unwrap() {
                    self.book().released.push((at, epoch));
                }
            }
            Op::Rest(who, at) => {
                let Some(epoch) = self.epoch(who, at) else { return };
                let (session, id) = (self.sessions[&who], self.id(at));
                let queues = BTreeSet::from([self.kind.clone()]);
                let resting = Resting { project: id, epoch, queues };
                if store.rest(session, vec![resting]).await.unwrap() == [id] {
                    self.book().rested.push((at, epoch));
                }
            }
            Op::PauseQueue => {
                store.hold_queue(self.kind.clone(), true, None, NOW).await.unwrap();
            }
            Op::ResumeQueue => {
                store.hold_queue(self.kind.clone(), false, None, NOW).await.unwrap();
                self.book().resumed = true;
            }
            Op::Park(who, at) => {
                let Some(epoch) = self.epoch(who, at) else { return };
                let (session, id) = (self.sessions[&who], self.id(at));
                store.park(session, id, epoch, "poison", NOW).await.unwrap();
                self.book().parked.push(at);
            }
            Op::Send(at) => {
                store.send(self.id(at), MailKind::Pause, NOW).await.unwrap();
                self.book().sent.push(at);
            }
            Op::Replay(at) => self.replay(store, at).await,
            Op::Submit(fingerprint) => self.submit(store, fingerprint, None).await,
            Op::SubmitOwned(who) => self.submit(store, 1, Some(who)).await,
            Op::Claim(who, most) => {
                let grant = raw_id(SessionId::fresh());
                let (session, serves) = (self.sessions[&who], self.serves());
                let claims =
                    store.claim(session, &serves, most, grant, NOW).await.unwrap();
                let grants = claims.into_iter();
                let grants = grants.map(|it| (who, self.index(it.project), it));
                self.book().grants.extend(grants);
            }
            Op::Deliver(who) => self.deliver(store, who).await,
            Op::Unclaim(who) => {
                let first = self.held(who).into_iter().next();
                if let Some(claim) = first {
                    store.unclaim(claim.id).await.unwrap();
                }
            }
            Op::Beat(who) => {
                let beat = Some(Beat::default());
                if store.beat(self.sessions[&who], beat).await.unwrap().alive {
                    self.book().beaten.push(who);
                }
            }
            Op::Expire(who) => {
                if store.expire(self.sessions[&who], 0, false).await.unwrap() {
                    assert!(self.dying.contains(&who), "{who:?} has time left");
                    self.book().fates.push((who, "expired"));
                }
            }
            Op::Reap => {
                store.reap().await.unwrap();
            }
            Op::End(who) => {
                store.end_session(self.sessions[&who]).await.unwrap();
                self.book().ended.push(who);
            }
            Op::Drain(who) => {
                store.drain_session(self.sessions[&who]).await.unwrap();
                self.book().fates.push((who, "drained"));
            }
        }
    }

    fn epoch(&self, who: Who, at: usize) -> Option<i64> {
        self.book().hands.get(&(who, at)).map(|hand| hand.epoch)
    }

    /// What a session has claimed, the later project first.
    fn held(&self, who: Who) -> Vec<Claim> {
        let book = self.book();
        let own = book.grants.iter().filter(|(owner, ..)| *owner == who);
        let mut claims: Vec<Claim> = own.map(|(.., claim)| *claim).collect();
        claims.sort_by_key(|claim| std::cmp::Reverse((claim.project, claim.no)));
        claims
    }

    async fn adopt(&self, store: &Store, who: Who, at: usize) {
        let adopted = store.adopt(self.sessions[&who], self.id(at)).await.unwrap();
        let Some(adopted) = adopted else { return };
        let row = &adopted.project.row;
        let mut book = self.book();
        let hand = Hand {
            epoch: row.epoch,
            last_event: row.last_event,
            writes: row.writes,
            letters: adopted.letters,
        };
        book.hands.insert((who, at), hand);
        book.adoptions.push(Adoption {
            project: at,
            who,
            epoch: row.epoch,
            last_event: row.last_event,
            steps: adopted.project.facts.iter().map(|fact| fact.no).collect(),
        });
    }

    async fn deliver(&self, store: &Store, who: Who) {
        let claims = self.held(who);
        let deliveries = claims.iter().map(|claim| {
            (*claim, Delivery::Succeeded(raw(&format!("\"{}\"", claim.id))))
        });
        let lost = store.deliver(Arc::new(deliveries.collect())).await.unwrap();
        let told = claims.into_iter().map(|claim| (claim, !lost.contains(&claim)));
        self.book().delivered.extend(told);
    }

    async fn replay(&self, store: &Store, at: usize) {
        let row = store.row(self.id(at)).await.unwrap().unwrap();
        let replay = Replay {
            seeds: BTreeSet::new(),
            set_back: SetBack::default(),
            anew: vec![],
            gone: vec![],
            counts: BTreeMap::new(),
            ..Replay::default()
        };
        let replay = Reopening { replay, ..Reopening::default() };
        let guard = (row.plan_hash, row.last_event);
        if store.replay(self.id(at), guard, replay, NOW).await.unwrap() {
            self.book().replayed.push(at);
        }
    }

    async fn submit(&self, store: &Store, fingerprint: u8, owner: Option<Who>) {
        let project = NewProject {
            fingerprint: [fingerprint; 32],
            owner: owner.map(|who| self.sessions[&who]),
            kinds: vec![],
            author: None,
            ..self.projects[2].clone()
        };
        let submitted = store.submit(Arc::new(project)).await.unwrap();
        let mut book = self.book();
        book.submitted.push((fingerprint, submitted));
        if let (Submitted::Born, Some(who)) = (submitted, owner) {
            // Its adoption is part of its submission.
            let steps = BTreeSet::new();
            let born = Adoption { project: 2, who, epoch: 1, last_event: 1, steps };
            book.adoptions.push(born);
        }
    }

    /// Commits a part for each project of which the session knows an epoch.
    async fn commit(&self, store: &Store, who: Who, acts: &[(usize, Act)]) {
        let parts: Vec<(usize, Act, u32, Part, Letters)> = {
            let mut book = self.book();
            let hands = acts.iter().filter_map(|(at, act)| {
                Some((*at, *act, book.hands.get(&(who, *at))?.clone()))
            });
            let hands: Vec<_> = hands.collect();
            let parts = hands.into_iter().map(|(at, act, hand)| {
                book.steps += 1;
                let step = 100 + book.steps;
                let part = self.part(who, at, act, step, &hand);
                (at, act, step, part, hand.letters)
            });
            parts.collect()
        };
        let sent = parts.iter().map(|(.., part, _)| part.clone()).collect();
        let committed = store.commit(Arc::new(sent), vec![]).await.unwrap();
        let mut book = self.book();
        for (at, act, step, part, letters) in parts {
            if committed.lost.contains(&part.project) {
                continue;
            }
            let (epoch, upto) = (part.epoch, part.upto());
            book.commits.push(Done { project: at, epoch, upto, step });
            book.offered.extend(part.offers.iter().map(|offer| (at, offer.no)));
            let hand = book.hands.get_mut(&(who, at)).unwrap();
            hand.last_event = upto;
            hand.writes += 1;
            if matches!(act, Act::Consume | Act::Settle) {
                hand.letters = Letters::default();
                book.read.extend(part.mail.iter().map(|id| (at, *id)));
                book.consumed.extend(letters.outcomes.into_iter().map(|it| (at, it)));
            }
            if part.header.finished_at.is_some() {
                book.finished.push((at, epoch));
            }
        }
        let withdrawn = committed.withdrawn.into_iter();
        book.withdrawn.extend(withdrawn.map(|(id, no)| (self.index(id), no)));
    }

    fn part(&self, who: Who, at: usize, act: Act, step: u32, hand: &Hand) -> Part {
        let fact = Fact {
            state: StepState::Succeeded,
            attempt: 1,
            output: Some(raw("1")),
            ..Fact::set_back(step, 1, NOW)
        };
        let record = Record {
            at: NOW,
            kind: RecordKind::StepSucceeded,
            no: Some(step),
            attempt: 1,
            error: None,
            until: None,
            progress: None,
        };
        let part = Part {
            from: hand.last_event,
            writes: hand.writes,
            facts: vec![fact],
            // The others are written with everything a commit may hold.
            inserts: usize::from(matches!(act, Act::Plain)),
            records: vec![record],
            ..empty(self.id(at), self.sessions[&who], hand.epoch)
        };
        let consume = |part| Part {
            mail: hand.letters.mail.iter().map(|it| it.id).collect(),
            consumed: hand.letters.outcomes.iter().map(consumed).collect(),
            ..part
        };
        match act {
            Act::Plain => part,
            Act::Consume => consume(part),
            Act::Settle => finished(consume(part)),
            Act::Finish => finished(part),
            Act::Offer(steps) => {
                let own = |no| Offer { kind: self.kind.clone(), ..offer(no) };
                Part { offers: steps.iter().copied().map(own).collect(), ..part }
            }
            Act::Withdraw(no) => Part { withdraw: vec![no], ..part },
            Act::Stop(no) => Part { stop: vec![no], ..part },
        }
    }
}

fn consumed(outcome: &ClaimOutcome) -> Consumed {
    Consumed {
        no: outcome.no,
        generation: outcome.generation,
        attempt: outcome.attempt,
    }
}
