//! The options of the engine and of what all tools share; addons declare their own.
//!
//! Names, types and defaults are mitmproxy's, but for the last group, which guards memory and time
//! here.

use crate::{Declare, Opt, Options};

type Text = Opt<String>;
type Maybe = Opt<Option<String>>;
type List = Opt<Vec<String>>;

/// The TLS versions that can be bounds. `UNBOUNDED` leaves it to the TLS library.
pub const TLS_VERSIONS: &[&str] = &["UNBOUNDED", "SSL3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3"];

// ---- where to listen and what to be ----

pub static SERVER: Opt<bool> = Opt::new(
    "server",
    true,
    "Listen for clients. Switched off to work on flow files or to replay only.",
);
pub static LISTEN_HOST: Text = Text::new(
    "listen_host",
    "",
    "Address to listen on, for modes that name none. Empty means all addresses.",
);
pub static LISTEN_PORT: Opt<Option<i64>> = Opt::new(
    "listen_port",
    None,
    "Port to listen on, for modes that name none. By default each mode has its own: 8080, for \
     socks5 1080, for dns 53, for wireguard 51820.",
);
pub static MODE: List = List::new(
    "mode",
    &["regular"],
    "What kind of proxy to be; several run side by side. Modes are \"regular\", \"transparent\", \
     \"socks5\", \"reverse:SPEC\", \"upstream:SPEC\", \"dns\", \"wireguard[:PATH]\", \
     \"local[:SPEC]\" and \"tun[:NAME]\". For reverse and upstream, SPEC is a server like \
     http[s]://host[:port]. Each may end in @PORT or @HOST:PORT to listen there.",
);
pub static CONFDIR: Text = Text::new(
    "confdir",
    "~/.mitmproxy",
    "Directory of the certificate authority, config.yaml and other files of this program.",
);

// ---- which traffic is looked into ----

pub static IGNORE_HOSTS: List = List::new(
    "ignore_hosts",
    &[],
    "Pass connections through without looking into them, if one of these regular expressions \
     matches. Tried on host:port, ip:port and the bare host, as known from the destination, the \
     TLS server name and the Host header.",
);
pub static ALLOW_HOSTS: List = List::new(
    "allow_hosts",
    &[],
    "The opposite of ignore_hosts: look only into connections that one of these regular \
     expressions matches, and pass all others through.",
);
pub static TCP_HOSTS: List = List::new(
    "tcp_hosts",
    &[],
    "Treat connections as plain TCP, TLS inside them still being decrypted, if one of these \
     regular expressions matches. Tried on the same names as ignore_hosts.",
);
pub static UDP_HOSTS: List = List::new(
    "udp_hosts",
    &[],
    "Treat connections as plain UDP, DTLS inside them still being decrypted, if one of these \
     regular expressions matches. Tried on the same names as ignore_hosts.",
);
pub static SHOW_IGNORED_HOSTS: Opt<bool> = Opt::new(
    "show_ignored_hosts",
    false,
    "Record ignored connections as TCP or UDP flows. They are passed through all the same.",
);

// ---- protocols ----

pub static HTTP2: Opt<bool> = Opt::new("http2", true, "Speak HTTP/2 with those who offer it.");
pub static HTTP2_PING_KEEPALIVE: Opt<i64> = Opt::new(
    "http2_ping_keepalive",
    58,
    "Seconds of silence after which an HTTP/2 connection gets a PING, so that it is not taken for \
     dead. 0 sends none.",
);
pub static HTTP3: Opt<bool> = Opt::new("http3", true, "Speak QUIC and HTTP/3.");
pub static HTTP_CONNECT_SEND_HOST_HEADER: Opt<bool> = Opt::new(
    "http_connect_send_host_header",
    true,
    "Send a Host header with the CONNECT requests made to an upstream proxy.",
);
pub static WEBSOCKET: Opt<bool> =
    Opt::new("websocket", true, "Decode WebSocket messages after an upgrade.");
pub static RAWTCP: Opt<bool> = Opt::new(
    "rawtcp",
    true,
    "Treat traffic that is neither TLS nor HTTP as plain TCP. Switched off, it is read as HTTP.",
);
pub static TCP_TIMEOUT: Opt<i64> =
    Opt::new("tcp_timeout", 600, "Seconds without traffic after which a connection is closed.");
