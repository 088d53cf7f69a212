//! Tasks of handlers, which may block their thread.

use tokio::task::JoinHandle;

/// Spawns work that may block its thread.
///
/// What a thread spawns last stands in a slot of its own, and no other thread is woken for it.
/// Where that thread had looked after timers and sockets and all others sleep, both stop for
/// as long as the work blocks: no time limit ends, nothing is heard. So what is spawned last
/// is an empty task: the work stands where others take it from, and another one is awake.
pub(super) fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let task = tokio::spawn(work);
    tokio::spawn(async {});
    task
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_that_blocks_its_thread_stops_no_timer() {
        let (tell, told) = mpsc::channel();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _ = tell.send(());
        });
        let scheduler = tokio::spawn(async move {
            // Whoever looks after the timers goes on with this; the other one sleeps.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let limit = Duration::from_secs(20);
            spawn(async move { told.recv_timeout(limit) }).await.unwrap()
        });
        assert_eq!(scheduler.await.unwrap(), Ok(()), "the timer went off");
        timer.await.unwrap();
    }
}
