//! The kernel, and what it lets this process have.

use corelog_bench::result::report::Machine;
use corelog_runtime::checks;
use corelog_runtime::shards::StartError;
use nix::sys::resource::{Resource, getrlimit};

use super::{Check, Needs, cgroup, field, read, size};
use crate::out::grouped;

/// The oldest kernel that is supported: major and minor version.
const KERNEL_MIN: (u32, u32) = (5, 15);

/// Beyond this share of the machine's memory (in percent), budgets leave too little for the rest.
const MEMORY_PERCENT_MAX: u64 = 80;

/// Overcommitting is forbidden: memory counts when it is asked for.
const OVERCOMMIT_NEVER: &str = "2";

pub(super) fn kernel_and_limits(needs: &Needs, machine: &Machine) -> Vec<Check> {
    let memlock = checks::check_memlock(needs.io_memory_bytes, needs.shards);
    vec![
        kernel(&read("/proc/sys/kernel/osrelease").unwrap_or_default()),
        io_uring(memlock.is_ok(), machine),
        locked_memory(memlock, needs),
        match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, _)) => open_files(soft, needs),
            Err(error) => Check::unknown("open files", format!("the limit cannot be read: {error}")),
        },
        memory(needs, &Memory::of(machine)),
    ]
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|it| it.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (next(), next()) else {
        return Check::unknown("kernel", format!("its version is not known ('{release}')"));
    };
    let (major_min, minor_min) = KERNEL_MIN;
    if (major, minor) < KERNEL_MIN {
        let set = format!("a kernel of version {major_min}.{minor_min} or later");
        return Check::fail("kernel", format!("Linux {release}"), set);
    }
    Check::ok("kernel", format!("Linux {release}"))
}

fn io_uring(can_be_tried: bool, machine: &Machine) -> Check {
    let name = "io_uring";
    if !can_be_tried {
        return Check::unknown(name, "not tried: the limit of locked memory is too small for it");
    }
    if let Err(error) = checks::check_io_uring() {
        return Check::refused(name, error);
    }
    let status = read("/proc/self/status").unwrap_or_default();
    let filtered = field(&status, "Seccomp") == Some("2");
    let found = format!("a ring was set up{}", if filtered { ", under a seccomp filter" } else { "" });
    match machine.settings.get("io_uring_disabled").map(String::as_str) {
        Some("1") => Check::warn(
            name,
            format!("{found}; but kernel.io_uring_disabled is 1: only root and one group may"),
            "`sysctl -w kernel.io_uring_disabled=0` and a line in /etc/sysctl.d, or make the node's user a \
             member of the group in kernel.io_uring_group",
        ),
        _ => Check::ok(name, found),
    }
}

fn locked_memory(registered: Result<usize, StartError>, needs: &Needs) -> Check {
    let name = "locked memory";
    let registered = match registered {
        Ok(registered) => registered,
        Err(error) => return Check::refused(name, error),
    };
    let wanted = checks::locked_bytes(needs.io_memory_bytes, needs.shards);
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((u64::MAX, _)) => "no limit".to_owned(),
        Ok((soft, _)) => format!("the limit is {}", size(soft)),
        Err(error) => format!("the limit cannot be read: {error}"),
    };
    let all = format!("{limit}; {} shards want {}", needs.shards, size(wanted));
    if registered >= needs.io_memory_bytes {
        return Check::ok(name, all);
    }
    Check::warn(
        name,
        format!("{all}: each registers {} for its reads only", size(registered as u64)),
        "LimitMEMLOCK=infinity in the systemd unit, `--ulimit memlock=-1` for a container, `ulimit -l \
         unlimited` in a shell",
    )
}

fn open_files(limit: u64, needs: &Needs) -> Check {
    let name = "open files";
    let all = needs.files + needs.connections;
    if limit >= all {
        return Check::ok(
            name,
            format!("the limit is {}, at most {} are needed", grouped(limit), grouped(all)),
        );
    }
    let enough = all.next_power_of_two().max(65_536);
    let set = format!(
        "LimitNOFILE={enough} in the systemd unit, `--ulimit nofile={enough}:{enough}` for a container, \
         `ulimit -n {enough}` in a shell; or a smaller network.max_connections"
    );
    let found = format!(
        "the limit is {}; journals and segments may need {}, connections another {}",
        grouped(limit),
        grouped(needs.files),
        grouped(needs.connections)
    );
    if limit < needs.files { Check::fail(name, found, set) } else { Check::warn(name, found, set) }
}

/// What there is.
#[derive(Debug, Default)]
struct Memory {
    machine_bytes: u64,
    group_bytes: Option<u64>,
    /// What may still be asked for, where overcommitting is forbidden.
    committable_bytes: Option<u64>,
}

impl Memory {
    fn of(machine: &Machine) -> Self {
        let info = read("/proc/meminfo").unwrap_or_default();
        let bytes = |key| kib_field(&info, key);
        let strict = read("/proc/sys/vm/overcommit_memory").as_deref() == Some(OVERCOMMIT_NEVER);
        let committable = || bytes("CommitLimit")?.checked_sub(bytes("Committed_AS")?);
        Self {
            machine_bytes: machine.memory_bytes,
            group_bytes: cgroup::limits().memory_bytes,
            committable_bytes: if strict { committable() } else { None },
        }
    }
}

