//! Start-up checks, signals, and how a process ends whose shard fails.
#![allow(clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use corelog_runtime::shards::{self, Options, ShardContext, StartError};
use corelog_runtime::{checks, fs, task, time};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Context = ShardContext<(), ()>;

async fn nothing(_: Context) -> Result<(), String> {
    Ok(())
}

fn with_cores(cores: &[usize]) -> Options {
    Options { cores: Some(cores.to_vec()), shards: 1, ..Options::default() }
}

#[test]
fn a_core_list_must_be_usable() {
    let bad = shards::run(with_cores(&[100_000]), nothing).unwrap_err();
    assert!(matches!(bad, StartError::BadCore { core: 100_000, .. }), "{bad}");
    for cores in [&[][..], &[0, 0][..]] {
        let bad = shards::run(with_cores(cores), nothing).unwrap_err();
        assert!(matches!(bad, StartError::BadCoreList { .. }), "{bad}");
    }
}

#[test]
fn more_shards_than_cores_share_them_and_every_shard_runs() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let options = Options { cores: None, shards: 5, ..Options::default() };
    shards::run(options, move |context: Context| {
        sender.send((context.shard, context.shards)).unwrap();
        nothing(context)
    })
    .unwrap();
    let mut seen: Vec<_> = receiver.iter().collect();
    seen.sort_unstable();
    assert_eq!(seen, [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5)]);
}

#[test]
fn a_data_directory_is_locked_once_and_the_error_names_the_holder() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("new");
    let lock = fs::lock_data_dir(&path).unwrap();
    let locked = fs::lock_data_dir(&path).unwrap_err();
    let StartError::DataDirLocked { pid, .. } = &locked else { panic!("{locked}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert!(locked.to_string().contains("pid"));
    let asked = checks::check_data_dir_is_free(&path).unwrap_err();
    assert_eq!(asked.to_string(), locked.to_string());
    drop(lock);
    checks::check_data_dir_is_free(&path).unwrap();
    drop(fs::lock_data_dir(&path).unwrap());
}

#[test]
fn asking_whether_a_directory_is_free_leaves_it_as_it_is() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    checks::check_data_dir_is_free(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn syncs_are_timed_and_nothing_stays() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let times = checks::time_syncs(dir.path(), Duration::from_secs(60), 3).unwrap();
    assert_eq!(times.len(), 3);
    assert!(times.iter().all(|time| !time.is_zero()));
    let once = checks::time_syncs(dir.path(), Duration::ZERO, 1000).unwrap();
    assert_eq!(once.len(), 1, "the time is over after the first");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(checks::time_syncs(&dir.path().join("missing"), Duration::ZERO, 1).is_err());
}

#[test]
fn a_port_is_free_until_somebody_listens_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let taken = checks::check_port(address).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    drop(listener);
    checks::check_port(address).unwrap();
}

#[test]
fn a_data_directory_must_be_a_directory_with_direct_io() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let with_dir = |path: &Path| Options { data_dirs: vec![path.to_path_buf()], ..Options::default() };
    let bad = shards::run(with_dir(&file), nothing).unwrap_err();
    assert!(matches!(bad, StartError::DataDir { .. }), "{bad}");
    // Memory on every Linux that has it mounted.
    if std::fs::read_to_string("/proc/mounts").unwrap().contains(" /dev/shm tmpfs ") {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let bad = shards::run(with_dir(memory.path()), nothing).unwrap_err();
        assert!(matches!(bad, StartError::NoDirectIo { .. }), "{bad}");
    }
    shards::run(with_dir(dir.path()), nothing).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no probe is left behind");
}

#[test]
fn the_first_error_of_a_shard_is_returned_and_stops_the_others() {
    let options = Options { shards: 3, ..Options::default() };
    let failed = shards::run(options, |context: Context| async move {
        if context.shard == 2 {
            return Err("the disk is broken");
        }
        shards::stop_signal().wait().await;
        Ok(())
    });
    let failed = failed.unwrap_err();
    assert!(matches!(&failed, StartError::Shard { shard: 2, .. }), "{failed}");
    assert!(failed.to_string().contains("the disk is broken"));
}

/// Runs one of the ignored tests below in a process of its own.
fn in_a_process(test: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .output()
        .unwrap()
}

#[test]
fn a_panic_in_any_task_aborts_the_process_and_says_so() {
    let output = in_a_process("child_panics");
    assert_eq!(output.status.signal(), Some(Signal::SIGABRT as i32));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("a broken invariant"), "{text}");
    assert!(text.contains("shard 1 panicked"), "{text}");
}

