//! The lifeline of a child: the system kills it when the worker is killed.
//!
//! Owns the only `unsafe` of the workspace. Without the lifeline, a worker that is killed
//! outright leaves its children running while another worker starts the step anew.

use tokio::process::Command;

/// Asks the system to kill the child when its parent ends.
///
/// The system watches the *thread* that forks, not the process. Handlers are polled on
/// worker threads of the runtime, which live as long as the runtime does. A handler must
/// not be polled on a blocking-pool thread or beneath `block_in_place`: such threads end
/// when they have been idle, and would take the child with them.
///
/// Only the child itself holds the lifeline. What it started in turn is ended with its
/// process group while the worker lives, and is left to the system when it does not.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "code between fork and exec can only be given to an unsafe function"
)]
pub(super) fn attach(command: &mut Command) {
    use std::io;

    use rustix::{
        io::Errno,
        process::{Signal, getpid, getppid, set_parent_process_death_signal},
    };

    let worker = getpid();
    let hold = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The worker may have ended before the request above: then nobody would kill us.
        if getppid() == Some(worker) {
            Ok(())
        } else {
            Err(io::Error::from(Errno::SRCH))
        }
    };
    // SAFETY: the closure makes two system calls and neither allocates nor locks, which is
    // what the state of a forked thread allows.
    unsafe { command.pre_exec(hold) };
}

/// Other systems have no such request; `kill_on_drop` and the group remain.
#[cfg(not(target_os = "linux"))]
pub(super) fn attach(_command: &mut Command) {}
