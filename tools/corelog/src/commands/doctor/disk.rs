//! What the data directory is on: file system, device, room, and how long a sync takes.

use std::path::Path;
use std::time::Duration;

use corelog_bench::result::machine::{describe_storage, is_memory};
use corelog_bench::result::report::Storage;
use corelog_runtime::checks;
use corelog_runtime::error::with_causes;
use corelog_runtime::fs::BLOCK_BYTES;
use nix::sys::statvfs::statvfs;

use super::directory::Directory;
use super::{Check, Needs, read, size};
use crate::out::grouped;

/// File systems that Corelog is used on.
const KNOWN: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// What lies on another machine, or behind a process.
const REMOTE: [&str; 10] =
    ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "9p", "virtiofs", "afs"];

/// Part of the file system that should stay free for segments, in percent.
const FREE_PERCENT_MIN: u64 = 5;
/// Each segment is a file, each partition with segments a directory.
const INODES_MIN: u64 = 10_000;

/// How long syncs are timed, and how many at most.
const TIMED_FOR: Duration = Duration::from_secs(1);
const TIMED_MAX: usize = 2_000;

/// A sync that takes longer is one of a rotating disk, or of a device without protected cache.
const SYNC_P50_MAX: Duration = Duration::from_millis(2);
const SYNC_P99_MAX: Duration = Duration::from_millis(20);
/// No device is as fast: something acknowledges without writing.
const SYNC_P50_MIN: Duration = Duration::from_micros(4);

pub(super) fn disk(directory: &Directory, needs: &Needs) -> Vec<Check> {
    // A file that is no directory is on a disk as well; what matters is what can be written.
    let place = directory.writable.as_deref().unwrap_or(&directory.path);
    let mut checks = Vec::new();
    match describe_storage(place) {
        Ok(storage) => {
            checks.push(file_system(&storage));
            if !is_memory(&storage) {
                checks.push(device(&storage, Queue::of(&storage)));
            }
        }
        Err(error) => checks.push(Check::unknown("file system", with_causes(error.as_ref()))),
    }
    if let Some(place) = &directory.writable {
        checks.extend(room(place, directory.journal_bytes, needs));
    }
    match &directory.writable {
        Some(place) if directory.is_usable() => checks.extend(direct_io(place)),
        _ => checks.push(Check::unknown("direct I/O", "not tried: the data directory cannot be used")),
    }
    checks
}

fn file_system(storage: &Storage) -> Check {
    let name = "file system";
    let found = format!("{}: {}", storage.file_system, storage.device);
    let (kind, options) = storage.file_system.split_once(' ').unwrap_or((&storage.file_system, ""));
    let mut options = options.trim_matches(['(', ')']).split(',');
    if is_memory(storage) {
        let set = "data_dir on a disk: what is in memory is gone with the power";
        return Check::fail(name, found, set);
    }
    if kind == "overlay" {
        return Check::warn(
            name,
            format!("{found}; data in a container's own layer are gone with the container"),
            "a volume for the data directory, as in `-v corelog-data:/var/lib/corelog`",
        );
    }
    if REMOTE.contains(&kind) || kind.starts_with("fuse") {
        return Check::warn(
            name,
            format!("{found}; over a network a sync promises what the other side makes of it"),
            "data_dir on a local disk with ext4 or XFS",
        );
    }
    if options.clone().any(|it| matches!(it, "nobarrier" | "barrier=0")) {
        return Check::fail(
            name,
            format!("{found}; without barriers a sync leaves records in the device's volatile cache"),
            "the mount without nobarrier or barrier=0",
        );
    }
    if !KNOWN.contains(&kind) {
        return Check::warn(name, format!("{found}; Corelog is not tested on {kind}"), "ext4 or XFS");
    }
    if options.any(|it| it == "discard") {
        return Check::warn(
            name,
            format!("{found}; with discard, syncs take long for a while after segments were deleted"),
            "the mount without discard, and fstrim.timer",
        );
    }
    Check::ok(name, found)
}

/// What the kernel knows of a device's queue.
#[derive(Debug, Default, Clone)]
struct Queue {
    name: String,
    write_cache: Option<String>,
    rotational: Option<bool>,
    scheduler: Option<String>,
}

impl Queue {
    /// That of the device which `storage` names, if it names one.
    fn of(storage: &Storage) -> Option<Self> {
        let name = storage.device.strip_prefix("/dev/")?.split(',').next()?;
        let device = Path::new("/sys/class/block").join(name).canonicalize().ok()?;
        // A partition has the queue of its disk.
        let dirs = [Some(device.as_path()), device.parent()];
        let disk = dirs.into_iter().flatten().find(|dir| dir.join("queue").is_dir())?;
        let property = |name| read(disk.join("queue").join(name));
        Some(Self {
            name: disk.file_name()?.to_string_lossy().into_owned(),
            write_cache: property("write_cache"),
            rotational: property("rotational").map(|it| it == "1"),
            scheduler: property("scheduler"),
        })
    }
}

