//! Embedding in forty lines: two handlers, a project of dependent steps, its output.
//!
//! `cargo run -p dandori-examples --bin report`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use dandori::{
    Context, Engine, Project, StepError, handler_fn, plan::Backoff, spec::Task,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Deserialize)]
struct Page {
    url: String,
}

#[derive(Deserialize, Serialize)]
struct Words {
    words: usize,
}

async fn fetch(ctx: Context, page: Page) -> Result<Words, StepError> {
    // The first attempt of every page fails: the policy of the step tries again.
    if ctx.attempt() == 1 {
        return Err(StepError::retry("timeout", "the server did not answer"));
    }
    Ok(Words { words: page.url.len() })
}

async fn sum(_: Context, all: serde_json::Value) -> Result<usize, StepError> {
    let pages: Vec<Words> = serde_json::from_value(all["pages"].clone())
        .map_err(|error| StepError::fail("invalid_input", error))?;
    Ok(pages.iter().map(|page| page.words).sum())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder()
        .temporary()
        .handler(handler_fn("fetch", fetch))
        .handler(handler_fn("sum", sum).pure())
        .start()
        .await?;
    let project = Project::named("report")
        .task(
            Task::new("pages", "fetch")
                .for_each(&json!(["https://a.example", "https://b.example"]))
                .with(&json!({ "url": "${{ item }}" }))
                .retry(Backoff::default()),
        )
        .task(
            Task::new("total", "sum")
                .needs(["pages"])
                .with(&json!({ "pages": "${{ tasks.pages.output }}" })),
        );
    let done = engine.submit(project).await?.wait().await?;
    println!(
        "{}: {}",
        done.state,
        done.output.map_or_else(String::new, |o| o.to_string())
    );
    engine.shutdown().await;
    Ok(())
}
