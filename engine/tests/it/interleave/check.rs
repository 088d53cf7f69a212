//! What must hold after every order: the book of what was told agrees with what is stored,
//! and whoever comes later finds everything.

use std::collections::BTreeSet;

use dandori::store::{Delivery, Submitted};

use super::world::{Act, Op, Who, World};
use crate::fixture::raw_id;

impl World {
    /// Compares the book with the database. `exact` when the verbs came one after another.
    pub(super) async fn check(&self, said: &str, exact: bool) {
        self.check_histories(said);
        self.check_submissions(said);
        self.check_claims(said, exact);
        for at in 0..3 {
            self.check_project(said, at).await;
        }
    }

    /// Lets everybody go and a new session take what is there: nothing is left then, and
    /// everything was counted once.
    pub(super) async fn settle(&mut self, said: &str, exact: bool) {
        let store = self.stores[0].clone();
        store.reap().await.unwrap();
        self.check(&format!("{said}, reaped"), exact).await;
        let all: Vec<Who> = self.sessions.keys().copied().collect();
        for who in all.into_iter().filter(|who| !self.book().is_gone(*who)) {
            if store.is_shared() {
                self.act(0, Op::End(who)).await;
            } else {
                self.book().ended.push(who);
            }
        }
        self.begin(Who::Heir).await;
        self.check(&format!("{said}, all gone"), exact).await;
        for at in 0..3 {
            if store.row(self.id(at)).await.unwrap().is_none() {
                continue;
            }
            let before = self.book().commits.len();
            self.act(0, Op::Adopt(Who::Heir, at)).await;
            self.act(0, Op::Commit(Who::Heir, at, Act::Settle)).await;
            let held = self.book().commits.len() > before;
            assert!(held, "{said}: the heir could not take project {at}");
            let row = store.row(self.id(at)).await.unwrap().unwrap();
            assert_eq!((row.mail, row.session), (0, None), "{said}: project {at}");
        }
        self.check(&format!("{said}, settled"), exact).await;
        self.check_accounts(said);
        self.act(0, Op::End(Who::Heir)).await;
    }

    /// Owners follow each other, and none sees or writes what is not its own.
    fn check_histories(&self, said: &str) {
        let book = self.book();
        for at in 0..3 {
            let mut owners: Vec<_> =
                book.adoptions.iter().filter(|it| it.project == at).collect();
            owners.sort_by_key(|it| it.epoch);
            for pair in owners.windows(2) {
                let [old, new] = pair else { continue };
                assert!(old.epoch < new.epoch, "{said}: two owners in one epoch");
                let left = book.is_gone(old.who)
                    || old.who == new.who
                    || book.released.contains(&(at, old.epoch))
                    || book.rested.contains(&(at, old.epoch))
                    || book.finished.contains(&(at, old.epoch))
                    || book.parked.contains(&at)
                    || book.replayed.contains(&at);
                assert!(left, "{said}: {new:?} took what {old:?} owns");
            }
            for owner in owners {
                for commit in book.commits.iter().filter(|it| it.project == at) {
                    let seen = commit.upto <= owner.last_event;
                    let earlier = commit.epoch < owner.epoch;
                    assert_eq!(seen, earlier, "{said}: {commit:?} around {owner:?}");
                    let read = owner.steps.contains(&commit.step);
                    assert_eq!(read, earlier, "{said}: {owner:?} read {commit:?}");
                }
            }
        }
        for (who, fate) in &book.fates {
            let beaten = book.beaten.contains(who);
            assert!(!(*fate == "expired" && beaten), "{said}: {who:?} was alive");
        }
    }

    /// One submission counts, and the others are told what it was.
    fn check_submissions(&self, said: &str) {
        let book = self.book();
        let told = &book.submitted;
        let is_new = |it: &Submitted| matches!(it, Submitted::New | Submitted::Born);
        let Some((counted, _)) = told.iter().find(|(_, it)| is_new(it)) else {
            return assert!(told.is_empty(), "{said}: {told:?}");
        };
        let new = told.iter().filter(|(_, it)| is_new(it)).count();
        assert_eq!(new, 1, "{said}: {told:?}");
        for (fingerprint, submitted) in told {
            let expected = match fingerprint == counted {
                true => Submitted::Existing,
                false => Submitted::Conflict,
            };
            assert!(is_new(submitted) || expected == *submitted, "{said}: {told:?}");
        }
    }

    /// No step runs in two places, and who is charged with a lost one deserves it.
    fn check_claims(&self, said: &str, exact: bool) {
        let book = self.book();
        let granted: Vec<(usize, u32)> =
            book.grants.iter().map(|(_, at, claim)| (*at, claim.no)).collect();
        let once: BTreeSet<_> = granted.iter().collect();
        assert_eq!(once.len(), granted.len(), "{said}: granted twice: {granted:?}");
        for taken in &book.withdrawn {
            assert!(!granted.contains(taken), "{said}: {taken:?} runs in two places");
        }
        for (at, outcome) in &book.consumed {
            let grant = book
                .grants
                .iter()
                .find(|(_, own, it)| own == at && it.no == outcome.no);
            let Some((who, _, claim)) = grant else {
                panic!("{said}: nobody ran {outcome:?}")
            };
            let accepted = book.delivered.contains(&(*claim, true));
            match &outcome.delivery {
                Some(Delivery::Succeeded(output)) => {
                    let own = output.get() == format!("\"{}\"", claim.id);
                    assert!(own && accepted, "{said}: {outcome:?}");
                }
                other => assert!(other.is_none() && !accepted, "{said}: {outcome:?}"),
            }
            let fates = book.fates.iter().filter(|(own, _)| own == who);
            let fates: Vec<&str> = fates.map(|(_, fate)| *fate).collect();
            let crashed = fates.first() == Some(&"expired");
            if outcome.delivery.is_none() && exact {
                let excused = book.ended.contains(who);
                let right = outcome.charged == crashed || (crashed && excused);
                assert!(right, "{said}: {outcome:?}, {who:?}: {fates:?}");
            }
        }
    }

