//! `llm.chat` against a model that says what the test wants.

use dandori::ErrorClass;
use dandori_steps::{Secret, Settings};
use serde_json::{Value, json};

use crate::{
    fails, kind, quick, run,
    server::{Server, answer, json as json_answer},
};

async fn model(content: Value, finish: &'static str) -> (Server, Settings) {
    let server = Server::start(move |_| {
        json_answer(&json!({
            "model": "tiny-1",
            "choices": [{
                "message": { "role": "assistant", "content": content },
                "finish_reason": finish,
            }],
            "usage": { "prompt_tokens": 12, "completion_tokens": 3 },
        }))
    })
    .await;
    let settings = quick().with_llm(server.url("/v1/"), Some("tiny".to_owned()));
    (server, settings)
}

fn schema() -> Value {
    json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } })
}

#[tokio::test]
async fn an_answer_has_its_text_and_its_usage() {
    let (server, settings) = model(json!("はい"), "stop").await;
    let settings = settings.with_llm_api_key(Secret::new("k-canary"));
    let with =
        json!({ "prompt": "p", "system": "s", "temperature": 0.5, "max_tokens": 9 });
    let output = run(&settings, "llm.chat", with).await.unwrap();
    assert_eq!(
        output,
        json!({
            "text": "はい",
            "data": null,
            "model": "tiny-1",
            "usage": { "input_tokens": 12, "output_tokens": 3 },
            "finish_reason": "stop",
        })
    );
    let seen = server.seen().remove(0);
    assert_eq!(seen.target, "/v1/chat/completions");
    assert_eq!(seen.headers["authorization"], "Bearer k-canary");
    assert!(seen.headers.contains_key("idempotency-key"));
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(
        body,
        json!({
            "model": "tiny",
            "stream": false,
            "messages": [
                { "role": "system", "content": "s" },
                { "role": "user", "content": "p" },
            ],
            "temperature": 0.5,
            "max_tokens": 9,
        })
    );
}

#[tokio::test]
async fn an_answer_is_read_by_its_schema() {
    let (server, settings) = model(json!("```json\n{\"n\": 5}\n```"), "stop").await;
    let messages = json!([{ "role": "user", "content": "p" }]);
    let with = json!({ "messages": messages, "model": "other", "schema": schema() });
    let output = run(&settings, "llm.chat", with).await.unwrap();
    assert_eq!(output["data"], json!({ "n": 5 }));
    let body: Value = serde_json::from_str(&server.seen()[0].body).unwrap();
    assert_eq!(body["model"], "other");
    assert_eq!(body["response_format"]["json_schema"]["schema"], schema());
}

#[tokio::test]
async fn an_answer_that_does_not_match_is_worth_another_attempt() {
    for (content, finish, part) in [
        (json!("{\"n\": \"five\"}"), "stop", "at /n"),
        (json!("[]"), "stop", "does not match the schema at /"),
        (json!("{\"n\": "), "length", "cut at max_tokens"),
        (json!("Sure! Here it is."), "stop", "not JSON"),
        (json!(null), "stop", "no text"),
    ] {
        let (_server, settings) = model(content, finish).await;
        let with = json!({ "prompt": "p", "schema": schema() });
        let error = run(&settings, "llm.chat", with).await.unwrap_err();
        let found = (error.code.as_ref(), error.class);
        assert_eq!(found, ("invalid_output", ErrorClass::Retryable));
        assert!(error.message.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_worker_without_a_model_names_the_missing_variable() {
    let error = run(&quick(), "llm.chat", json!({ "prompt": "p" })).await.unwrap_err();
    assert_eq!(
        (error.code.as_ref(), error.class),
        ("not_configured", ErrorClass::Permanent)
    );
    assert!(error.message.contains("DANDORI_LLM_URL"), "{error}");
    let settings = quick().with_llm("http://127.0.0.1:9/v1", None);
    let error = run(&settings, "llm.chat", json!({ "prompt": "p" })).await.unwrap_err();
    assert!(error.message.contains("DANDORI_LLM_MODEL"), "{error}");
}

#[tokio::test]
async fn failures_of_the_service_keep_their_reason_and_lose_the_key() {
    let server = Server::start(|seen| match seen.body.contains("slow") {
        true => answer(429, &[("retry-after", "2")], "{}"),
        false => answer(401, &[], r#"{"error":{"message":"wrong key k-canary"}}"#),
    })
    .await;
    let settings = quick()
        .with_llm(server.url("/v1"), Some("m".to_owned()))
        .with_llm_api_key(Secret::new("k-canary"));
    let error =
        run(&settings, "llm.chat", json!({ "prompt": "slow" })).await.unwrap_err();
    assert_eq!(
        (error.code.as_ref(), error.retry_after_ms),
        ("rate_limited", Some(2_000))
    );
    let error = run(&settings, "llm.chat", json!({ "prompt": "p" })).await.unwrap_err();
    assert!(error.message.ends_with("wrong key ***"), "{error}");
}

#[tokio::test]
async fn documents_with_both_or_no_question_or_a_broken_schema_are_refused() {
    let chat = kind(&quick(), "llm.chat");
    let messages = json!([{ "role": "user", "content": "p" }]);
    for with in [
        json!({}),
        json!({ "prompt": "p", "messages": messages }),
        json!({ "messages": [] }),
        json!({ "messages": [{ "content": "p" }] }),
        json!({ "prompt": "p", "schema": { "type": "no such type" } }),
        json!({ "prompt": "p", "temperature": "hot" }),
    ] {
        assert!(chat.check(&with).is_err(), "{with}");
    }
    assert!(chat.check(&json!({ "prompt": "${{ x }}", "schema": "${{ y }}" })).is_ok());
    let settings = quick().with_llm("http://127.0.0.1:9/v1", Some("m".to_owned()));
    let with = json!({ "prompt": "p", "schema": { "type": "no such type" } });
    assert_eq!(fails(&settings, "llm.chat", with).await.0, "invalid_schema");
}
