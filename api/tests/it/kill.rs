//! SIGKILL again and again: every recorded step stays recorded, nothing is lost, and the end
//! is that of an undisturbed run. A file outside of the engine is the witness.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    command::{Place, full},
    demo::guides,
};

fn kills() -> usize {
    if full() { 40 } else { 10 }
}

/// Now, in microseconds as the events tell it.
fn now() -> i64 {
    dandori::Clock::system().now().as_micros()
}

/// How many kills make a run worth something: on a machine that is quicker than the kills,
/// half of them will do outside of the full figures.
fn enough() -> usize {
    if full() { kills() } else { kills() / 2 }
}

/// A small generator for where to kill; its seed is printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = u64::try_from(now() & 0xffff_ffff).unwrap() | 1;
        let seed = std::env::var("DANDORI_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(seed);
        println!("seed {seed}: DANDORI_SEED={seed} repeats the moments");
        Self(seed)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
        (self.0 >> 33) % most
    }
}

/// A start that the witness saw: when, and of which step.
type Seen = (i64, String);

/// What must be true of the witness and of the records together.
fn check(seen: &[Seen], events: &[Value], deaths: &[i64]) {
    let mut recorded: BTreeMap<&str, i64> = BTreeMap::new();
    let mut failures: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for event in events {
        let step = event["step"].as_str().unwrap_or_default();
        let at = time(event["at"].as_str().unwrap());
        match event["type"].as_str().unwrap() {
            "step.succeeded" => drop(recorded.insert(step, at)),
            "step.attempt_failed" => failures.entry(step).or_default().push(at),
            _ => {}
        }
    }
    let life = |at: i64| deaths.iter().filter(|death| **death < at).count();
    let mut starts: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for (at, step) in seen {
        if let Some(done) = recorded.get(step.as_str()) {
            assert!(at <= done, "{step} started at {at}, but was recorded at {done}");
        }
        *starts.entry((step, life(*at))).or_default() += 1;
    }
    for ((step, life_no), count) in starts {
        let own = failures
            .get(step)
            .map_or(0, |at| at.iter().filter(|at| life(**at) == life_no).count());
        assert!(
            count <= 1 + own,
            "{step} started {count} times between two kills with {own} failures"
        );
    }
}

/// The check itself is checked: what it is there for does not pass.
#[test]
fn the_witness_notices_what_must_not_happen() {
    let event = |kind: &str, at: i64| {
        let at = dandori::Timestamp::from_micros(at).to_string();
        serde_json::json!({ "type": kind, "step": "a", "at": at })
    };
    let seen = |times: &[i64]| -> Vec<Seen> {
        times.iter().map(|at| (*at, "a".to_owned())).collect()
    };
    let passes = |seen: Vec<Seen>, events: Vec<Value>, deaths: Vec<i64>| {
        std::panic::catch_unwind(|| check(&seen, &events, &deaths)).is_ok()
    };
    let done = || vec![event("step.succeeded", 90)];
    assert!(passes(seen(&[10]), done(), vec![]));
    assert!(passes(seen(&[10, 60]), done(), vec![50]), "once more after a kill");
    assert!(!passes(seen(&[10, 20]), done(), vec![]), "twice without a kill");
    assert!(!passes(seen(&[10, 60, 70]), done(), vec![50]), "twice between two kills");
    assert!(!passes(seen(&[10, 95]), done(), vec![92]), "after it was recorded");
    let retried = vec![event("step.attempt_failed", 15), event("step.succeeded", 90)];
    assert!(passes(seen(&[10, 20]), retried, vec![]), "again after a failure");
}

/// RFC 3339, in microseconds.
fn time(text: &str) -> i64 {
    dandori::Timestamp::parse(text).unwrap().as_micros()
}

fn events(place: &Place, url: &str) -> Vec<Value> {
    place.run(&["watch", "last", "--json", "--database-url", url]).exits(0).json_lines()
}

