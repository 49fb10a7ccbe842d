//! Failed handshakes in words: what happened, with whom, and what can be done.

use std::io;

use data_encoding::HEXLOWER;
use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};

use crate::{ossl::OpensslFailure, verify::VerifyFailure};

/// How loudly a failure is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warn,
}

/// A failed handshake with a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFailure {
    pub severity: Severity,
    pub message: String,
}

/// Describes why the handshake with a server failed: the text of `conn.error`, and of the error page.
///
/// `host` is the name that was asked for, or the address.
pub fn describe_server_error(error: &io::Error, host: &str) -> String {
    if let Some(failure) = OpensslFailure::find(error) {
        return describe_server_openssl_failure(failure, host);
    }
    match tls_error(error) {
        Some(error) => describe_server_tls_error(error, host),
        None if is_close(error.kind()) => "connection closed".into(),
        None => error.to_string(),
    }
}

/// As [`describe_server_error`], for an error that did not come through a stream.
pub fn describe_server_tls_error(error: &Error, host: &str) -> String {
    if let Some(failure) = VerifyFailure::find(error) {
        return untrusted(failure, host);
    }
    match error {
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => NOT_TLS.into(),
        Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => no_version_with(host),
        Error::AlertReceived(alert) => refused_by(host, *alert),
        other => format!("TLS handshake with {host} failed: {other}"),
    }
}

fn describe_server_openssl_failure(failure: &OpensslFailure, host: &str) -> String {
    match failure {
        OpensslFailure::Verify(failure) => untrusted(failure, host),
        OpensslFailure::NotTls => NOT_TLS.into(),
        OpensslFailure::Version | OpensslFailure::Alert(PROTOCOL_VERSION) => no_version_with(host),
        OpensslFailure::Alert(alert) => refused_by(host, AlertDescription::from(*alert)),
        OpensslFailure::LegacyRenegotiation => format!(
            "{host} does not support secure renegotiation. The option ssl_insecure admits such servers."
        ),
        OpensslFailure::Other(reason) if reason.ends_with("too small") => format!(
            "TLS handshake with {host} failed: {reason}. Put @SECLEVEL=0 into the option ciphers_server to \
             admit it."
        ),
        other => format!("TLS handshake with {host} failed: {other}"),
    }
}

const NOT_TLS: &str = "The remote server does not speak TLS.";
const PROTOCOL_VERSION: u8 = 70;

fn untrusted(failure: &VerifyFailure, host: &str) -> String {
    format!(
        "{failure}. The certificate of {host} is not trusted: give the authority to trust with \
         ssl_verify_upstream_trusted_ca, or turn verification off with ssl_insecure."
    )
}

fn refused_by(host: &str, alert: AlertDescription) -> String {
    let hint = match alert {
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            ". It may want other ciphers (ciphers_server; weak ones need @SECLEVEL=0 in it), older versions \
             (tls_version_server_min) or a client certificate (client_certs)."
        }
        AlertDescription::CertificateRequired => {
            ". The option client_certs is what it may be given."
        }
        _ => "",
    };
    format!("{host} refused the TLS handshake: {}{hint}", words(alert))
}

fn no_version_with(host: &str) -> String {
    format!(
        "The proxy and {host} have no TLS version in common. The option tls_version_server_min \
         is what sets the lowest."
    )
}

/// Describes why the handshake with a client failed, for the log.
///
/// `host` is the name the client asked for, or the address of the server.
pub fn describe_client_error(error: &io::Error, host: &str) -> ClientFailure {
    if let Some(failure) = OpensslFailure::find(error) {
        return describe_client_openssl_failure(failure, host);
    }
    match tls_error(error) {
        Some(error) => describe_client_tls_error(error, host),
        None if is_close(error.kind()) => ClientFailure {
            severity: Severity::Info,
            message: format!(
                "Client TLS handshake failed. The client disconnected during the handshake. If this \
                 happens consistently for {host}, it may not trust the proxy's certificate."
            ),
        },
        None => unclear(host, &error.to_string()),
    }
}

/// As [`describe_client_error`], for an error that did not come through a stream.
pub fn describe_client_tls_error(error: &Error, host: &str) -> ClientFailure {
    let message = match error {
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown),
        ) => distrusted(*alert, host),
        Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // What clients from before TLS 1.2 do not send; rustls looks for it first.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::Tls13RequiredForQuic,
        ) => NO_VERSION_WITH_CLIENT.into(),
        other => return unclear(host, &other.to_string()),
    };
    ClientFailure { severity: Severity::Warn, message }
}

