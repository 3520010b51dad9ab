//! Tells the binary which revision of the sources it was built from.
//!
//! It runs again after a commit or another checkout, and after a change to a source that goes into
//! the binary; nothing but this crate is compiled again then. Changes to documents, scripts or
//! other tools do not count: they change nothing in the binary.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the binary is made of, from the workspace's root.
const SOURCES: [&str; 7] =
    ["Cargo.toml", "Cargo.lock", "bench", "engine", "net", "protocol", "tools/corelog"];

/// In git's directory: what changes when another revision is checked out or made.
const MARKS: [&str; 3] = ["HEAD", "logs/HEAD", "packed-refs"];

fn main() {
    // As it is now, and not as it was when this was compiled: a build directory may be used from
    // more than one checkout.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = Path::new(&own).join("../..");
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES {
        rerun_after(&root.join(source));
    }
    let revision = revision(&root);
    if revision.is_some() {
        let branch = git(&root, &["symbolic-ref", "--quiet", "HEAD"]);
        for mark in MARKS.into_iter().chain(branch.as_deref()) {
            if let Some(path) = git(&root, &["rev-parse", "--git-path", mark]) {
                rerun_after(&root.join(path));
            }
        }
    }
    println!("cargo::rustc-env=BUILD_REVISION={}", revision.as_deref().unwrap_or("unknown"));
}

/// A path that is not there would make every build run this again.
fn rerun_after(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// The commit, with `-dirty` when a source differs from it; `None` when the sources are no checkout,
/// also when they merely lie in somebody else's.
fn revision(root: &Path) -> Option<String> {
    let top = PathBuf::from(git(root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    status.extend(SOURCES);
    let dirty = git(root, &status).is_none_or(|changes| !changes.is_empty());
    Some(if dirty { format!("{commit}-dirty") } else { commit })
}

/// What git answers, if there is a git and it has no objection.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    // Looking must not write: a refreshed index would be a change.
    let output = Command::new("git").arg("--no-optional-locks").arg("-C").arg(root).args(arguments).output();
    let output = output.ok().filter(|it| it.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}
