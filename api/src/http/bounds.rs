//! Bounds of what is worked on at once: bodies in memory, and documents that are compiled.

use axum::http::{HeaderMap, StatusCode, header};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Api, problem::Problem};

/// So many bytes of large bodies may be in memory at once.
const BODIES: usize = 256 << 20;
/// They are counted in these.
const PART: usize = 64 << 10;
/// So long a document waits for its turn.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Bounds {
    /// Apart as well: who may only look holds no room that who records needs.
    bodies: Semaphore,
    looked_at: Semaphore,
    /// Documents that are to be recorded, and those that are only looked at: apart, so that
    /// who only looks holds up nobody.
    compiling: Semaphore,
    looking: Semaphore,
}

impl Default for Bounds {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            bodies: Semaphore::new(BODIES / PART),
            looked_at: Semaphore::new(BODIES / PART / 2),
            compiling: Semaphore::new(cores),
            looking: Semaphore::new((cores / 2).max(1)),
        }
    }
}

impl Api {
    /// Room for the body of a request: what it says it has, else the most it may have.
    pub(super) fn room(
        &self,
        headers: &HeaderMap,
        most: usize,
        only_looks: bool,
    ) -> Result<SemaphorePermit<'_>, Problem> {
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|it| it.to_str().ok()?.parse().ok());
        let parts = length.unwrap_or(most).min(most).div_ceil(PART);
        let parts = u32::try_from(parts).unwrap_or(u32::MAX);
        let room = match only_looks {
            true => &self.0.bounds.looked_at,
            false => &self.0.bounds.bodies,
        };
        room.try_acquire_many(parts).map_err(|_| busy())
    }

    /// The turn of a document that is to be recorded.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, Problem> {
        turn(&self.0.bounds.compiling).await
    }

    /// The turn of a document that is only looked at.
    pub(super) async fn turn_to_look(&self) -> Result<SemaphorePermit<'_>, Problem> {
        turn(&self.0.bounds.looking).await
    }
}

async fn turn(of: &Semaphore) -> Result<SemaphorePermit<'_>, Problem> {
    match tokio::time::timeout(PATIENCE, of.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(busy()),
    }
}

fn busy() -> Problem {
    let detail = "this server has as many large documents at hand as it may";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
        .help("ask another server, or again in a moment")
        .retry_after(1)
}