pub static VALIDATE_INBOUND_HEADERS: Opt<bool> = Opt::new(
    "validate_inbound_headers",
    true,
    "Refuse HTTP messages whose headers two servers could read differently, since these are used \
     to smuggle requests. Switched off, malformed messages are forwarded as they are.",
);
pub static NORMALIZE_OUTBOUND_HEADERS: Opt<bool> = Opt::new(
    "normalize_outbound_headers",
    true,
    "Write header names in lower case when sending HTTP/2, as the protocol demands, with a warning \
     if one was not. Switched off to test servers with invalid names.",
);
pub static KEEP_HOST_HEADER: Opt<bool> = Opt::new(
    "keep_host_header",
    false,
    "Reverse proxy: forward the client's Host header rather than the name of the server.",
);

// ---- bodies ----

pub static BODY_SIZE_LIMIT: Maybe = Maybe::new(
    "body_size_limit",
    None,
    "Refuse messages with a larger body. Bytes, or a number followed by k, m or g.",
);
pub static STREAM_LARGE_BODIES: Maybe = Maybe::new(
    "stream_large_bodies",
    None,
    "Forward larger bodies as they arrive, unseen by addons. Bytes, or a number followed by k, m \
     or g.",
);
pub static STORE_STREAMED_BODIES: Opt<bool> = Opt::new(
    "store_streamed_bodies",
    false,
    "Keep a copy of streamed bodies in the flow, for viewing and saving.",
);

// ---- connections to servers ----

pub static CONNECTION_STRATEGY: Text = Text::new(
    "connection_strategy",
    "eager",
    "When to connect to servers. \"eager\" connects as soon as the destination is known, so that \
     servers that speak first and certificates are seen; \"lazy\" waits until there is something \
     to send.",
)
.choices(&["eager", "lazy"]);
pub static CONNECT_ADDR: Maybe = Maybe::new(
    "connect_addr",
    None,
    "Local IP address to connect to servers from. By default the system chooses.",
);
pub static SPOOF_SOURCE_ADDRESS: Opt<bool> = Opt::new(
    "spoof_source_address",
    false,
    "Connect to servers from the address of the client. Only on Linux, with root or the capability \
     CAP_NET_ADMIN, and if answers are routed back to this machine.",
);

// ---- certificates ----

pub static CERTS: List = List::new(
    "certs",
    &[],
    "Certificates to show to clients, of the form \"[domain=]path\". The domain may begin with *. \
     and is * if left out. The file is PEM and holds the private key, the certificate and, \
     optionally, its chain.",
);
pub static CERT_PASSPHRASE: Maybe = Maybe::new(
    "cert_passphrase",
    None,
    "Passphrase of the private keys in certs and of the certificate authority. Other users of this \
     machine can see it if it is given on the command line; a configuration file is safer.",
);
pub static KEY_SIZE: Opt<i64> = Opt::new(
    "key_size",
    2048,
    "Bits of the RSA key of a certificate authority that is yet to be made.",
);
pub static UPSTREAM_CERT: Opt<bool> = Opt::new(
    "upstream_cert",
    true,
    "Connect to the server first to take over the names of its certificate into ours.",
);
pub static ADD_UPSTREAM_CERTS_TO_CLIENT_CHAIN: Opt<bool> = Opt::new(
    "add_upstream_certs_to_client_chain",
    false,
    "Append the certificates of the server to the chain shown to the client. Needs upstream_cert.",
);
pub static CLIENT_CERTS: Maybe = Maybe::new(
    "client_certs",
    None,
    "Certificate to present to servers that ask for one: a PEM file with key and certificate, or a \
     directory of files named HOST.pem.",
);
pub static REQUEST_CLIENT_CERT: Opt<bool> = Opt::new(
    "request_client_cert",
    false,
    "Ask clients for a certificate. Whatever they present is accepted and shown.",
);
pub static SSL_INSECURE: Opt<bool> = Opt::new(
    "ssl_insecure",
    false,
    "Accept any certificate from servers, also invalid ones. Whoever sits between this proxy and \
     the server can then read and change the traffic.",
);
pub static SSL_VERIFY_UPSTREAM_TRUSTED_CA: Maybe = Maybe::new(
    "ssl_verify_upstream_trusted_ca",
    None,
    "PEM file of the certificate authorities to trust when connecting to servers, in place of the \
     usual ones.",
);
pub static SSL_VERIFY_UPSTREAM_TRUSTED_CONFDIR: Maybe = Maybe::new(
    "ssl_verify_upstream_trusted_confdir",
    None,
    "Directory of certificate authorities to trust when connecting to servers, as made by \
     c_rehash.",
);

