//! Rules about the workspace's own sources that no lint knows: which crate may use which, and what
//! only the runtime crate may touch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::project::Project;

/// A crate of the workspace and the crates of the workspace that it may use: tools → net → engine
/// → runtime, and everything → protocol.
const ALLOWED: &[(&str, &[&str])] = &[
    ("corelog-protocol", &[]),
    ("corelog-runtime", &["corelog-protocol"]),
    ("corelog-engine", &["corelog-runtime", "corelog-protocol"]),
    ("corelog-net", &["corelog-engine", "corelog-runtime", "corelog-protocol"]),
    ("corelog-bench", &["corelog-net", "corelog-engine", "corelog-runtime", "corelog-protocol"]),
    ("corelog", &["corelog-bench", "corelog-net", "corelog-engine", "corelog-runtime", "corelog-protocol"]),
    ("xtask", &[]),
];

/// The only crate that may use the executor, and `unsafe`.
const RUNTIME: &str = "corelog-runtime";
/// Crates whose behaviour a seed must replay: clock, files, sockets, threads and randomness come
/// from the runtime.
const REPLAYED: &[&str] = &["corelog-protocol", "corelog-engine", "corelog-net"];
const REPLAYED_NEVER: &[&str] = &[
    "std::fs",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::Tcp",
    "std::net::Udp",
    "fastrand::",
    "tokio::spawn",
    "tokio::time",
    "tokio::net",
];

/// Returns a sentence about what was checked; the error names every breach.
pub(crate) fn check(project: &Project) -> Result<String> {
    let packages = packages(project)?;
    let mut breaches = Vec::new();
    for (name, package) in &packages {
        check_dependencies(name, package, &packages, &mut breaches);
        if name != RUNTIME {
            for file in rust_files(&package.folder.join("src"))? {
                check_source(name, &file, &mut breaches)?;
            }
        }
    }
    if !breaches.is_empty() {
        bail!("{}", breaches.join("\n"));
    }
    Ok(format!("{} crates", packages.len()))
}

struct Package {
    folder: PathBuf,
    dependencies: Vec<String>,
}

fn packages(project: &Project) -> Result<BTreeMap<String, Package>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(project.root())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut packages = BTreeMap::new();
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().context("a package's name")?;
        let manifest = package["manifest_path"].as_str().context("its manifest")?;
        let folder = Path::new(manifest).parent().context("its folder")?;
        let mut dependencies = Vec::new();
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let name = dependency["name"].as_str().context("a dependency's name")?;
            dependencies.push(name.to_owned());
        }
        packages.insert(name.to_owned(), Package { folder: folder.to_path_buf(), dependencies });
    }
    Ok(packages)
}

fn check_dependencies(
    name: &str,
    package: &Package,
    packages: &BTreeMap<String, Package>,
    breaches: &mut Vec<String>,
) {
    let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
        breaches.push(format!("{name} has no place in the direction of crates"));
        return;
    };
    for dependency in &package.dependencies {
        // A crate may name itself, to turn on features for its own tests.
        let is_ours = dependency != name && packages.contains_key(dependency);
        if is_ours && !allowed.contains(&dependency.as_str()) {
            breaches.push(format!("{name} must not use {dependency}"));
        }
        if dependency == "glommio" && name != RUNTIME {
            breaches.push(format!("{name} must not use glommio"));
        }
    }
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Looks at the code of a file up to its unit tests.
fn check_source(name: &str, file: &Path, breaches: &mut Vec<String>) -> Result<()> {
    // The rules are spelled out here, and in no other source that keeps to them.
    if name == "xtask" {
        return Ok(());
    }
    let text = fs::read_to_string(file)?;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        let mut breach = |what: &str| {
            let place = format!("{}:{}", file.display(), index + 1);
            breaches.push(format!("{place}: {name} must not use {what}"));
        };
        for word in ["glommio::", "unsafe {", "unsafe fn", "unsafe impl"] {
            if code.contains(word) {
                breach(word);
            }
        }
        if REPLAYED.contains(&name) {
            for word in REPLAYED_NEVER {
                if code.contains(word) {
                    breach(word);
                }
            }
        }
    }
    Ok(())
}
