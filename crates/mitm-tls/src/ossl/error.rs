//! [`OpensslFailure`]: what ended a handshake or a connection, in terms that can be put into words.

use std::io;

use openssl::{
    error::ErrorStack,
    ssl::{Error, ErrorCode},
};

use crate::verify::VerifyFailure;

/// Why a connection over OpenSSL failed. Found inside the [`io::Error`] that it ends with; a peer that
/// leaves without a word is [`io::ErrorKind::UnexpectedEof`] instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpensslFailure {
    #[error(transparent)]
    Verify(VerifyFailure),
    /// The peer said so.
    #[error("alert {0}")]
    Alert(u8),
    /// There is no version that both sides have.
    #[error("no TLS version in common")]
    Version,
    #[error("no cipher in common")]
    Cipher,
    /// The peer cannot renegotiate securely (RFC 5746), as everybody should since 2010.
    #[error("no secure renegotiation")]
    LegacyRenegotiation,
    /// What came is not TLS at all.
    #[error("not TLS")]
    NotTls,
    #[error("{0}")]
    Other(String),
}

impl OpensslFailure {
    /// Finds the failure in an error of a stream.
    pub(crate) fn find(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    pub(super) fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }

    fn of_stack(stack: &ErrorStack) -> Option<Self> {
        let mut known = stack
            .errors()
            .iter()
            .filter(|error| error.library_code() == LIBRARY_SSL)
            .filter_map(|error| Self::of_reason(error.reason_code()));
        known.next()
    }

    fn of_reason(code: i32) -> Option<Self> {
        match code {
            reason::WRONG_VERSION_NUMBER | reason::HTTP_REQUEST | reason::HTTPS_PROXY_REQUEST => {
                Some(Self::NotTls)
            }
            reason::UNSUPPORTED_PROTOCOL
            | reason::VERSION_TOO_LOW
            | reason::VERSION_TOO_HIGH
            | reason::WRONG_SSL_VERSION
            | reason::NO_PROTOCOLS_AVAILABLE => Some(Self::Version),
            reason::NO_SHARED_CIPHER => Some(Self::Cipher),
            reason::UNSAFE_LEGACY_RENEGOTIATION => Some(Self::LegacyRenegotiation),
            _ => {
                let alert = code.checked_sub(reason::ALERTS)?;
                u8::try_from(alert).ok().map(Self::Alert)
            }
        }
    }
}

/// The number of libssl among OpenSSL's libraries.
const LIBRARY_SSL: i32 = 20;

/// Numbers of OpenSSL's reasons, which do not change.
mod reason {
    pub(super) const HTTPS_PROXY_REQUEST: i32 = 155;
    pub(super) const HTTP_REQUEST: i32 = 156;
    pub(super) const VERSION_TOO_HIGH: i32 = 166;
    pub(super) const NO_PROTOCOLS_AVAILABLE: i32 = 191;
    pub(super) const NO_SHARED_CIPHER: i32 = 193;
    pub(super) const UNSUPPORTED_PROTOCOL: i32 = 258;
    pub(super) const WRONG_SSL_VERSION: i32 = 266;
    pub(super) const WRONG_VERSION_NUMBER: i32 = 267;
    pub(super) const UNEXPECTED_EOF: i32 = 294;
    pub(super) const UNSAFE_LEGACY_RENEGOTIATION: i32 = 338;
    pub(super) const VERSION_TOO_LOW: i32 = 396;
    /// An alert of the peer is this plus its number.
    pub(super) const ALERTS: i32 = 1000;
}

/// What OpenSSL says about an error, on one line.
pub(super) fn words(stack: &ErrorStack) -> String {
    let reasons: Vec<&str> =
        stack.errors().iter().filter_map(openssl::error::Error::reason).collect();
    if reasons.is_empty() { "unknown error".into() } else { reasons.join(", ") }
}

/// Turns an error of a session into one of its stream.
pub(super) fn io_error(error: Error) -> io::Error {
    let code = error.code();
    if let Some(stack) = error.ssl_error() {
        let is_eof = stack.errors().iter().any(|error| {
            error.library_code() == LIBRARY_SSL && error.reason_code() == reason::UNEXPECTED_EOF
        });
        if is_eof {
            return io::ErrorKind::UnexpectedEof.into();
        }
        let failure =
            OpensslFailure::of_stack(stack).unwrap_or_else(|| OpensslFailure::Other(words(stack)));
        return failure.into_io();
    }
    match error.into_io_error() {
        Ok(error) => error,
        // The library has met the end of the connection and has nothing to add.
        Err(_) if code == ErrorCode::SYSCALL => io::ErrorKind::UnexpectedEof.into(),
        Err(error) => OpensslFailure::Other(error.to_string()).into_io(),
    }
}

pub(super) fn setup_error(stack: &ErrorStack) -> io::Error {
    OpensslFailure::Other(words(stack)).into_io()
}
