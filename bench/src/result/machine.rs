//! Where a run took place: the machine and a directory's disk, as Linux tells it.
//!
//! Describes and judges nothing: whoever needs a real disk asks [`is_memory`]. What the kernel does
//! not tell is `unknown`, or left out of the settings.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;

use super::report::{Machine, Storage};

const UNKNOWN: &str = "unknown";

/// Describes the machine that this process runs on.
#[must_use]
pub fn describe_machine() -> Machine {
    let cpu_info = line(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), "model name");
    let memory = memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let kernel = ["osrelease", "version"].map(|it| read(format!("/proc/sys/kernel/{it}")));
    Machine {
        cpu: format!("{} ({})", cpu_info.unwrap_or_else(|| UNKNOWN.to_owned()), std::env::consts::ARCH),
        cores: allowed_cores().map_or(0, |it| it.len()),
        memory_bytes: memory.unwrap_or(0),
        kernel: kernel.into_iter().flatten().collect::<Vec<_>>().join(" "),
        settings: settings(),
    }
}

/// The cores that this process may use, in order.
///
/// # Errors
/// What the operating system says.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

/// Limits and settings that change results.
fn settings() -> BTreeMap<String, String> {
    const FILES: [(&str, &str); 8] = [
        ("frequency_governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ("frequency_boost", "/sys/devices/system/cpu/cpufreq/boost"),
        ("clock_source", "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        ("smt", "/sys/devices/system/cpu/smt/control"),
        ("io_uring_disabled", "/proc/sys/kernel/io_uring_disabled"),
        ("machine_vendor", "/sys/class/dmi/id/sys_vendor"),
        ("machine_product", "/sys/class/dmi/id/product_name"),
        // The limit of a container that sees its own cgroup as the root.
        ("cgroup_cpu_max", "/sys/fs/cgroup/cpu.max"),
    ];
    let mut settings: BTreeMap<String, String> =
        FILES.into_iter().filter_map(|(name, path)| Some((name.to_owned(), read(path)?))).collect();
    settings.insert("hypervisor".to_owned(), hypervisor());
    if let Some(pages) = read("/sys/kernel/mm/transparent_hugepage/enabled") {
        settings.insert("transparent_hugepage".to_owned(), chosen(&pages).to_owned());
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_MEMLOCK) {
        let limit = if soft == u64::MAX { "unlimited".to_owned() } else { soft.to_string() };
        settings.insert("locked_memory_bytes_max".to_owned(), limit);
    }
    settings
}

/// The kind of hypervisor where the kernel tells it, `yes` where only the processor does.
fn hypervisor() -> String {
    if let Some(kind) = read("/sys/hypervisor/type") {
        return kind;
    }
    let flags = line(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), "flags");
    match flags {
        Some(flags) if flags.split(' ').any(|it| it == "hypervisor") => "yes".to_owned(),
        Some(_) => "none".to_owned(),
        None => UNKNOWN.to_owned(),
    }
}

/// What is in brackets, in a file such as `always [madvise] never`.
fn chosen(text: &str) -> &str {
    let bracketed = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or(text, |(chosen, _)| chosen)
}

/// A file's one line, if it is there and says something.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// All memory that there is, as `/proc/meminfo` has it.
fn memory_bytes(info: &str) -> Option<u64> {
    let kib: u64 = line(info, "MemTotal")?.trim_end_matches("kB").trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The first value of `name`, in a file of lines such as `name : value`.
fn line(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// Describes the disk that `dir` is on, or will be: it need not exist yet.
///
/// # Errors
/// A directory that cannot be looked at; no mount in `/proc/self/mountinfo` that it could be on.
pub fn describe_storage(dir: &Path) -> Result<Storage> {
    let path = std::path::absolute(dir).with_context(|| format!("{} is no path", dir.display()))?;
    let existing = path.ancestors().find(|it| it.exists()).unwrap_or(Path::new("/"));
    let real = existing.canonicalize().with_context(|| format!("cannot look at {}", existing.display()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let mount = mount_of(&mounts, &real)
        .with_context(|| format!("/proc/self/mountinfo has no mount for {}", real.display()))?;
    let device = BlockDevice::of(&mount);
    Ok(Storage {
        path,
        file_system: format!("{} ({})", mount.kind, mount.options),
        device: match &device {
            Some(device) => device.description(),
            None => mount.source_description(),
        },
        write_cache: device.and_then(|it| it.queue("write_cache")).unwrap_or_else(|| UNKNOWN.to_owned()),
    })
}

/// Whether it is main memory that calls itself a disk: what is "durable" there is gone with the
/// power.
#[must_use]
pub fn is_memory(storage: &Storage) -> bool {
    let kind = storage.file_system.split(' ').next().unwrap_or_default();
    ["tmpfs", "ramfs", "devtmpfs", "hugetlbfs"].contains(&kind)
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// As `major:minor`.
    device: String,
    point: PathBuf,
    kind: String,
    source: String,
    options: String,
}

impl Mount {
    /// `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue`; see
    /// proc_pid_mountinfo(5).
    fn parse(line: &str) -> Option<Self> {
        let (ours, rest) = line.split_once(" - ")?;
        let mut ours = ours.split(' ').skip(2);
        let device = ours.next()?.to_owned();
        let point = unescape(ours.nth(1)?);
        let own_options = ours.next()?;
        let mut rest = rest.splitn(3, ' ');
        let (kind, source) = (rest.next()?, rest.next()?);
        let mut options: Vec<&str> = own_options.split(',').collect();
        let of_file_system = rest.next().unwrap_or_default().trim().split(',');
        let new: Vec<&str> = of_file_system.filter(|it| !it.is_empty() && !options.contains(it)).collect();
        options.extend(new);
        Some(Self {
            device,
            point,
            kind: kind.to_owned(),
            source: unescape(source).display().to_string(),
            options: options.join(","),
        })
    }

    /// What the file system names where it has no block device of its own.
    fn source_description(&self) -> String {
        let upper = self.options.split(',').find_map(|it| it.strip_prefix("upperdir="));
        match upper {
            Some(upper) if self.kind == "overlay" => {
                format!("overlay with its upper layer in {upper}")
            }
            _ => self.source.clone(),
        }
    }
}

/// Spaces, tabs, line ends and backslashes are written as `\040` and so on.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let code = more.get(..3).and_then(|it| std::str::from_utf8(it).ok());
        match code.and_then(|it| u8::from_str_radix(it, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &more[3..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The mount that `path` is on: the innermost, and of several at one place the last.
fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
    let fitting = mounts.lines().filter_map(Mount::parse).filter(|it| path.starts_with(&it.point));
    fitting.max_by_key(|it| it.point.as_os_str().len())
}

/// A block device's directory in `/sys`.
struct BlockDevice(PathBuf);

impl BlockDevice {
    fn of(mount: &Mount) -> Option<Self> {
        // A file system without a device of its own has major number 0. btrfs is one, and yet it
        // names its device.
        let number = if mount.device.starts_with("0:") {
            let source = fs::metadata(&mount.source).ok()?;
            if source.rdev() == 0 {
                return None;
            }
            format!("{}:{}", nix::sys::stat::major(source.rdev()), nix::sys::stat::minor(source.rdev()))
        } else {
            mount.device.clone()
        };
        Some(Self(Path::new("/sys/dev/block").join(number).canonicalize().ok()?))
    }

    /// A property of its queue: a partition's are those of the disk.
    fn queue(&self, property: &str) -> Option<String> {
        let of = |dir: &Path| read(dir.join("queue").join(property));
        of(&self.0).or_else(|| of(self.0.parent()?))
    }

    fn description(&self) -> String {
        let name = self.0.file_name().map_or(UNKNOWN.into(), |it| it.to_string_lossy());
        let mut text = format!("/dev/{name}");
        let model = |dir: &Path| read(dir.join("device").join("model"));
        if let Some(model) = model(&self.0).or_else(|| model(self.0.parent()?)) {
            text.push_str(&format!(", {model}"));
        }
        let mapped = read(self.0.join("dm").join("name"));
        if let Some(mapped) = mapped {
            text.push_str(&format!(", device mapper's {mapped}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTS: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684096k
40 27 8:1 /data /mnt/a\\040disk rw,noatime master:1 shared:2 - xfs /dev/sda1 rw,noquota
41 27 0:50 / /mnt/layers rw - overlay overlay rw,lowerdir=/l,upperdir=/var/up,workdir=/w
42 27 0:51 / /mnt/layers rw - tmpfs late rw
";

    #[test]
    fn a_directory_is_on_the_innermost_and_last_mount() {
        let on = |path: &str| mount_of(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(on("/home/x").source, "/dev/vda");
        assert_eq!(on("/dev/shm/x").kind, "tmpfs");
        assert_eq!(on("/dev/shmx").kind, "ext4");
        assert_eq!(on("/mnt/a disk/x").options, "rw,noatime,noquota");
        assert_eq!(on("/mnt/a disk").device, "8:1");
        assert_eq!(on("/mnt/layers").source, "late");
        assert_eq!(mount_of("nonsense\n\n - \n", Path::new("/")), None);
    }

    #[test]
    fn an_overlay_says_so_and_names_its_upper_layer() {
        let mounts: String = MOUNTS.lines().take(4).map(|line| format!("{line}\n")).collect();
        let mount = mount_of(&mounts, Path::new("/mnt/layers/x")).unwrap();
        assert_eq!(mount.kind, "overlay");
        assert_eq!(mount.source_description(), "overlay with its upper layer in /var/up");
    }

    #[test]
    fn memory_is_recognised_by_its_file_system() {
        let on = |kind: &str| is_memory(&Storage { file_system: kind.to_owned(), ..Storage::default() });
        assert!(on("tmpfs (rw,relatime)") && on("ramfs (rw)"));
        assert!(!on("ext4 (rw,tmpfs)") && !on("overlay (rw)") && !on(""));
    }

    #[test]
    fn a_directory_that_is_not_there_yet_has_a_disk() {
        let storage = describe_storage(Path::new("not/there/yet")).unwrap();
        assert!(storage.path.is_absolute() && storage.path.ends_with("not/there/yet"));
        assert!(storage.file_system.contains('('), "{storage:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_machine_or_a_mount_or_nothing(
            line in "([0-9]{0,3} ){2}[0-9]{0,2}:[0-9] /[a-z]{0,3} /([a-z/]|\\\\[0-9]{0,3}|ü){0,12} rw(,[a-z=/]{0,12}){0,3} (shared:1 )?- (ext4|overlay|[a-z]{0,3}) [^ ]{0,9} .{0,12}",
            setting in "(MemTotal|model name)\t?: ?[0-9]{0,21} ?(kB)?|[a-z ]{0,5}\\[?[a-z]{0,4}\\]?.{0,9}",
            text in ".{0,60}",
            path in "/[a-z/]{0,12}",
        ) {
            let mounts = format!("{MOUNTS}{line}\n{text}\n{setting}\n");
            // The root is a mount.
            let mount = mount_of(&mounts, Path::new(&path)).unwrap();
            prop_assert!(Path::new(&path).starts_with(&mount.point));
            let _ = (mount.source_description(), mount_of(&line, Path::new(&path)), unescape(&text));
            let _ = (memory_bytes(&setting), super::line(&mounts, "MemTotal"), chosen(&setting).len());
        }
    }

    #[test]
    fn the_choice_in_a_setting_is_what_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("0"), "0");
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = describe_machine();
        assert!(machine.cores > 0 && machine.memory_bytes > 0, "{machine:?}");
        assert!(!machine.kernel.is_empty());
    }
}
