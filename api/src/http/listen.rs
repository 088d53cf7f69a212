//! The accept loop: connections with limits, because a server that waits for ever for the
//! rest of a header serves nobody else.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt as _;

/// How many bytes the head of a request may have.
const HEAD_BYTES: usize = 32 * 1024;
/// How many headers.
const HEADERS: usize = 100;
/// How long a request that is being answered is waited for at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// How many connections there may be, and how slow they may be.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// In total.
    pub total: usize,
    /// From one address.
    pub each: usize,
    /// How long the head of a request may take, the first one and each that follows.
    pub head: Duration,
    /// How long a client may take none of an answer that waits for it. What it has not seen
    /// of a stream of events it asks for again, by the number of the last one.
    pub write: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            total: 10_000,
            each: 2_000,
            head: Duration::from_secs(10),
            write: Duration::from_secs(30),
        }
    }
}

/// So many open files are left to the database and to steps.
const OTHER_FILES: usize = 512;

impl Connections {
    /// Not more connections than this process may open files, less what else needs some.
    #[must_use]
    pub fn within_files(self) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let files = limit
            .current
            .map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX));
        let total =
            self.total.min(files.saturating_sub(OTHER_FILES).max(files / 2)).max(1);
        Self { total, each: self.each.min(total.div_ceil(2)), ..self }
    }
}

/// Serves until `stopped`; requests that are being answered then are finished.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Connections,
    stopped: impl Future<Output = ()>,
) {
    let open: Arc<Mutex<HashMap<IpAddr, usize>>> = Arc::default();
    let (stop, stopping) = watch::channel(());
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, mostly: some come back when connections end.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = Place::take(&open, peer.ip(), limits) else { continue };
        let _ = stream.set_nodelay(true);
        let router = router.clone();
        let mut stopping = stopping.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = router.map_request(
                move |mut request: axum::http::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(Peer(peer));
                    request.map(axum::body::Body::new)
                },
            );
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEADERS);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(limits.write));
            let connection = http.serve_connection(
                TokioIo::new(Box::pin(stream)),
                TowerToHyperService::new(service),
            );
            tokio::pin!(connection);
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended");
                    }
                }
                _ = stopping.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(LAST_ANSWERS, connection).await;
                }
            }
        });
    }
    drop(stopping);
    drop(stop);
    let ended = async {
        while !open.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(LAST_ANSWERS, ended).await;
}

/// The place of a connection among all; free again when it is dropped.
struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of: IpAddr,
}

impl Place {
    fn take(
        open: &Arc<Mutex<HashMap<IpAddr, usize>>>,
        of: IpAddr,
        limits: Connections,
    ) -> Option<Self> {
        let mut held = open.lock().unwrap_or_else(PoisonError::into_inner);
        if held.values().sum::<usize>() >= limits.total {
            return None;
        }
        let own = held.entry(of).or_default();
        if *own >= limits.each {
            return None;
        }
        *own += 1;
        Some(Self { open: Arc::clone(open), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(&self.of) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.of);
            }
        }
    }
}