#[test]
#[ignore = "run by a_panic_in_any_task_aborts_the_process_and_says_so"]
fn child_panics() {
    let options = Options { shards: 2, ..Options::default() };
    let _ended = shards::run(options, |context: Context| async move {
        if context.shard == 1 {
            task::spawn_in(task::Class::Background, async { panic!("a broken invariant") });
        }
        std::future::pending::<Result<(), String>>().await
    });
}

#[test]
fn sigterm_stops_all_shards_and_run_returns() {
    let output = in_a_process("child_is_terminated");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "run by sigterm_stops_all_shards_and_run_returns"]
fn child_is_terminated() {
    let options = Options { shards: 2, ..Options::default() };
    shards::run(options, |context: Context| async move {
        if context.shard == 0 {
            // To the process, not to this thread, where it is blocked.
            kill(Pid::this(), Signal::SIGTERM).unwrap();
        }
        shards::stop_signal().wait().await;
        Ok::<(), String>(())
    })
    .unwrap();
}

#[test]
fn a_second_signal_ends_a_process_that_does_not_stop() {
    let output = in_a_process("child_ignores_its_stop_signal");
    assert_eq!(output.status.code(), Some(128 + Signal::SIGTERM as i32));
}

#[test]
#[ignore = "run by a_second_signal_ends_a_process_that_does_not_stop"]
fn child_ignores_its_stop_signal() {
    let options = Options { shards: 1, ..Options::default() };
    let _ended = shards::run(options, |_: Context| async move {
        kill(Pid::this(), Signal::SIGTERM).unwrap();
        shards::stop_signal().wait().await;
        kill(Pid::this(), Signal::SIGTERM).unwrap();
        std::future::pending::<Result<(), String>>().await
    });
}

#[test]
fn too_little_lockable_memory_is_said_with_what_to_set() {
    let output = in_a_process("child_has_little_lockable_memory");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}

#[test]
#[ignore = "run by too_little_lockable_memory_is_said_with_what_to_set"]
fn child_has_little_lockable_memory() {
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
    setrlimit(Resource::RLIMIT_MEMLOCK, 256 * 1024, hard).unwrap();
    let bad = shards::run(Options::default(), nothing).unwrap_err();
    assert!(matches!(bad, StartError::MemlockTooSmall { have_bytes: 262_144, .. }), "{bad}");
    assert!(bad.to_string().contains("LimitMEMLOCK"));
    // The smallest limit that the check lets through does start.
    setrlimit(Resource::RLIMIT_MEMLOCK, 512 * 1024, hard).unwrap();
    shards::run(Options { shards: 3, ..Options::default() }, nothing).unwrap();
}

#[test]
fn a_seccomp_filter_that_forbids_io_uring_is_named() {
    for call in ["setup", "register", "enter"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "child_may_not_use_io_uring"])
            .env("CALL", call)
            .output()
            .unwrap();
        assert!(output.status.success(), "{call}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
#[ignore = "run by a_seccomp_filter_that_forbids_io_uring_is_named"]
fn child_may_not_use_io_uring() {
    let number = match std::env::var("CALL").unwrap().as_str() {
        "setup" => libc::SYS_io_uring_setup,
        "register" => libc::SYS_io_uring_register,
        _ => libc::SYS_io_uring_enter,
    };
    // As Docker's profile does.
    forbid(u32::try_from(number).unwrap(), libc::EPERM);
    let bad = shards::run(Options::default(), nothing).unwrap_err();
    assert!(matches!(bad, StartError::IoUringForbidden { .. }), "{bad}");
    assert!(bad.to_string().contains("seccomp"));
}

/// From here on the system call fails on this thread, and on those that it starts.
fn forbid(number: u32, error: i32) {
    let instruction =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let refusal = libc::SECCOMP_RET_ERRNO | u32::try_from(error).unwrap();
    let mut filter = [
        // The number of the call is the first word of what a filter sees.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, refusal),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs().unwrap();
    // SAFETY: the program and its instructions live until the call returns; the kernel copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn an_idle_process_sleeps() {
    let output = in_a_process("child_idles");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "run by an_idle_process_sleeps"]
fn child_idles() {
    let options = Options { shards: 3, ..Options::default() };
    shards::run(options, |context: Context| async move {
        let mesh = context.mesh.clone();
        task::spawn(async move { while mesh.next().await.is_some() {} });
        time::sleep(Duration::from_millis(100)).await;
        let before = wake_ups();
        time::sleep(Duration::from_millis(500)).await;
        let wakes = wake_ups() - before;
        // The end of the sleep, and what a slow machine adds; a tick of 1 ms would be 500.
        if wakes > 20 {
            return Err(format!("shard {} woke up {wakes} times", context.shard));
        }
        Ok(())
    })
    .unwrap();
}

/// How often this thread gave up its core to wait.
fn wake_ups() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
