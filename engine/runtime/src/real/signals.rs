//! SIGTERM and SIGINT: a handler writes them to a pipe, and one thread reads from it and raises the
//! stop flags of all runs.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe2;

use crate::shards::StopFlag;

/// The flags of all runs of this process.
static WATCHED: OnceLock<Mutex<Vec<StopFlag>>> = OnceLock::new();

/// Where the handler writes; never closed once it is set.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Raises `flag` when a signal comes. A second signal ends the process at once.
pub(super) fn watch(flag: &StopFlag) -> io::Result<()> {
    let mut started = Ok(());
    let watched = WATCHED.get_or_init(|| {
        started = start();
        Mutex::default()
    });
    watched.lock().unwrap_or_else(PoisonError::into_inner).push(flag.clone());
    started
}

/// Leaves the signals to other threads: an interrupted wait for I/O would surprise glommio.
pub(super) fn keep_off_this_thread() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    Ok(signals.thread_block()?)
}

/// Forgets `flag`.
pub(super) fn unwatch(flag: &StopFlag) {
    if let Some(watched) = WATCHED.get() {
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|other| !other.is_same(flag));
    }
}

fn start() -> io::Result<()> {
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC)?;
    PIPE.store(write_end.into_raw_fd(), Ordering::SeqCst);
    std::thread::Builder::new().name("signals".into()).spawn(move || wait(File::from(read_end)))?;
    let handler = SigHandler::Handler(write_signal);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler only does what is allowed in one: an atomic load, a write(2), errno.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

extern "C" fn write_signal(signal: libc::c_int) {
    let interrupted = Errno::last_raw();
    let byte = signal.to_le_bytes()[0];
    // SAFETY: the byte lives across the call; the descriptor is the pipe's for good. The result
    // does not matter: a full pipe holds enough signals to stop for.
    unsafe { libc::write(PIPE.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
    Errno::set_raw(interrupted);
}

fn wait(mut pipe: File) {
    let mut signal = [0; 1];
    while pipe.read_exact(&mut signal).is_ok() {
        let Some(watched) = WATCHED.get() else {
            continue;
        };
        let flags = watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if flags.iter().all(StopFlag::is_raised) {
            // Asked a second time, or nothing runs that could stop.
            std::process::exit(128 + i32::from(signal[0]));
        }
        tracing::info!(signal = signal[0], "stopping");
        for flag in flags {
            flag.raise();
        }
    }
}
