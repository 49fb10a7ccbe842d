//! Key logs in NSS format, for reading captured traffic with other tools.
//!
//! `MITMPROXY_SSLKEYLOGFILE`, or else `SSLKEYLOGFILE`, names the file; both sides log to it. It is
//! appended to and its directory made. A file that cannot be written is reported once and logging
//! goes off: traffic matters more.

use std::{
    env, fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use rustls::{KeyLog, NoKeyLog};

const VARIABLES: [&str; 2] = ["MITMPROXY_SSLKEYLOGFILE", "SSLKEYLOGFILE"];

/// Returns the key log of this process, decided by the environment when it is first asked for.
pub fn key_log() -> Arc<dyn KeyLog> {
    static LOG: OnceLock<Arc<dyn KeyLog>> = OnceLock::new();
    Arc::clone(LOG.get_or_init(|| {
        let path = VARIABLES.iter().filter_map(env::var_os).find(|path| !path.is_empty());
        match path.map(PathBuf::from) {
            Some(path) => Arc::new(KeyLogFile::new(path)),
            None => Arc::new(NoKeyLog),
        }
    }))
}

/// A key log that appends to a file, opened at the first line.
pub struct KeyLogFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed,
    Open(File),
    Failed,
}

impl KeyLogFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), state: Mutex::new(State::Closed) }
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if let State::Closed = *state {
            *state = State::Failed;
            *state = State::Open(open(&self.path)?);
        }
        if let State::Open(file) = &mut *state
            && let Err(error) = file.write_all(line.as_bytes())
        {
            *state = State::Failed;
            return Err(error);
        }
        Ok(())
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line =
            format!("{label} {} {}\n", HEXLOWER.encode(client_random), HEXLOWER.encode(secret));
        if let Err(error) = self.append(&line) {
            tracing::warn!("TLS keys are not logged to {}: {error}", self.path.display());
        }
    }
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyLogFile").field(&self.path).finish()
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    // Whoever reads this file reads the traffic.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    // Whatever was there may have ended in the middle of a line.
    file.write_all(b"\n")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/keys.log");
        for secret in [[1_u8, 0xab], [2, 0xcd]] {
            KeyLogFile::new(&path).log("CLIENT_RANDOM", &[0xff, 0], &secret);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "\nCLIENT_RANDOM ff00 01ab\n\nCLIENT_RANDOM ff00 02cd\n");
    }

    #[test]
    fn an_unwritable_file_is_given_up() {
        let log = KeyLogFile::new("/dev/null/x");
        log.log("A", &[1], &[2]);
        assert!(matches!(*log.state.lock(), State::Failed));
        log.log("A", &[1], &[2]);
    }
}
