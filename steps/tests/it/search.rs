//! `web.search` against the answers of each provider.

use dandori::ErrorClass;
use dandori_steps::{Secret, Settings};
use serde_json::{Value, json};

use crate::{
    fails, quick, run,
    server::{Seen, Server, answer, json as json_answer},
};

/// Asks one provider, which gives `reply`, and returns the output and the request.
async fn ask(provider: &str, key: bool, path: &str, reply: Value) -> (Value, Seen) {
    let server = Server::start(move |_| json_answer(&reply)).await;
    let settings = quick().with_search(provider, Some(server.url(path)));
    let settings = if key {
        settings.with_search_api_key(Secret::new("k-canary"))
    } else {
        settings
    };
    let with = json!({ "query": "段取り", "limit": 2 });
    let output = run(&settings, "web.search", with).await.unwrap();
    assert_eq!(output["provider"], provider);
    (output["results"].clone(), server.seen().remove(0))
}

#[tokio::test]
async fn a_wiki_is_read() {
    let hit = |title| json!({ "title": title, "snippet": "a <b>b</b> &amp; c" });
    let reply = json!({ "query": { "search": [hit("段取り"), hit("B c"), hit("D")] } });
    let (results, seen) = ask("mediawiki", false, "/w/api.php", reply).await;
    assert_eq!(results.as_array().unwrap().len(), 2);
    assert_eq!(results[0]["title"], "段取り");
    assert_eq!(results[0]["snippet"], "a b & c");
    let url = results[1]["url"].as_str().unwrap();
    assert!(url.ends_with("/wiki/B_c"), "{url}");
    assert!(seen.target.contains("list=search") && seen.target.contains("srlimit=2"));
    assert!(seen.headers["user-agent"].starts_with("dandori/"));
}

#[tokio::test]
async fn a_meta_search_is_read() {
    let hit = json!({ "title": "t", "url": "http://u/", "content": "1 < 2" });
    let (results, seen) =
        ask("searxng", false, "/", json!({ "results": [hit, { "broken": 1 }] })).await;
    assert_eq!(
        results,
        json!([{ "title": "t", "url": "http://u/", "snippet": "1 < 2" }])
    );
    assert!(
        seen.target.starts_with("/search?q=%E6") && seen.target.contains("format=json")
    );
}

#[tokio::test]
async fn brave_is_asked_with_its_key() {
    let hit = json!({ "title": "t", "url": "http://u/", "description": "<strong>x</strong>" });
    let (results, seen) =
        ask("brave", true, "/", json!({ "web": { "results": [hit] } })).await;
    assert_eq!(results, json!([{ "title": "t", "url": "http://u/", "snippet": "x" }]));
    assert_eq!(seen.headers["x-subscription-token"], "k-canary");
}

#[tokio::test]
async fn tavily_is_asked_with_its_key() {
    let hit = json!({ "title": "t", "url": "http://u/", "content": "x" });
    let (results, seen) =
        ask("tavily", true, "/search", json!({ "results": [hit] })).await;
    assert_eq!(results, json!([{ "title": "t", "url": "http://u/", "snippet": "x" }]));
    assert_eq!(seen.headers["authorization"], "Bearer k-canary");
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(body, json!({ "query": "段取り", "max_results": 2 }));
}

#[tokio::test]
async fn a_key_shows_in_no_error_and_goes_to_no_other_provider() {
    let server = Server::start(|seen| {
        answer(401, &[], format!("bad key {}", seen.headers["x-subscription-token"]))
    })
    .await;
    let settings = quick()
        .with_search("brave", Some(server.url("/")))
        .with_search_api_key(Secret::new("k-canary"));
    let with = json!({ "query": "q" });
    let error = run(&settings, "web.search", with).await.unwrap_err();
    assert_eq!(error.code, "http_4xx");
    assert!(error.message.contains("bad key ***"), "{error}");

    let with = json!({ "query": "q", "provider": "tavily" });
    let error = run(&settings, "web.search", with).await.unwrap_err();
    assert_eq!(
        (error.code.as_ref(), error.class),
        ("not_configured", ErrorClass::Permanent)
    );
    assert!(error.message.contains("DANDORI_SEARCH_API_KEY"), "{error}");
}

#[tokio::test]
async fn strange_answers_and_questions_have_their_codes() {
    let server = Server::start(|seen| match seen.target.as_str() {
        target if target.contains("busy") => json_answer(
            &json!({ "error": { "code": "ratelimited", "info": "slow down" } }),
        ),
        target if target.contains("html") => answer(200, &[], "<html>"),
        _ => json_answer(&json!({ "other": 1 })),
    })
    .await;
    let settings = quick().with_search("mediawiki", Some(server.url("/api.php")));
    for (query, code) in
        [("busy", "rate_limited"), ("html", "invalid_output"), ("q", "invalid_output")]
    {
        let failure = fails(&settings, "web.search", json!({ "query": query })).await;
        assert_eq!(failure, (code.to_owned(), ErrorClass::Retryable), "{query}");
    }
    for with in [
        json!({ "query": " " }),
        json!({ "query": "q", "limit": 51 }),
        json!({ "query": "q", "provider": "altavista" }),
    ] {
        assert_eq!(fails(&settings, "web.search", with).await.0, "invalid_input");
    }
    let searxng = json!({ "query": "q", "provider": "searxng" });
    let error = run(&Settings::default(), "web.search", searxng).await.unwrap_err();
    assert!(error.message.contains("DANDORI_SEARCH_URL"), "{error}");
}
