//! What a running program holds, logged in one line when SIGUSR1 asks for it (on Unix).
//!
//! It is for whoever suspects a leak: of a program that nobody uses any more, the numbers are those after its start.
//! Counting disturbs nothing, and what this system does not tell is left out.

use std::{fmt, fs, io};

use mitm_addon::Master;
use mitm_flow::spill::SpillStore;
use tracing::info;

/// Receives the signal from now on. The future that is returned logs the state of the program for each.
///
/// # Errors
/// If the signal cannot be received.
#[cfg(unix)]
pub(crate) fn log_when_asked(master: Master) -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut asked = signal(SignalKind::user_defined1())?;
    Ok(async move {
        while asked.recv().await.is_some() {
            info!("{}", Status::of(&master));
        }
    })
}

#[cfg(not(unix))]
pub(crate) fn log_when_asked(_: Master) -> io::Result<impl Future<Output = ()>> {
    Ok(std::future::ready(()))
}

#[cfg_attr(not(unix), expect(dead_code, reason = "nobody can ask"))]
struct Status {
    connections: usize,
    tasks: usize,
    descriptors: Option<usize>,
    resident_bytes: Option<u64>,
    spilled_bytes: u64,
}

impl Status {
    /// To be called within the runtime.
    fn of(master: &Master) -> Self {
        Self {
            connections: master.proxy().connections(),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            descriptors: descriptors().ok(),
            resident_bytes: resident_bytes(),
            spilled_bytes: SpillStore::current().map_or(0, |store| store.live_bytes()),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, tasks, descriptors, resident_bytes, spilled_bytes } = self;
        write!(f, "Status: client connections {connections}, tasks {tasks}")?;
        if let Some(descriptors) = descriptors {
            write!(f, ", open descriptors {descriptors}")?;
        }
        if let Some(bytes) = resident_bytes {
            write!(f, ", resident memory {bytes} bytes")?;
        }
        write!(f, ", spilled bodies {spilled_bytes} bytes")
    }
}

/// Counts open descriptors, without the one that it takes to count.
fn descriptors() -> io::Result<usize> {
    let open = fs::read_dir("/proc/self/fd").or_else(|_| fs::read_dir("/dev/fd"))?;
    Ok(open.count().saturating_sub(1))
}

/// Linux says it; others know only the most there ever was.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut status = Status {
            connections: 1,
            tasks: 2,
            descriptors: Some(3),
            resident_bytes: Some(4),
            spilled_bytes: 5,
        };
        assert_eq!(
            status.to_string(),
            "Status: client connections 1, tasks 2, open descriptors 3, resident memory 4 bytes, \
             spilled bodies 5 bytes"
        );
        status.descriptors = None;
        status.resident_bytes = None;
        assert_eq!(
            status.to_string(),
            "Status: client connections 1, tasks 2, spilled bodies 5 bytes"
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_all() {
        let before = descriptors().unwrap();
        assert!(before >= 3 && resident_bytes().unwrap() > 1 << 20);
    }
}
