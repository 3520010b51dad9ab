//! A folder that looks like a Kafka distribution to tests that call its scripts, made of the jars that
//! the other client tests use.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::source::home;
use crate::java::{Java, QUICK_FLAGS};
use crate::process;
use crate::project::Project;
use crate::setup::program;

/// Scripts that tests call, and the class that each runs; the first runs the one that it is given.
const SCRIPTS: [(&str, &str); 4] = [
    ("kafka-run-class.sh", ""),
    ("kafka-topics.sh", "org.apache.kafka.tools.TopicCommand"),
    ("kafka-acls.sh", "org.apache.kafka.tools.AclCommand"),
    ("kafka-configs.sh", "kafka.admin.ConfigCommand"),
];
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// Makes it, and returns where it is.
pub(crate) fn make(project: &Project, java: &Java) -> Result<PathBuf> {
    check_classes(java, &project.logs().join("conformance-kafka.log"))?;
    let folder = home(project).join("kafka");
    let scripts = folder.join("bin");
    fs::create_dir_all(&scripts)?;
    for (name, class) in SCRIPTS {
        let script = scripts.join(name);
        fs::write(&script, text(java, class)).with_context(|| script.display().to_string())?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    let libraries = folder.join("libs");
    if fs::read_link(&libraries).ok().as_deref() != Some(java.jars.as_path()) {
        remove_link(&libraries)?;
        std::os::unix::fs::symlink(&java.jars, libraries)?;
    }
    Ok(folder)
}

/// Lets the JDK look for every class: a script that cannot run would only be noticed in the log of a test
/// that calls it, against either broker.
fn check_classes(java: &Java, log: &Path) -> Result<()> {
    let classes = SCRIPTS.iter().map(|(_, class)| class).filter(|class| !class.is_empty());
    let mut javap = Command::new(program("javap", &["default-jdk-headless"])?);
    javap.arg("-cp").arg(java.class_path()).args(classes);
    process::run(javap, log, LOOK_LIMIT).context("Kafka's jars lack the class of a script")
}

fn remove_link(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn text(java: &Java, class: &str) -> String {
    format!(
        "#!/bin/sh\nexec '{}' {} -cp '{}'\"${{CLASSPATH:+:$CLASSPATH}}\" {class} \"$@\"\n",
        java.program.display(),
        QUICK_FLAGS.join(" "),
        java.class_path(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_runs_its_class_with_the_jars() {
        let java = Java {
            program: PathBuf::from("/j/java"),
            jars: PathBuf::from("/j/jars"),
            tools_jar: PathBuf::from("/j/tools.jar"),
        };
        let script = text(&java, "a.B");
        assert!(script.starts_with("#!/bin/sh\nexec '/j/java' "), "{script}");
        assert!(script.contains(" -cp '/j/jars/*:/j/tools.jar'\"${CLASSPATH:+:$CLASSPATH}\" a.B \"$@\"\n"));
    }
}
