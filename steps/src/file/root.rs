//! [`Root`]: the one folder beneath which steps see files.
//!
//! Owns the one function through which every file is opened, `Root::open_at`. A path is
//! relative, has no `..`, and passes no symbolic link: what is beneath the folder by name
//! is beneath it on disk. Hard links and mounts are the operator's own.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use dandori::StepError;
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Stat, fchmod, fsync, mkdirat, openat,
        renameat, statat, unlinkat,
    },
    io::Errno,
};

use crate::SetupError;

/// The longest name of a file or folder that common file systems keep, in bytes.
const MAX_NAME: usize = 255;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// New files and folders; the umask of the worker takes its part away.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

/// The folder that steps may read and write beneath.
#[derive(Debug)]
pub(crate) struct Root {
    folder: PathBuf,
    /// Files beneath it that are not for steps, whatever name leads to them.
    protected: Vec<PathBuf>,
}

/// A folder beneath the root that is held open.
#[derive(Debug)]
pub(crate) struct Folder {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "keeps it open"))]
    handle: OwnedFd,
    #[cfg(not(target_os = "linux"))]
    path: PathBuf,
}

impl Folder {
    /// A path under which a child process of this one can enter the folder.
    #[cfg(target_os = "linux")]
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd()).into()
    }

    /// A path under which a child process of this one can enter the folder.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

/// Looks at a path without touching the disk.
///
/// # Errors
/// A sentence for a diagnostic.
pub(crate) fn check_path(path: &str) -> Result<Vec<&str>, String> {
    let refuse =
        |reason: &str| Err(format!("the path `{}` {reason}", path.escape_debug()));
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if path.contains('\0') {
        return refuse("holds a NUL character");
    }
    if path.starts_with('/') {
        return refuse("is absolute: paths are relative to the folder for files");
    }
    let names: Vec<_> =
        path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.contains(&"..") {
        return refuse("leaves the folder for files by `..`");
    }
    match names.iter().find(|name| name.len() > MAX_NAME) {
        Some(name) => Err(format!(
            "the name `{}…` in the path is {} bytes long; file systems keep {MAX_NAME}",
            name.chars().take(20).collect::<String>(),
            name.len()
        )),
        None => Ok(names),
    }
}

impl Root {
    /// Finds the folder; a later change of the working folder does not move it.
    pub(crate) fn open(path: &Path, protected: &[PathBuf]) -> Result<Self, SetupError> {
        let refuse = |reason: &dyn std::fmt::Display| {
            SetupError::FilesRoot(format!("{}: {reason}", path.display()))
        };
        let found = path.canonicalize().map_err(|error| refuse(&error))?;
        if !found.is_dir() {
            return Err(refuse(&"not a folder"));
        }
        Ok(Self { folder: found, protected: protected.to_vec() })
    }

    /// Refuses a file that is not for steps. It is known by its place on the disk, not by
    /// its name: another link leads to the same file.
    fn check_protected(&self, path: &str, about: &Stat) -> Result<(), StepError> {
        use std::os::unix::fs::MetadataExt as _;

        let same = |protected: &PathBuf| {
            std::fs::metadata(protected)
                .is_ok_and(|m| (m.dev(), m.ino()) == (about.st_dev, about.st_ino))
        };
        if self.protected.iter().any(same) {
            let message = format!("`{path}` is a file of the engine itself");
            return Err(StepError::fail("invalid_path", message));
        }
        Ok(())
    }

