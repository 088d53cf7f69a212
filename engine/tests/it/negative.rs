//! The tests are tested: each mistake is caught by the test whose promise it breaks.

use std::pin::Pin;

use dandori::store::Store;

use crate::{
    backend::{Backend, Database, figure},
    interleave::{
        crossings::{self, a_lease_counts_from_when_the_beat_is_written},
        every_order_of_verbs_keeps_the_promises as every_order,
    },
    store::*,
};

type Test = fn(Backend) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! caught {
    ($($mistake:literal => $test:ident,)*) => {
        &[$(($mistake, stringify!($test), |backend| Box::pin($test(backend))),)*]
    };
}

/// Each mistake, and who catches it.
const CAUGHT: &[(&str, &str, Test)] = caught! {
    "a release does not look at the mail" => a_project_with_unread_mail_is_not_given_back,
    "a message is not counted" => a_project_with_unread_mail_is_not_given_back,
    "a message wakes nobody" => a_message_wakes_a_project_without_an_owner,
    "an adoption takes what has an owner" => a_project_has_one_owner_at_a_time,
    "the dead adopt" => who_beats_is_not_declared_dead,
    "a session that has beaten is declared dead" => who_beats_is_not_declared_dead,
    "a lease that is not over is declared so" => who_beats_is_not_declared_dead,
    "a graceful end is charged" => a_death_is_charged_and_a_graceful_end_is_not,
    "what the dead owned wakes nobody" => who_beats_is_not_declared_dead,
    "what the dead ran is not lost" =>
        a_claim_survives_its_owner_and_is_lost_with_its_worker,
    "an outcome needs no grant" =>
        an_offer_is_claimed_once_and_its_outcome_waits_for_the_owner,
    "an outcome counts twice" =>
        an_offer_is_claimed_once_and_its_outcome_waits_for_the_owner,
    "an offer is taken back from who runs it" =>
        an_offer_is_taken_back_unless_somebody_was_quicker,
    "the dead claim" => an_offer_is_claimed_once_and_its_outcome_waits_for_the_owner,
    "a claim takes what is claimed" =>
        an_offer_is_claimed_once_and_its_outcome_waits_for_the_owner,
    "an outcome is read and left" => every_order,
    "a charge is forgotten by the next death" =>
        what_an_owner_charged_stands_when_it_dies_before_its_first_commit,
    "a lease counts from the begin of the transaction" =>
        a_lease_counts_from_when_the_beat_is_written,
    "a beat revives the dead" => who_beats_is_not_declared_dead,
    "a commit of another session counts" => only_the_owner_of_this_epoch_writes,
    "a commit of an older epoch counts" => only_the_owner_of_this_epoch_writes,
    "a commit counts twice" => only_the_owner_of_this_epoch_writes,
    "a lone commit of another session counts" => only_the_owner_of_this_epoch_writes,
    "a lone commit of an older epoch counts" => only_the_owner_of_this_epoch_writes,
    "a lone commit counts twice" => only_the_owner_of_this_epoch_writes,
    "a lone fact of a lost project is written" => only_the_owner_of_this_epoch_writes,
    "first facts of a lost project are written" => only_the_owner_of_this_epoch_writes,
    "later facts of a lost project are written" => only_the_owner_of_this_epoch_writes,
    "facts of a lost project are written" => only_the_owner_of_this_epoch_writes,
};

/// Mistakes that show only when two meet, and the script in which they do.
const SCRIPTED: &[(&str, &str)] = &[
    ("a message is read and left", "send, send and read"),
    ("a commit clears the counter of messages", "send, send and read"),
    ("the last commit forgets what is unread", "send, the last commit"),
    ("an adoption does not raise the epoch", "release, send"),
    ("what rests does not know that its queue goes on", "rest, the queue goes on"),
    ("a queue that goes on wakes nobody", "rest, the queue goes on"),
    ("two adopt at once", "adopt, adopt"),
    ("who adopts is declared dead meanwhile", "adopt, the adopter dies"),
    ("who submits for itself is declared dead meanwhile", "submit, its owner dies"),
    ("a session is declared dead while it adopts", "adopt, the adopter dies"),
    ("a session ends while it adopts", "adopt, the adopter ends"),
    ("who drained dies again and is charged", "who drained is declared dead twice"),
    ("a reaper frees what the living own", "reap, another owner lives"),
    ("a reaper takes what the living run", "deliver, one of two workers is reaped"),
    ("what was delivered is lost all the same", "deliver, its worker is reaped"),
    ("a reaper locks claims before projects", "deliver, its worker is reaped"),
    ("a delivery locks claims before projects", "deliver, stop"),
    ("a replay keeps old messages", "replay, send"),
    ("a replay keeps old outcomes", "deliver, the last commit and replay"),
    ("an offer goes to two", "claim, claim"),
    ("a commit compares before it locks", "the same last commit twice"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_that_two_meet_is_caught() {
    for (mistake, script) in SCRIPTED {
        let ended =
            tokio::spawn(crossings::one(Backend::Broken(mistake), script)).await;
        let Err(error) = ended else { panic!("{script} misses: {mistake}") };
        assert!(error.is_panic());
        eprintln!("{mistake}: caught by {script}: {error}");
    }
}

/// A mistake that the database refuses would be caught by every test.
#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_understood_by_the_database() {
    let place = Database::fresh(Backend::Postgres).place;
    for mistake in Store::mistakes() {
        let backend = Backend::Broken(mistake);
        let store = Database::at(backend, place.clone()).open().await;
        if let Err(error) = store.check_statements().await {
            panic!("{mistake}: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_caught() {
    let caught = CAUGHT.iter().map(|(mistake, ..)| *mistake);
    let scripted = SCRIPTED.iter().map(|(mistake, _)| *mistake);
    let named: Vec<&str> = caught.chain(scripted).collect();
    for mistake in Store::mistakes() {
        assert!(named.contains(&mistake), "nobody catches it: {mistake}");
    }
    for (mistake, name, test) in CAUGHT {
        // In a task of its own: its panic is what is hoped for.
        let ended = tokio::spawn(test(Backend::Broken(mistake))).await;
        assert!(ended.is_err_and(|error| error.is_panic()), "{name} misses: {mistake}");
    }
    let what = "broken variants, each caught by its test (10)";
    figure("pg3", what, format!("{} of {}", named.len(), Store::mistakes().len()));
}
