//! Cores and clocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use corelog_bench::result::report::Machine;
use corelog_runtime::checks;

use super::{Check, Needs, cgroup, read};

/// Clocks that are read from the processor, without a system call.
const FAST_CLOCKS: [&str; 6] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "xen", "arch_sys_counter", "riscv_clocksource"];

/// A clock that takes longer to read is one that needs a system call, or a device.
const CLOCK_READING_MAX: Duration = Duration::from_nanos(250);

/// Readings that are timed together, and how often: the fastest counts.
const CLOCK_READINGS: u32 = 10_000;
const CLOCK_ROUNDS: usize = 10;

/// Under these drivers the processor chooses its frequency itself, whatever the governor is called.
const SELF_DRIVEN: [&str; 2] = ["intel_pstate", "amd-pstate-epp"];

pub(super) fn cores_and_clocks(needs: &Needs, machine: &Machine) -> Vec<Check> {
    let cores = checks::check_cores(needs.cores.as_deref());
    let mut checks = vec![match &cores {
        Ok(cores) => shards_on(needs.shards, cores, &pairs(cores)),
        Err(error) => Check::refused("cores", error),
    }];
    let used = cores.map_or(needs.shards, |cores| cores.len().min(needs.shards));
    checks.push(quota(cgroup::limits().cpu, used));
    let setting = |name| machine.settings.get(name).map(String::as_str);
    if let Some(governor) = setting("frequency_governor") {
        let driver = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver").unwrap_or_default();
        checks.push(frequency(governor, &driver));
    }
    checks.push(clock_source(setting("clock_source"), time_clock()));
    checks.push(match checks::wall_clock_is_synchronised() {
        Ok(true) => Check::ok("wall clock", "synchronised"),
        Ok(false) => Check::warn(
            "wall clock",
            "not synchronised: timestamps of records, and look-ups by time, are as wrong as it is",
            "`timedatectl set-ntp true`, or chrony or ntpd",
        ),
        Err(error) => Check::unknown("wall clock", format!("cannot be asked for here: {error}")),
    });
    checks
}

fn shards_on(shards: usize, cores: &[usize], pairs: &[(usize, usize)]) -> Check {
    let name = "cores";
    let found = format!("{shards} shards on cores {}", list(cores));
    if shards > cores.len() {
        return Check::warn(
            name,
            format!("{found}: they share cores, which serves tests only"),
            format!("`--shards {}` or fewer", cores.len()),
        );
    }
    match pairs {
        [] => Check::ok(name, found),
        [(one, other), ..] => Check::ok(
            name,
            format!(
                "{found}; some are threads of one physical core ({one} and {other}), and share its speed"
            ),
        ),
    }
}

/// As in `0-2,5`.
fn list(cores: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for core in cores {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *core => *last = *core,
            _ => ranges.push((*core, *core)),
        }
    }
    let text = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Cores that are threads of one physical core, by two.
fn pairs(cores: &[usize]) -> Vec<(usize, usize)> {
    let mut first_of: BTreeMap<String, usize> = BTreeMap::new();
    let mut pairs = Vec::new();
    for core in cores {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        let Some(siblings) = read(path) else { continue };
        match first_of.get(&siblings) {
            Some(first) => pairs.push((*first, *core)),
            None => {
                first_of.insert(siblings, *core);
            }
        }
    }
    pairs
}

fn quota(quota: Option<f64>, cores: usize) -> Check {
    let name = "CPU quota";
    match quota {
        None => Check::ok(name, "none"),
        Some(quota) if quota >= cores as f64 => Check::ok(name, format!("{quota} cores")),
        Some(quota) => Check::warn(
            name,
            format!(
                "this control group may use {quota} cores, and {cores} are used: a shard that has used its \
                 share up stands still for the rest of the period"
            ),
            "no CPUQuota= in the unit, no --cpus for a container; instead `--cores` and AllowedCPUs= or \
             --cpuset-cpus",
        ),
    }
}

fn frequency(governor: &str, driver: &str) -> Check {
    let name = "CPU frequency";
    let found = format!("governor {governor}");
    let is_slow = matches!(governor, "powersave" | "conservative" | "ondemand");
    if is_slow && !SELF_DRIVEN.contains(&driver) {
        let found = format!("{found}: the processor is slow when work arrives");
        return Check::warn(name, found, "`cpupower frequency-set -g performance`");
    }
    Check::ok(name, found)
}

/// How long a reading of the monotonic clock takes.
fn time_clock() -> Duration {
    let round = |_| {
        let start = Instant::now();
        for _ in 0..CLOCK_READINGS {
            std::hint::black_box(Instant::now());
        }
        start.elapsed() / CLOCK_READINGS
    };
    (0..CLOCK_ROUNDS).map(round).min().unwrap_or_default()
}

fn clock_source(source: Option<&str>, reading: Duration) -> Check {
    let name = "clock source";
    let found = format!("{}, {} ns a reading", source.unwrap_or("unknown"), reading.as_nanos());
    // A fast one is slow all the same where a tracer or hypervisor intercepts it.
    if source.is_none_or(|it| FAST_CLOCKS.contains(&it)) && reading <= CLOCK_READING_MAX {
        return Check::ok(name, found);
    }
    Check::warn(
        name,
        format!("{found}: each request reads it several times"),
        "one of /sys/devices/system/clocksource/clocksource0/available_clocksource, as in `echo tsc > \
         /sys/devices/system/clocksource/clocksource0/current_clocksource`; for good with clocksource=tsc on \
         the kernel's command line",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn cores_are_listed_as_people_write_them() {
        assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(list(&[3]), "3");
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn shards_should_have_cores_of_their_own() {
        assert_eq!(shards_on(2, &[0, 1], &[]).level, Level::Ok);
        assert!(shards_on(2, &[0, 1], &[(0, 1)]).found.contains("one physical core (0 and 1)"));
        let many = shards_on(4, &[0, 1], &[]);
        assert!(many.level == Level::Warn && many.set.unwrap().contains("--shards 2"));
    }

    #[test]
    fn a_quota_below_the_cores_stops_shards() {
        assert_eq!(quota(None, 4).level, Level::Ok);
        assert_eq!(quota(Some(4.0), 4).level, Level::Ok);
        assert_eq!(quota(Some(3.5), 4).level, Level::Warn);
    }

    #[test]
    fn a_governor_is_slow_unless_the_processor_decides() {
        assert_eq!(frequency("powersave", "acpi-cpufreq").level, Level::Warn);
        assert_eq!(frequency("powersave", "intel_pstate").level, Level::Ok);
        assert_eq!(frequency("performance", "acpi-cpufreq").level, Level::Ok);
        assert_eq!(frequency("schedutil", "").level, Level::Ok);
    }

    #[test]
    fn a_clock_is_judged_by_its_kind_and_by_what_it_takes() {
        let fast = Duration::from_nanos(25);
        assert_eq!(clock_source(Some("tsc"), fast).level, Level::Ok);
        assert_eq!(clock_source(None, fast).level, Level::Ok);
        assert_eq!(clock_source(Some("hpet"), fast).level, Level::Warn);
        assert_eq!(clock_source(Some("tsc"), Duration::from_micros(1)).level, Level::Warn);
    }
}
