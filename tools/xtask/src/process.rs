//! Child processes: bounded in time, their output kept in a log, never left behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

const POLL_INTERVAL: Duration = Duration::from_millis(5);
const LOG_TAIL_LINES: usize = 40;

/// Runs `command` to its end, with all that it prints in `log`; anything but success is an error
/// that shows the end of the log.
pub(crate) fn run(mut command: Command, log: &Path, limit: Duration) -> Result<()> {
    let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut process = Process::spawn(&mut command, log)?;
    let status = process.wait(limit)?;
    if !status.success() {
        bail!("{}: {status}{}", describe(&command), tail(log));
    }
    Ok(())
}

/// Like [`run`], with what it prints on stdout in a file of its own.
pub(crate) fn run_into(mut command: Command, stdout: &Path, log: &Path, limit: Duration) -> Result<()> {
    command.stdin(Stdio::null()).stdout(File::create(stdout)?).stderr(File::create(log)?);
    let mut process = Process::spawn(&mut command, log)?;
    let status = process.wait(limit)?;
    if !status.success() {
        bail!("{}: {status}{}", describe(&command), tail(log));
    }
    Ok(())
}

/// Runs `command` to its end on the terminal.
pub(crate) fn run_visibly(mut command: Command, limit: Duration) -> Result<()> {
    command.stdin(Stdio::null());
    let mut process = Process::spawn(&mut command, Path::new(""))?;
    let status = process.wait(limit)?;
    if !status.success() {
        bail!("{}: {status}", describe(&command));
    }
    Ok(())
}

/// Whether a program of that name is on the path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// `program`, to be killed by the kernel when xtask dies without having stopped it.
pub(crate) fn tethered(program: impl AsRef<std::ffi::OsStr>) -> Command {
    match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// [`tethered`], and on nothing but this core, with all of its threads.
pub(crate) fn pinned(program: impl AsRef<std::ffi::OsStr>, core: usize) -> Command {
    let mut command = tethered("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// The words of a command as somebody would type it: without what tethers it.
pub(crate) fn words(command: &Command) -> Vec<String> {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    if words[0].ends_with("setpriv")
        && let Some(end) = words.iter().position(|word| word == "--")
    {
        words.drain(..=end);
    }
    words
}

/// The last lines of a log, as the end of an error message.
pub(crate) fn tail(log: &Path) -> String {
    let Ok(bytes) = fs::read(log) else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_TAIL_LINES);
    format!("\n--- end of {} ---\n{}", log.display(), lines[first..].join("\n"))
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A child process that is killed and reaped when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        // A child inherits the mask of this thread, which is not to stop for signals where a task
        // looks out for them itself.
        let mask = SigSet::thread_get_mask()?;
        SigSet::empty().thread_set_mask()?;
        let child = command.spawn();
        mask.thread_set_mask()?;
        let child = child.with_context(|| format!("starting {}", describe(command)))?;
        Ok(Self { child, log: log.to_path_buf() })
    }

    /// The process id: that of the program itself, since what tethers and pins it gives way to it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The status when it has ended by itself.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end, and kills it when that takes longer than `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                bail!("not done after {} s, and killed{}", limit.as_secs(), tail(&self.log));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// `kill -9`, and returns when the process is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop with SIGTERM, and waits for that.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).context("a process id fits an i32")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        self.wait(limit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error here means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that takes a line and answers with lines.
pub(crate) struct Conversation {
    process: Process,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Conversation {
    /// Its stderr goes to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log)?);
        let mut process = Process::spawn(&mut command, log)?;
        let stdin = process.child.stdin.take().context("stdin is piped")?;
        let stdout = process.child.stdout.take().context("stdout is piped")?;
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { process, stdin, answers })
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.stdin, "{line}")
            .and_then(|()| self.stdin.flush())
            .with_context(|| format!("it has ended{}", tail(self.process.log())))
    }

    /// The next line that it has printed already.
    pub(crate) fn heard(&self) -> Option<String> {
        self.answers.try_recv().ok()
    }

    /// The next line that it prints.
    pub(crate) fn hear(&self, limit: Duration) -> Result<String> {
        match self.answers.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("no answer within {} s{}", limit.as_secs(), tail(self.process.log()))
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("it ended early{}", tail(self.process.log()))
            }
        }
    }

    /// Asks it to stop with SIGTERM, and waits for that; gives the last line that it printed, too.
    pub(crate) fn terminate(mut self, limit: Duration) -> Result<(ExitStatus, Option<String>)> {
        let status = self.process.terminate(limit)?;
        // Ends when its stdout does.
        Ok((status, self.answers.iter().last()))
    }

    /// Closes its stdin, and waits for it to end well.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<()> {
        drop(self.stdin);
        let status = self.process.wait(limit)?;
        if !status.success() {
            bail!("{status}{}", tail(self.process.log()));
        }
        Ok(())
    }
}
