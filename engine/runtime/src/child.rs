//! Child processes that do not outlive the process that started them. Runs on no shard.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Has the child that `command` starts killed (SIGKILL) when the **thread** that starts it ends, and
/// so at the latest when this process does, however that happens. Whoever starts it from a thread
/// that ends earlier has to keep that thread.
pub fn die_with_spawner(command: &mut Command) -> &mut Command {
    let parent = Pid::this();
    let bind = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // It may have died before: nobody would send the signal any more.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
    };
    // SAFETY: between fork and exec, only two system calls are made; errors are plain numbers. No
    // memory is allocated, no lock is taken.
    unsafe { command.pre_exec(bind) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let spawn = || {
            let mut command = Command::new("cat");
            die_with_spawner(command.stdin(Stdio::piped()).stdout(Stdio::piped())).spawn().unwrap()
        };
        let mut child = std::thread::spawn(spawn).join().unwrap();
        let mut output = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
        // Its input is open, so it did not end by itself.
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }
}
