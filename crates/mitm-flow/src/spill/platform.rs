//! What the spill store asks of the operating system.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// True where holes can be punched into files.
pub(super) const HOLES: bool = cfg!(target_os = "linux");

/// Creates a directory that only the user can list, with its parents.
pub(super) fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// True if the files of a directory are kept in memory.
#[cfg(target_os = "linux")]
pub(super) fn is_in_memory(dir: &Path) -> io::Result<bool> {
    const RAMFS_MAGIC: i128 = 0x8584_58f6;
    let kind = nix::sys::statfs::statfs(dir)?.filesystem_type();
    Ok(kind == nix::sys::statfs::TMPFS_MAGIC || i128::from(kind.0) == RAMFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_in_memory(_dir: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Gives a range of a file back to the file system; it reads as zeros from then on.
#[cfg(target_os = "linux")]
pub(super) fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let at = i64::try_from(at).map_err(io::Error::other)?;
    let len = i64::try_from(len).map_err(io::Error::other)?;
    Ok(fallocate(file, mode, at, len)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn punch(_file: &File, _at: u64, _len: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
pub(super) fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, buf: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, at)
}

#[cfg(windows)]
pub(super) fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
        at += written as u64;
    }
    Ok(())
}

#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut buf: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buf.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, buf, at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf = buf.get_mut(read..).unwrap_or_default();
        at += read as u64;
    }
    Ok(())
}

/// Returns the directories to try for the store of the process, best first.
pub(super) fn default_dirs() -> Vec<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let mut dirs = Vec::new();
    if cfg!(windows) {
        dirs.extend(absolute("LOCALAPPDATA").map(|dir| dir.join("mitmproxy").join("cache")));
        dirs.push(std::env::temp_dir());
    } else if cfg!(target_os = "macos") {
        dirs.extend(absolute("HOME").map(|home| home.join("Library/Caches/mitmproxy")));
        dirs.push("/var/tmp".into());
    } else {
        dirs.extend(absolute("XDG_CACHE_HOME").map(|dir| dir.join("mitmproxy")));
        dirs.extend(absolute("HOME").map(|home| home.join(".cache/mitmproxy")));
        dirs.push("/var/tmp".into());
    }
    dirs
}
