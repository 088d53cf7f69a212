//! Hints: LISTEN and NOTIFY between processes, apart from every commit.
//!
//! A notifying transaction takes a lock of the whole server while it commits, so hints are
//! sent in transactions of their own, at most twenty a second from a process. Nothing
//! depends on them: everything is found by polling too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use crate::store::StoreError;

const CHANNEL: &str = "dandori";
/// A listener that hears nothing for so long is asked whether it is still there.
const CHECK: Duration = Duration::from_secs(30);
/// At most one hint in this time.
const QUIET: Duration = Duration::from_millis(50);

/// Sends hints, not too many.
#[derive(Clone, Debug)]
pub(super) struct Hints(Option<Arc<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Whether the sender runs: within the quiet time, or about to send.
    running: AtomicBool,
    /// Whether there is something to say.
    wanted: AtomicBool,
}

impl Hints {
    pub(super) fn new(enabled: bool) -> Self {
        Self(enabled.then(Arc::default))
    }

    pub(super) fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Sends a hint at once, or at the end of the quiet time after the last one.
    pub(super) fn send(&self, pool: PgPool, schema: String) {
        let Some(waiting) = self.0.clone() else { return };
        waiting.wanted.store(true, Ordering::SeqCst);
        if waiting.running.swap(true, Ordering::SeqCst) {
            return;
        }
        tokio::spawn(async move {
            loop {
                while waiting.wanted.swap(false, Ordering::SeqCst) {
                    let sent = sqlx::query("select pg_notify($1, $2)")
                        .bind(CHANNEL)
                        .bind(&schema)
                        .execute(&pool)
                        .await;
                    if let Err(error) = sent {
                        tracing::debug!(%error, "a hint was not sent");
                    }
                    tokio::time::sleep(QUIET).await;
                }
                waiting.running.store(false, Ordering::SeqCst);
                // Somebody may have wanted one between the last look and the line above.
                if !waiting.wanted.load(Ordering::SeqCst)
                    || waiting.running.swap(true, Ordering::SeqCst)
                {
                    return;
                }
            }
        });
    }
}

/// A connection that listens. It takes none from the pools: it is held for ever.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: PgListener,
    schema: String,
}

impl Listener {
    pub(super) async fn connect(
        options: &PgConnectOptions,
        schema: String,
    ) -> Result<Self, StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(super::CONNECT)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Self { listener, schema })
    }

    /// Waits for a hint; `false` when the connection is lost, and hints with it.
    pub(crate) async fn next(&mut self) -> bool {
        loop {
            match tokio::time::timeout(CHECK, self.listener.try_recv()).await {
                Ok(Ok(Some(hint))) if hint.payload() == self.schema => return true,
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None) | Err(_)) => return false,
                Err(_) => {
                    // The driver sets no keepalive: a silent partition would last.
                    let asked = sqlx::query("select 1").execute(&mut self.listener);
                    let answer = tokio::time::timeout(super::CONNECT, asked).await;
                    if !matches!(answer, Ok(Ok(_))) {
                        return false;
                    }
                }
            }
        }
    }
}
