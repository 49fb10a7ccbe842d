//! What is particular to an operating system.

/// Descriptors kept for files, listeners and the runtime.
const RESERVED: u64 = 64;

/// Raises the limit of open files as far as allowed and returns how many client connections fit: each may need a
/// connection to a server as well.
#[cfg(unix)]
pub(crate) fn client_connections() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        // A larger soft limit is a wish; the present one serves too.
        Ok((soft, hard)) if soft < hard => {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard)
        }
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    };
    let connections = limit.saturating_sub(RESERVED) / 2;
    usize::try_from(connections).unwrap_or(usize::MAX).clamp(16, 1 << 20)
}

/// Elsewhere descriptors are no scarce resource.
#[cfg(not(unix))]
pub(crate) fn client_connections() -> usize {
    1 << 16
}
