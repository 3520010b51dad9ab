//! Limits of the control group that this process is in, and of those around it.

use std::path::{Path, PathBuf};

use super::read;

/// Where control groups are mounted, by systemd's and everybody's convention.
const ROOT: &str = "/sys/fs/cgroup";

/// The tightest limits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Limits {
    /// In cores.
    pub(super) cpu: Option<f64>,
    pub(super) memory_bytes: Option<u64>,
}

/// Those of this process.
pub(super) fn limits() -> Limits {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    limits_of(&groups, Path::new(ROOT))
}

/// `groups` is as in cgroups(7): `4:memory:/path` for version 1, `0::/path` for version 2. In a
/// container the path may be the host's, and the container's own group is mounted as the root.
fn limits_of(groups: &str, root: &Path) -> Limits {
    let mut limits = Limits::default();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let has = |controller| controllers.split(',').any(|it| it == controller);
        if controllers.is_empty() {
            for dir in up(root, path) {
                tighten(&mut limits.cpu, read(dir.join("cpu.max")).and_then(|it| cpu_max(&it)));
                tighten(
                    &mut limits.memory_bytes,
                    read(dir.join("memory.max")).and_then(|it| it.parse().ok()),
                );
            }
        }
        if has("cpu") {
            for dir in up(&root.join("cpu"), path) {
                tighten(&mut limits.cpu, cfs_quota(&dir));
            }
        }
        if has("memory") {
            for dir in up(&root.join("memory"), path) {
                let bytes = read(dir.join("memory.limit_in_bytes")).and_then(|it| it.parse().ok());
                tighten(&mut limits.memory_bytes, bytes.filter(|it| *it < NO_LIMIT_BYTES));
            }
        }
    }
    limits
}

/// Version 1 says "no limit" with the largest number of whole pages.
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// The group at `path` and all around it, as directories.
fn up(root: &Path, path: &str) -> Vec<PathBuf> {
    let inner = Path::new(path.trim_start_matches('/'));
    inner.ancestors().map(|group| root.join(group)).collect()
}

fn tighten<T: PartialOrd>(limit: &mut Option<T>, other: Option<T>) {
    if let Some(other) = other
        && limit.as_ref().is_none_or(|it| other < *it)
    {
        *limit = Some(other);
    }
}

/// `150000 100000` is one and a half, `max 100000` no limit.
fn cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    ratio(quota, period)
}

fn cfs_quota(dir: &Path) -> Option<f64> {
    ratio(&read(dir.join("cpu.cfs_quota_us"))?, &read(dir.join("cpu.cfs_period_us"))?)
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_tightest_limit_of_all_groups_around_counts() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "system.slice/cpu.max", "150000 100000\n");
        write(root.path(), "system.slice/node.service/cpu.max", "max 100000\n");
        write(root.path(), "system.slice/memory.max", "max\n");
        write(root.path(), "system.slice/node.service/memory.max", "1073741824\n");
        let found = limits_of("0::/system.slice/node.service\n", root.path());
        assert_eq!(found, Limits { cpu: Some(1.5), memory_bytes: Some(1 << 30) });
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "cpu.max", "200000 100000\n");
        let found = limits_of("0::/docker/0123\n", root.path());
        assert_eq!(found, Limits { cpu: Some(2.0), memory_bytes: None });
    }

    #[test]
    fn version_1_is_understood_and_its_way_to_say_no_limit() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "cpu/a/cpu.cfs_quota_us", "50000\n");
        write(root.path(), "cpu/a/cpu.cfs_period_us", "100000\n");
        write(root.path(), "cpu/cpu.cfs_quota_us", "-1\n");
        write(root.path(), "cpu/cpu.cfs_period_us", "100000\n");
        write(root.path(), "memory/b/memory.limit_in_bytes", "9223372036854771712\n");
        let found = limits_of("1:cpu,cpuacct:/a\n4:memory:/b\n0::/\n", root.path());
        assert_eq!(found, Limits { cpu: Some(0.5), memory_bytes: None });
    }

    proptest! {
        #[test]
        fn any_text_is_a_limit_or_none(
            groups in "([0-9]{0,2}:(cpu|memory|cpu,memory)?:/?[a-z./]{0,8}\n){0,4}|.{0,40}",
            number in "-?[0-9.e]{0,24}|max|inf|NaN|.{0,9}",
            other in "-?[0-9.e]{0,24}|.{0,9}",
        ) {
            let root = tempfile::tempdir().unwrap();
            write(root.path(), "cpu.max", &format!("{number} {other}\n"));
            write(root.path(), "memory.max", &number);
            write(root.path(), "cpu/cpu.cfs_quota_us", &number);
            write(root.path(), "cpu/cpu.cfs_period_us", &other);
            write(root.path(), "memory/memory.limit_in_bytes", &other);
            let found = limits_of(&groups, root.path());
            prop_assert!(found.cpu.is_none_or(|cores| cores > 0.0), "{found:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_no_limit() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(limits_of("nonsense\n::\n0::/x\n1:cpu:/y", root.path()), Limits::default());
        assert_eq!(limits_of("", root.path()), Limits::default());
    }
}
