//! `noop`, `fail`, `sleep`, and what holds for every kind.

use std::time::Duration;

use dandori::{Context, ErrorClass, Outcome};
use dandori_steps::{Settings, basic_kinds, kinds};
use serde_json::{Value, json, value::to_raw_value};

use crate::{fails, kind, run};

#[tokio::test]
async fn noop_returns_its_output_or_null() {
    let settings = Settings::default();
    let output = run(&settings, "noop", json!({ "output": { "a": [1] } })).await;
    assert_eq!(output, Ok(json!({ "a": [1] })));
    assert_eq!(run(&settings, "noop", json!({})).await, Ok(Value::Null));
    assert_eq!(run(&settings, "noop", Value::Null).await, Ok(Value::Null));
}

#[tokio::test]
async fn fail_fails_as_often_as_it_is_asked_to() {
    let settings = Settings::default();
    let fail = |with| fails(&settings, "fail", with);
    assert_eq!(fail(Value::Null).await, ("failed".to_owned(), ErrorClass::Retryable));
    assert_eq!(
        fail(json!({ "code": "broken", "permanent": true, "message": "m" })).await,
        ("broken".to_owned(), ErrorClass::Permanent)
    );
    assert_eq!(fail(json!({ "times": 1 })).await.0, "failed");
    let output = run(&settings, "fail", json!({ "times": 0 })).await;
    assert_eq!(output, Ok(json!({ "attempts": 1 })));
}

#[tokio::test]
async fn sleep_from_a_second_on_gives_the_slot_back() {
    let sleep = kind(&Settings::default(), "sleep");
    let with = to_raw_value(&json!({ "for": "1h30m" })).unwrap();
    match sleep.run(Context::detached(), &with).await {
        Ok(Outcome::After { wait, output }) => {
            assert_eq!(wait, Duration::from_mins(90));
            assert_eq!(output.get(), "null");
        }
        other => panic!("{other:?}"),
    }
    let output = run(&Settings::default(), "sleep", json!({ "for": "1ms" })).await;
    assert_eq!(output, Ok(Value::Null));
    assert!(sleep.check(&json!({ "for": 10 })).is_err());
    assert!(sleep.check(&json!({ "for": "10" })).is_err());
    assert!(sleep.check(&json!({ "for": "${{ inputs.wait }}" })).is_ok());
}

#[tokio::test]
async fn short_sleep_ends_when_it_is_told_to_stop() {
    let ctx = Context::detached();
    ctx.cancellation().cancel();
    let with = to_raw_value(&json!({ "for": "999ms" })).unwrap();
    let error = kind(&Settings::default(), "sleep").run(ctx, &with).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Cancelled);
}

#[tokio::test]
async fn unknown_keys_are_refused_at_run_time_too() {
    for handler in kinds(&Settings::default().with_allow_shell(true)).unwrap() {
        let with = to_raw_value(&json!({ "no_such_key": 1 })).unwrap();
        let error = handler.run(Context::detached(), &with).await.unwrap_err();
        assert_eq!(error.code, "invalid_input", "{}", handler.kind());
        assert_eq!(error.class, ErrorClass::Permanent);
    }
}

#[test]
fn every_kind_declares_parameters_with_readable_schemas() {
    let kinds = kinds(&Settings::default()).unwrap();
    let names: Vec<_> = kinds.iter().map(|handler| handler.kind().to_owned()).collect();
    assert_eq!(
        names.join(" "),
        "noop fail sleep shell.run http.request web.search llm.chat template.render \
         file.read file.write json.transform"
    );
    for handler in &kinds {
        for parameter in handler.parameters().unwrap() {
            if !parameter.schema.is_empty() {
                let schema: Value = serde_json::from_str(&parameter.schema).unwrap();
                assert!(schema.is_object(), "{}: {}", handler.kind(), parameter.name);
            }
        }
        assert!(handler.check(&Value::Null).is_ok(), "{}", handler.kind());
        // A value that is wrong for every parameter that has a schema.
        let wrong = handler.parameters().unwrap().iter().find(|p| !p.schema.is_empty());
        if let Some(wrong) = wrong {
            let with = json!({ wrong.name.as_ref(): [null] });
            let refused = handler.check(&with).unwrap_err();
            assert!(refused.contains(wrong.name.as_ref()), "{refused}");
        }
    }
    assert_eq!(basic_kinds().len(), 3);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for (settings, part) in [
        (Settings::default().with_files_root("/no/such/folder"), "/no/such/folder"),
        (Settings::default().with_search("altavista", None), "DANDORI_SEARCH_PROVIDER"),
        (Settings::default().with_llm("file:///x", None), "DANDORI_LLM_URL"),
    ] {
        let error = kinds(&settings).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
