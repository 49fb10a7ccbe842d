//! [`Settings`]: the options the engine reads, parsed once per change.

use std::{net::IpAddr, time::Duration};

use mitm_codec::http1::{Limits, Rules};
use mitm_options::{Opt, OptionValue, Options, OptionsError, core as opts};

use crate::{hosts::HostList, mode::Credentials};

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
    /// Connect to servers from the client's address.
    pub spoof_source_address: bool,
    /// Whether the server's certificate is looked at before ours is made.
    pub upstream_cert: bool,
    pub add_upstream_certs: bool,
    /// Names answered by the onboarding addon: never connected to.
    pub onboarding_host: Option<String>,
    /// Whether what is neither TLS nor HTTP is passed on.
    pub rawtcp: bool,
    pub websocket: bool,
    pub http2: bool,
    /// Ask HTTP/2 servers for a sign of life after so much silence.
    pub http2_ping_keepalive: Option<Duration>,
    /// In reverse mode, leave the name that the client asked for.
    pub keep_host_header: bool,
    /// SOCKS clients are asked for a name and a password (`proxyauth`).
    pub auth: bool,
    /// What an upstream proxy is told about us.
    pub upstream_auth: Option<Credentials>,
    pub http_connect_send_host_header: bool,
    /// Which connections are passed without looking into them.
    pub ignore_hosts: HostList,
    /// If not empty: which connections are looked into.
    pub allow_hosts: HostList,
    /// Which connections are raw TCP, below TLS.
    pub tcp_hosts: HostList,
    /// Connections that are passed become flows of raw TCP.
    pub show_ignored_hosts: bool,
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
            idle_timeout: Duration::from_mins(10),
            connect_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(30),
            connect_addr: None,
            spoof_source_address: false,
            upstream_cert: true,
            add_upstream_certs: false,
            onboarding_host: Some("mitm.it".into()),
            rawtcp: true,
            websocket: true,
            http2: true,
            http2_ping_keepalive: Some(Duration::from_secs(58)),
            keep_host_header: false,
            auth: false,
            upstream_auth: None,
            http_connect_send_host_header: true,
            ignore_hosts: HostList::default(),
            allow_hosts: HostList::default(),
            tcp_hosts: HostList::default(),
            show_ignored_hosts: false,
        }
    }
}

impl Settings {
    /// True for names that only the proxy itself answers for.
    pub(crate) fn is_reserved(&self, host: &str) -> bool {
        self.onboarding_host.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(host))
    }

    /// Reads the options.
    ///
    /// # Errors
    /// A value is not valid: names the option and what is.
    pub fn from_options(options: &Options) -> Result<Self, OptionsError> {
        let default = Self::default();
        let connect_addr = options.get(&opts::CONNECT_ADDR).filter(|text| !text.is_empty());
        let connect_addr = connect_addr
            .map(|text| {
                text.parse().map_err(|_| {
                    OptionsError::invalid(format!(
                        "Invalid value for connect_addr: '{text}'. Specify a valid IP address."
                    ))
                })
            })
            .transpose()?;
        Ok(Self {
            eager: options.get(&opts::CONNECTION_STRATEGY) == "eager",
            body_size_limit: limit(options, &opts::BODY_SIZE_LIMIT)?,
            stream_large_bodies: limit(options, &opts::STREAM_LARGE_BODIES)?,
            store_streamed_bodies: options.get(&opts::STORE_STREAMED_BODIES),
            rules: Rules {
                limits: Limits {
                    head_bytes: size(options, &opts::HEAD_SIZE_LIMIT)?,
                    header_count: usize::try_from(options.get(&opts::MAX_HEADER_COUNT))
                        .map_err(|_| negative("max_header_count"))?,
                },
                validate: options.get(&opts::VALIDATE_INBOUND_HEADERS),
            },
            body_memory_limit: size(options, &opts::BODY_MEMORY_LIMIT)?,
            idle_timeout: seconds(options, &opts::TCP_TIMEOUT)?,
            connect_timeout: seconds(options, &opts::CONNECT_TIMEOUT)?,
            handshake_timeout: seconds(options, &opts::HANDSHAKE_TIMEOUT)?,
            connect_addr,
            spoof_source_address: options.get(&opts::SPOOF_SOURCE_ADDRESS),
            upstream_cert: options.get(&opts::UPSTREAM_CERT),
            add_upstream_certs: options.get(&opts::ADD_UPSTREAM_CERTS_TO_CLIENT_CHAIN),
            rawtcp: options.get(&opts::RAWTCP),
            websocket: options.get(&opts::WEBSOCKET),
            http2: options.get(&opts::HTTP2),
            http2_ping_keepalive: Some(seconds(options, &opts::HTTP2_PING_KEEPALIVE)?)
                .filter(|every| !every.is_zero()),
            keep_host_header: options.get(&opts::KEEP_HOST_HEADER),
            auth: text(options, "proxyauth").is_some(),
            upstream_auth: text(options, "upstream_auth")
                .and_then(|spec| Credentials::of_basic(&spec)),
            http_connect_send_host_header: options.get(&opts::HTTP_CONNECT_SEND_HOST_HEADER),
            ignore_hosts: hosts(options, &opts::IGNORE_HOSTS)?,
            allow_hosts: hosts(options, &opts::ALLOW_HOSTS)?,
            tcp_hosts: hosts(options, &opts::TCP_HOSTS)?,
            show_ignored_hosts: options.get(&opts::SHOW_IGNORED_HOSTS),
            ..default
        })
    }
}

fn limit(options: &Options, option: &Opt<Option<String>>) -> Result<Option<u64>, OptionsError> {
    let size = options.size(option)?;
    size.map(|size| u64::try_from(size).map_err(|_| negative(option.name()))).transpose()
}

fn size(options: &Options, option: &Opt<String>) -> Result<usize, OptionsError> {
    usize::try_from(options.required_size(option)?).map_err(|_| negative(option.name()))
}

fn seconds(options: &Options, option: &Opt<i64>) -> Result<Duration, OptionsError> {
    let seconds = options.get(option);
    u64::try_from(seconds).map(Duration::from_secs).map_err(|_| negative(option.name()))
}

fn hosts(options: &Options, option: &Opt<Vec<String>>) -> Result<HostList, OptionsError> {
    HostList::new(&options.get(option)).map_err(|error| {
        OptionsError::invalid(format!("Invalid value for {}: {error}", option.name()))
    })
}

/// Returns the value of an option that an addon declares, if there is one.
fn text(options: &Options, name: &str) -> Option<String> {
    match options.get_value(name) {
        Some(OptionValue::Str(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn negative(name: &str) -> OptionsError {
    OptionsError::invalid(format!("Invalid value for {name}: it must not be negative."))
}
