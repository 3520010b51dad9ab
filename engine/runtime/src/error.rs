//! Why a node does not start, in words that say what to do; and any error with its causes.

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Why [`crate::shards::run`] or a start-up check failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `kernel.io_uring_disabled` forbids io_uring.
    #[error(
        "io_uring is forbidden: kernel.io_uring_disabled is {setting}; allow it with \
         `sysctl -w kernel.io_uring_disabled=0`{}",
        if *.setting == 1 { ", or add this user to the group in kernel.io_uring_group" } else { "" }
    )]
    IoUringDisabled {
        /// The sysctl's value: 1 (all but a group and CAP_SYS_ADMIN) or 2 (everybody).
        setting: u8,
    },
    /// io_uring is forbidden although the sysctl allows it: a seccomp filter, as in containers.
    #[error(
        "io_uring is forbidden ({source}), most likely by a seccomp profile: allow io_uring_setup, \
         io_uring_enter and io_uring_register in it (with Docker or Podman: `--security-opt \
         seccomp=PROFILE`, or `seccomp=unconfined` to try)"
    )]
    IoUringForbidden {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no io_uring, or one that is too old.
    #[error("this kernel has no usable io_uring ({message}): Linux 5.15 or later is needed")]
    IoUringMissing {
        /// What is missing.
        message: String,
    },
    /// RLIMIT_MEMLOCK is too small for io_uring's buffers.
    #[error(
        "the limit of locked memory is {have_bytes} bytes, at least {need_bytes} are needed: set \
         LimitMEMLOCK=infinity in the systemd unit, `--ulimit memlock=-1` for a container, or \
         `ulimit -l unlimited` in the shell"
    )]
    MemlockTooSmall {
        /// The soft limit.
        have_bytes: u64,
        /// The smallest limit that works.
        need_bytes: u64,
    },
    /// A core in the list does not exist or is not allowed to this process.
    #[error("core {core} is not available to this process; it may use {allowed:?}")]
    BadCore {
        /// The core.
        core: usize,
        /// The cores that the process may use.
        allowed: Vec<usize>,
    },
    /// The list of cores is empty or names a core twice.
    #[error("the list of cores {cores:?} must name at least one core, and each only once")]
    BadCoreList {
        /// The list.
        cores: Vec<usize>,
    },
    /// The data directory's file system cannot do direct I/O.
    #[error(
        "{} is on a file system without direct I/O in blocks of 4096 bytes ({file_system}): use a \
         directory on ext4, XFS or Btrfs", path.display()
    )]
    NoDirectIo {
        /// The data directory.
        path: PathBuf,
        /// What it is on, or what the kernel said.
        file_system: String,
    },
    /// The data directory may not be written.
    #[error(
        "no permission to write to {}: give it to the user that runs this, or choose another \
         data directory", path.display()
    )]
    Permission {
        /// The data directory.
        path: PathBuf,
    },
    /// Another process uses the data directory.
    #[error(
        "{} is in use by another process{}: stop that one, or choose another data directory",
        path.display(), .pid.map_or(String::new(), |pid| format!(" (pid {pid})"))
    )]
    DataDirLocked {
        /// The data directory.
        path: PathBuf,
        /// The process that holds it, if known.
        pid: Option<u32>,
    },
    /// The data directory cannot be used for another reason.
    #[error("cannot use {}: {source}", path.display())]
    DataDir {
        /// The data directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A shard's thread or executor did not start.
    #[error("shard {shard} did not start: {source}")]
    Thread {
        /// The shard.
        shard: usize,
        /// What the operating system said.
        source: io::Error,
    },
    /// A shard ended with an error; the others were asked to stop.
    #[error("shard {shard} failed: {message}")]
    Shard {
        /// The shard.
        shard: usize,
        /// Its error.
        message: String,
    },
}

/// An error and its causes on one line, each said once: many errors name their cause themselves, as
/// they are also logged without it.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        below = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, below) = texts.split_first().expect("at least one");
        Layer { text, source: (!below.is_empty()).then(|| Box::new(layers(below))) }
    }

    #[test]
    fn every_cause_is_said_once_and_none_is_left_out() {
        for (chain, said) in [
            (&["it failed"][..], "it failed"),
            (&["cannot start", "cannot read x", "denied"], "cannot start: cannot read x: denied"),
            // Messages that end with their cause, at every depth.
            (&["cannot read x: denied", "denied"], "cannot read x: denied"),
            (&["cannot start", "cannot read x: denied", "denied"], "cannot start: cannot read x: denied"),
            (&["start: read: denied", "read: denied", "denied"], "start: read: denied"),
            // One that has it in the middle, and one that hands it through as it is.
            (&["forbidden (denied): allow it", "denied"], "forbidden (denied): allow it"),
            (&["denied", "denied", "no key"], "denied: no key"),
        ] {
            assert_eq!(with_causes(&layers(chain)), said);
        }
    }

    #[test]
    fn what_the_system_said_of_a_data_directory_is_said_once() {
        let source = io::Error::from_raw_os_error(nix::libc::ENOSPC);
        let words = source.to_string();
        let said = with_causes(&StartError::DataDir { path: PathBuf::from("/data"), source });
        assert_eq!(said, format!("cannot use /data: {words}"));
    }
}
