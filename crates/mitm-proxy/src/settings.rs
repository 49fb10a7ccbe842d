//! [`Settings`]: the options the engine reads, parsed once per change.

use std::{net::IpAddr, time::Duration};

use mitm_codec::http1::Rules;

/// A snapshot of the options. Connections take the one in force when they begin; an exchange too.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Settings {
    /// Connect to the server as soon as the destination is known.
    pub eager: bool,
    /// Refuse bodies of more bytes.
    pub body_size_limit: Option<u64>,
    /// Forward bodies of more bytes as they come, without keeping them.
    pub stream_large_bodies: Option<u64>,
    /// Keep what was streamed.
    pub store_streamed_bodies: bool,
    /// How HTTP/1 heads are read.
    pub rules: Rules,
    /// A body is kept in memory up to this many bytes.
    pub body_memory_limit: usize,
    /// A client connection without traffic is closed after this time.
    pub idle_timeout: Duration,
    pub connect_timeout: Duration,
    pub handshake_timeout: Duration,
    /// The local address of connections to servers.
    pub connect_addr: Option<IpAddr>,
    /// Whether the server's certificate is looked at before ours is made.
    pub upstream_cert: bool,
    pub add_upstream_certs: bool,
    /// Names answered by the onboarding addon: never connected to.
    pub onboarding_host: Option<String>,
    /// Whether what is neither TLS nor HTTP is passed on.
    pub rawtcp: bool,
    pub websocket: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            eager: true,
            body_size_limit: None,
            stream_large_bodies: None,
            store_streamed_bodies: false,
            rules: Rules::default(),
            body_memory_limit: 1 << 20,
            idle_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(30),
            connect_addr: None,
            upstream_cert: true,
            add_upstream_certs: false,
            onboarding_host: Some("mitm.it".into()),
            rawtcp: true,
            websocket: true,
        }
    }
}
