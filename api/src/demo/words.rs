//! What the services of the demo answer: search results and guides, from the question alone.

use serde_json::{Value, json};

/// Results for a query, in the form of a SearXNG service.
pub(super) fn results(query: &str) -> Value {
    let topic = query.trim_end_matches(" tutorial");
    let slug: String = topic
        .chars()
        .map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let entries: Vec<Value> = [
        ("handbook", "A chapter with the reasons behind each decision."),
        ("checklist", "Ten points to tick off before moving on."),
        ("worked example", "A small repository that shows every step."),
    ]
    .iter()
    .map(|(form, content)| {
        json!({
            "title": format!("{topic}: a {form}"),
            "url": format!("https://example.org/{slug}/{}", form.replace(' ', "-")),
            "content": content,
        })
    })
    .collect();
    json!({ "query": query, "results": entries })
}

/// A guide for a prompt of the project document.
pub(super) fn guide(prompt: &str) -> String {
    let between = |start: &str, end: &str| {
        let rest = prompt.split_once(start)?.1;
        Some(rest.split_once(end)?.0.trim().to_owned())
    };
    let title = between("guide \"", "\"").unwrap_or_else(|| "Untitled".to_owned());
    let audience = between("\" for ", ".\n").unwrap_or_else(|| "everyone".to_owned());
    let project =
        between("Project: ", "\n").unwrap_or_else(|| "the project".to_owned());
    let sources: Vec<Value> = between("Sources: ", "\nAlready")
        .and_then(|list| serde_json::from_str(&list).ok())
        .unwrap_or_default();
    let before: Vec<Value> = prompt
        .split_once("Already done by the reader: ")
        .and_then(|(_, list)| serde_json::from_str(list.trim()).ok())
        .unwrap_or_default();
    let mut text = format!(
        "# {title}\n\nFor {audience}, as part of *{project}*. Plan half an hour.\n\n"
    );
    let done: Vec<&str> = before.iter().filter_map(Value::as_str).collect();
    if !done.is_empty() {
        text.push_str(&format!("You have finished: {}.\n\n", done.join("; ")));
    }
    text.push_str("## Steps\n\n");
    for step in [
        "Write down in one sentence what will be true when you are done.",
        "Do the smallest version that could work, and show it to somebody.",
        "Keep what helped, drop the rest, and commit.",
        "Note one thing for whoever comes next.",
    ] {
        text.push_str(&format!("1. {step}\n"));
    }
    text.push_str("\n## Sources\n\n");
    if sources.is_empty() {
        text.push_str(
            "None: the search did not answer, and the guide was written without it.\n",
        );
    }
    for source in &sources {
        let part =
            |key: &str| source.get(key).and_then(Value::as_str).unwrap_or_default();
        text.push_str(&format!("- [{}]({})\n", part("title"), part("url")));
    }
    text
}

/// An answer of an OpenAI-compatible service.
pub(super) fn completion(prompt: &str) -> Value {
    let text = guide(prompt);
    // Near enough to how models count: four characters a token.
    let tokens = |text: &str| text.len().div_ceil(4);
    json!({
        "object": "chat.completion",
        "model": "demo-writer",
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": text },
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": tokens(prompt),
            "completion_tokens": tokens(&text),
            "total_tokens": tokens(prompt) + tokens(&text),
        },
    })
}
