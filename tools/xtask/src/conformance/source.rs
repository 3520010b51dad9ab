//! Gets the sources of suites: through the ordinary package clients, or from a folder that somebody
//! has. They are always copies below `.xtask/conformance`; nothing of them is kept anywhere else.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::suite::{Registry, Suite};
use crate::process;
use crate::project::Project;
use crate::setup::{is_current, program, set_current};

const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// Where the conformance tests keep everything.
pub(crate) fn home(project: &Project) -> PathBuf {
    project.state().join("conformance")
}

/// The folder with a suite's sources, from `path` when somebody has one, and fetched when it is not there
/// yet.
pub(crate) fn obtain(project: &Project, suite: Suite, path: Option<&Path>) -> Result<PathBuf> {
    let suite = suite.source();
    let folder = home(project).join(suite.name());
    let source = folder.join("source");
    let recipe = match path {
        Some(path) => format!("{}\n", path.display()),
        None => format!("{}\n", suite.origin()),
    };
    let has_any = folder.join("recipe").is_file() && suite.registry() == Registry::None && path.is_none();
    if has_any || is_current(&folder, recipe.as_bytes())? {
        return Ok(source);
    }
    match (path, suite.registry()) {
        (Some(path), _) => {
            ensure!(path.is_dir(), "{} is not a folder", path.display());
            check_version(suite, path)?;
            println!("copying {} from {}", suite.name(), path.display());
            copy(path, &source)?;
        }
        (None, Registry::None) => bail!(
            "no registry has it: take a checkout of v{} and say --path {}=DIR",
            suite.version(),
            suite.name()
        ),
        (None, registry) => {
            println!("fetching {}", suite.origin());
            fetch(project, suite, registry, &folder, &source)?;
        }
    }
    set_current(&folder, recipe.as_bytes())?;
    Ok(source)
}

/// A suite in a version other than the one that results are of would be compared with the wrong ones.
fn check_version(suite: Suite, path: &Path) -> Result<()> {
    if suite != Suite::ConfluentKafkaPython {
        return Ok(());
    }
    let text = fs::read_to_string(path.join("pyproject.toml"))
        .with_context(|| format!("{} is no checkout of {}", path.display(), suite.name()))?;
    let wanted = format!("version = \"{}\"", suite.version());
    ensure!(text.lines().any(|line| line == wanted), "{} is not of {}", path.display(), suite.version());
    Ok(())
}

fn fetch(project: &Project, suite: Suite, registry: Registry, folder: &Path, source: &Path) -> Result<()> {
    let log = project.logs().join(format!("conformance-fetch-{}.log", suite.name()));
    match registry {
        Registry::Python { package } => {
            let mut pip = Command::new(program("python3", &["python3", "python3-venv"])?);
            pip.args(["-m", "pip", "download", "--no-input", "--no-deps", "--no-binary", ":all:", "--dest"])
                .arg(folder)
                .arg(format!("{package}=={}", suite.version()));
            process::run(pip, &log, FETCH_LIMIT)?;
            unpack(&archive(folder)?, source, &log)
        }
        Registry::Rust { package, folder: inner } => {
            let crate_folder = fetch_crate(folder, package, suite.version())?;
            copy(&crate_folder.join(inner), source)
        }
        Registry::Debian { package, release } => {
            fetch_debian(folder, package, suite.version(), release, &log)?;
            unpack(&archive(folder)?, source, &log)
        }
        Registry::None => bail!("no registry has it"),
    }
}

/// Lets cargo download a crate, and says where it put it.
fn fetch_crate(folder: &Path, package: &str, version: &str) -> Result<PathBuf> {
    let wish = folder.join("wish");
    fs::create_dir_all(&wish)?;
    fs::write(wish.join("lib.rs"), "")?;
    fs::write(
        wish.join("Cargo.toml"),
        format!(
            "[package]\nname = \"wish\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\npath = \"lib.rs\"\n\n\
             [dependencies]\n{package} = \"={version}\"\n\n[workspace]\n"
        ),
    )?;
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(wish.join("Cargo.toml"))
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo lists packages")?;
    let found = packages.iter().find(|found| found["name"] == package && found["version"] == version);
    let manifest = found.and_then(|found| found["manifest_path"].as_str());
    let manifest = manifest.with_context(|| format!("cargo found no {package} {version}"))?;
    Ok(Path::new(manifest).parent().context("a manifest is in a folder")?.to_path_buf())
}

