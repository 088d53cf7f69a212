//! Up to three sessions in two processes: every order of their verbs, and verbs that run
//! into a row that somebody else holds.

use std::sync::Arc;

use dandori::store::Beat;

use super::{
    hold::Holder,
    merges,
    scripts::{Hold, SCRIPTS, Script},
    world::{Ground, Who, World},
};
use crate::{
    backend::{Backend, figure},
    fixture::{LONG, begin, raw_id},
};

async fn prepared(ground: &Ground, script: &Script) -> World {
    let world = World::new(ground, &script.who(), script.dying).await;
    for op in script.before {
        world.act(0, *op).await;
    }
    world
}

/// One verb after the other, in every order; how many there are.
async fn in_every_order(ground: &Ground, script: &Script) -> usize {
    let [first, second] = script.lists;
    let orders = merges(first.len(), second.len());
    for order in &orders {
        let mut world = prepared(ground, script).await;
        let mut lists = [first.iter(), second.iter()];
        let mut said = format!("{}:", script.name);
        for process in order {
            let op = lists[*process].next().unwrap();
            said.push_str(&format!(" {op:?}"));
            world.act(*process, *op).await;
        }
        world.check(&said, true).await;
        world.settle(&said, true).await;
    }
    orders.len()
}

/// Both lists at once, while a third party holds a row that they need: whoever comes first
/// waits first. How many runs there were, and how many processes were seen to wait.
async fn at_once(
    ground: &Ground,
    holder: &mut Holder,
    script: &Script,
) -> (usize, usize) {
    let (mut runs, mut waits) = (0, 0);
    for hold in script.holds {
        for first in [0, 1] {
            let said = format!("{}, {hold:?} is held, {first} first", script.name);
            let world = Arc::new(prepared(ground, script).await);
            let (statement, id) = held(&world, *hold);
            holder.take(statement, id).await;
            let mut tasks = vec![];
            for process in [first, 1 - first] {
                let world = Arc::clone(&world);
                let list = script.lists[process];
                tasks.push(tokio::spawn(async move {
                    for op in list {
                        world.act(process, *op).await;
                    }
                }));
                waits += usize::from(holder.until_stuck(&tasks).await == tasks.len());
            }
            holder.let_go().await;
            for task in tasks {
                if let Err(error) = task.await {
                    panic!("{said}: {error}");
                }
            }
            let mut world = Arc::into_inner(world).unwrap();
            world.check(&said, false).await;
            world.settle(&said, false).await;
            runs += 1;
        }
    }
    (runs, waits)
}

/// The statement that takes what is held, and its id.
fn held(world: &World, hold: Hold) -> (String, uuid::Uuid) {
    let project = |at| {
        let id: dandori::ProjectId = world.id(at);
        id.to_string().trim_start_matches("prj_").parse().unwrap()
    };
    let rows = |table: &str, column: &str| {
        format!("select 1 from {table} where {column} = $1 for update")
    };
    match hold {
        Hold::Project(at) => (rows("projects", "id"), project(at)),
        Hold::Claims(at) => (rows("claims", "project"), project(at)),
        Hold::Session(who) => (rows("sessions", "id"), raw_id(world.sessions[&who])),
        // Somebody is about to write the same.
        Hold::Data(at) => (
            "insert into project_data (project, inputs, labels, fingerprint)
            values ($1, '', '', '')"
                .to_owned(),
            project(at),
        ),
        Hold::Table(name) => {
            (format!("lock table {name} in access exclusive mode"), uuid::Uuid::nil())
        }
    }
}

/// One script in both forms, for the tests of the tests.
#[cfg(feature = "broken")]
pub(crate) async fn one(backend: Backend, name: &str) {
    let script = SCRIPTS.iter().find(|script| script.name == name).unwrap();
    let ground = Ground::new(backend).await;
    in_every_order(&ground, script).await;
    let mut holder = Holder::connect(&ground.place).await;
    at_once(&ground, &mut holder, script).await;
}

/// A lease counts from when it is written, not from when the beat began to wait.
pub(crate) async fn a_lease_counts_from_when_the_beat_is_written(backend: Backend) {
    let ground = Ground::new(backend).await;
    let store = ground.stores[0].clone();
    let session = begin(&store, LONG).await;
    let mut holder = Holder::connect(&ground.place).await;
    // Written, not only locked: what waits for it looks at the row anew.
    let write = "update sessions set busy = busy where id = $1";
    holder.take(write.to_owned(), raw_id(session)).await;
    let beating = store.clone();
    let beat = tokio::spawn(async move {
        let pulse = beating.beat(session, Some(Beat::default())).await.unwrap();
        assert!(pulse.alive);
    });
    let tasks = [beat];
    assert_eq!(holder.until_stuck(&tasks).await, 1, "the beat waits");
    let waited = holder.now().await;
    holder.let_go().await;
    for task in tasks {
        task.await.unwrap();
    }
    let until = holder.until(raw_id(session)).await;
    let lease = i64::try_from(LONG.as_micros()).unwrap();
    assert!(until >= waited + lease, "short of {} µs", waited + lease - until);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_sessions_keep_the_promises_in_every_order() {
    let ground = Ground::new(Backend::Postgres).await;
    let mut all = 0;
    for script in SCRIPTS {
        let orders = in_every_order(&ground, script).await;
        eprintln!("{}: {orders} orders", script.name);
        all += orders;
    }
    let what = "scripts of two processes: scripts, orders of verbs (20)";
    figure("pg7", what, format!("{}, {all}", SCRIPTS.len()));
    assert!(SCRIPTS.len() >= 20 && all >= 150, "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_wait_for_a_row_keep_the_promises() {
    let ground = Ground::new(Backend::Postgres).await;
    let mut holder = Holder::connect(&ground.place).await;
    let (mut all, mut waited) = (0, 0);
    for script in SCRIPTS {
        let (runs, waits) = at_once(&ground, &mut holder, script).await;
        eprintln!("{}: {runs} runs, {waits} waits", script.name);
        all += runs;
        waited += waits;
    }
    figure("pg7", "runs into a held row: runs, waits", format!("{all}, {waited}"));
    assert!(waited > all, "{waited} of {all}");
}

/// Where one process executes alone there is one session: it meets those that submit, send
/// and replay. Scripts with a second session are left out.
#[tokio::test(flavor = "multi_thread")]
async fn one_session_alone_keeps_the_promises_in_every_order() {
    let ground = Ground::new(Backend::Sqlite).await;
    let mut scripts = 0;
    for script in SCRIPTS {
        if !script.is_lonely() {
            eprintln!("{}: left out, more than one session", script.name);
            continue;
        }
        let orders = in_every_order(&ground, script).await;
        eprintln!("{}: {orders} orders", script.name);
        scripts += 1;
    }
    assert!(scripts >= 8, "{scripts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_counts_from_the_write() {
    a_lease_counts_from_when_the_beat_is_written(Backend::Postgres).await;
}

#[test]
fn every_script_names_those_who_take_part() {
    for script in SCRIPTS {
        for who in script.dying {
            assert!(script.who().contains(who), "{}", script.name);
        }
        assert!(!script.who().contains(&Who::Heir));
    }
}
