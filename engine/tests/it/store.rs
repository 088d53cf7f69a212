//! The store's promises, the same on every database: fences, the event number, sessions
//! and their leases, claims, mail, outputs.

use std::{collections::BTreeMap, sync::Arc};

use dandori::{
    ProjectId, SessionId, StepError, Timestamp,
    run::{ProjectState, StepState, WaitReason},
    store::{
        Beat, Claim, Consumed, Delivery, HeldClaim, ListFilter, LogLine, MailKind,
        NewProject, Offer, Part, Reference, Store, Submitted,
    },
};

use crate::backend::{Backend, Database, fresh, on_both};
pub(crate) use crate::fixture::*;

async fn output(store: &Store, id: ProjectId, no: u32) -> Option<String> {
    let outputs = store.outputs_within(id, &[no], usize::MAX).await.unwrap().unwrap();
    outputs[0].as_ref().map(|output| output.get().to_owned())
}

on_both! {
    async fn the_same_submission_is_recorded_once(backend) {
        let store = fresh(backend).await;
        let project = project();
        let submit = async |project| store.submit(Arc::new(project)).await.unwrap();
        assert_eq!(submit(project.clone()).await, Submitted::New);
        assert_eq!(submit(project.clone()).await, Submitted::Existing);
        let other = NewProject { fingerprint: [2; 32], ..project };
        assert_eq!(submit(other).await, Submitted::Conflict);
    }

    async fn submissions_that_come_together_are_each_answered_as_if_alone(backend) {
        let store = fresh(backend).await;
        let (one, two) = (project(), project());
        let other = NewProject { fingerprint: [2; 32], ..one.clone() };
        let all = (0..30).map(|at| match at % 3 {
            0 => one.clone(),
            1 => two.clone(),
            _ => other.clone(),
        });
        let told = all.map(|project| {
            let (store, what) = (store.clone(), (project.id, project.fingerprint));
            tokio::spawn(async move { (what, store.submit(Arc::new(project)).await.unwrap()) })
        });
        let mut counts = BTreeMap::new();
        for told in told.collect::<Vec<_>>() {
            let ((id, _), submitted) = told.await.unwrap();
            *counts.entry((id == one.id, format!("{submitted:?}"))).or_insert(0) += 1;
        }
        let count = |first: bool, told: &str| {
            counts.get(&(first, told.to_owned())).copied().unwrap_or(0)
        };
        assert_eq!((count(true, "New"), count(false, "New")), (1, 1), "{counts:?}");
        assert_eq!((count(true, "Existing"), count(true, "Conflict")), (9, 10), "{counts:?}");
        assert_eq!(count(false, "Existing"), 9, "{counts:?}");
    }

    async fn only_the_owner_of_this_epoch_writes(backend) {
        let (store, session, _, _) = owned(backend).await;
        for shape in Shape::ALL {
            let id = submit(&store).await;
            let epoch = adopt(&store, session, id).await;
            let lost = async |part: Part| {
                let mut parts = vec![part];
                if let Shape::Many = shape {
                    let other = submit(&store).await;
                    let epoch = adopt(&store, session, other).await;
                    parts.push(empty(other, parts[0].session, epoch));
                }
                let lost = store.commit(Arc::new(parts), vec![]).await.unwrap().lost;
                lost.into_iter().filter(|lost| *lost == id).collect::<Vec<_>>()
            };
            let part = |session, epoch| shaped(shape, part(id, session, epoch, "1"));
            let stranger = part(SessionId::fresh(), epoch);
            assert_eq!(lost(stranger).await, [id], "{shape:?}: another session");
            let old = part(session, epoch - 1);
            assert_eq!(lost(old).await, [id], "{shape:?}: an older epoch");
            let late = Part { from: 0, ..part(session, epoch) };
            assert_eq!(lost(late).await, [id], "{shape:?}: a number that was passed");
            let facts = async || store.project(id).await.unwrap().unwrap().facts.len();
            assert_eq!(facts().await, 0, "{shape:?}: nothing was written");
            let events = async || store.events(id, 1, 9).await.unwrap().len();
            assert_eq!(events().await, 0, "{shape:?}: nothing was written");
            let good = part(session, epoch);
            let count = good.facts.len();
            assert!(lost(good).await.is_empty());
            assert_eq!((facts().await, events().await), (count, 1), "{shape:?}");
            let step = output(&store, id, 0).await;
            assert_eq!(step.as_deref(), Some("1"), "{shape:?}");
            let whole = store.project(id).await.unwrap().unwrap().output;
            let ends = matches!(shape, Shape::Last | Shape::First | Shape::Many);
            assert_eq!(whole.map(|it| it.to_string()), ends.then(|| "2".into()), "{shape:?}");
        }
    }

    async fn the_same_part_is_written_once_also_without_events(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        store.send(id, MailKind::Pause, NOW).await.unwrap();
        let mail = store.letters(id).await.unwrap().mail;
        let read = Part { mail: vec![mail[0].id], ..empty(id, session, epoch) };
        let parts = Arc::new(vec![read]);
        let commit = async || store.commit(Arc::clone(&parts), vec![]).await.unwrap();
        assert_eq!(commit().await.mail, [(id, 0)]);
        assert_eq!(commit().await.lost, [id]);
        let row = store.row(id).await.unwrap().unwrap();
        assert_eq!((row.mail, row.writes), (0, 1));
    }

    async fn a_lost_project_harms_no_other_in_the_commit(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        let lost = part(ProjectId::fresh(), session, 1, "1");
        let name = lost.project;
        let parts = Arc::new(vec![lost, part(id, session, epoch, "2")]);
        assert_eq!(store.commit(parts, vec![]).await.unwrap().lost, [name]);
        assert_eq!(output(&store, id, 0).await.as_deref(), Some("2"));
    }

    async fn a_project_has_one_owner_at_a_time(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        let other = match store.is_shared() {
            true => begin(&store, LONG).await,
            false => SessionId::fresh(),
        };
        assert!(store.adopt(other, id).await.unwrap().is_none(), "it is taken");
        assert!(store.release(session, id, epoch, 0, Some(Timestamp::EPOCH)).await.unwrap());
        let stranger = SessionId::fresh();
        let taken = store.adopt(stranger, id).await.unwrap();
        assert!(taken.is_none(), "a session that never began takes nothing");
        let again = adopt(&store, session, id).await;
        assert!(again > epoch, "every change of hands raises the epoch");
        assert_eq!(commit(&store, part(id, session, epoch, "1")).await.lost, [id]);
    }

    async fn a_project_with_unread_mail_is_not_given_back(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        store.send(id, MailKind::Pause, NOW).await.unwrap();
        let release = async || store.release(session, id, epoch, 0, None).await.unwrap();
        assert!(!release().await, "the wake-up is not lost");
        assert_eq!(store.look(session).await.unwrap().own, [(id, 1)]);
        let mail = store.letters(id).await.unwrap().mail;
        let read = Part { mail: vec![mail[0].id], ..part(id, session, epoch, "1") };
        assert_eq!(commit(&store, read).await.mail, [(id, 0)]);
        assert!(store.letters(id).await.unwrap().mail.is_empty());
        assert!(release().await);
        assert!(store.look(session).await.unwrap().adoptable.is_empty(), "it sleeps");
    }

    async fn a_message_wakes_a_project_without_an_owner(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        assert!(store.release(session, id, epoch, 0, None).await.unwrap());
        store.send(id, MailKind::Cancel, NOW).await.unwrap();
        let adoptable = store.look(session).await.unwrap().adoptable;
        assert_eq!(adoptable.len(), 1);
        assert_eq!((adoptable[0].project, adoptable[0].mail), (id, 1));
        let adopted = store.adopt(session, id).await.unwrap().unwrap();
        assert_eq!(adopted.letters.mail.len(), 1);
    }

    async fn a_timer_wakes_a_project_by_the_clock_of_the_database(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        let now = store.look(session).await.unwrap().now;
        let later = now.plus(LONG);
        assert!(store.release(session, id, epoch, 0, Some(later)).await.unwrap());
        assert!(store.look(session).await.unwrap().adoptable.is_empty());
        let epoch = adopt(&store, session, id).await;
        assert!(store.release(session, id, epoch, 0, Some(now)).await.unwrap());
        assert_eq!(store.look(session).await.unwrap().adoptable.len(), 1);
    }

    async fn an_ended_project_has_no_owner_and_answers_late_mail(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        commit(&store, finished(part(id, session, epoch, "1"))).await;
        let row = store.row(id).await.unwrap().unwrap();
        assert_eq!((row.session, row.state), (None, ProjectState::Succeeded));
        assert!(store.look(session).await.unwrap().adoptable.is_empty());
        store.send(id, MailKind::Cancel, NOW).await.unwrap();
        assert_eq!(store.look(session).await.unwrap().adoptable.len(), 1);
    }

    async fn urgent_projects_are_offered_first(backend) {
        let store = fresh(backend).await;
        let session = begin(&store, LONG).await;
        let mut ids = vec![];
        for priority in [0, 9, 3] {
            let project = NewProject { priority, ..project() };
            ids.push(project.id);
            store.submit(Arc::new(project)).await.unwrap();
        }
        let adoptable = store.look(session).await.unwrap().adoptable;
        let order: Vec<i32> = adoptable.iter().map(|it| it.priority).collect();
        assert_eq!(order, [9, 3, 0]);
    }

    async fn a_submission_may_be_born_owned(backend) {
        let store = fresh(backend).await;
        let session = begin(&store, LONG).await;
        let born = NewProject { owner: Some(session), ..project() };
        let orphan = NewProject { owner: Some(SessionId::fresh()), ..project() };
        let (id, other) = (born.id, orphan.id);
        store.submit(Arc::new(born)).await.unwrap();
        store.submit(Arc::new(orphan)).await.unwrap();
        let adoptable = store.look(session).await.unwrap().adoptable;
        let adoptable: Vec<ProjectId> = adoptable.iter().map(|it| it.project).collect();
        assert_eq!(adoptable, [other], "an owner that does not live owns nothing");
        assert!(store.adopt(session, id).await.unwrap().is_some());
    }

    async fn a_beat_extends_the_lease_and_tells_what_there_is(backend) {
        let (store, session, id, _) = owned(backend).await;
        let waiting = submit(&store).await;
        store.send(id, MailKind::Pause, NOW).await.unwrap();
        let pulse = store.beat(session, Some(Beat { busy: 1, hungry: 2, ..Beat::default() })).await.unwrap();
        assert!(pulse.alive && pulse.now > NOW);
        assert_eq!(pulse.own, [(id, 1)]);
        assert_eq!(pulse.adoptable[0].project, waiting);
        let rows = store.sessions().await.unwrap();
        assert_eq!((rows.len(), rows[0].busy, rows[0].projects), (1, 1, 1));
        assert!(rows[0].lease_left > 0);
        let stranger = store.beat(SessionId::fresh(), Some(Beat::default())).await.unwrap();
        assert!(!stranger.alive, "who never began, or was declared dead, hears it");
    }

    async fn who_beats_is_not_declared_dead(backend) {
        let store = fresh(backend).await;
        let dead = begin(&store, OVER).await;
        let id = submit(&store).await;
        adopt(&store, dead, id).await;
        if !store.is_shared() {
            // One process alone: whoever begins holds the lock, and the others are dead.
            let heir = begin(&store, LONG).await;
            assert!(store.adopt(heir, id).await.unwrap().is_some());
            return;
        }
        let watcher = begin(&store, LONG).await;
        let late = store.look(watcher).await.unwrap().late;
        assert_eq!(late[0].id, dead);
        store.beat(dead, Some(Beat::default())).await.unwrap();
        assert!(!store.expire(dead, late[0].beat, false).await.unwrap(), "it has beaten");
        assert!(!store.expire(watcher, 0, false).await.unwrap(), "its lease is not over");
        assert!(bury(&store, watcher, dead).await);
        let adoptable = store.look(watcher).await.unwrap().adoptable;
        assert_eq!(adoptable.iter().map(|it| it.project).collect::<Vec<_>>(), [id]);
        assert!(!store.beat(dead, Some(Beat::default())).await.unwrap().alive);
        assert!(store.adopt(dead, id).await.unwrap().is_none(), "the dead take nothing");
        assert!(store.adopt(watcher, id).await.unwrap().is_some());
    }

    async fn a_death_is_charged_and_a_graceful_end_is_not(backend) {
        if backend == Backend::Sqlite {
            return sqlite_charges_by_the_state_of_the_session().await;
        }
        let store = fresh(backend).await;
        let watcher = begin(&store, LONG).await;
        for (drains, charged) in [(false, true), (true, false)] {
            let dead = begin(&store, OVER).await;
            let id = submit(&store).await;
            let epoch = adopt(&store, dead, id).await;
            commit(&store, part(id, dead, epoch, "1")).await;
            if drains {
                store.drain_session(dead).await.unwrap();
            }
            assert!(bury(&store, watcher, dead).await);
            let adopted = store.adopt(watcher, id).await.unwrap().unwrap();
            assert_eq!(adopted.project.row.charged, charged, "drains: {drains}");
        }
        let (leaver, id) = (begin(&store, LONG).await, submit(&store).await);
        let epoch = adopt(&store, leaver, id).await;
        commit(&store, part(id, leaver, epoch, "1")).await;
        store.end_session(leaver).await.unwrap();
        let adopted = store.adopt(watcher, id).await.unwrap().unwrap();
        assert!(!adopted.project.row.charged);
    }

    async fn what_an_owner_charged_stands_when_it_dies_before_its_first_commit(backend) {
        let store = fresh(backend).await;
        if !store.is_shared() {
            return;
        }
        let watcher = begin(&store, LONG).await;
        let id = submit(&store).await;
        let dead = begin(&store, OVER).await;
        let epoch = adopt(&store, dead, id).await;
        commit(&store, part(id, dead, epoch, "1")).await;
        bury(&store, watcher, dead).await;
        // It takes the project, and drains before it has settled what the dead one left.
        let brief = begin(&store, OVER).await;
        adopt(&store, brief, id).await;
        store.drain_session(brief).await.unwrap();
        bury(&store, watcher, brief).await;
        let adopted = store.adopt(watcher, id).await.unwrap().unwrap();
        assert!(adopted.project.row.charged);
        assert_eq!(adopted.project.row.loads, 2, "two were brought down or were brief");
    }

    async fn an_offer_is_claimed_once_and_its_outcome_waits_for_the_owner(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        let offers = vec![offer(0), Offer { kind: "y".to_owned(), ..offer(1) }];
        commit(&store, Part { offers, ..empty(id, session, epoch) }).await;
        assert!(claim(&store, session, 9).await.is_empty(), "an owner takes offers back");
        if !store.is_shared() {
            return;
        }
        let guest = begin(&store, LONG).await;
        let pulse = store.look(guest).await.unwrap();
        assert_eq!(pulse.offers.iter().map(|(.., count)| count).sum::<u32>(), 2);
        let none = claim(&store, SessionId::fresh(), 9).await;
        assert!(none.is_empty(), "who does not live claims nothing");
        let claims = claim(&store, guest, 9).await;
        assert_eq!(claims.iter().map(|it| it.no).collect::<Vec<_>>(), [0], "its kind only");
        assert!(claim(&store, guest, 9).await.is_empty());
        let stored = store.project(id).await.unwrap().unwrap();
        assert_eq!(stored.claims[0].session, Some(raw_id(guest)));
        let forged = Claim { id: raw_id(SessionId::fresh()), ..claims[0] };
        assert_eq!(deliver(&store, forged, "1").await, [forged], "the grant is the fence");
        assert_eq!(store.row(id).await.unwrap().unwrap().mail, 0, "nobody is told");
        assert!(deliver(&store, claims[0], r#"{"n":1}"#).await.is_empty());
        assert_eq!(deliver(&store, claims[0], "2").await, [claims[0]], "once");
        assert_eq!(store.row(id).await.unwrap().unwrap().mail, 1);
        assert!(!store.release(session, id, epoch, 0, None).await.unwrap());
        let outcomes = store.letters(id).await.unwrap().outcomes;
        let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        let Some(Delivery::Succeeded(output)) = &outcome.delivery else {
            panic!("{outcome:?}")
        };
        assert_eq!((output.get(), outcome.claimed_at), (r#"{"n":1}"#, NOW));
        let consumed = vec![Consumed { no: 0, generation: 1, attempt: 1 }];
        let read = Part { consumed, ..part(id, session, epoch, "1") };
        assert_eq!(commit(&store, read).await.mail, [(id, 0)]);
        assert!(store.letters(id).await.unwrap().outcomes.is_empty());
    }

    async fn an_offer_is_taken_back_unless_somebody_was_quicker(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        let offers = vec![offer(0), offer(1)];
        commit(&store, Part { offers, ..empty(id, session, epoch) }).await;
        let mut expected = vec![(id, 0), (id, 1)];
        if store.is_shared() {
            let guest = begin(&store, LONG).await;
            let taken = claim(&store, guest, 1).await[0].no;
            expected.retain(|(_, no)| *no != taken);
        }
        let withdraw = Part { withdraw: vec![0, 1], ..empty(id, session, epoch) };
        let committed = commit(&store, withdraw).await;
        assert_eq!(committed.withdrawn, expected);
    }

    async fn a_stop_reaches_the_worker_that_runs_the_step(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        if !store.is_shared() {
            return;
        }
        commit(&store, Part { offers: vec![offer(1)], ..empty(id, session, epoch) }).await;
        let guest = begin(&store, LONG).await;
        let claims = claim(&store, guest, 1).await;
        let held = |stop| {
            let Claim { project, no, attempt, id, .. } = claims[0];
            [HeldClaim { project, no, attempt, id, stop }]
        };
        assert_eq!(store.look(guest).await.unwrap().claims, held(false));
        commit(&store, Part { stop: vec![1], ..empty(id, session, epoch) }).await;
        let heard = store.beat(guest, Some(Beat::default())).await.unwrap();
        assert_eq!(heard.claims, held(true));
    }

    async fn a_claim_survives_its_owner_and_is_lost_with_its_worker(backend) {
        let store = fresh(backend).await;
        if !store.is_shared() {
            return;
        }
        let (heir, guest) = (begin(&store, LONG).await, begin(&store, OVER).await);
        let owner = begin(&store, OVER).await;
        let id = submit(&store).await;
        let epoch = adopt(&store, owner, id).await;
        let offers = vec![offer(0), offer(1)];
        commit(&store, Part { offers, ..empty(id, owner, epoch) }).await;
        let claims = claim(&store, guest, 2).await;
        bury(&store, heir, owner).await;
        let adopted = store.adopt(heir, id).await.unwrap().unwrap();
        assert_eq!(adopted.project.claims.len(), 2, "what runs elsewhere goes on");
        assert!(deliver(&store, claims[0], "1").await.is_empty());
        bury(&store, heir, guest).await;
        assert_eq!(deliver(&store, claims[1], "2").await, [claims[1]], "too late");
        let outcomes = store.letters(id).await.unwrap().outcomes;
        assert_eq!(outcomes.len(), 2);
        assert!(outcomes[0].delivery.is_some());
        assert!(outcomes[1].delivery.is_none() && outcomes[1].charged);
        assert_eq!(store.row(id).await.unwrap().unwrap().mail, 2);
    }

    async fn what_a_lost_answer_claimed_is_given_back(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        if !store.is_shared() {
            return;
        }
        commit(&store, Part { offers: vec![offer(0)], ..empty(id, session, epoch) }).await;
        let guest = begin(&store, LONG).await;
        let claims = claim(&store, guest, 1).await;
        store.unclaim(claims[0].id).await.unwrap();
        assert_eq!(deliver(&store, claims[0], "1").await, [claims[0]]);
        let outcomes = store.letters(id).await.unwrap().outcomes;
        assert!(outcomes[0].delivery.is_none() && !outcomes[0].charged);
    }

    async fn every_kind_of_outcome_comes_through(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        if !store.is_shared() {
            return;
        }
        let guest = begin(&store, LONG).await;
        let error = StepError::fail("code", "with a \0 in it").retry_after(LONG);
        let until = Timestamp::from_micros(77);
        let kinds = [
            Delivery::Succeeded(raw("null")),
            Delivery::Deferred { until, output: raw("[1.50]") },
            Delivery::ConditionFalse,
            Delivery::Lost,
            Delivery::Failed(error),
        ];
        for delivery in kinds {
            let offers = vec![offer(0)];
            commit(&store, Part { offers, ..empty(id, session, epoch) }).await;
            let claims = claim(&store, guest, 1).await;
            let said = format!("{delivery:?}");
            store.deliver(Arc::new(vec![(claims[0], delivery)])).await.unwrap();
            let outcomes = store.letters(id).await.unwrap().outcomes;
            let read = outcomes[0].delivery.as_ref().unwrap();
            assert_eq!(format!("{read:?}"), said);
            let consumed = vec![Consumed { no: 0, generation: 1, attempt: 1 }];
            commit(&store, Part { consumed, ..empty(id, session, epoch) }).await;
        }
    }

    async fn outputs_come_back_byte_for_byte_whatever_their_size(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        for output in [
            r#"{"b":9007199254740993,"a":1e3,"a":2,"é":"\u0000","x":1e131073}"#.to_owned(),
            format!("[{}]", "1.50,".repeat(5_000).trim_end_matches(',')),
        ] {
            let part = Part { from: 1, ..part(id, session, epoch, &output) };
            commit(&store, part).await;
            let read = store.outputs_within(id, &[0, 1], usize::MAX).await.unwrap();
            let read = read.unwrap();
            assert_eq!(read[0].as_ref().unwrap().get(), output);
            assert!(read[1].is_none());
        }
        assert!(store.outputs_within(id, &[0], 100).await.unwrap().is_none());
    }

    async fn lines_of_logs_are_numbered_for_each_step(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        let line = |no, text: &str| LogLine {
            project: id,
            no,
            generation: 1,
            attempt: 1,
            at: NOW,
            line: text.to_owned(),
        };
        let parts = Arc::new(vec![part(id, session, epoch, "1")]);
        let logs = vec![line(0, "a"), line(1, "x"), line(0, "b")];
        store.commit(parts, logs).await.unwrap();
        store.commit(Arc::default(), vec![line(0, "c \0 d")]).await.unwrap();
        let read = store.logs(id, Some(0)).await.unwrap();
        let lines: Vec<&str> = read.iter().map(|line| line.line.as_str()).collect();
        assert_eq!(lines, ["a", "b", "c \u{fffd} d"]);
        assert_eq!(store.logs(id, None).await.unwrap().len(), 4);
    }

    async fn projects_are_found_by_what_people_write(backend) {
        let store = fresh(backend).await;
        let (first, second) = (submit(&store).await, submit(&store).await);
        let find = async |text: &str| store.find(&Reference::parse(text)).await.unwrap();
        assert_eq!(find(&first.to_string()).await, Ok(first));
        assert_eq!(find(&second.short()).await, Ok(second));
        assert!(find("p").await.is_err(), "two have this name");
        assert!(find("nobody").await.is_err());
        assert_eq!(find("last").await, Ok(second.max(first)));
        let filter = ListFilter { limit: 1, ..ListFilter::default() };
        let newest = store.list(&filter).await.unwrap();
        let last = (newest[0].created_at, newest[0].id);
        let before = ListFilter { before: Some(last), ..filter };
        assert_eq!(store.list(&before).await.unwrap().len(), 1);
        let states = vec![ProjectState::Failed];
        let failed = ListFilter { states, limit: 9, ..ListFilter::default() };
        assert!(store.list(&failed).await.unwrap().is_empty());
    }

    async fn every_statement_is_understood_by_the_database(backend) {
        let store = fresh(backend).await;
        let checked = store.check_statements().await.unwrap();
        assert!(checked > 50, "{checked}");
    }

    async fn two_open_a_fresh_database_at_once(backend) {
        let database = Database::fresh(backend);
        let opened: Vec<_> = (0..4)
            .map(|_| {
                let database = database.clone();
                tokio::spawn(async move { database.open().await })
            })
            .collect();
        for store in opened {
            let store = store.await.unwrap();
            assert!(store.sessions().await.unwrap().is_empty());
        }
    }
}

async fn sqlite_charges_by_the_state_of_the_session() {
    let store = fresh(Backend::Sqlite).await;
    for (drains, charged) in [(false, true), (true, false)] {
        let dead = begin(&store, LONG).await;
        let id = submit(&store).await;
        let epoch = adopt(&store, dead, id).await;
        commit(&store, part(id, dead, epoch, "1")).await;
        if drains {
            store.drain_session(dead).await.unwrap();
        }
        let heir = begin(&store, LONG).await;
        let adopted = store.adopt(heir, id).await.unwrap().unwrap();
        assert_eq!(adopted.project.row.charged, charged, "drains: {drains}");
    }
}

#[test]
fn the_labels_in_the_schemas_are_those_of_the_code() {
    for database in ["sqlite", "postgres"] {
        let schema = migrations(database).into_values().collect::<String>();
        let check = |column: &str, labels: Vec<&str>| {
            let list = schema
                .split(&format!("{column} in"))
                .skip(1)
                .map(|rest| rest.split(')').next().unwrap())
                .map(|rest| rest.replace(['(', '\'', '\n'], " "))
                .map(|rest| {
                    rest.split(',').map(|l| l.trim().to_owned()).collect::<Vec<_>>()
                })
                .find(|list| list.len() == labels.len());
            assert_eq!(list.unwrap_or_default(), labels, "{database}: {column}");
        };
        let labels = |all: &[ProjectState]| all.iter().map(|it| it.as_str()).collect();
        check("state", labels(ProjectState::ALL));
        check("state", StepState::ALL.iter().map(|state| state.as_str()).collect());
        check("wait", WaitReason::ALL.iter().map(|reason| reason.as_str()).collect());
        check("kind", MailKind::ALL.iter().map(|kind| kind.as_str()).collect());
    }
}

#[test]
fn migrations_have_the_same_numbers_and_names_on_both_databases() {
    let names = |database| migrations(database).into_keys().collect::<Vec<_>>();
    assert_eq!(names("sqlite"), names("postgres"));
}

fn migrations(database: &str) -> BTreeMap<String, String> {
    let folder = format!("{}/../migrations/{database}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn the_store_has_at_most_thirty_verbs() {
    let source = include_str!("../../src/store/mod.rs");
    let verbs = source.matches("on!(self, store => store.").count();
    assert!((25..=30).contains(&verbs), "{verbs}");
}
