//! What `--version` prints, for bug reports.

/// The version number.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Returns the lines of `--version`.
pub fn block() -> String {
    format!(
        "mitm-rs:  {VERSION} (compatible with mitmproxy 11 and 12)\n\
         Python:   not built in\n\
         TLS:      rustls with aws-lc-rs\n\
         Platform: {}\n",
        platform()
    )
}

/// Returns the operating system, its release and the processor, as far as they are known.
fn platform() -> String {
    let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if release.is_empty() {
        format!("{system}-{processor}")
    } else {
        format!("{system}-{release}-{processor}")
    }
}
