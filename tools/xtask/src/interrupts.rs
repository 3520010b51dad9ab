//! SIGINT and SIGTERM for a task that has something to put in order when it is interrupted.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// A signal has such a task.
static WATCHED: AtomicBool = AtomicBool::new(false);
static RAISED: AtomicBool = AtomicBool::new(false);
static STARTED: AtomicBool = AtomicBool::new(false);

/// While this is there, the first signal only raises a flag. A second one, and any that comes when
/// nobody watches any more, ends the process at once; what it started ends with it.
pub(crate) struct Interrupts(());

impl Interrupts {
    /// To be called by the main thread before the task starts others: they inherit that signals are
    /// not theirs.
    pub(crate) fn watch() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        RAISED.store(false, SeqCst);
        WATCHED.store(true, SeqCst);
        if !STARTED.swap(true, SeqCst) {
            let wait = move || wait(signals);
            thread::Builder::new().name("signals".to_owned()).spawn(wait).context("starting a thread")?;
        }
        Ok(Self(()))
    }

    /// Whether a signal has come.
    pub(crate) fn raised() -> bool {
        RAISED.load(SeqCst)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        WATCHED.store(false, SeqCst);
    }
}

fn wait(signals: SigSet) {
    while let Ok(signal) = signals.wait() {
        if !WATCHED.load(SeqCst) || RAISED.swap(true, SeqCst) {
            std::process::exit(128 + signal as i32);
        }
    }
}
