//! The published schema and the reader say the same.

use dandori::spec::{CompileOptions, Format, Limits, SCHEMA, Source, load};
use serde_json::{Value, json};

/// Every key of the document at least once.
const EVERY_KEY: &str = r#"{
    "$schema": "https://dandori.dev/schema/v1.json",
    "version": 1,
    "name": "every key",
    "inputs": {
        "audience": {"type": "string", "default": "students", "description": "Who reads"},
        "times": {"type": "integer"},
        "free": null
    },
    "with": {"times": 3, "free": [1, 2.5, null]},
    "max_parallel": 3,
    "priority": -5,
    "labels": {"team": "docs"},
    "fail_fast": true,
    "idempotency_key": "every-key-1",
    "defaults": {
        "timeout": {"soft": "9m", "hard": "10m"},
        "retry": {"max_retries": 1},
        "queue": "default",
        "priority": 1,
        "kinds": {
            "noop": {
                "retry": {"delay": "60s"}, "timeout": "1h30m", "queue": "q", "priority": 2
            }
        }
    },
    "templates": {
        "guide": {
            "params": {"title": {"type": "string"}, "before": {"type": "array", "default": []}},
            "tasks": {
                "search": {"kind": "noop", "allow_failure": true},
                "write": {
                    "needs": ["search"],
                    "kind": "noop",
                    "with": {"output": "${{ params.title }}"},
                    "delay": "1s"
                }
            },
            "output": "${{ tasks.write.output }}"
        }
    },
    "tasks": {
        "idea": {"use": "guide", "with": {"title": "Narrow it"}, "title": "The idea"},
        "pay": {
            "kind": "noop",
            "at_most_once": true,
            "start_before": "2h",
            "not_before": "2026-12-01T08:00:00Z"
        },
        "late": {
            "kind": "noop",
            "needs": "idea",
            "rule": "all_done",
            "if": "inputs.times > 2",
            "retry": {
                "max_retries": 3,
                "delay": "500ms",
                "multiplier": 2,
                "max_delay": "60s",
                "jitter": 0.5,
                "max_elapsed": "15m",
                "retry_on": ["retryable", "http_5xx"]
            },
            "timeout": "30s",
            "start_before": "2026-12-01T08:00:00+02:00",
            "queue": "late",
            "priority": 10,
            "labels": {"a": "b"}
        },
        "reviews": {
            "needs": ["idea", "late"],
            "rule": {"at_least": "50%"},
            "for_each": "${{ [tasks.idea.output, tasks.late.output] }}",
            "window": 8,
            "tolerate": "20%",
            "kind": "noop",
            "with": {"output": "Review: ${{ item }}"},
            "if": true
        },
        "some": {"for_each": [1, "two"], "tolerate": 1, "use": "guide", "with": {"title": "x"}}
    },
    "outputs": {"reviews": "${{ tasks.reviews.output }}"}
}"#;

/// Every key of a canvas at least once.
const EVERY_CANVAS: &str = r#"{
    "args": [1],
    "kwargs": {"z": 2},
    "canvas": {
        "chain": [
            ["add", 1],
            {
                "kind": "add", "args": [1], "kwargs": {"y": 2}, "immutable": true, "whole": false,
                "options": {
                    "retry": {"max_retries": 2}, "timeout": "5s", "start_before": "1h",
                    "delay": "1s", "not_before": "2026-12-01T08:00:00Z", "queue": "q",
                    "priority": 2, "labels": {"a": "b"}, "title": "Add", "allow_failure": true
                },
                "on_success": [["note"]], "on_failure": [["note"]], "labels": {"a": "b"},
                "siblings": "finish"
            },
            {"kind": "pay", "options": {"at_most_once": true}},
            {"group": [["id"], {"group": []}], "tolerate": "20%"},
            {"chord": {"header": [["id"], ["id"]], "body": ["sum"]}, "tolerate": 1, "siblings": "cancel"},
            {"chord": {"header": {"chain": [["id"]]}, "body": {"kind": "sum"}}},
            {"map": {"kind": "id", "items": [1]}},
            {"starmap": {"kind": "add", "items": [[1, 2]]}},
            {"chunks": {"kind": "add", "items": [[1, 2]], "size": 1}}
        ],
        "on_success": [{"kind": "note"}], "on_failure": [["note"]], "labels": {"a": "b"},
        "siblings": "finish"
    }
}"#;