    /// What stands under a name, if anything: never a link, never a file of the engine.
    fn look(
        &self,
        folder: &OwnedFd,
        name: &str,
        path: &str,
    ) -> Result<Option<Stat>, StepError> {
        match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) if FileType::from_raw_mode(about.st_mode).is_symlink() => {
                Err(explain(path, Errno::LOOP))
            }
            Ok(about) => self.check_protected(path, &about).map(|()| Some(about)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(explain(path, error)),
        }
    }

    /// Reads a whole file of at most `limit` bytes.
    pub(crate) fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, StepError> {
        let names = file_names(path)?;
        // Looked at before it is opened: opening and closing the database of this process
        // would drop the locks that it holds.
        let (name, parents) = names.split_last().expect("a file has a name");
        let folder = self.open_at(parents, FOLDER, Mode::empty());
        let folder = folder.map_err(|error| explain(path, error))?;
        self.look(&folder, name, path)?;
        // Without waiting: opening a pipe for reading would block until somebody writes.
        let opened = self.open_at(&names, OFlags::RDONLY | OFlags::NONBLOCK, FILE_MODE);
        let file = File::from(opened.map_err(|error| explain(path, error))?);
        let about = file.metadata().map_err(|error| failed(path, &error))?;
        if !about.is_file() {
            return Err(StepError::fail(
                "invalid_path",
                format!("`{path}` is not a file"),
            ));
        }
        let mut content = Vec::new();
        file.take(limit as u64 + 1)
            .read_to_end(&mut content)
            .map_err(|error| failed(path, &error))?;
        if content.len() > limit {
            let message = format!("`{path}` is larger than {limit} bytes");
            return Err(StepError::fail("too_large", message));
        }
        Ok(content)
    }

    /// Replaces a file as a whole: a reader sees the old content or the new one, also
    /// after a crash.
    pub(crate) fn replace(&self, path: &str, content: &[u8]) -> Result<(), StepError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);

        let names = file_names(path)?;
        let (name, folder) = names.split_last().expect("a file has a name");
        let folder = self.make_folder(folder).map_err(|error| explain(path, error))?;
        // A file that was there keeps its mode; a link is not replaced by what it means.
        let mode = self
            .look(&folder, name, path)?
            .map_or(FILE_MODE, |about| Mode::from_raw_mode(about.st_mode));
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = format!(".dandori-{}-{count}.tmp", process::id());
        // Left behind by an earlier worker that had our process number.
        let _ = unlinkat(&folder, &temporary, AtFlags::empty());
        let written = write_new(&folder, &temporary, mode, content).and_then(|()| {
            renameat(&folder, &temporary, &folder, *name)?;
            Ok(fsync(&folder)?)
        });
        written.map_err(|error| {
            let _ = unlinkat(&folder, &temporary, AtFlags::empty());
            failed(path, &error)
        })
    }

    /// Writes at the end of a file, which is created if it is missing.
    pub(crate) fn append(&self, path: &str, content: &[u8]) -> Result<(), StepError> {
        let names = file_names(path)?;
        let (name, folder) = names.split_last().expect("a file has a name");
        let folder = self.make_folder(folder).map_err(|error| explain(path, error))?;
        self.look(&folder, name, path)?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK;
        let opened = self.open_at(&names, flags, FILE_MODE);
        let mut file = File::from(opened.map_err(|error| explain(path, error))?);
        file.write_all(content)
            .and_then(|()| file.sync_all())
            .map_err(|error| failed(path, &error))
    }

    /// Opens a folder for a child process to run in.
    pub(crate) fn folder(&self, path: &str) -> Result<Folder, StepError> {
        let names = check_path(path).map_err(|e| StepError::fail("invalid_path", e))?;
        let handle = self
            .open_at(&names, FOLDER, Mode::empty())
            .map_err(|error| explain(path, error))?;
        Ok(Folder {
            handle,
            #[cfg(not(target_os = "linux"))]
            path: self.folder.join(names.join("/")),
        })
    }

    /// Opens the folder of a file and makes what is missing of it.
    fn make_folder(&self, names: &[&str]) -> Result<OwnedFd, Errno> {
        match self.open_at(names, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => {}
            opened => return opened,
        }
        let Some((name, parents)) = names.split_last() else {
            return Err(Errno::NOENT);
        };
        let parent = self.make_folder(parents)?;
        match mkdirat(&parent, *name, FOLDER_MODE) {
            // Another step made it in the meantime.
            Ok(()) | Err(Errno::EXIST) => self.open_at(names, FOLDER, Mode::empty()),
            Err(error) => Err(error),
        }
    }

    /// Opens what is beneath the root: the one way to any file.
    fn open_at(
        &self,
        names: &[&str],
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let root = openat(
            rustix::fs::CWD,
            &self.folder,
            FOLDER | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if names.is_empty() {
            return Ok(root);
        }
        // The system refuses a mode for a file that is not to be created.
        let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{ResolveFlags, openat2};

            let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let path = names.join("/");
            for _ in 0..16 {
                match openat2(&root, &path, flags, mode, rules) {
                    // A folder was moved while the path was followed: look again.
                    Err(Errno::AGAIN) => {}
                    // Older systems and some sandboxes do not have the call.
                    Err(Errno::NOSYS | Errno::PERM) => {
                        return walk(root, names, flags, mode);
                    }
                    opened => return opened,
                }
            }
            Err(Errno::AGAIN)
        }
        #[cfg(not(target_os = "linux"))]
        walk(root, names, flags, mode)
    }
}