    async fn check_project(&self, said: &str, at: usize) {
        let (store, id) = (&self.stores[0], self.id(at));
        let Some(stored) = store.project(id).await.unwrap() else { return };
        let row = &stored.row;
        let letters = store.letters(id).await.unwrap();
        let sessions = store.sessions().await.unwrap();
        let watcher = dandori::SessionId::fresh();
        let adoptable = store.look(watcher).await.unwrap().adoptable;
        let woken = adoptable.iter().any(|it| it.project == id);
        let events = store.events(id, 0, 1_000).await.unwrap();
        let book = self.book();
        let said = format!("{said}: project {at}");

        let unread = letters.mail.len() + letters.outcomes.len();
        assert_eq!(row.mail, i64::try_from(unread).unwrap(), "{said}: the counter");
        let read = book.read.iter().filter(|(own, _)| *own == at).count();
        let sent = book.sent.iter().filter(|own| **own == at).count();
        let known = letters.mail.len() + read;
        match book.replayed.contains(&at) {
            // What was unread then came too late.
            true => assert!(known <= sent, "{said}: mail"),
            false => assert_eq!(known, sent, "{said}: mail"),
        }

        let numbers: Vec<i64> = events.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=row.last_event).collect::<Vec<_>>(), "{said}: events");
        let commits = book.commits.iter().filter(|it| it.project == at);
        let steps: BTreeSet<u32> = commits.map(|it| it.step).collect();
        let facts: BTreeSet<u32> = stored.facts.iter().map(|fact| fact.no).collect();
        assert_eq!(facts, steps, "{said}: facts");

        let exists = |id: Option<uuid::Uuid>| {
            sessions.iter().any(|session| Some(raw_id(session.id)) == id)
        };
        assert!(
            row.session.is_none() || exists(row.session),
            "{said}: its owner is gone"
        );
        let adoptions = book.adoptions.iter().filter(|it| it.project == at);
        let owner = adoptions.max_by_key(|it| it.epoch);
        let epoch = owner.map_or(0, |owner| owner.epoch);
        assert_eq!(row.epoch, epoch, "{said}: the epoch");
        let parked = book.parked.contains(&at);
        let rested = book.rested.contains(&(at, epoch));
        let held = rested && !book.resumed;
        let asleep = book.released.contains(&(at, epoch)) || parked || held;
        let over = book.finished.contains(&(at, epoch));
        let again = book.replayed.contains(&at);
        if let Some(owner) = owner
            && !(book.is_gone(owner.who) || asleep || rested || over || again)
        {
            let session = Some(raw_id(self.sessions[&owner.who]));
            assert_eq!(row.session, session, "{said}: {owner:?} owns it");
        }
        if row.session.is_none() {
            let waits = !row.state.is_terminal() && !asleep;
            // One that was parked stays so until another message comes.
            let called = row.mail > 0 && !parked;
            assert!(woken || !(waits || called), "{said}: a wake-up is lost");
        }

        for claim in stored.claims.iter().filter(|it| it.claimed_at.is_some()) {
            let over = letters.outcomes.iter().any(|it| it.no == claim.no);
            assert!(over || exists(claim.session), "{said}: {claim:?} is nobody's");
        }
        for no in book.offered.iter().filter(|(own, _)| *own == at).map(|(_, no)| no) {
            let stored = stored.claims.iter().filter(|it| it.no == *no).count();
            let taken = book.withdrawn.iter().filter(|it| **it == (at, *no)).count();
            let read = book.consumed.iter();
            let read = read.filter(|(own, it)| *own == at && it.no == *no).count();
            let times = stored + taken + read;
            assert!(times == 1 || (again && times == 0), "{said}: step {no}: {times}");
        }
    }

    /// Every grant ended once, every message was read once.
    fn check_accounts(&self, said: &str) {
        let book = self.book();
        for (who, at, claim) in &book.grants {
            let read = book.consumed.iter();
            let read = read.filter(|(own, it)| own == at && it.no == claim.no).count();
            let dropped = book.replayed.contains(at) && read == 0;
            assert!(read == 1 || dropped, "{said}: {who:?} ran {claim:?}: {read} ends");
            let told = book.delivered.iter();
            let accepted = told.filter(|it| **it == (*claim, true)).count();
            assert!(accepted <= 1, "{said}: {claim:?} was accepted twice");
        }
        let once: BTreeSet<_> = book.read.iter().collect();
        assert_eq!(once.len(), book.read.len(), "{said}: a message was read twice");
    }
}
