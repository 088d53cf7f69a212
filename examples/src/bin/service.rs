//! A service with an engine inside: application state for handlers, a submission under an
//! idempotency key, events followed while it runs, a cancel, and a restart in the middle.
//!
//! `cargo run -p dandori-examples --bin service -- DATABASE`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use dandori::{
    Context, Engine, Error, Project, ProjectHandle, StepError, handler_fn, spec::Source,
};
use serde::{Deserialize, Serialize};

const DOCUMENT: &str = "
name: orders
inputs: { customer: { type: string } }
tasks:
  reserve: { kind: stock.reserve, with: { item: lamp } }
  charge:  { kind: card.charge, needs: [reserve], with: { customer: '${{ inputs.customer }}', cents: 4200 } }
  ship:    { kind: parcel.ship, needs: [charge], with: { receipt: '${{ tasks.charge.output.receipt }}' } }
";

/// What the handlers of this service share.
struct Warehouse {
    reserved: AtomicU32,
}

#[derive(Deserialize)]
struct Reserve {
    item: String,
}

async fn reserve(ctx: Context, order: Reserve) -> Result<String, StepError> {
    let warehouse = ctx.state::<Warehouse>();
    let warehouse =
        warehouse.ok_or_else(|| StepError::fail("setup", "no warehouse"))?;
    warehouse.reserved.fetch_add(1, Ordering::SeqCst);
    Ok(format!("one {} set aside", order.item))
}

#[derive(Deserialize)]
struct Charge {
    customer: String,
    cents: u32,
}

#[derive(Serialize)]
struct Receipt {
    receipt: String,
}

async fn charge(ctx: Context, order: Charge) -> Result<Receipt, StepError> {
    // A payment service that honours the key charges once, however often it is asked.
    let key = ctx.idempotency_key();
    ctx.log(format!("charging {} {} cents under {key}", order.customer, order.cents));
    Ok(Receipt { receipt: format!("receipt for {}", order.customer) })
}

async fn ship(ctx: Context, _: serde_json::Value) -> Result<String, StepError> {
    ctx.progress(0.5, "packing");
    // Parcels leave in the evening: this waits until it is told to stop.
    ctx.cancellation().cancelled().await;
    Err(StepError::cancelled())
}

async fn shipped(_: Context, parcel: serde_json::Value) -> Result<String, StepError> {
    Ok(format!("shipped with {}", parcel["receipt"].as_str().unwrap_or_default()))
}

async fn start(database: &Path, evening: bool) -> Result<Engine, Error> {
    let builder = Engine::builder()
        .sqlite(database)
        .command("the order service")
        .grace(std::time::Duration::ZERO)
        .state(Warehouse { reserved: AtomicU32::new(0) })
        .handler(handler_fn("stock.reserve", reserve))
        .handler(handler_fn("card.charge", charge));
    match evening {
        false => builder.handler(handler_fn("parcel.ship", ship)),
        true => builder.handler(handler_fn("parcel.ship", shipped)),
    }
    .start()
    .await
}

fn order(customer: &str) -> Result<Project, Error> {
    let source =
        Source::new(Some("orders.yaml"), DOCUMENT, dandori::spec::Format::Yaml);
    Ok(Project::from_source(source)?
        .input("customer", &customer.into())
        .idempotency_key(format!("order of {customer}")))
}

/// Prints events until a step has started.
async fn follow_until_started(
    project: &ProjectHandle,
    step: &str,
) -> Result<(), Error> {
    let mut seen = 0;
    loop {
        for event in project.next_events(seen).await? {
            seen = event.seq;
            println!("{} {}", event.kind, event.step.clone().unwrap_or_default());
            if event.kind == "step.started" && event.step.as_deref() == Some(step) {
                return Ok(());
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = std::env::args_os().nth(1).map_or("orders.db".into(), PathBuf::from);
    let engine = start(&database, false).await?;
    let project = engine.submit(order("Ada")?).await?;
    let id = project.id();
    // The same order again is the same project.
    assert_eq!(engine.submit(order("Ada")?).await?.id(), id);
    follow_until_started(&project, "ship").await?;
    // Another customer changes their mind.
    let other = engine.submit(order("Bob")?).await?;
    follow_until_started(&other, "ship").await?;
    other.cancel().await?;
    println!("order of Bob: {}", other.wait().await?.state);
    // A deploy in the middle: what is recorded stays, what ran starts again.
    drop((project, other));
    engine.shutdown().await;
    let engine = start(&database, true).await?;
    let done = engine.project(id).wait().await?;
    println!(
        "order of Ada: {} {}",
        done.state,
        done.output.map_or_else(String::new, |o| o.to_string())
    );
    engine.shutdown().await;
    Ok(())
}