#[test]
fn kills_of_the_demo_cost_nothing() {
    let calm = Place::new();
    calm.run(&["demo"]).exits(0);
    let wanted = guides(&calm.path().join("dandori-demo"));
    let url = "sqlite:dandori-demo/dandori.db";
    let output = |place: &Place| {
        let json = place
            .run(&["show", "last", "--json", "--database-url", url])
            .exits(0)
            .json();
        let outputs: Vec<(String, Value, Value)> = json["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| (s["name"].to_string(), s["state"].clone(), s["output"].clone()))
            .collect();
        (json["state"].clone(), json["output"].clone(), outputs)
    };
    let place = Place::new();
    let witness = place.path().join("witness");
    let args =
        ["demo", "--crash-limit", "1000", "--witness", witness.to_str().unwrap()];
    let mut random = Random::new();
    let mut deaths = vec![];
    let mut recorded = 0;
    while deaths.len() < kills() {
        let mut running = place.start(&args);
        thread::sleep(Duration::from_millis(60 + random.below(500)));
        if running.has_ended() {
            running.wait().exits(0);
            break;
        }
        running.kill();
        deaths.push(now());
        let shown = place.run(&["list", "--json", "--database-url", url]);
        if shown.code == Some(0) {
            let rows = shown.json_lines();
            let done = rows
                .first()
                .map_or(0, |row| row["counts"]["succeeded"].as_u64().unwrap_or(0));
            assert!(done >= recorded, "{recorded} steps were recorded, {done} are");
            recorded = done;
        }
    }
    assert!(deaths.len() >= enough(), "it ended before it was killed often enough");
    place.run(&args).exits(0);
    assert_eq!(guides(&place.path().join("dandori-demo")), wanted);
    assert_eq!(output(&place), output(&calm));
    let text = std::fs::read_to_string(&witness).unwrap();
    let seen: Vec<Seen> = text
        .lines()
        .map(|line| {
            let (at, rest) = line.split_once(' ').unwrap();
            (at.parse().unwrap(), rest.split(':').nth(1).unwrap().to_owned())
        })
        .collect();
    check(&seen, &events(&place, url), &deaths);
    println!(
        "FIGURE 2 | demo: kills; requests seen by the witness; violations | {}; {}; 0",
        deaths.len(),
        seen.len()
    );
}

/// Waits until the service has read everything that a dead process has sent to it: a start
/// that is still on its way belongs to the life that is over.
fn settle(port: u16, open: &AtomicUsize) {
    // Connections are accepted in their order: when this one has been hung up, those before
    // it have been taken.
    let mut probe = TcpStream::connect(("127.0.0.1", port)).unwrap();
    probe.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = probe.read(&mut [0]);
    while open.load(Ordering::SeqCst) > 0 {
        thread::yield_now();
    }
}

/// A service that writes down every request before it answers after 5 to 20 ms: its port,
/// what it saw, and how many connections are open.
fn witness(path: &Path) -> (u16, Arc<Mutex<Vec<Seen>>>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(vec![]));
    let file = Arc::new(Mutex::new(
        std::fs::File::options().create(true).append(true).open(path).unwrap(),
    ));
    let witnessed = Arc::clone(&seen);
    let open = Arc::new(AtomicUsize::new(0));
    let opened = Arc::clone(&open);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (seen, file) = (Arc::clone(&witnessed), Arc::clone(&file));
            let open = Arc::clone(&opened);
            open.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                answer(stream, &seen, &file);
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (port, seen, open)
}

/// Answers requests of one connection until it ends.
fn answer(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Seen>>,
    file: &Mutex<std::fs::File>,
) -> Option<()> {
    let mut buffer = vec![];
    loop {
        while !buffer.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut piece = [0; 4096];
            match stream.read(&mut piece).ok()? {
                0 => return None,
                read => buffer.extend_from_slice(&piece[..read]),
            }
        }
        let request = String::from_utf8_lossy(&buffer).into_owned();
        buffer.clear();
        let key = request.lines().find_map(|line| {
            line.to_lowercase().strip_prefix("idempotency-key: ").map(str::to_owned)
        })?;
        let step = key.split(':').nth(1)?.to_owned();
        let at = now();
        {
            let mut file = file.lock().unwrap();
            writeln!(file, "{at} {key}").ok()?;
            file.sync_data().ok()?;
        }
        seen.lock().unwrap().push((at, step.clone()));
        let hash = step
            .bytes()
            .fold(7_u64, |hash, byte| hash.wrapping_mul(31) + u64::from(byte));
        thread::sleep(Duration::from_millis(5 + hash % 16));
        let body = format!("{{\"step\":\"{step}\"}}");
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
        write!(stream, "{head} {}\r\n\r\n{body}", body.len()).ok()?;
    }
}

