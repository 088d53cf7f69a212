//! A connection that one purpose has for itself: nothing else delays it, and nothing is asked
//! of it before and after each use, as a pool would.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::Mutex;

use super::{StoreError, TxFuture, connect, late};

/// What plans of statements with lists look like: rows are found by their keys. The planner
/// knows neither how long the lists will be nor, in a young database, how large the tables
/// are; what it would choose then, it would keep.
const BY_KEYS: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// A connection that was not used for so long is asked whether it is still there.
const FRESH: Duration = Duration::from_secs(1);

/// The connection; none at first and after an error, until the next use.
pub(super) struct Own {
    held: Mutex<Option<(PgConnection, Instant)>>,
    options: PgConnectOptions,
    fresh: Duration,
}

impl Own {
    /// For statements with lists, each of which has one plan.
    pub(super) fn for_lists(options: &PgConnectOptions) -> Self {
        let options = options.clone().options(BY_KEYS);
        Self { held: Mutex::new(None), options, fresh: FRESH }
    }

    /// For the beat, whose answer tells by itself whether the connection is there.
    pub(super) fn for_beats(options: &PgConnectOptions) -> Self {
        let options = options.clone();
        Self { held: Mutex::new(None), options, fresh: Duration::MAX }
    }

    /// Uses it. Whatever goes wrong, also that the future is dropped, ends the connection.
    pub(super) async fn with<T, F>(&self, body: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> TxFuture<'c, T>,
    {
        let mut held = self.held.lock().await;
        let kept = match held.take() {
            Some((kept, used)) if used.elapsed() < self.fresh => Some(kept),
            Some((mut kept, _)) => kept.ping().await.is_ok().then_some(kept),
            None => None,
        };
        let mut connection = match kept {
            Some(kept) => kept,
            None => connect(&self.options).await?,
        };
        let value = body(&mut connection).await?;
        *held = Some((connection, Instant::now()));
        Ok(value)
    }

    /// The same within a deadline.
    pub(super) async fn within<T, F>(
        &self,
        deadline: Duration,
        body: F,
    ) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> TxFuture<'c, T>,
    {
        tokio::time::timeout(deadline, self.with(body))
            .await
            .map_err(|_| late("the server did not answer in time"))?
    }
}