/// Bytes, in a file of lines such as `CommitLimit: 1024 kB`.
fn kib_field(text: &str, key: &str) -> Option<u64> {
    let kib: u64 = field(text, key)?.trim_end_matches("kB").trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn memory(needs: &Needs, memory: &Memory) -> Check {
    let name = "memory";
    let budget = format!("{} shards hold up to {}", needs.shards, size(needs.memory_bytes));
    if memory.machine_bytes == 0 {
        return Check::unknown(name, format!("{budget}; how much there is is not known"));
    }
    let (limit, whose) = match memory.group_bytes {
        Some(bytes) if bytes < memory.machine_bytes => (bytes, "this control group may use"),
        _ => (memory.machine_bytes, "the machine has"),
    };
    let found = format!("{budget}, {whose} {}", size(limit));
    let smaller = "a smaller network.request_memory_bytes, network.response_memory_bytes, \
                   memory.tail_cache_bytes or journal.file_bytes (half of a journal is held in memory), or \
                   fewer shards";
    if needs.memory_bytes > limit / 100 * MEMORY_PERCENT_MAX {
        let found = format!("{found}: more than {MEMORY_PERCENT_MAX}% of it");
        return Check::warn(name, found, format!("{smaller}; or more memory (MemoryMax= in the unit)"));
    }
    match memory.committable_bytes {
        Some(bytes) if bytes < needs.memory_bytes => Check::warn(
            name,
            format!("{found}; vm.overcommit_memory is 2 and only {} may still be asked for", size(bytes)),
            format!("`sysctl -w vm.overcommit_memory=0`, or {smaller}"),
        ),
        _ => Check::ok(name, found),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Level;
    use super::*;
    use crate::config::Config;

    fn needs() -> Needs {
        Needs::of(&Config { shards: 2, ..Config::default() }).unwrap()
    }

    #[test]
    fn a_kernel_is_judged_by_its_version() {
        assert_eq!(kernel("6.18.44-fc").level, Level::Ok);
        assert_eq!(kernel("5.15.0-1").level, Level::Ok);
        let old = kernel("5.14.0-427.el9");
        assert!(old.level == Level::Fail && old.set.unwrap().contains("5.15"));
        assert_eq!(kernel("").level, Level::Warn);
        assert_eq!(kernel("six.two").level, Level::Warn);
    }

    #[test]
    fn files_of_the_log_must_fit_and_connections_should() {
        let needs = needs();
        assert_eq!(open_files(needs.files + needs.connections, &needs).level, Level::Ok);
        let tight = open_files(needs.files, &needs);
        assert_eq!(tight.level, Level::Warn);
        assert!(tight.set.unwrap().contains("LimitNOFILE=65536"));
        assert_eq!(open_files(needs.files - 1, &needs).level, Level::Fail);
        assert_eq!(open_files(u64::MAX, &needs).level, Level::Ok);
    }

    #[test]
    fn budgets_must_leave_memory_for_the_rest() {
        let needs = needs();
        let of = |machine_bytes, group_bytes| Memory { machine_bytes, group_bytes, committable_bytes: None };
        assert_eq!(memory(&needs, &of(64 << 30, None)).level, Level::Ok);
        assert_eq!(memory(&needs, &of(needs.memory_bytes, None)).level, Level::Warn);
        let group = memory(&needs, &of(64 << 30, Some(needs.memory_bytes)));
        assert!(group.level == Level::Warn && group.found.contains("control group"), "{group:?}");
        assert_eq!(memory(&needs, &of(0, None)).level, Level::Warn, "not known");
        let strict = Memory { committable_bytes: Some(1 << 20), ..of(64 << 30, None) };
        assert!(memory(&needs, &strict).found.contains("overcommit"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_kernel_and_a_memory_or_unknown(
            release in "[0-9]{0,12}[.a-z-]{0,2}[0-9]{0,12}.{0,12}",
            info in "(CommitLimit|Committed_AS|.{0,8}):\\s{0,3}[0-9]{0,21} ?(kB)?\n?",
            machine_bytes: u64,
        ) {
            let _ = kernel(&release);
            let committable_bytes = kib_field(&info, "CommitLimit");
            let _ = memory(&needs(), &Memory { machine_bytes, group_bytes: committable_bytes, committable_bytes });
        }
    }

    #[test]
    fn less_locked_memory_than_wanted_is_told() {
        let needs = needs();
        assert_eq!(locked_memory(Ok(needs.io_memory_bytes), &needs).level, Level::Ok);
        let less = locked_memory(Ok(65_536), &needs);
        assert!(less.level == Level::Warn && less.found.contains("64 KiB"), "{less:?}");
        let error = StartError::MemlockTooSmall { have_bytes: 65_536, need_bytes: 524_288 };
        assert_eq!(locked_memory(Err(error), &needs).level, Level::Fail);
    }
}