/// Opens name after name, none of which may be a symbolic link.
fn walk(
    root: OwnedFd,
    names: &[&str],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let Some((name, folders)) = names.split_last() else { return Ok(root) };
    let mut folder = root;
    for name in folders {
        let flags = FOLDER | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = openat(&folder, *name, flags, Mode::empty())?;
    }
    openat(&folder, *name, flags | OFlags::NOFOLLOW, mode)
}

fn write_new(
    folder: impl AsFd,
    name: &str,
    mode: Mode,
    content: &[u8],
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, FILE_MODE)?);
    if mode != FILE_MODE {
        fchmod(&file, mode)?;
    }
    file.write_all(content)?;
    file.sync_all()
}

fn file_names(path: &str) -> Result<Vec<&str>, StepError> {
    let refuse = |reason| StepError::fail("invalid_path", reason);
    let names = check_path(path).map_err(refuse)?;
    if names.is_empty() || path.ends_with('/') {
        return Err(refuse(format!("the path `{path}` names a folder, not a file")));
    }
    Ok(names)
}

/// Says what is wrong with a path in its own words, never with the place of the root.
fn explain(path: &str, error: Errno) -> StepError {
    let (code, reason) = match error {
        Errno::LOOP | Errno::XDEV => ("invalid_path", "passes a symbolic link"),
        Errno::NOTDIR => {
            ("invalid_path", "passes a link or a file that is not a folder")
        }
        Errno::ISDIR => ("invalid_path", "is a folder"),
        Errno::NAMETOOLONG => ("invalid_path", "is too long"),
        Errno::NXIO => ("invalid_path", "is not a file"),
        Errno::NOENT => ("not_found", "does not exist"),
        _ => return failed(path, &io::Error::from(error)),
    };
    StepError::fail(code, format!("`{path}` {reason}"))
}

fn failed(path: &str, error: &io::Error) -> StepError {
    let message = format!("`{path}`: {error}");
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::FileTooLarge => StepError::fail("io", message),
        _ => StepError::retry("io", message),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_that_leave_the_root_are_refused_by_their_text() {
        for path in ["", "/etc/passwd", "../x", "a/../../x", "a/..", "a\0b", "//x"] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        assert!(check_path(&"あ".repeat(86)).unwrap_err().contains("258 bytes"));
        assert_eq!(check_path("./a//資料/b.md"), Ok(vec!["a", "資料", "b.md"]));
        // These are ordinary, if odd, names here.
        assert_eq!(check_path("..%2f..\\x"), Ok(vec!["..%2f..\\x"]));
    }

    #[test]
    fn the_walk_refuses_what_the_system_call_refuses() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::fs::write(folder.path().join("in/a"), "a").unwrap();
        symlink("/etc", folder.path().join("out")).unwrap();
        symlink("in/a", folder.path().join("link")).unwrap();
        let open = |names: &[&str]| {
            let root = File::open(folder.path()).unwrap();
            walk(root.into(), names, OFlags::RDONLY, Mode::empty()).map(|_| ())
        };
        assert_eq!(open(&["in", "a"]), Ok(()));
        assert!(open(&["out", "passwd"]).is_err());
        assert!(open(&["link"]).is_err());
    }
}
