//! The plan alone: shape, problems, figures, retry delays.

use std::{collections::HashSet, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    StepError,
    spec::{CompileOptions, Diagnostic, Document, Task},
};

fn plan(tasks: &[(&str, &[&str])]) -> Plan {
    compile(tasks).unwrap_or_else(|found| panic!("{found:?}"))
}

fn compile(tasks: &[(&str, &[&str])]) -> Result<Plan, Vec<Diagnostic>> {
    let document =
        tasks.iter().fold(Document::named("p"), |document, (name, needs)| {
            document.task(Task::new(*name, "x").needs(needs.iter().copied()))
        });
    document
        .compile(&CompileOptions::default())
        .map(|compiled| compiled.plan)
        .map_err(|found| found.into_iter().map(|(diagnostic, _)| diagnostic).collect())
}

const DIAMOND: &[(&str, &[&str])] = &[
    ("a", &[]),
    ("b", &["a"]),
    ("c", &["a"]),
    ("d", &["b", "c"]),
    ("e", &["c"]),
    ("f", &["e"]),
];

#[test]
fn levels_remaining_paths_and_closures_follow_the_edges() {
    let plan = plan(DIAMOND);
    let names = |steps: Vec<StepNo>| -> Vec<&str> {
        steps.into_iter().map(|no| plan.step(no).name.as_str()).collect()
    };
    let of =
        |numbers: &dyn Fn(StepNo) -> u32| -> Vec<u32> { (0..6).map(numbers).collect() };
    assert_eq!(of(&|no| plan.level(no)), [1, 2, 2, 3, 3, 4]);
    assert_eq!(of(&|no| plan.remaining(no)), [4, 2, 3, 1, 2, 1]);
    assert_eq!(names(plan.critical_path()), ["a", "c", "e", "f"]);
    assert_eq!(plan.downstream([2]), [false, false, true, true, true, true]);
    assert_eq!(plan.upstream([3]), [true, true, true, true, false, false]);
    assert_eq!(names(plan.leaves().to_vec()), ["d", "f"]);
    let figures = Figures { steps: 6, edges: 6, depth: 4, width: 2 };
    assert_eq!(plan.figures(), figures);
}

#[test]
fn the_hash_is_that_of_the_stored_form_and_survives_it() {
    let plan = plan(DIAMOND);
    let again = Plan::from_bytes(plan.bytes()).unwrap();
    assert_eq!(again.hash(), plan.hash());
    assert_eq!(again.order(), plan.order());
    assert_ne!(self::plan(&DIAMOND[..5]).hash(), plan.hash());
    let newer = String::from_utf8(plan.bytes().to_vec()).unwrap();
    let newer = newer.replacen("\"format\":1", "\"format\":2", 1);
    let refused = Plan::from_bytes(&Arc::from(newer.as_bytes())).unwrap_err();
    assert!(refused.contains("newer"), "{refused}");
}

#[test]
fn every_problem_is_told_at_once_and_a_cycle_as_a_path() {
    let found = compile(&[
        ("self", &["self"]),
        ("lost", &["ghst"]),
        ("ghost", &[]),
        ("x", &["z"]),
        ("y", &["x"]),
        ("z", &["y"]),
    ])
    .unwrap_err();
    let codes: Vec<&str> = found.iter().map(|found| found.code.as_str()).collect();
    assert_eq!(codes, ["self_need", "missing_need", "cycle"]);
    assert!(found[1].help.as_ref().unwrap().contains("`ghost`"));
    let found = compile(&[("x", &["z"]), ("y", &["x"]), ("z", &["y"])]).unwrap_err();
    assert_eq!(found[0].code, "cycle");
    assert!(found[0].message.contains("x → "), "{}", found[0].message);
}

#[test]
fn names_that_look_alike_are_refused() {
    let found = compile(&[("café", &[]), ("cafe\u{301}", &[])]).unwrap_err();
    assert!(!found.is_empty());
}