fn describe_client_openssl_failure(failure: &OpensslFailure, host: &str) -> ClientFailure {
    let message = match failure {
        // Unknown authority, bad certificate, certificate unknown.
        OpensslFailure::Alert(alert @ (48 | 42 | 46)) => {
            distrusted(AlertDescription::from(*alert), host)
        }
        OpensslFailure::Version | OpensslFailure::Alert(PROTOCOL_VERSION) => {
            NO_VERSION_WITH_CLIENT.into()
        }
        OpensslFailure::Cipher => {
            "Client TLS handshake failed. The client and the proxy have no cipher in common. The \
             option ciphers_client is what names them."
                .into()
        }
        OpensslFailure::Alert(alert) => {
            return unclear(host, &words(AlertDescription::from(*alert)));
        }
        other => return unclear(host, &other.to_string()),
    };
    ClientFailure { severity: Severity::Warn, message }
}

const NO_VERSION_WITH_CLIENT: &str = "Client TLS handshake failed. The client and the proxy have no \
    TLS version in common. The option tls_version_client_min is what sets the lowest.";

fn distrusted(alert: AlertDescription, host: &str) -> String {
    format!(
        "Client TLS handshake failed. The client does not trust the proxy's certificate for {host} \
         ({}).",
        words(alert)
    )
}

/// Describes bytes that could not be read as a `ClientHello`.
pub fn describe_bad_hello(bytes: &[u8]) -> String {
    const SHOWN: usize = 256;

    let shown = bytes.get(..SHOWN).unwrap_or(bytes);
    let more = if shown.len() < bytes.len() { "…" } else { "" };
    format!("Cannot parse ClientHello: {}{more}", HEXLOWER.encode(shown))
}

fn unclear(host: &str, reason: &str) -> ClientFailure {
    ClientFailure {
        severity: Severity::Warn,
        message: format!(
            "Client TLS handshake failed. The client may not trust the proxy's certificate for \
             {host} ({reason})."
        ),
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn is_close(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

/// The name of an alert as OpenSSL prints it, in small letters.
fn words(alert: AlertDescription) -> String {
    let known = match alert {
        AlertDescription::UnknownCA => "unknown ca",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::CertificateUnknown => "certificate unknown",
        AlertDescription::CertificateExpired => "certificate expired",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::InternalError => "internal error",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        AlertDescription::ProtocolVersion => "protocol version",
        AlertDescription::InsufficientSecurity => "insufficient security",
        other => return format!("alert {}", u8::from(other)),
    };
    format!("alert {known}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn clients_that_do_not_trust_us_are_named_with_the_host() {
        for (alert, shown) in [
            (AlertDescription::UnknownCA, "unknown ca"),
            (AlertDescription::BadCertificate, "bad certificate"),
            (AlertDescription::CertificateUnknown, "certificate unknown"),
        ] {
            let failure =
                describe_client_error(&io_error(Error::AlertReceived(alert)), "a.example");
            assert_eq!(failure.severity, Severity::Warn);
            let expected =
                "The client does not trust the proxy's certificate for a.example (alert ";
            assert!(failure.message.contains(expected) && failure.message.contains(shown));
        }
    }

    #[test]
    fn other_client_failures() {
        let closed = describe_client_error(&io::ErrorKind::UnexpectedEof.into(), "a.example");
        assert_eq!(closed.severity, Severity::Info);
        let version = Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered);
        let failure = describe_client_tls_error(&version, "a.example");
        assert!(failure.message.contains("tls_version_client_min"));
        let failure = describe_client_tls_error(&Error::DecryptError, "a.example");
        assert!(failure.message.contains("may not trust"));
        assert_eq!(describe_bad_hello(&[0x16, 3]), "Cannot parse ClientHello: 1603");
        assert!(describe_bad_hello(&[0; 10_000]).len() < 1000);
    }

    #[test]
    fn server_failures() {
        let text = |error| describe_server_error(&io_error(error), "a.example");
        let plain = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(text(plain), "The remote server does not speak TLS.");
        let version = Error::AlertReceived(AlertDescription::ProtocolVersion);
        assert!(text(version).contains("tls_version_server_min"));
        let refused = Error::AlertReceived(AlertDescription::HandshakeFailure);
        let refused = text(refused);
        assert!(
            refused.starts_with("a.example refused the TLS handshake: alert handshake failure. "),
            "{refused}"
        );
        for option in ["ciphers_server", "tls_version_server_min", "client_certs"] {
            assert!(refused.contains(option), "{refused}");
        }
        let closed = describe_server_error(&io::ErrorKind::UnexpectedEof.into(), "a.example");
        assert_eq!(closed, "connection closed");
    }
}
