//! The tests are tested: each mistake is caught by the test whose promise it breaks.

use std::pin::Pin;

use dandori::store::Store;

use crate::{
    backend::{Backend, figure},
    interleave::every_order_of_verbs_keeps_the_promises as every_order,
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
    "a beat revives the dead" => who_beats_is_not_declared_dead,
    "a commit of another session counts" => only_the_owner_of_this_epoch_writes,
    "a commit of an older epoch counts" => only_the_owner_of_this_epoch_writes,
    "a commit counts twice" => only_the_owner_of_this_epoch_writes,
    "facts of a lost project are written" => only_the_owner_of_this_epoch_writes,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_caught() {
    let named: Vec<&str> = CAUGHT.iter().map(|(mistake, ..)| *mistake).collect();
    for mistake in Store::mistakes() {
        assert!(named.contains(&mistake), "nobody catches it: {mistake}");
    }
    for (mistake, name, test) in CAUGHT {
        // In a task of its own: its panic is what is hoped for.
        let ended = tokio::spawn(test(Backend::Broken(mistake))).await;
        assert!(ended.is_err_and(|error| error.is_panic()), "{name} misses: {mistake}");
    }
    let what = "broken variants, each caught by its test (10)";
    figure("pg3", what, format!("{} of {}", CAUGHT.len(), Store::mistakes().len()));
}