fn device(storage: &Storage, queue: Option<Queue>) -> Check {
    let name = "device";
    let Some(queue) = queue else {
        return Check::unknown(name, format!("the kernel tells nothing of {}", storage.device));
    };
    let scheduler = queue.scheduler.as_deref().map_or("unknown", chosen);
    let cache = match queue.write_cache.as_deref() {
        Some("write back") => "write back cache, flushed by each sync",
        Some("write through") => {
            "write through: nothing is flushed, so a cache that it may have must survive a power failure"
        }
        _ => "write cache unknown",
    };
    let found = format!("/dev/{}: {cache}; scheduler {scheduler}", queue.name);
    if scheduler == "bfq" {
        let set = format!("`echo mq-deadline > /sys/block/{}/queue/scheduler` (or none)", queue.name);
        return Check::warn(name, format!("{found}, which is for desktops"), set);
    }
    if queue.rotational == Some(true) {
        return Check::warn(
            name,
            format!("{found}; it says that it rotates: if so, a sync takes milliseconds (measured below)"),
            format!(
                "a solid-state disk; for a virtual disk that is one, `echo 0 > /sys/block/{}/queue/rotational`",
                queue.name
            ),
        );
    }
    Check::ok(name, found)
}

/// What is in brackets, in a file such as `none [mq-deadline] kyber`.
fn chosen(text: &str) -> &str {
    let bracketed = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or(text, |(chosen, _)| chosen)
}

/// Of a file system.
#[derive(Debug, Clone, Copy)]
struct Room {
    all_bytes: u64,
    free_bytes: u64,
    /// `None` where the file system makes them as they are needed.
    free_inodes: Option<u64>,
}

fn room(place: &Path, journal_bytes: u64, needs: &Needs) -> Vec<Check> {
    let found = match statvfs(place) {
        Ok(found) => found,
        Err(error) => return vec![Check::unknown("free space", format!("cannot be asked for: {error}"))],
    };
    let room = Room {
        all_bytes: found.blocks().saturating_mul(found.fragment_size()),
        free_bytes: found.blocks_available().saturating_mul(found.fragment_size()),
        free_inodes: (found.files() > 0).then(|| found.files_available()),
    };
    let mut checks = vec![free_space(room, journal_bytes, needs)];
    checks.extend(room.free_inodes.map(inodes));
    checks
}

fn free_space(room: Room, journal_bytes: u64, needs: &Needs) -> Check {
    let name = "free space";
    let journals = needs.journal_bytes.saturating_sub(journal_bytes);
    let first = needs.first_bytes.saturating_sub(journal_bytes);
    let found = format!(
        "{} of {}; journals may take another {}",
        size(room.free_bytes),
        size(room.all_bytes),
        size(journals)
    );
    let set = "a larger disk, less on it, or a smaller journal.file_bytes; `corelog topic delete` frees the \
               segments of a topic";
    if room.free_bytes < first {
        return Check::fail(name, found, set);
    }
    let keep = room.all_bytes / 100 * FREE_PERCENT_MIN;
    if room.free_bytes < journals.saturating_add(keep) {
        return Check::warn(name, format!("{found}: little is left for segments"), set);
    }
    Check::ok(name, found)
}

fn inodes(free: u64) -> Check {
    let name = "free inodes";
    match free {
        0 => Check::fail(
            name,
            "none: no file can be created",
            "a file system with more inodes, or fewer files",
        ),
        _ if free < INODES_MIN => Check::warn(
            name,
            format!("{}: each segment takes one", grouped(free)),
            "a larger segments.segment_bytes, or a file system with more inodes",
        ),
        _ => Check::ok(name, grouped(free)),
    }
}

fn direct_io(place: &Path) -> Vec<Check> {
    let name = "direct I/O";
    if let Err(error) = checks::check_direct_io(place) {
        return vec![Check::refused(name, error)];
    }
    let works = Check::ok(name, format!("works in {} in blocks of {BLOCK_BYTES} bytes", place.display()));
    let timed = match checks::time_syncs(place, TIMED_FOR, TIMED_MAX) {
        Ok(times) => sync_times(times),
        Err(error) => Check::fail("sync", format!("a write and its sync failed: {error}"), "another disk"),
    };
    vec![works, timed]
}

fn sync_times(mut times: Vec<Duration>) -> Check {
    let name = "sync";
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    let (Some(&p50), Some(&p99), Some(&max)) = (at(50), at(99), times.last()) else {
        return Check::unknown(name, "nothing was measured");
    };
    let found = format!(
        "{} writes of {BLOCK_BYTES} bytes, each with fdatasync: p50 {}, p99 {}, longest {}",
        grouped(times.len() as u64),
        time(p50),
        time(p99),
        time(max)
    );
    if p50 < SYNC_P50_MIN {
        return Check::warn(
            name,
            format!("{found}: no device is as fast, so something acknowledges what is not written"),
            "a cache mode of the virtual disk that passes flushes on (cache=none or writethrough, not unsafe)",
        );
    }
    if p50 > SYNC_P50_MAX || p99 > SYNC_P99_MAX {
        return Check::warn(
            name,
            format!("{found}: an acknowledgement waits for one"),
            "nothing, if other work ran meanwhile: measure again without it; else a solid-state disk with \
             power-loss protection, and nothing else on it that writes",
        );
    }
    Check::ok(name, found)
}

