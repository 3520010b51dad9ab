//! What a process uses, from `/proc`.
//!
//! CPU time is that of the whole process, `utime` and `stime` of `/proc/<pid>/stat`: of its live
//! threads and of those that have ended. io_uring's kernel workers (`iou-wrk-*`, `iou-sqp-*`) are
//! threads of the process that submits, and are in it: that was tried on Linux 6.18 by comparing
//! with the sum over `/proc/<pid>/task/*/schedstat`, with writes and syncs under way, and after
//! the workers had ended. What is not in it is work that the kernel does for nobody in particular:
//! interrupts, write-back, the file system's journal thread.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// Units of CPU time in `/proc`, a second. Linux fixes it for all architectures in use, whatever
/// its timer does.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process used since its start, and what it has now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessUse {
    /// CPU seconds, user and system, of all threads, to 10 ms.
    pub cpu_s: f64,
    /// Of those, in user mode.
    pub user_s: f64,
    /// Of those, in the kernel: also io_uring's workers.
    pub system_s: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// The most resident memory that it ever had, in bytes.
    pub peak_resident_bytes: u64,
    /// Threads.
    pub threads: u64,
}

/// What the process `pid` used.
///
/// # Errors
/// `NotFound` when there is no such process; `InvalidData` when it has ended and its parent has not
/// looked yet, or when `/proc` is not Linux's.
pub fn usage(pid: u32) -> io::Result<ProcessUse> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse(&stat, &status).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("process {pid} has ended, or /proc is unusual"))
    })
}

fn parse(stat: &str, status: &str) -> Option<ProcessUse> {
    // The second field is the name in brackets, which may hold spaces and brackets itself. What
    // follows begins with the third, so `utime` (14) and `stime` (15) are at 11 and 12 here.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<u64>().ok()? as f64 / TICKS_PER_SECOND);
    let (user_s, system_s) = (seconds()?, seconds()?);
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    Some(ProcessUse {
        cpu_s: user_s + system_s,
        user_s,
        system_s,
        resident_bytes: value("VmRSS")?.checked_mul(1024)?,
        peak_resident_bytes: value("VmHWM")?.checked_mul(1024)?,
        threads: value("Threads")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "77 (a) b (c)) S 1 2 3 4 -1 4194304 99 0 0 0 150 25 0 0 20 0 1 0 1738326";
        let status = "Name:\ta) b (c)\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        assert_eq!(
            parse(stat, status),
            Some(ProcessUse {
                cpu_s: 1.75,
                user_s: 1.5,
                system_s: 0.25,
                resident_bytes: 1 << 20,
                peak_resident_bytes: 2 << 20,
                threads: 3,
            })
        );
        assert_eq!(parse("77 (a", status), None);
        // A process that has ended has no memory.
        assert_eq!(parse(stat, "Name:\ta\nThreads:\t1\n"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_what_a_process_uses_or_nothing(
            stat in "[0-9]{0,3} ?\\(.{0,8}\\) [A-Z](-?[0-9]{0,21} ?){0,20}|.{0,60}",
            status in "((VmRSS|VmHWM|Threads|Name):?[ \t]{0,3}[0-9]{0,21} ?(kB)?\n){0,6}|.{0,60}",
        ) {
            let _ = parse(&stat, &status);
        }
    }

    #[test]
    fn threads_that_have_ended_count() {
        let before = usage(std::process::id()).unwrap();
        let burn = move || {
            let mut value = 1_u64;
            while usage(std::process::id()).unwrap().cpu_s < before.cpu_s + 0.05 {
                value = std::hint::black_box(value.wrapping_mul(3));
            }
        };
        std::thread::spawn(burn).join().unwrap();
        let after = usage(std::process::id()).unwrap();
        assert!(after.cpu_s >= before.cpu_s + 0.05, "{before:?} {after:?}");
        assert!(after.resident_bytes > 0 && after.peak_resident_bytes >= after.resident_bytes);
    }

    #[test]
    fn a_process_that_is_not_there_is_not_found() {
        assert_eq!(usage(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