// ---- TLS versions and ciphers ----

pub static TLS_VERSION_CLIENT_MIN: Text = Text::new(
    "tls_version_client_min",
    "TLS1_2",
    "Lowest TLS version to accept from clients. Those before TLS1_2 are insecure.",
)
.choices(TLS_VERSIONS);
pub static TLS_VERSION_CLIENT_MAX: Text =
    Text::new("tls_version_client_max", "UNBOUNDED", "Highest TLS version to speak with clients.")
        .choices(TLS_VERSIONS);
pub static TLS_VERSION_SERVER_MIN: Text = Text::new(
    "tls_version_server_min",
    "TLS1_2",
    "Lowest TLS version to accept from servers. Those before TLS1_2 are insecure.",
)
.choices(TLS_VERSIONS);
pub static TLS_VERSION_SERVER_MAX: Text =
    Text::new("tls_version_server_max", "UNBOUNDED", "Highest TLS version to speak with servers.")
        .choices(TLS_VERSIONS);
pub static CIPHERS_CLIENT: Maybe = Maybe::new(
    "ciphers_client",
    None,
    "Ciphers to accept from clients, as OpenSSL writes them, joined by colons.",
);
pub static CIPHERS_SERVER: Maybe = Maybe::new(
    "ciphers_server",
    None,
    "Ciphers to offer to servers, as OpenSSL writes them, joined by colons.",
);
pub static TLS_ECDH_CURVE_CLIENT: Maybe = Maybe::new(
    "tls_ecdh_curve_client",
    None,
    "Elliptic curve to agree on keys with clients by, such as secp384r1.",
);
pub static TLS_ECDH_CURVE_SERVER: Maybe = Maybe::new(
    "tls_ecdh_curve_server",
    None,
    "Elliptic curve to agree on keys with servers by, such as secp384r1.",
);

// ---- what people see ----

pub static SHOWHOST: Opt<bool> = Opt::new(
    "showhost",
    false,
    "Show URLs with the host of the Host header rather than the address connected to.",
);
pub static CONTENT_VIEW_LINES_CUTOFF: Opt<i64> =
    Opt::new("content_view_lines_cutoff", 512, "Lines of a body to show before it is cut.");
pub static PROTOBUF_DEFINITIONS: Maybe = Maybe::new(
    "protobuf_definitions",
    None,
    "File of Protocol Buffers definitions (.proto) from which to name the fields of protobuf and \
     gRPC bodies.",
);
pub static PROXY_DEBUG: Opt<bool> =
    Opt::new("proxy_debug", false, "Log what the proxy does inside, at level debug.");

// ---- limits, which mitmproxy does not have ----

pub static BODY_MEMORY_LIMIT: Text = Text::new(
    "body_memory_limit",
    "1m",
    "How much of a body to keep in memory; what is larger goes to a temporary file. Bytes, or a \
     number followed by k, m or g.",
);
pub static SPILL_DIR: Maybe = Maybe::new(
    "spill_dir",
    None,
    "Directory of the temporary file for large bodies. By default the user's cache directory, or \
     /var/tmp. A directory that is kept in memory (tmpfs) defeats the purpose.",
);
pub static SPILL_LIMIT: Maybe = Maybe::new(
    "spill_limit",
    None,
    "Size of the temporary file for large bodies beyond which bodies are no longer recorded, as if \
     the disk were full. Bytes, or a number followed by k, m, g or t. By default unlimited.",
);
pub static HEAD_SIZE_LIMIT: Text = Text::new(
    "head_size_limit",
    "64k",
    "Size of the start line and headers of an HTTP message beyond which it is refused. Bytes, or a \
     number followed by k, m or g.",
);
pub static MAX_HEADER_COUNT: Opt<i64> = Opt::new(
    "max_header_count",
    256,
    "Number of headers of an HTTP message beyond which it is refused.",
);
pub static CONNECT_TIMEOUT: Opt<i64> =
    Opt::new("connect_timeout", 60, "Seconds to wait for a server to accept a connection.");
