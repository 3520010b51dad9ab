//! SIGTERM and SIGINT: one thread waits for them and raises the stop flags of all runs.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::signal::{SigSet, Signal};

use crate::shards::StopFlag;

static WATCHED: OnceLock<Mutex<Vec<StopFlag>>> = OnceLock::new();

/// Blocks the signals in this thread and those that it starts from now on, and raises `flag` when
/// one comes. A second signal ends the process at once.
pub(super) fn watch(flag: &StopFlag) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let mut started = Ok(());
    let watched = WATCHED.get_or_init(|| {
        started = std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || wait(signals))
            .map(|_| ());
        Mutex::default()
    });
    watched
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(flag.clone());
    started
}

/// Forgets `flag`.
pub(super) fn unwatch(flag: &StopFlag) {
    if let Some(watched) = WATCHED.get() {
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|other| !other.is_same(flag));
    }
}

fn wait(signals: SigSet) {
    while let Ok(signal) = signals.wait() {
        let Some(watched) = WATCHED.get() else {
            continue;
        };
        let flags = watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if flags.iter().all(StopFlag::is_raised) {
            // Asked a second time, or nothing runs that could stop.
            std::process::exit(128 + signal as i32);
        }
        tracing::info!(signal = signal.as_str(), "stopping");
        for flag in flags {
            flag.raise();
        }
    }
}
