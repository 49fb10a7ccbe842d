//! [`Target`]: what `save_stream_file` says.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::{
    ZonedDateTime,
    fmt::strtime::{BrokenDownTime, Config},
};
use mitm_options::expand_user;
use parking_lot::Mutex;

use crate::platform::{self, FileId};

/// A path, whether to append to it, and whether it has codes of strftime in it.
pub(super) struct Target {
    spec: String,
    path: String,
    append: bool,
    /// The file that was opened to see whether it can be.
    opened: Mutex<Option<(PathBuf, File)>>,
}

impl Target {
    pub(super) fn new(spec: &str) -> Self {
        let (path, append) = match spec.strip_prefix('+') {
            Some(path) => (path, true),
            None => (spec, false),
        };
        Self {
            spec: spec.to_owned(),
            path: expand_user(path).to_string_lossy().into_owned(),
            append,
            opened: Mutex::new(None),
        }
    }

    /// Makes a target whose file of now could be opened, and tells which file that is. Nothing in it has changed.
    pub(super) fn open(spec: &str) -> io::Result<(Self, Option<FileId>)> {
        let target = Self::new(spec);
        let path = target.path_now();
        let file = open(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("{error}: '{}'", path.display()))
        })?;
        let id = platform::file_id(&file.metadata()?);
        *target.opened.lock() = Some((path, file));
        Ok((target, id))
    }

    /// Returns the option's text.
    pub(super) fn spec(&self) -> &str {
        &self.spec
    }

    /// True if the file is not emptied first.
    pub(super) fn appends(&self) -> bool {
        self.append
    }

    /// Returns the number of the second that the path is for, as long as it depends on it.
    pub(super) fn second(&self) -> Option<u64> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.path.contains('%').then(now)
    }

    /// Returns the path with local time filled in. Codes that do not exist stay.
    pub(super) fn path_now(&self) -> PathBuf {
        if !self.path.contains('%') {
            return PathBuf::from(&self.path);
        }
        let now = ZonedDateTime::now();
        let config = Config::new().lenient(true);
        let filled = BrokenDownTime::from(&now).to_string_with_config(&config, &self.path);
        PathBuf::from(filled.unwrap_or_else(|_| self.path.clone()))
    }

    /// Opens the file to write behind its end.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        match self.opened.lock().take() {
            Some((opened, file)) if opened == path => Ok(file),
            _ => open(path),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_time_in_them() {
        let target = Target::new("+/x/%Y/%%/%H%M%S/100%");
        assert!(target.appends() && target.second().is_some());
        let path = target.path_now();
        let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
        assert_eq!((parts[0], parts[1], parts[3], parts[5]), ("/", "x", "%", "100%"));
        assert!(parts[2].len() == 4 && parts[4].len() == 6);
        assert!(parts[2].parse::<u32>().unwrap() >= 2024 && parts[4].parse::<u32>().is_ok());
    }

    #[test]
    fn plain_names_stay() {
        let target = Target::new("a/b.flow");
        assert_eq!((target.path_now(), target.second()), (PathBuf::from("a/b.flow"), None));
        assert!(!target.appends());
    }

    #[test]
    fn trying_out_changes_nothing_but_makes_directories() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c.flow");
        let spec = path.to_str().unwrap();
        assert!(Target::open(spec).unwrap().1.is_some());
        std::fs::write(&path, "kept").unwrap();
        drop(Target::open(spec).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        let error = Target::open(dir.path().to_str().unwrap()).err().unwrap();
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    }
}