pub static HANDSHAKE_TIMEOUT: Opt<i64> = Opt::new(
    "handshake_timeout",
    30,
    "Seconds to wait for a client or server to complete a TLS handshake.",
);

/// All of them.
pub static REGISTER: &[&dyn Declare] = &[
    &ADD_UPSTREAM_CERTS_TO_CLIENT_CHAIN,
    &ALLOW_HOSTS,
    &BODY_MEMORY_LIMIT,
    &BODY_SIZE_LIMIT,
    &CERTS,
    &CERT_PASSPHRASE,
    &CIPHERS_CLIENT,
    &CIPHERS_SERVER,
    &CLIENT_CERTS,
    &CONFDIR,
    &CONNECTION_STRATEGY,
    &CONNECT_ADDR,
    &CONNECT_TIMEOUT,
    &CONTENT_VIEW_LINES_CUTOFF,
    &HANDSHAKE_TIMEOUT,
    &HEAD_SIZE_LIMIT,
    &HTTP2,
    &HTTP2_PING_KEEPALIVE,
    &HTTP3,
    &HTTP_CONNECT_SEND_HOST_HEADER,
    &IGNORE_HOSTS,
    &KEEP_HOST_HEADER,
    &KEY_SIZE,
    &LISTEN_HOST,
    &LISTEN_PORT,
    &MAX_HEADER_COUNT,
    &MODE,
    &NORMALIZE_OUTBOUND_HEADERS,
    &PROTOBUF_DEFINITIONS,
    &PROXY_DEBUG,
    &RAWTCP,
    &REQUEST_CLIENT_CERT,
    &SERVER,
    &SHOWHOST,
    &SHOW_IGNORED_HOSTS,
    &SPILL_DIR,
    &SPILL_LIMIT,
    &SPOOF_SOURCE_ADDRESS,
    &SSL_INSECURE,
    &SSL_VERIFY_UPSTREAM_TRUSTED_CA,
    &SSL_VERIFY_UPSTREAM_TRUSTED_CONFDIR,
    &STORE_STREAMED_BODIES,
    &STREAM_LARGE_BODIES,
    &TCP_HOSTS,
    &TCP_TIMEOUT,
    &TLS_ECDH_CURVE_CLIENT,
    &TLS_ECDH_CURVE_SERVER,
    &TLS_VERSION_CLIENT_MAX,
    &TLS_VERSION_CLIENT_MIN,
    &TLS_VERSION_SERVER_MAX,
    &TLS_VERSION_SERVER_MIN,
    &UDP_HOSTS,
    &UPSTREAM_CERT,
    &VALIDATE_INBOUND_HEADERS,
    &WEBSOCKET,
];

/// Registers the options of this module.
pub fn register_core(options: &Options) {
    options.register_all(REGISTER);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_size;

    #[test]
    fn every_declaration_is_sound() {
        let mut names = Vec::new();
        for option in REGISTER {
            let decl = option.decl();
            assert_eq!(decl.check(decl.default()), Ok(()), "{}", decl.name());
            assert!(decl.help().ends_with('.'), "{}", decl.name());
            assert!(!decl.help().contains("  "), "{}", decl.name());
            names.push(decl.name().clone());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REGISTER.len());
    }

    #[test]
    fn default_sizes_are_sizes() {
        let options = Options::new();
        register_core(&options);
        assert_eq!(options.required_size(&BODY_MEMORY_LIMIT), Ok(1 << 20));
        assert_eq!(options.required_size(&HEAD_SIZE_LIMIT), Ok(64 << 10));
        assert_eq!(options.size(&SPILL_LIMIT), Ok(None));
        assert_eq!(parse_size("5x"), None);
        options.set(&BODY_SIZE_LIMIT, Some("5x".to_owned())).unwrap();
        let error = options.size(&BODY_SIZE_LIMIT).unwrap_err().to_string();
        assert!(error.starts_with("Invalid body_size_limit specification: 5x"), "{error}");
    }
}
