//! Signals: the first asks for a graceful end, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT or SIGTERM; returns its number.
pub(super) async fn interrupted() -> u8 {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the default action of the signals ends the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    }
}
