//! The data directory: whether it is there, whose it is, who uses it, and what is in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use corelog_engine::node_dir::{FORMAT_FILE, FORMAT_VERSION, LAYOUT_FILE, format_version, layout_journals};
use corelog_runtime::checks;
use corelog_runtime::shards::StartError;
use nix::unistd::{AccessFlags, Uid, User, access, geteuid};

use super::{Check, Level};
use crate::config::Config;
use crate::node::ADDRESSES_FILE;

const NAME: &str = "data directory";

/// What was found of it.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// Where files can be written now: itself, or the directory in which a start creates it.
    /// `None` when a node could not write.
    pub(super) writable: Option<PathBuf>,
    /// What a running node says that it listens on, if one uses the directory.
    pub(super) addresses: Option<String>,
    /// Bytes that its journals have already.
    pub(super) journal_bytes: u64,
    pub(super) check: Check,
}

pub(super) fn look_at(config: &Config, shards: usize) -> Directory {
    let path = config.data_dir.clone();
    let mut directory =
        Directory { path, writable: None, addresses: None, journal_bytes: 0, check: Check::ok(NAME, "") };
    directory.check = match fs::metadata(&directory.path) {
        Ok(found) if found.is_dir() => existing(&mut directory, found.uid(), shards),
        Ok(_) => {
            Check::fail(NAME, format!("{} is not a directory", shown(&directory.path)), "another data_dir")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => missing(&mut directory),
        Err(error) => no_permission(&directory.path, &error),
    };
    directory
}

fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn no_permission(path: &Path, error: &dyn std::fmt::Display) -> Check {
    let set = format!(
        "`chown -R {}:` and the directories above it readable, or run this as the node's user",
        user()
    );
    Check::fail(NAME, format!("{} cannot be looked at: {error}", shown(path)), set)
}

/// Who runs this.
fn user() -> String {
    name_of(geteuid().as_raw())
}

fn name_of(uid: u32) -> String {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| uid.to_string(), |user| user.name)
}

/// A start creates it, if it may.
fn missing(directory: &mut Directory) -> Check {
    let shown = shown(&directory.path);
    let absolute = PathBuf::from(&shown);
    let above = absolute.ancestors().skip(1).find(|it| it.exists()).unwrap_or(Path::new("/"));
    let create = format!("`install -d -o {0} -m 0750 {shown}`, for the node's user", user());
    if access(above, AccessFlags::W_OK | AccessFlags::X_OK).is_err() || !above.is_dir() {
        let found = format!("{shown} does not exist, and {} may not write to {}", user(), above.display());
        return Check::fail(NAME, found, create);
    }
    directory.writable = Some(above.to_owned());
    if absolute.parent() == Some(above) {
        return Check::ok(NAME, format!("{shown} does not exist yet; a start creates it"));
    }
    let found = format!("{shown} does not exist, nor all directories above it; a start creates them");
    Check::warn(NAME, found, format!("data_dir as it should be, if that is a mistake; else {create}"))
}

fn existing(directory: &mut Directory, owner: u32, shards: usize) -> Check {
    let path = directory.path.clone();
    let shown = shown(&path);
    if access(&path, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let found = format!("{shown} belongs to {}, and {} may not write to it", name_of(owner), user());
        let set = format!("`chown -R {}: {shown}`, or run this as the node's user", user());
        return Check::fail(NAME, found, set);
    }
    directory.writable = Some(path.clone());
    directory.journal_bytes = journal_bytes(&path);
    let content = match content(&path, shards) {
        Ok(content) => content,
        Err(refused) => return refused,
    };
    if let Some(file) = of_another(&path, owner) {
        let found = format!(
            "{shown} belongs to {}, but {} in it does not: was a node or a command run as another user?",
            name_of(owner),
            file.display()
        );
        return Check::warn(NAME, found, format!("`chown -R {}: {shown}`", name_of(owner)));
    }
    let found = format!("{shown}, of {}; {content}", name_of(owner));
    match checks::check_data_dir_is_free(&path) {
        Ok(()) => Check::ok(NAME, found),
        Err(StartError::DataDirLocked { pid, .. }) => {
            directory.addresses = fs::read_to_string(path.join(ADDRESSES_FILE)).ok();
            let process = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            let set = "nothing if that is the node; a second one needs another data_dir";
            Check::warn(NAME, format!("{found}; {process} uses it"), set)
        }
        Err(error) => Check::refused(NAME, error),
    }
}

