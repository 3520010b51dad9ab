//! The machine that the numbers are of, what a process used, and the date: all from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Where something was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Of the brokers' data: type and mount options.
    pub(crate) file_system: String,
    /// Its device, with the device's write cache.
    pub(crate) device: String,
    /// What else changes results.
    pub(crate) settings: BTreeMap<String, String>,
}

impl Machine {
    /// This one, with its data in `folder`, which must be on a disk.
    pub(crate) fn describe(folder: &Path) -> Result<Self> {
        let cpu_info = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpu_info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let memory_kb = field(&fs::read_to_string("/proc/meminfo")?, "MemTotal:").unwrap_or_default();
        let numbers = device_numbers(folder)?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts.lines().find_map(|line| Mount::parse(line, &numbers));
        let (file_system, source) = match &mount {
            Some(mount) => (format!("{} ({})", mount.kind, mount.options), mount.source.clone()),
            None => ("unknown".to_owned(), numbers.clone()),
        };
        let in_memory = mount.is_some_and(|mount| ["tmpfs", "ramfs"].contains(&mount.kind.as_str()));
        ensure!(!in_memory, "{} is in memory: durable results need a disk", folder.display());
        let mut settings = BTreeMap::new();
        for (name, path) in SETTINGS {
            if let Some(value) = read_line(Path::new(path)) {
                settings.insert((*name).to_owned(), value);
            }
        }
        Ok(Self {
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: memory_kb * 1024,
            kernel: read_line(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default(),
            file_system,
            device: format!("{source}, write cache: {}", write_cache(&numbers)),
            settings,
        })
    }
}

const SETTINGS: &[(&str, &str)] = &[
    ("clock source", "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    ("frequency governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    ("transparent huge pages", "/sys/kernel/mm/transparent_hugepage/enabled"),
    ("vm.dirty_background_ratio", "/proc/sys/vm/dirty_background_ratio"),
    ("vm.dirty_ratio", "/proc/sys/vm/dirty_ratio"),
    ("vendor", "/sys/class/dmi/id/sys_vendor"),
];

struct Mount {
    kind: String,
    options: String,
    source: String,
}

impl Mount {
    /// A line of `/proc/self/mountinfo`, when it is of the device with these numbers.
    fn parse(line: &str, numbers: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let mut system = system.split(' ');
        if *mount.get(2)? != numbers {
            return None;
        }
        let kind = system.next()?.to_owned();
        Some(Self { kind, options: (*mount.get(5)?).to_owned(), source: system.next()?.to_owned() })
    }
}

/// The device that `folder` is on, as the kernel names it in `/sys/dev/block` and among the mounts.
pub(crate) fn device_numbers(folder: &Path) -> Result<String> {
    let device = fs::metadata(folder)?.dev();
    Ok(format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device)))
}

/// What the device says of its write cache; a partition's is in its disk's folder.
fn write_cache(numbers: &str) -> String {
    let device = format!("/sys/dev/block/{numbers}");
    ["queue/write_cache", "../queue/write_cache"]
        .into_iter()
        .find_map(|path| read_line(&Path::new(&device).join(path)))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn read_line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The number behind a name, as in `VmRSS:   1234 kB`.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What a process has used so far, with all of its threads; io_uring's kernel workers are among them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) resident_mb: f64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("the process {pid} is not there"))?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("/proc/{pid}/stat has another form"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident_kb = field(&status, "VmRSS:").unwrap_or_default();
        Ok(Self { cpu_s: ticks_s(ticks)?, resident_mb: as_f64(resident_kb) * 1024.0 / 1e6 })
    }
}

/// User and system time of a line of `/proc/<pid>/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may contain spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    fields.get(11)?.parse::<u64>().ok()?.checked_add(fields.get(12)?.parse().ok()?)
}

fn ticks_s(ticks: u64) -> Result<f64> {
    let per_s = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(as_f64(ticks) / as_f64(u64::try_from(per_s)?))
}

/// What the machine's processors did since it was started: all time, and what the host withheld.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processors {
    all: u64,
    stolen: u64,
}

impl Processors {
    pub(crate) fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?).context("/proc/stat has another form")
    }

    fn parse(stat: &str) -> Option<Self> {
        let times = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let times: Vec<u64> = times.map_while(|time| time.parse().ok()).collect();
        // Guests' time, behind these eight, is in the user's time already.
        let all = times.iter().take(8).try_fold(0_u64, |all, time| all.checked_add(*time))?;
        Some(Self { all, stolen: *times.get(7)? })
    }

    pub(crate) fn steal_percent_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        as_f64(self.stolen.saturating_sub(before.stolen)) * 100.0 / as_f64(all)
    }
}

/// Exact up to 2⁵³, which no count here reaches.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

/// The moment as RFC 3339, in UTC; its first ten letters are the date.
pub(crate) fn now() -> Result<String> {
    Ok(rfc3339(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()))
}

/// Howard Hinnant's `civil_from_days`, for days from 1970.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_text_is_what_proc_says_or_nothing(
            stat in "[0-9]{0,3} ?\\(.{0,8}\\) [A-Z]( -?[0-9]{0,21}){0,20}|.{0,60}",
            times in "cpu ( [0-9]{0,21}){0,12}(\n.{0,9})?|.{0,40}",
            mount in "([0-9]{0,3} ){2}[0-9]:[0-9]( [a-z,/]{0,9}){0,5} - [a-z0-9]{0,5} [^ ]{0,9}|.{0,60}",
        ) {
            let _ = (cpu_ticks(&stat), field(&stat, "VmRSS:"), Processors::parse(&times).map(|it| it.all));
            let _ = Mount::parse(&mount, "8:1").map(|it| it.kind);
        }
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(rfc3339(1_795_271_000), "2026-11-21T14:23:20Z");
    }

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let stat = "7 (a ) (b) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (x"), None);
        assert!(Usage::of(std::process::id()).is_ok_and(|usage| usage.resident_mb > 1.0));
    }

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let parse = |text| Processors::parse(text);
        let before = parse("cpu  100 0 100 100 0 0 0 0 0 0\n");
        let after = parse("cpu  200 0 150 130 0 0 0 20 50 0\n");
        let share = before.zip(after).map(|(before, after)| after.steal_percent_since(before));
        assert_eq!(share, Some(10.0));
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        let line = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard";
        let mount = Mount::parse(line, "254:0");
        assert!(
            mount.is_some_and(|it| it.kind == "ext4"
                && it.source == "/dev/vda"
                && it.options == "rw,relatime")
        );
        assert!(Mount::parse(line, "254:1").is_none());
    }
}