/// Layers of forty steps; each needs two or three of the layer before.
fn large(port: u16, steps: usize) -> String {
    let mut text = String::from("name: large\ntasks:\n");
    for at in 0..steps {
        let (layer, place) = (at / 40, at % 40);
        let needs: BTreeSet<usize> = match layer {
            0 => BTreeSet::new(),
            _ => [place, (place * 7 + layer) % 40, (place + 1) % 40]
                .into_iter()
                .map(|p| (layer - 1) * 40 + p)
                .collect(),
        };
        let needs: Vec<String> = needs.iter().map(|need| format!("s{need}")).collect();
        text.push_str(&format!(
            "  s{at}: {{ kind: http.request, needs: [{}], with: {{ url: 'http://127.0.0.1:{port}/{at}' }} }}\n",
            needs.join(", ")
        ));
    }
    text
}

#[test]
fn kills_of_a_project_of_two_thousand_steps_cost_nothing() {
    let steps = if full() { 2_000 } else { 600 };
    let place = Place::new();
    let (port, seen, open) = witness(&place.path().join("witness"));
    place.write("large.yaml", &large(port, steps));
    place.run(&["submit", "large.yaml"]).exits(0);
    let args =
        ["resume", "last", "--crash-limit", "1000", "--concurrency", "8", "--json"];
    let mut random = Random::new();
    let mut deaths = vec![];
    let mut ended = None;
    while deaths.len() < kills() {
        let mut running = place.start(&args);
        thread::sleep(Duration::from_millis(40 + random.below(160)));
        if running.has_ended() {
            ended = Some(running.wait());
            break;
        }
        running.kill();
        settle(port, &open);
        deaths.push(now());
    }
    let ended = ended.unwrap_or_else(|| place.run(&args)).exits(0);
    let view = ended.json();
    assert_eq!(view["counts"]["succeeded"], steps);
    // The end is what the service answered for each step, as in an undisturbed run.
    for step in view["steps"].as_array().unwrap() {
        assert_eq!(step["output"]["json"]["step"], step["name"]);
    }
    let seen = seen.lock().unwrap().clone();
    check(&seen, &events(&place, "sqlite:dandori.db"), &deaths);
    println!(
        "FIGURE 2 | {steps} steps: kills; starts seen by the witness; violations | {}; {}; 0",
        deaths.len(),
        seen.len()
    );
    assert!(deaths.len() >= enough(), "it ended before it was killed often enough");
}

#[test]
fn at_the_usual_limit_a_step_that_kills_its_worker_is_quarantined() {
    let place = Place::new();
    // The step ends the process that runs it; its neighbours only take a moment.
    place.write(
        "poison.yaml",
        "name: poison
tasks:
  poison: { kind: shell.run, with: { argv: [sh, -c, 'sleep 0.1; kill -9 $PPID; sleep 60'] } }
  beside: { kind: shell.run, with: { argv: [sleep, '0.3'] } }
  after: { kind: noop, needs: [beside] }
",
    );
    place.run(&["submit", "poison.yaml"]).exits(0);
    let mut lives = 0;
    let ended = loop {
        lives += 1;
        assert!(lives < 12, "it is never quarantined");
        let ended = place.run(&["resume", "poison", "--allow-shell"]);
        if ended.code.is_some() {
            break ended.exits(1);
        }
    };
    let view = place.run(&["show", "poison", "--json"]).exits(0).json();
    let states: Vec<&str> = view["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["quarantined", "succeeded", "succeeded"], "{}", ended.stderr);
    println!(
        "FIGURE 2 | crashes until the guilty step alone is quarantined (3) | {}",
        lives - 1
    );
}

#[test]
fn a_step_that_kills_its_worker_at_once_is_quarantined_too() {
    let place = Place::new();
    // Quicker than its start would be written by itself.
    place.write(
        "quick.yaml",
        "name: quick
tasks: { quick: { kind: shell.run, with: { argv: [sh, -c, 'echo x >> starts; kill -9 $PPID'] } } }
",
    );
    place.run(&["submit", "quick.yaml"]).exits(0);
    for _ in 0..12 {
        if place.run(&["resume", "quick", "--allow-shell"]).code == Some(1) {
            break;
        }
    }
    let view = place.run(&["show", "quick", "--json"]).exits(0).json();
    assert_eq!(view["steps"][0]["state"], "quarantined");
    let starts =
        std::fs::read_to_string(place.path().join("starts")).unwrap().lines().count();
    assert!(starts <= 6, "it started {starts} times");
}
