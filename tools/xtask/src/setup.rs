//! What the client tests need beyond Rust, fetched through the ordinary package clients.
//!
//! Packages of Python and Node.js and jars go into `.xtask`, with pinned versions, and are fetched
//! once. Programs come from the system's packages where this user may install some. What cannot be
//! had is missing: said aloud and left out on a developer's machine, an error where `CI=true`.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::java::{Java, TOOLS_JAR};
use crate::process::{self, find};
use crate::project::Project;

const FETCH_LIMIT: Duration = Duration::from_secs(600);
const CORPUS_LINES_MIN: usize = 200_000;
/// A list of words, none of them twice: 348,454 lines of real text in UTF-8.
const CORPUS_PACKAGE: &str = "wamerican-huge";
const CORPUS_PATH: &str = "usr/share/dict/american-english-huge";
const DEPENDENCY_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The clients of other projects that this machine has.
pub(crate) struct Toolbox {
    pub(crate) kcat: Option<PathBuf>,
    /// The interpreter of the virtual environment with the Python clients.
    pub(crate) python: Option<PathBuf>,
    pub(crate) java: Option<Java>,
    pub(crate) node: Option<Node>,
    /// `key<TAB>value` lines, at least 200,000 of them.
    pub(crate) corpus: PathBuf,
    /// Why something is missing, one sentence each.
    pub(crate) missing: Vec<String>,
}

/// Node.js, and the client for it.
pub(crate) struct Node {
    pub(crate) program: PathBuf,
    /// The folder with kafkajs.
    pub(crate) modules: PathBuf,
}

impl Toolbox {
    /// Fetches what is not there yet.
    pub(crate) fn prepare(project: &Project) -> Result<Self> {
        let mut missing = Vec::new();
        let mut optional = |name: &str, error: &anyhow::Error| {
            let sentence = format!("{name} is missing: {error:#}");
            println!("skipped: {sentence}");
            missing.push(sentence);
        };
        let kcat = program("kcat", &["kcat"]).inspect_err(|error| optional("kcat", error)).ok();
        let python = python(project).inspect_err(|error| optional("Python", error)).ok();
        let java = java(project).inspect_err(|error| optional("Java", error)).ok();
        let node = node(project).inspect_err(|error| optional("Node.js", error)).ok();
        if Project::is_ci() && !missing.is_empty() {
            bail!("CI needs every client: {}", missing.join("; "));
        }
        Ok(Self { kcat, python, java, node, corpus: corpus(project)?, missing })
    }

    pub(crate) fn python(&self) -> Result<&Path> {
        self.python.as_deref().context("there is no Python")
    }
}

/// A program on the path, installed from the system's packages when it is not there.
pub(crate) fn program(name: &str, packages: &[&str]) -> Result<PathBuf> {
    if let Some(found) = find(name) {
        return Ok(found);
    }
    install(packages)?;
    find(name).with_context(|| format!("no {name} even after installing {}", packages.join(" ")))
}

/// `apt-get install`, as root or through a sudo that asks nothing.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let apt = find("apt-get").with_context(|| {
        let wanted = packages.join(" ");
        format!("there is no apt-get here: install {wanted} with this system's packages")
    })?;
    let is_root = nix::unistd::geteuid().is_root();
    let command = || -> Command {
        let mut command = Command::new(if is_root { OsStr::new("env") } else { OsStr::new("sudo") });
        if !is_root {
            command.args(["-n", "env"]);
        }
        command.arg("DEBIAN_FRONTEND=noninteractive").arg(&apt);
        command
    };
    println!("installing {} with apt-get", packages.join(" "));
    let attempt = || {
        let mut install = command();
        install.args(["install", "--yes", "--no-install-recommends"]);
        install.args(packages);
        process::run_visibly(install, FETCH_LIMIT)
    };
    if attempt().is_ok() {
        return Ok(());
    }
    // Package lists that are old or not there yet are the usual reason.
    let mut update = command();
    update.arg("update");
    process::run_visibly(update, FETCH_LIMIT)
        .and_then(|()| attempt())
        .with_context(|| format!("run: apt-get install {}", packages.join(" ")))
}

