//! What the operating system counts for this process. Read from `/proc`, which is memory of the
//! kernel's: some 50 µs, without I/O. In the simulator there is nothing to tell.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::ctx::{Current, current_or_none};

/// Units of CPU time and of start times in `/proc`, a second: Linux fixes it for all architectures
/// in use, whatever its timer does.
const TICKS_PER_SECOND: f64 = 100.0;

/// This process's use of the machine at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessUse {
    /// CPU seconds, user and system, of all threads, also of those that have ended and of
    /// io_uring's workers, to 10 ms.
    pub cpu_s: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Threads, io_uring's workers included.
    pub threads: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// How many there may be.
    pub open_files_max: u64,
    /// When the process started, in seconds since 1970, to 10 ms and as the clock was at the boot.
    pub started_unix_s: f64,
}

/// What this process uses; `None` in the simulator, and where `/proc` is not Linux's.
#[must_use]
pub fn usage() -> Option<ProcessUse> {
    if matches!(current_or_none(), Some(Current::Sim(_))) {
        return None;
    }
    let text = |path| fs::read_to_string(path).ok();
    let (cpu_s, started_s) = times(&text("/proc/self/stat")?)?;
    let status = text("/proc/self/status")?;
    let boot = text("/proc/stat")?;
    let boot_s = value(&boot, "btime ")?;
    Some(ProcessUse {
        cpu_s,
        resident_bytes: value(&status, "VmRSS:")?.checked_mul(1024)?,
        threads: value(&status, "Threads:")?,
        open_files: open_files().ok()?,
        open_files_max: getrlimit(Resource::RLIMIT_NOFILE).ok()?.0,
        started_unix_s: boot_s as f64 + started_s,
    })
}

/// Raises the limit of open files as far as the operating system lets this process, and says how far
/// that is. The usual limit is meant for programs that call `select`.
///
/// # Errors
/// Whatever the operating system says; the limit is as before then.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// CPU seconds, and seconds from the boot to the start.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The second field is the name in brackets, which may hold spaces and brackets itself; the
    // third is the first behind it. `utime` and `stime` are 14 and 15, `starttime` is 22.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let seconds = |field: usize| Some(fields.get(field - 3)?.parse::<u64>().ok()? as f64 / TICKS_PER_SECOND);
    Some((seconds(14)? + seconds(15)?, seconds(22)?))
}

/// The number behind `name` at the beginning of a line.
fn value(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn open_files() -> io::Result<u64> {
    // Linux 6.2 and later say it as the directory's size; before, they have to be counted.
    match fs::metadata("/proc/self/fd")?.len() {
        // Without the one that reads the directory.
        0 => Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1)),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Sim, SimOptions};

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "77 (a) b (c)) S 1 2 3 4 -1 4194304 99 0 0 0 150 25 0 0 20 0 1 0 1738326 9 9";
        assert_eq!(times(stat), Some((1.75, 17_383.26)));
        assert_eq!(times("77 (a"), None);
        assert_eq!(times("77 (a) S 1"), None);
        assert_eq!(value("VmHWM:\t 5 kB\nVmRSS:\t    1024 kB\n", "VmRSS:"), Some(1024));
        assert_eq!(value("VmHWM:\t 5 kB\n", "VmRSS:"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_what_a_process_uses_or_nothing(
            text in "[0-9]{0,3} ?\\(.{0,8}\\) [A-Z](-?[0-9]{0,21} ?){0,24}|((VmRSS:|btime )\t?[0-9]{0,21}\n?){0,3}|.{0,60}",
        ) {
            let _ = (times(&text), value(&text, "VmRSS:"), value(&text, "btime "));
        }
    }

    #[test]
    fn this_process_has_memory_files_and_a_past() {
        let before = usage().unwrap();
        // How many more a process has from the one that started it is not known.
        let held = [(); 8].map(|()| fs::File::open("/proc/self/stat").unwrap());
        let after = usage().unwrap();
        assert!(after.resident_bytes > 0 && after.threads > 0 && after.cpu_s >= before.cpu_s);
        assert!(
            after.open_files >= held.len() as u64 && after.open_files <= after.open_files_max,
            "{after:?}"
        );
        assert_eq!(after.started_unix_s, before.started_unix_s);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(after.started_unix_s <= now.as_secs_f64() + 1.0, "{after:?}");
    }

    #[test]
    fn in_the_simulator_there_is_nothing_to_tell() {
        let sim = Sim::new(1, SimOptions::default());
        sim.run_on(1, async { assert_eq!(usage(), None) });
    }
}