/// Its format and layout, in words; a check when a node would refuse it.
fn content(path: &Path, shards: usize) -> Result<String, Check> {
    let format = match fs::read(path.join(FORMAT_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok("no node has used it".to_owned()),
        Err(error) => return Err(no_permission(&path.join(FORMAT_FILE), &error)),
    };
    let set = "another data_dir, or the corelog that wrote this one";
    match format_version(&format) {
        Some(version) if version <= FORMAT_VERSION => {
            Ok(format!("format {version}, {}", layout(path, shards)?))
        }
        Some(version) => {
            let found =
                format!("{} is in format {version}, this corelog reads up to {FORMAT_VERSION}", shown(path));
            Err(Check::fail(NAME, found, set))
        }
        None => {
            let found = format!("{} is not a file of corelog", shown(&path.join(FORMAT_FILE)));
            Err(Check::fail(NAME, found, set))
        }
    }
}

/// Its journals, in words; a check when a node would refuse them.
fn layout(path: &Path, shards: usize) -> Result<String, Check> {
    let path = path.join(LAYOUT_FILE);
    let layout = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok("no journals".to_owned()),
        Err(error) => return Err(no_permission(&path, &error)),
    };
    match layout_journals(&layout).map(|journals| journals.len()) {
        Ok(journals) if journals == shards => Ok(format!("{journals} journals")),
        Ok(journals) => Ok(format!(
            "{journals} journals: a start with {shards} shards moves what is in them to its own first"
        )),
        Err(reason) => {
            let found = format!("{} does not say which journals there are: {reason}", shown(&path));
            Err(Check::fail(NAME, found, "the file as it was, from a copy of the directory"))
        }
    }
}

/// Something in it that its owner does not own.
fn of_another(path: &Path, owner: u32) -> Option<PathBuf> {
    let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let all = entries(path.to_owned()).chain(entries(path.join("journal")));
    let theirs = all.filter(|entry| entry.metadata().is_ok_and(|it| it.uid() != owner));
    theirs.map(|entry| entry.path()).min()
}

fn journal_bytes(path: &Path) -> u64 {
    let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries(path.join("journal")).flat_map(|journal| entries(journal.path()));
    files.filter_map(|file| file.metadata().ok()).map(|it| it.blocks().saturating_mul(512)).sum()
}

impl Directory {
    /// Whether the node that uses it listens on `address`.
    pub(super) fn listens_on(&self, address: std::net::SocketAddr) -> bool {
        let text = self.addresses.as_deref().unwrap_or_default();
        let mut values = text.lines().filter_map(|line| line.split_once('=')).map(|(_, value)| value);
        values.any(|value| value.parse() == Ok(address))
    }

    /// Whether a node could use it, as far as this knows.
    pub(super) fn is_usable(&self) -> bool {
        self.check.level != Level::Fail && self.writable.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(path: &Path) -> Directory {
        look_at(&Config { data_dir: path.to_owned(), ..Config::default() }, 2)
    }

    #[test]
    fn a_missing_directory_is_created_by_a_start_and_not_by_this() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("data");
        let found = look(&path);
        assert_eq!(found.check.level, Level::Ok, "{found:?}");
        assert_eq!(found.writable.as_deref(), Some(above.path()));
        assert_eq!(look(&path.join("deeper")).check.level, Level::Warn, "likely a mistake");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_in_it_must_be_ours_and_not_newer() {
        let dir = tempfile::tempdir().unwrap();
        assert!(look(dir.path()).check.found.contains("no node has used it"));
        let format = dir.path().join(FORMAT_FILE);
        fs::write(&format, format!("corelog {FORMAT_VERSION}\n")).unwrap();
        fs::write(dir.path().join(LAYOUT_FILE), "journal 1\njournal 2\n").unwrap();
        let found = look(dir.path());
        let is_told = format!("format {FORMAT_VERSION}, 2 journals");
        assert!(found.check.found.contains(&is_told), "{found:?}");
        assert!(found.is_usable());
        fs::write(dir.path().join(LAYOUT_FILE), "journal 1\njournal 2\nchecksum 00000000\n").unwrap();
        let found = look(dir.path());
        assert!(found.check.found.contains("its checksum does not match") && !found.is_usable(), "{found:?}");
        fs::write(&format, "corelog 999\n").unwrap();
        assert!(look(dir.path()).check.found.contains("format 999"));
        fs::write(&format, "hello\n").unwrap();
        let found = look(dir.path());
        assert!(found.check.level == Level::Fail && !found.is_usable(), "{found:?}");
    }

    #[test]
    fn another_number_of_shards_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FORMAT_FILE), format!("corelog {FORMAT_VERSION}\n")).unwrap();
        fs::write(dir.path().join(LAYOUT_FILE), "journal 1\n").unwrap();
        assert!(look(dir.path()).check.found.contains("moves what is in them"));
    }

    proptest! {
        #[test]
        fn any_bytes_in_its_files_are_told(
            format in "corelog [0-9]{0,11}\n?|.{0,20}",
            layout in "(journal [0-9]{0,21}\n){0,4}(checksum [0-9a-f]{0,9}\n?)?|.{0,40}",
            addresses in "((kafka|http)=[0-9.:]{0,22}\n){0,3}|.{0,40}",
        ) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FORMAT_FILE), format).unwrap();
            fs::write(dir.path().join(LAYOUT_FILE), layout).unwrap();
            let mut found = look(dir.path());
            prop_assert!(!found.check.found.is_empty());
            found.addresses = Some(addresses);
            let _ = found.listens_on(([127, 0, 0, 1], 9092).into());
        }
    }

    #[test]
    fn a_file_in_its_place_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(look(file.path()).check.level, Level::Fail);
    }

    #[test]
    fn the_journals_files_count_as_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("journal/00000001")).unwrap();
        fs::write(dir.path().join("journal/00000001/1.journal"), vec![1; 100_000]).unwrap();
        assert!(look(dir.path()).journal_bytes >= 100_000);
    }
}