/// Whether `folder` was filled from exactly this `recipe`. If not, it is emptied.
pub(crate) fn is_current(folder: &Path, recipe: &[u8]) -> Result<bool> {
    if fs::read(folder.join("recipe")).is_ok_and(|filled| filled == recipe) {
        return Ok(true);
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    Ok(false)
}

pub(crate) fn set_current(folder: &Path, recipe: &[u8]) -> Result<()> {
    fs::write(folder.join("recipe"), recipe).context("marking a folder as filled")
}

/// The browser that the console is looked at with.
pub(crate) fn chromium() -> Result<PathBuf> {
    if let Some(found) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(find) {
        return Ok(found);
    }
    program("chromium", &["chromium"])
}

/// The interpreter of a virtual environment with what the tests need.
pub(crate) fn python(project: &Project) -> Result<PathBuf> {
    let requirements = project.clients().join("requirements.txt");
    virtual_environment(project, &requirements, &project.state().join("venv"), "the Python clients")
}

/// The interpreter of a virtual environment in `folder` with the packages that a file names.
pub(crate) fn virtual_environment(
    project: &Project,
    requirements: &Path,
    folder: &Path,
    what: &str,
) -> Result<PathBuf> {
    let recipe = fs::read(requirements)?;
    let python = folder.join("bin/python");
    if is_current(folder, &recipe)? {
        return Ok(python);
    }
    let system = program("python3", &["python3", "python3-venv"])?;
    println!("fetching {what}");
    let venv = || {
        let mut command = Command::new(&system);
        command.args(["-m", "venv", "--clear"]).arg(folder);
        process::run(command, &project.logs().join("venv.log"), FETCH_LIMIT)
    };
    // Debian keeps the module in a package of its own.
    if venv().is_err() {
        install(&["python3-venv"])?;
        venv()?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--no-input", "--only-binary", ":all:"])
        .arg("--requirement")
        .arg(requirements);
    process::run(pip, &project.logs().join("pip.log"), FETCH_LIMIT)?;
    set_current(folder, &recipe)?;
    Ok(python)
}

/// Node.js, and kafkajs from its package.
fn node(project: &Project) -> Result<Node> {
    let node = program("node", &["nodejs"])?;
    let recipe = fs::read(project.clients().join("kafkajs/package.json"))?;
    let folder = project.state().join("npm");
    let modules = folder.join("node_modules");
    if !is_current(&folder, &recipe)? {
        println!("fetching the JavaScript client");
        fs::write(folder.join("package.json"), &recipe)?;
        let mut npm = Command::new(program("npm", &["npm"])?);
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
        process::run(npm, &project.logs().join("npm.log"), FETCH_LIMIT)?;
        set_current(&folder, &recipe)?;
    }
    Ok(Node { program: node, modules })
}

/// Kafka's jars and a JDK to run them.
pub(crate) fn java(project: &Project) -> Result<Java> {
    // The tools' driver is run from its source, which takes a JDK.
    program("javac", &["default-jdk-headless"])?;
    let java = program("java", &["default-jdk-headless"])?;
    let pom = project.clients().join("java/pom.xml");
    let recipe = fs::read(&pom)?;
    let folder = project.state().join("java");
    let jars = folder.join("jars");
    let tools = folder.join("tools");
    if !is_current(&folder, &recipe)? {
        println!("fetching Kafka's jars");
        let mut maven = Command::new(program("mvn", &["maven"])?);
        maven
            .args(["--batch-mode", "--file"])
            .arg(&pom)
            .arg(DEPENDENCY_PLUGIN)
            .arg(format!("-DoutputDirectory={}", jars.display()));
        process::run(maven, &project.logs().join("maven.log"), FETCH_LIMIT)?;
        fs::create_dir_all(&tools)?;
        let jar = only_jar(&jars, TOOLS_JAR)?;
        let name = jar.file_name().context("a jar has a name")?;
        fs::rename(&jar, tools.join(name))?;
        set_current(&folder, &recipe)?;
    }
    Ok(Java { program: java, jars, tools_jar: only_jar(&tools, TOOLS_JAR)? })
}

/// The jar whose name is `prefix` and a version.
fn only_jar(folder: &Path, prefix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let version = name.strip_prefix(prefix).unwrap_or_default();
        if version.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(path);
        }
    }
    bail!("no {prefix}*.jar in {}", folder.display())
}

/// The text that goes through every client, each line with its first letters as its key.
fn corpus(project: &Project) -> Result<PathBuf> {
    let folder = project.state().join("corpus");
    let path = folder.join("records.txt");
    if is_current(&folder, CORPUS_PACKAGE.as_bytes())? {
        return Ok(path);
    }
    let words = match words(project, &folder) {
        Ok(words) => words,
        Err(error) if Project::is_ci() => return Err(error),
        Err(error) => {
            println!("no word list ({error:#}): made lines take its place");
            made_words()
        }
    };
    let lines = words.lines().count();
    ensure!(lines >= CORPUS_LINES_MIN, "the corpus has only {lines} lines");
    let mut records = String::with_capacity(words.len() * 2);
    for word in words.lines() {
        let key: String = word.chars().take(3).flat_map(char::to_lowercase).collect();
        writeln!(records, "{key}\t{word}")?;
    }
    fs::write(&path, records)?;
    set_current(&folder, CORPUS_PACKAGE.as_bytes())?;
    Ok(path)
}

/// The word list, unpacked from its package without installing it.
fn words(project: &Project, folder: &Path) -> Result<String> {
    let apt = find("apt-get").context("there is no apt-get")?;
    let dpkg = find("dpkg-deb").context("there is no dpkg-deb")?;
    let log = project.logs().join("corpus.log");
    let download = || {
        let mut command = Command::new(&apt);
        command.args(["download", CORPUS_PACKAGE]).current_dir(folder);
        process::run(command, &log, FETCH_LIMIT)
    };
    if download().is_err() {
        let mut update = Command::new(&apt);
        update.arg("update");
        process::run(update, &log, FETCH_LIMIT)?;
        download()?;
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("deb")) {
            let mut unpack = Command::new(&dpkg);
            unpack.arg("--extract").arg(&path).arg(folder);
            process::run(unpack, &log, FETCH_LIMIT)?;
        }
    }
    fs::read_to_string(folder.join(CORPUS_PATH)).context("reading the word list")
}

/// Lines that stand in for the word list where it cannot be had; the same ones every time.
fn made_words() -> String {
    let mut random = fastrand::Rng::with_seed(1);
    let mut words = String::new();
    for number in 0..CORPUS_LINES_MIN {
        for _ in 0..random.usize(1..12) {
            words.push(random.lowercase());
        }
        words.push_str(&format!(" {number}\n"));
    }
    words
}