/// Whether the reader takes a document; kinds are not looked at.
fn reads(document: &Value) -> bool {
    let source = Source::new(None, document.to_string(), Format::Json);
    load(&source, &Limits::default(), &CompileOptions::default()).is_ok()
}

fn every_key() -> Value {
    serde_json::from_str(EVERY_KEY).expect("the sample is JSON")
}

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

#[test]
fn the_schema_is_valid_itself() {
    assert!(jsonschema::meta::is_valid(&schema()));
}

#[test]
fn a_document_with_every_key_is_valid_for_both() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let document = every_key();
    let errors: Vec<String> = validator
        .iter_errors(&document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(reads(&document));
}

#[test]
fn the_sample_holds_every_key_of_the_schema() {
    let schema = schema();
    let text = EVERY_KEY;
    let groups =
        ["/properties", "/$defs/task/properties", "/$defs/template/properties"];
    let more = ["/$defs/input/properties", "/$defs/retry/properties"];
    let last = ["/$defs/defaults/properties", "/$defs/treatment/properties"];
    for pointer in groups.into_iter().chain(more).chain(last) {
        let keys = schema.pointer(pointer).and_then(Value::as_object).unwrap();
        for key in keys.keys().filter(|key| !OF_CANVAS.contains(&key.as_str())) {
            assert!(text.contains(&format!("\"{key}\"")), "{pointer} {key}");
        }
    }
    for name in ["signature", "options", "compound"] {
        let pointer = format!("/$defs/{name}/properties");
        let keys = schema.pointer(&pointer).and_then(Value::as_object).unwrap();
        for key in keys.keys().map(String::as_str).chain(OF_CANVAS) {
            assert!(EVERY_CANVAS.contains(&format!("\"{key}\"")), "{pointer} {key}");
        }
    }
}

/// The keys of a project that is a canvas.
const OF_CANVAS: [&str; 3] = ["canvas", "args", "kwargs"];

fn every_canvas() -> Value {
    serde_json::from_str(EVERY_CANVAS).expect("the sample is JSON")
}

#[test]
fn a_canvas_is_understood_alike_by_both() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let document = every_canvas();
    let errors: Vec<String> = validator
        .iter_errors(&document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(reads(&document));
    for (pointer, key, value) in [
        ("", "tasks", json!({"a": {"kind": "noop"}})),
        ("", "templates", json!({})),
        ("", "args", json!({})),
        ("", "kwargs", json!([])),
        ("", "canvas", json!("add")),
        ("", "canvas", json!([])),
        ("", "canvas", json!([1])),
        ("", "canvas", json!({})),
        ("/canvas", "group", json!([])),
        ("/canvas", "unheard_of", json!(1)),
        ("/canvas", "tolerate", json!(1)),
        ("/canvas", "chain", json!(["add", 1])),
        ("/canvas", "chain", json!({})),
        ("/canvas", "siblings", json!("cancel")),
        ("/canvas", "siblings", json!("stop")),
        ("/canvas/chain/4", "siblings", json!("stop")),
        ("/canvas/chain/1", "siblings", json!("cancel")),
        ("/canvas", "on_failure", json!(["note"])),
        ("/canvas/chain/1", "unheard_of", json!(1)),
        ("/canvas/chain/1", "args", json!(1)),
        ("/canvas/chain/1", "immutable", json!("yes")),
        ("/canvas/chain/1/options", "needs", json!(["a"])),
        ("/canvas/chain/1/options", "timeout", json!("0s")),
        ("/canvas/chain/4", "chord", json!({"header": []})),
        ("/canvas/chain/4/chord", "unheard_of", json!(1)),
        ("/canvas/chain/6/map", "size", json!(1)),
        ("/canvas/chain/7/starmap", "items", json!([1])),
        ("/canvas/chain/8/chunks", "size", json!(0)),
    ] {
        let mut document = every_canvas();
        let place = document.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        place.insert(key.to_owned(), value.clone());
        assert!(
            !validator.is_valid(&document),
            "the schema takes {pointer}/{key}: {value}"
        );
        assert!(!reads(&document), "the reader takes {pointer}/{key}: {value}");
    }
    let alone = json!({"args": [1], "tasks": {"a": {"kind": "noop"}}});
    assert!(!validator.is_valid(&alone) && !reads(&alone));
}

