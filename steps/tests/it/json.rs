//! `json.transform` and `template.render`.

use std::time::Duration;

use dandori::ErrorClass;
use dandori_steps::Settings;
use serde_json::{Value, json};

use crate::{fails, kind, run};

#[tokio::test]
async fn a_filter_gives_a_value_a_list_or_null() {
    let settings = Settings::default();
    for (filter, expected) in [
        (".a", json!([1, 2])),
        (".a[]", json!([1, 2])),
        (".a | add", json!(3)),
        (".missing", Value::Null),
        ("empty", Value::Null),
    ] {
        let with = json!({ "input": { "a": [1, 2] }, "filter": filter });
        assert_eq!(
            run(&settings, "json.transform", with).await,
            Ok(expected),
            "{filter}"
        );
    }
}

#[tokio::test]
async fn wrong_filters_are_refused_before_and_at_the_run() {
    let settings = Settings::default();
    let transform = kind(&settings, "json.transform");
    for filter in [".[", "no_such_function", "def f: f; f", "$ENV"] {
        let with = json!({ "input": 1, "filter": filter });
        for _ in 0..2 {
            assert!(
                transform.check(&with).unwrap_err().starts_with("`filter`"),
                "{filter}"
            );
        }
        let failure = fails(&settings, "json.transform", with).await;
        assert_eq!(failure, ("invalid_filter".to_owned(), ErrorClass::Permanent));
    }
    let long = json!({ "input": 1, "filter": "(".repeat(20_000) });
    assert!(transform.check(&long).is_err());
    // As deep as the length allows: must be an answer, not the end of the process.
    for (open, close) in [("(", ")"), ("[", "]"), ("-", "")] {
        let deep = format!("{}1{}", open.repeat(8_000), close.repeat(8_000));
        let _ = transform.check(&json!({ "input": 1, "filter": deep }));
    }
    assert!(transform.check(&json!({ "input": "${{ x }}", "filter": ".a" })).is_ok());
    let with = json!({ "input": 1, "filter": ".a" });
    assert_eq!(fails(&settings, "json.transform", with).await.0, "transform");
}

#[tokio::test]
async fn a_filter_that_takes_too_long_is_ended() {
    let settings =
        Settings::default().with_transform_timeout(Duration::from_millis(50));
    let with = json!({ "input": 1, "filter": "[limit(9000000; repeat(1))] | length" });
    let failure = fails(&settings, "json.transform", with).await;
    assert_eq!(failure, ("transform".to_owned(), ErrorClass::Permanent));
}

#[tokio::test]
async fn a_template_renders_values_and_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("手紙.txt"), "Dear {{ name }},").unwrap();
    let settings = Settings::default().with_files_root(folder.path());
    let values = json!({ "name": "段取り" });
    for with in [
        json!({ "template": "Dear {{ name }},", "values": values }),
        json!({ "file": "手紙.txt", "values": values }),
    ] {
        let output = run(&settings, "template.render", with).await;
        assert_eq!(output, Ok(json!({ "text": "Dear 段取り," })));
    }
    let failure =
        fails(&settings, "template.render", json!({ "template": "{{ x }}" })).await;
    assert_eq!(failure, ("template".to_owned(), ErrorClass::Permanent));
    let render = kind(&settings, "template.render");
    assert!(render.check(&json!({ "template": "{% if %}" })).is_err());
    assert!(render.check(&json!({ "template": "a", "file": "b" })).is_err());
    assert!(render.check(&json!({ "file": "../b" })).is_err());
}
