//! A child process from start to end: its group, its pipes, its death.
//!
//! Owns the promise that nothing of the group outlives the attempt: told to stop, it gets
//! the polite signal, some time, and then the deadly one; dropped, it gets the deadly one
//! at once. A program that leaves its group on purpose (`setsid`) escapes this.

use std::{io, process::Stdio, time::Duration};

use dandori::StepError;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, Command},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::lifeline;

/// What is kept of stdout and of stderr, in bytes each.
const KEPT: usize = 1024 * 1024;

/// How long the pipes may stay open after the child has ended, so that helpers it started
/// can finish writing.
const LINGER: Duration = Duration::from_secs(2);

/// A child that ended by itself.
#[derive(Debug)]
pub(super) struct Finished {
    /// The exit code; 128 and the number of the signal where one ended it, as in shells.
    pub(super) exit_code: i32,
    pub(super) stdout: Kept,
    pub(super) stderr: Kept,
}

/// The first bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) truncated: bool,
}

/// The process group of a child; what is left of it is killed on drop.
#[derive(Debug)]
struct Group(Pid);

impl Group {
    fn signal(&self, signal: Signal) {
        // An error means that nobody is left. The number is not given to another group
        // in the meantime: systems hand numbers out in a circle of thousands.
        let _ = kill_process_group(self.0, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs a command to its end.
pub(super) async fn run(
    mut command: Command,
    stdin: Option<String>,
    grace: Duration,
    stop: &CancellationToken,
) -> Result<Finished, StepError> {
    command
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    lifeline::attach(&mut command);
    let mut child = command.spawn().map_err(|error| not_started(&error))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let group = Group(pid.expect("a child that was not waited for has a number"));

    let (pipe_in, pipe_out, pipe_err) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (drained, closing) = (CancellationToken::new(), CancellationToken::new());
    // Both streams are read at the same time and beyond what is kept: a full pipe would
    // stop the child for good.
    let read = async {
        let kept = tokio::join!(keep(pipe_out, &closing), keep(pipe_err, &closing));
        drained.cancel();
        kept
    };
    let wait = async {
        let status = child.wait().await;
        let _ = timeout(LINGER, drained.cancelled()).await;
        group.signal(Signal::KILL);
        // Only a program that left the group can still hold the pipes.
        let _ = timeout(LINGER, drained.cancelled()).await;
        closing.cancel();
        status
    };
    let work = async { tokio::join!(wait, read, feed(pipe_in, stdin, &closing)) };
    tokio::pin!(work);

    let (status, (stdout, stderr), ()) = tokio::select! {
        finished = &mut work => finished,
        () = stop.cancelled() => {
            group.signal(Signal::TERM);
            tokio::select! {
                _ = &mut work => {}
                () = sleep(grace) => group.signal(Signal::KILL),
            }
            return Err(StepError::cancelled());
        }
    };
    let status = status.map_err(|error| StepError::retry("spawn", error))?;
    Ok(Finished { exit_code: exit_code(status), stdout, stderr })
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

fn not_started(error: &io::Error) -> StepError {
    let message = format!("the program could not be started: {error}");
    match error.kind() {
        // Too many processes or too little memory passes; the rest is in the document.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
            StepError::retry("spawn", message)
        }
        _ => StepError::fail("spawn", message),
    }
}

async fn keep<R: AsyncRead + Unpin>(
    pipe: Option<R>,
    closing: &CancellationToken,
) -> Kept {
    let mut kept = Kept::default();
    let Some(mut pipe) = pipe else { return kept };
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = pipe.read(&mut chunk) => read,
            () = closing.cancelled() => break,
        };
        let Ok(count @ 1..) = read else { break };
        let room = KEPT - kept.bytes.len();
        kept.bytes.extend_from_slice(&chunk[..count.min(room)]);
        kept.truncated |= count > room;
    }
    kept
}

async fn feed(
    pipe: Option<ChildStdin>,
    text: Option<String>,
    closing: &CancellationToken,
) {
    let (Some(mut pipe), Some(text)) = (pipe, text) else { return };
    // A child that does not read its input closes the pipe: its own business.
    tokio::select! {
        _ = pipe.write_all(text.as_bytes()) => {}
        () = closing.cancelled() => {}
    }
}
