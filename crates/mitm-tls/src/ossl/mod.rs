//! The OpenSSL back end: peers that rustls leaves out, from SSL 3 to odd suites of TLS 1.2, and servers
//! that ask for a client certificate after the handshake.
//!
//! [`OpensslAcceptor`] and [`OpensslConnector`] are what [`Downstream`](crate::Downstream) and
//! [`Upstream`](crate::Upstream) hand out for one connection; the result is an [`OpensslStream`]. The
//! library is first touched when a connection or an option needs it. No type of the `openssl` crate is
//! part of this crate's interface.

mod client;
mod error;
mod offer;
mod server;
mod stream;

use std::sync::{Arc, OnceLock};

use data_encoding::HEXLOWER_PERMISSIVE;
use openssl::{
    provider::Provider,
    ssl::{
        SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode, SslVersion,
    },
};

pub use client::OpensslConnector;
pub use error::OpensslFailure;
pub use server::OpensslAcceptor;
pub use stream::OpensslStream;

pub(crate) use client::{Client, ClientIdentity};
pub(crate) use offer::{Auth, Exchange, Offer, Suite, offer};
pub(crate) use server::Server;

use crate::{
    keylog::key_log,
    options::{TlsOptions, VersionLimit},
};

/// What is offered and accepted up to TLS 1.2 unless `ciphers_*` is set.
const DEFAULT_CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:\
    ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:\
    DHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:\
    ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:\
    ECDHE-RSA-AES256-SHA384:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA:DHE-RSA-AES128-SHA256:\
    DHE-RSA-AES256-SHA256:AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA256:AES256-SHA256:\
    AES128-SHA:AES256-SHA:DES-CBC3-SHA";

/// Versions before TLS 1.2, and what belongs to them, exist at this level only.
const NO_SECURITY_LEVEL: &str = "@SECLEVEL=0";

/// Makes the old algorithms available, once.
fn init() {
    // A provider is unloaded when it is dropped.
    static LEGACY: OnceLock<Option<Provider>> = OnceLock::new();
    LEGACY.get_or_init(|| {
        openssl::init();
        match Provider::try_load(None, "legacy", true) {
            Ok(provider) => Some(provider),
            Err(error) => {
                tracing::debug!("OpenSSL has no RC4 and the like here: {error}");
                None
            }
        }
    });
}

/// Starts a context with what options say about either side. The error is for the user.
fn context(options: &TlsOptions) -> Result<SslContextBuilder, String> {
    init();
    let side = options.side.as_str();
    let failed = |error: openssl::error::ErrorStack| error::words(&error);
    let mut context = SslContextBuilder::new(SslMethod::tls()).map_err(failed)?;
    context.set_options(
        SslOptions::NO_COMPRESSION | SslOptions::NO_TICKET | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    context.set_mode(
        SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::RELEASE_BUFFERS,
    );
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    for (what, limit) in [("min", options.min), ("max", options.max())] {
        let version = version(limit);
        let set = match what {
            "min" => context.set_min_proto_version(version),
            _ => context.set_max_proto_version(version),
        };
        set.map_err(|_| {
            format!("tls_version_{side}_{what} {limit} is not supported by this build of OpenSSL")
        })?;
    }
    let ciphers = cipher_string(options);
    context.set_cipher_list(&ciphers).map_err(|error| {
        format!("ciphers_{side} '{ciphers}' names no cipher: {}", error::words(&error))
    })?;
    if let Some(curve) = options.curve() {
        context
            .set_groups_list(curve)
            .map_err(|_| format!("tls_ecdh_curve_{side} {curve} is not supported by OpenSSL"))?;
    }
    let log = key_log();
    if log.will_log("CLIENT_RANDOM") {
        context.set_keylog_callback(move |_: &SslRef, line: &str| log_line(&*log, line));
    }
    Ok(context)
}

/// The cipher list in OpenSSL's syntax. Old versions need a security level that OpenSSL does not begin with.
fn cipher_string(options: &TlsOptions) -> String {
    let ciphers = options.cipher_string().unwrap_or(DEFAULT_CIPHERS);
    if options.min < VersionLimit::Tls1_2 && !ciphers.contains("@SECLEVEL") {
        format!("{NO_SECURITY_LEVEL}:{ciphers}")
    } else {
        ciphers.to_owned()
    }
}

/// Takes the suites out of which servers show no certificate, whatever the options name. A chain that is to be
/// verified must be there.
fn demand_certificates(
    context: &mut SslContextBuilder,
    options: &TlsOptions,
) -> Result<(), String> {
    let ciphers = cipher_string(options);
    context.set_cipher_list(&format!("{ciphers}:!aNULL")).map_err(|_| {
        format!(
            "ciphers_{} '{ciphers}' names no cipher with which a server shows a certificate",
            options.side.as_str()
        )
    })
}

fn version(limit: VersionLimit) -> Option<SslVersion> {
    match limit {
        VersionLimit::Unbounded => None,
        VersionLimit::Ssl3 => Some(SslVersion::SSL3),
        VersionLimit::Tls1 => Some(SslVersion::TLS1),
        VersionLimit::Tls1_1 => Some(SslVersion::TLS1_1),
        VersionLimit::Tls1_2 => Some(SslVersion::TLS1_2),
        VersionLimit::Tls1_3 => Some(SslVersion::TLS1_3),
    }
}

/// Takes a line of OpenSSL's to the log that rustls writes to.
fn log_line(log: &dyn rustls::KeyLog, line: &str) {
    let mut parts = line.split(' ');
    if let (Some(label), Some(random), Some(secret)) = (parts.next(), parts.next(), parts.next())
        && let Ok(random) = HEXLOWER_PERMISSIVE.decode(random.as_bytes())
        && let Ok(secret) = HEXLOWER_PERMISSIVE.decode(secret.as_bytes())
    {
        log.log(label, &random, &secret);
    }
}

/// A certificate as OpenSSL holds it.
fn x509(cert: &mitm_flow::Cert) -> Result<openssl::x509::X509, openssl::error::ErrorStack> {
    openssl::x509::X509::from_der(cert.der())
}

/// A lazily built thing that is the same for many connections.
type Lazy<T> = OnceLock<Result<Arc<T>, String>>;