#[test]
fn amounts_round_towards_the_author() {
    let cases = [
        (Amount::Percent(50), 5, 3, 2),
        (Amount::Percent(0), 7, 0, 0),
        (Amount::Count(9), 4, 9, 9),
    ];
    for (amount, total, least, most) in cases {
        assert_eq!(amount.at_least_of(total), least, "{amount} of {total}");
        assert_eq!(amount.at_most_of(total), most, "{amount} of {total}");
    }
}

#[test]
fn a_delay_alone_is_the_same_each_time_and_growth_is_capped() {
    let error = StepError::retry("timeout", "late");
    let steady = Retry { delay: Duration::from_secs(60), ..Retry::default() };
    let grown = Retry {
        delay: Duration::from_secs(1),
        multiplier: 3.0,
        max_delay: Duration::from_secs(20),
        ..Retry::default()
    };
    let seconds = |retry: &Retry| -> Vec<u64> {
        (1..6).map(|attempt| retry.wait(attempt, &error, 7).as_secs()).collect()
    };
    assert_eq!(seconds(&steady), [60, 60, 60, 60, 60]);
    assert_eq!(seconds(&grown), [1, 3, 9, 20, 20]);
}

#[test]
fn jitter_is_the_same_for_the_same_attempt_and_spreads_others() {
    let retry =
        Retry { delay: Duration::from_secs(10), jitter: 0.5, ..Retry::default() };
    let error = StepError::retry("timeout", "late");
    let wait = |seed| retry.wait(1, &error, seed);
    assert_eq!(wait(1), wait(1));
    let waits: HashSet<Duration> = (0..1_000).map(wait).collect();
    assert!(waits.len() > 990);
    let inside = |wait: &Duration| (5..=15).contains(&wait.as_secs());
    assert!(waits.iter().all(inside));
}

#[test]
fn backoff_keeps_its_names_and_defaults() {
    let backoff = Backoff::default();
    assert_eq!(backoff.initial_interval, Duration::from_millis(500));
    assert_eq!(backoff.max_interval, Duration::from_secs(60));
    assert_eq!(backoff.max_elapsed_time, Some(Duration::from_secs(900)));
    let retry = Retry::from(backoff);
    assert_eq!((retry.multiplier, retry.jitter), (1.5, 0.5));
    assert_eq!(retry.max_retries, u32::MAX);
}

proptest! {
    #[test]
    fn any_graph_without_a_way_back_is_a_plan_in_order(
        needs in prop::collection::vec(any::<u64>(), 1..40),
    ) {
        let names: Vec<String> = (0..needs.len()).map(|at| format!("t{at}")).collect();
        let document = needs.iter().enumerate().fold(Document::named("p"), |document, (at, mask)| {
            let needs = (0..at).filter(|n| mask >> n & 1 == 1).map(|n| names[n].clone());
            document.task(Task::new(&names[at], "x").needs(needs))
        });
        let plan = document.compile(&CompileOptions::default()).unwrap().plan;
        let mut place = vec![0; names.len()];
        for (at, no) in plan.order().iter().enumerate() {
            place[*no as usize] = at;
        }
        for no in 0..plan.len() {
            for need in &plan.step(no).needs {
                prop_assert!(place[*need as usize] < place[no as usize]);
                prop_assert!(plan.level(*need) < plan.level(no));
                prop_assert!(plan.remaining(*need) > plan.remaining(no));
            }
        }
        prop_assert_eq!(plan.critical_path().len(), plan.figures().depth as usize);
    }

    #[test]
    fn any_way_back_is_found_and_named(length in 2..60_usize, tail in 0..20_usize) {
        let mut document = Document::named("p");
        for at in 0..length + tail {
            let need = match at {
                0 => format!("t{}", length - 1),
                _ => format!("t{}", at - 1),
            };
            document = document.task(Task::new(format!("t{at}"), "x").needs([need]));
        }
        let found = document.compile(&CompileOptions::default()).unwrap_err();
        let ring: HashSet<&str> = found[0].0.tasks.iter().map(String::as_str).collect();
        prop_assert_eq!(found[0].0.code.as_str(), "cycle");
        let outside = |name: &&str| name[1..].parse::<usize>().unwrap() >= length;
        prop_assert!(!ring.iter().any(outside), "{:?}", ring);
    }
}
