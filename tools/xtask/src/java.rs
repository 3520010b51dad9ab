//! Kafka's own command line tools, run one after the other in one JVM.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Conversation, pinned, tethered};

/// Between the fields of a command: see `JavaTools.java`.
const FIELD_SEPARATOR: &str = "\u{1f}";
const START_LIMIT: Duration = Duration::from_secs(60);
const TOOL_LIMIT: Duration = Duration::from_secs(180);
/// What the name of the command line tools' jar begins with; a version follows.
pub(crate) const TOOLS_JAR: &str = "kafka-tools-";

/// `KAFKA_JVM_PERFORMANCE_OPTS` of Kafka's own scripts.
const STOCK_FLAGS: [&str; 5] = [
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];

/// Of a JVM that starts quickly.
pub(crate) const QUICK_FLAGS: [&str; 3] =
    ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"];

/// A JVM, and where the jars of Kafka are.
#[derive(Clone)]
pub(crate) struct Java {
    pub(crate) program: PathBuf,
    /// All jars but the one of the command line tools.
    pub(crate) jars: PathBuf,
    /// The jar of the command line tools.
    pub(crate) tools_jar: PathBuf,
}

impl Java {
    /// A JVM on this core as Kafka's own scripts start it: see `kafka-run-class.sh`.
    pub(crate) fn stock_command(&self, core: usize, heap: &[&str]) -> Command {
        let mut command = pinned(&self.program, core);
        command
            .args(heap)
            .arg("-server")
            .args(STOCK_FLAGS)
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
            .arg(self.class_path());
        command
    }

    pub(crate) fn class_path(&self) -> String {
        format!("{}/*:{}", self.jars.display(), self.tools_jar.display())
    }

    /// The version of Kafka that the jars are of: `tools/clients/java/pom.xml` chooses it.
    pub(crate) fn kafka_version(&self) -> &str {
        let name = self.tools_jar.file_stem().and_then(OsStr::to_str);
        name.and_then(|name| name.strip_prefix(TOOLS_JAR)).expect("the jar was found by this beginning")
    }

    /// A JVM that starts quickly, with every jar of Kafka on its class path.
    pub(crate) fn command(&self) -> Command {
        let mut command = tethered(&self.program);
        command.args(QUICK_FLAGS).arg("-cp").arg(self.class_path());
        command
    }
}

/// The JVM that runs the tools.
pub(crate) struct JavaTools {
    conversation: Conversation,
    log: PathBuf,
}

impl JavaTools {
    /// `source` is `JavaTools.java`.
    pub(crate) fn start(java: &Java, source: &Path, log: &Path) -> Result<Self> {
        let mut command = tethered(&java.program);
        command
            .args(QUICK_FLAGS)
            .args(["-Xmx512m", "-cp"])
            .arg(format!("{}/*", java.jars.display()))
            .arg(source)
            .arg(&java.tools_jar);
        let conversation = Conversation::start(command, log)?;
        let greeting = conversation.hear(START_LIMIT)?;
        if greeting != "ready" {
            bail!("the Java tools began with {greeting:?}");
        }
        Ok(Self { conversation, log: log.to_path_buf() })
    }

    /// Runs a tool's main and waits for it. `class` is below `org.apache.kafka.tools`, or whole where it
    /// begins with `kafka.`.
    pub(crate) fn run(
        &mut self,
        class: &str,
        stdin: Option<&Path>,
        stdout: &Path,
        arguments: &[String],
    ) -> Result<()> {
        let stdin = stdin.map_or_else(|| "-".to_owned(), |path| path.display().to_string());
        let main = match class.starts_with("kafka.") {
            true => class.to_owned(),
            false => format!("org.apache.kafka.tools.{class}"),
        };
        let mut fields = vec![main, stdin, stdout.display().to_string()];
        fields.extend_from_slice(arguments);
        self.conversation.say(&fields.join(FIELD_SEPARATOR))?;
        let answer =
            self.conversation.hear(TOOL_LIMIT).with_context(|| format!("{class} {}", arguments.join(" ")))?;
        if answer != "exit 0" {
            bail!(
                "{class} {}: {answer}{}{}",
                arguments.join(" "),
                crate::process::tail(stdout),
                crate::process::tail(&self.log)
            );
        }
        Ok(())
    }
}