fn time(duration: Duration) -> String {
    match duration.as_micros() {
        us if us < 10_000 => format!("{us} µs"),
        us => format!("{} ms", us / 1000),
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

    fn storage(file_system: &str) -> Storage {
        Storage {
            file_system: file_system.to_owned(),
            device: "/dev/sda1, DISK".to_owned(),
            ..Storage::default()
        }
    }

    #[test]
    fn file_systems_are_judged_by_kind_and_options() {
        let level = |text| file_system(&storage(text)).level;
        for text in ["ext4 (rw,relatime)", "xfs (rw)", "btrfs (rw,ssd)"] {
            assert_eq!(level(text), Level::Ok, "{text}");
        }
        for text in ["overlay (rw)", "nfs4 (rw,vers=4.2)", "fuse.sshfs (rw)", "zfs (rw)", "ext4 (rw,discard)"]
        {
            assert_eq!(level(text), Level::Warn, "{text}");
        }
        for text in ["tmpfs (rw)", "ext4 (rw,nobarrier)", "ext4 (rw,barrier=0)"] {
            assert_eq!(level(text), Level::Fail, "{text}");
        }
    }

    #[test]
    fn a_device_is_told_with_its_cache_and_a_rotating_one_is_warned_of() {
        let queue = Queue {
            name: "sda".to_owned(),
            write_cache: Some("write back".to_owned()),
            rotational: Some(false),
            scheduler: Some("none [mq-deadline] kyber".to_owned()),
        };
        let found = device(&storage("ext4"), Some(queue.clone()));
        assert_eq!(found.level, Level::Ok);
        assert_eq!(found.found, "/dev/sda: write back cache, flushed by each sync; scheduler mq-deadline");
        let rotating = Queue { rotational: Some(true), ..queue.clone() };
        assert_eq!(device(&storage("ext4"), Some(rotating)).level, Level::Warn);
        let bfq = Queue { scheduler: Some("none [bfq]".to_owned()), ..queue };
        assert_eq!(device(&storage("ext4"), Some(bfq)).level, Level::Warn);
        assert_eq!(device(&storage("ext4"), Some(Queue::default())).level, Level::Ok, "nothing is known");
        assert_eq!(device(&storage("ext4"), None).level, Level::Warn);
    }

    proptest! {
        #[test]
        fn any_text_is_a_file_system_and_a_device(
            kind in "(ext4|tmpfs|nfs)?[a-z0-9. ]{0,8}(\\([a-z,=]{0,12}\\)?)?|.{0,20}",
            told in prop::collection::vec(prop::option::of("[a-z ]{0,6}\\[?[a-z]{0,5}\\]?.{0,6}|write (back|through)"), 2),
        ) {
            let storage = Storage { file_system: kind.clone(), device: kind.clone(), ..Storage::default() };
            let _ = (file_system(&storage), Queue::of(&storage));
            let [write_cache, scheduler] = &told[..] else { unreachable!("two") };
            let (write_cache, scheduler) = (write_cache.clone(), scheduler.clone());
            let _ = device(&storage, Some(Queue { name: kind, write_cache, rotational: None, scheduler }));
        }
    }

    #[test]
    fn room_must_be_there_for_the_first_files_and_should_be_for_all() {
        let needs = needs();
        let level = |free_bytes, journal_bytes| {
            let room = Room { all_bytes: 100 << 30, free_bytes, free_inodes: None };
            free_space(room, journal_bytes, &needs).level
        };
        assert_eq!(level(50 << 30, 0), Level::Ok);
        assert_eq!(level(needs.journal_bytes, 0), Level::Warn);
        assert_eq!(level(needs.first_bytes - 1, 0), Level::Fail);
        assert_eq!(level(0, needs.first_bytes), Level::Warn, "its files are there already");
    }

    #[test]
    fn inodes_run_out() {
        assert_eq!(inodes(0).level, Level::Fail);
        assert_eq!(inodes(100).level, Level::Warn);
        assert_eq!(inodes(1 << 20).level, Level::Ok);
    }

    #[test]
    fn syncs_are_too_slow_too_fast_or_right() {
        let level = |micros: u64| sync_times(vec![Duration::from_micros(micros); 100]).level;
        assert_eq!(level(90), Level::Ok);
        assert_eq!(level(8_000), Level::Warn);
        assert_eq!(level(1), Level::Warn);
        let mut rarely = vec![Duration::from_micros(90); 95];
        rarely.extend([Duration::from_millis(50); 5]);
        let found = sync_times(rarely);
        assert!(found.level == Level::Warn && found.found.contains("p99 50 ms"), "{found:?}");
        assert_eq!(sync_times(Vec::new()).level, Level::Warn);
    }
}