#[test]
fn an_unknown_key_is_refused_by_both_wherever_it_stands() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for pointer in [
        "",
        "/inputs/audience",
        "/defaults",
        "/defaults/timeout",
        "/defaults/retry",
        "/defaults/kinds/noop",
        "/templates/guide",
        "/templates/guide/params/title",
        "/templates/guide/tasks/write",
        "/tasks/late",
        "/tasks/late/retry",
        "/tasks/reviews/rule",
    ] {
        let mut document = every_key();
        let place = document.pointer_mut(pointer).unwrap();
        place.as_object_mut().unwrap().insert("unheard_of".to_owned(), json!(1));
        assert!(!validator.is_valid(&document), "the schema takes it at `{pointer}`");
        assert!(!reads(&document), "the reader takes it at `{pointer}`");
    }
}

#[test]
fn a_wrong_value_is_refused_by_both() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for (pointer, value) in [
        ("/$schema", json!(1)),
        ("/version", json!(2)),
        ("/name", json!("")),
        ("/max_parallel", json!(0)),
        ("/priority", json!(1_001)),
        ("/labels/team", json!(42)),
        ("/inputs/times/type", json!("int")),
        ("/inputs/audience/default", json!(1)),
        ("/tasks", json!({})),
        ("/tasks/late", json!({"title": "without a kind"})),
        ("/tasks/late/use", json!("guide")),
        ("/tasks/late/timeout", json!("0s")),
        ("/tasks/late/timeout", json!(30)),
        ("/tasks/late/retry", json!(3)),
        ("/tasks/late/retry/jitter", json!(20)),
        ("/tasks/late/retry/retry_on/0", json!("server errors")),
        ("/tasks/late/start_before", json!("2026-12-01 08:00")),
        ("/tasks/late/needs", json!([1])),
        ("/tasks/late/rule", json!("always")),
        ("/tasks/late/window", json!(2)),
        ("/tasks/pay/retry", json!({"max_retries": 1})),
        ("/tasks/idea/delay", json!("1s")),
        ("/tasks/idea/at_most_once", json!(true)),
        ("/tasks/some/at_most_once", json!(true)),
        ("/tasks/some/for_each", json!(3)),
        ("/tasks/some/for_each", json!(null)),
        ("/tasks/some/for_each", json!("tasks.idea.output")),
        ("/tasks/some/tolerate", json!("20 percent")),
        ("/tasks/reviews/window", json!(0)),
        ("/tasks/reviews/rule/at_least", json!(0)),
    ] {
        let mut document = every_key();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = document.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(items) => items[0] = value.clone(),
            parent => drop(
                parent.as_object_mut().unwrap().insert(key.to_owned(), value.clone()),
            ),
        }
        assert!(!validator.is_valid(&document), "the schema takes {pointer}: {value}");
        assert!(!reads(&document), "the reader takes {pointer}: {value}");
    }
}

#[test]
fn what_is_written_in_another_way_is_accepted_by_both() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for (pointer, value) in [
        ("/outputs", json!(null)),
        ("/tasks/late/timeout", json!({"hard": "1d"})),
        ("/tasks/late/timeout", json!({})),
        ("/tasks/late/needs", json!(["idea", "pay"])),
        ("/tasks/late/if", json!("${{ tasks.idea.state == 'succeeded' }}")),
        ("/tasks/reviews/rule", json!({"at_least": 2})),
        ("/tasks/reviews/for_each", json!([])),
        ("/tasks/reviews/tolerate", json!("0%")),
        ("/tasks/late/labels", json!({})),
        ("/tasks/some/delay", json!("1s")),
    ] {
        let mut document = every_key();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        parent.insert(key.to_owned(), value.clone());
        assert!(validator.is_valid(&document), "the schema refuses {pointer}: {value}");
        assert!(reads(&document), "the reader refuses {pointer}: {value}");
    }
}