/// Lets apt download the original archive of a source package. Its list of sources is its own, since
/// systems seldom list those of sources, and nothing of the system is changed.
fn fetch_debian(folder: &Path, package: &str, version: &str, release: &str, log: &Path) -> Result<()> {
    let apt = folder.join("apt");
    for inner in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(inner))?;
    }
    let list = apt.join("sources.list");
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let apt_get = process::find("apt-get").context("there is no apt-get: say --path")?;
    let archive = debian_archive(&apt_get)?;
    fs::write(&list, format!("deb-src [signed-by={keyring}] {archive} {release} main\n"))?;
    let command = || {
        let mut command = Command::new(&apt_get);
        command
            .arg(format!("-oDir::Etc::SourceList={}", list.display()))
            .arg("-oDir::Etc::SourceParts=/dev/null")
            .arg(format!("-oDir::State::Lists={}", apt.join("lists").display()))
            .arg(format!("-oDir::Cache={}", apt.join("cache").display()))
            .current_dir(folder);
        command
    };
    let mut update = command();
    update.arg("update");
    process::run(update, log, FETCH_LIMIT)?;
    let mut download = command();
    download.args(["source", "--download-only", "--tar-only", &format!("{package}={version}")]);
    process::run(download, log, FETCH_LIMIT)?;
    fs::remove_dir_all(apt).context("removing apt's lists")
}

/// Where this system gets Debian's packages from.
fn debian_archive(apt_get: &Path) -> Result<String> {
    let output = Command::new(apt_get)
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"])
        .output()?;
    ensure!(output.status.success(), "apt-get indextargets: {}", String::from_utf8_lossy(&output.stderr));
    let archives = String::from_utf8(output.stdout)?;
    let first = archives.lines().next().context("this system's packages are not Debian's: say --path")?;
    Ok(first.to_owned())
}

/// The archive that a package client left in `folder`.
fn archive(folder: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("gz")) {
            return Ok(path);
        }
    }
    bail!("no archive came into {}", folder.display())
}

/// Unpacks an archive without the folder that all of it is in.
fn unpack(archive: &Path, source: &Path, log: &Path) -> Result<()> {
    fs::create_dir_all(source)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--strip-components=1", "--file"]).arg(archive).arg("-C").arg(source);
    process::run(tar, log, FETCH_LIMIT)
}

/// Copies a folder, but not what git knows about it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            if entry.file_name() != ".git" {
                copy(&entry.path(), &target)?;
            }
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_of_another_version_is_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let manifest = folder.path().join("pyproject.toml");
        assert!(check_version(Suite::ConfluentKafkaPython, folder.path()).is_err());
        fs::write(&manifest, "[project]\nversion = \"1.2.3\"\n")?;
        assert!(check_version(Suite::ConfluentKafkaPython, folder.path()).is_err());
        fs::write(
            &manifest,
            format!("[project]\nversion = \"{}\"\n", Suite::ConfluentKafkaPython.version()),
        )?;
        check_version(Suite::ConfluentKafkaPython, folder.path())
    }

    #[test]
    fn a_copy_has_all_but_the_history() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join(".git"))?;
        fs::create_dir_all(from.join("tests/deep"))?;
        fs::write(from.join("tests/deep/one.c"), "1")?;
        std::os::unix::fs::symlink("deep/one.c", from.join("tests/two.c"))?;
        copy(&from, &to)?;
        assert_eq!(fs::read_to_string(to.join("tests/two.c"))?, "1");
        assert!(!to.join(".git").exists());
        Ok(())
    }
}
