//! Verification of server certificates, and its absence.
//!
//! webpki decides first. It never takes a certificate that is itself trusted as a server's, such as
//! what `openssl req -x509` makes; so a server that presents, byte for byte, one of the trusted
//! certificates is accepted if name and dates fit. Names are looked for in the alternative names only.

use std::{collections::HashSet, fmt, path::Path, sync::Arc};

use mitm_flow::Cert;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{pem, upstream::TlsSetupError};

/// Files read from a directory of certificates, and certificates from all of them.
const MAX_FILES: usize = 10_000;

/// Why a server certificate was refused. Found inside the [`Error`] of a failed handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Certificate verify failed: {reason}")]
pub struct VerifyFailure {
    /// What is wrong, in the words of OpenSSL.
    pub reason: String,
}

impl VerifyFailure {
    /// Finds the failure in an error of rustls.
    pub fn find(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }
}

/// Certificates to trust.
#[derive(Debug)]
pub(crate) struct Trust {
    anchors: RootCertStore,
    certs: HashSet<Vec<u8>>,
}

impl Trust {
    fn empty() -> Self {
        Self { anchors: RootCertStore::empty(), certs: HashSet::new() }
    }

    /// The certificates browsers ship, and those of the system.
    pub(crate) fn default_roots() -> Self {
        let mut trust = Self::empty();
        trust.anchors.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::debug!("system certificates: {error}");
        }
        for cert in native.certs {
            trust.add(cert);
        }
        trust
    }

    /// The certificates of `ssl_verify_upstream_trusted_ca` and
    /// `ssl_verify_upstream_trusted_confdir`.
    pub(crate) fn given(file: Option<&Path>, dir: Option<&Path>) -> Result<Self, TlsSetupError> {
        let mut trust = Self::empty();
        if let Some(path) = file {
            let failed = |reason| TlsSetupError::trusted_ca(path, reason);
            let bytes = pem::read_file(path).map_err(|error| failed(error.to_string()))?;
            let certs = pem::certificates(&bytes).map_err(|error| failed(error.to_string()))?;
            if certs.is_empty() {
                return Err(failed("no certificates in it".into()));
            }
            trust.add_all(&certs);
        }
        if let Some(path) = dir {
            trust
                .add_directory(path)
                .map_err(|error| TlsSetupError::trusted_dir(path, error.to_string()))?;
        }
        Ok(trust)
    }

    /// Adds the certificates of a directory made by `c_rehash`; of one that was not rehashed, all
    /// certificates in it.
    fn add_directory(&mut self, path: &Path) -> std::io::Result<()> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(path)?.take(MAX_FILES) {
            paths.push(entry?.path());
        }
        let hashed = |path: &std::path::PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.split_once('.').is_some_and(|(hash, number)| {
                hash.len() == 8
                    && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
                    && number.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        if paths.iter().any(hashed) {
            paths.retain(hashed);
        }
        paths.sort();
        for path in paths.iter().filter(|path| path.is_file()) {
            match pem::read_file(path).and_then(|bytes| pem::certificates(&bytes)) {
                Ok(certs) => self.add_all(&certs),
                Err(error) => tracing::debug!("{} is left out: {error}", path.display()),
            }
        }
        Ok(())
    }

    fn add_all(&mut self, certs: &[Cert]) {
        for cert in certs {
            self.add(pem::rustls_cert(cert));
        }
    }

    fn add(&mut self, cert: CertificateDer<'static>) {
        if self.certs.insert(cert.to_vec())
            && let Err(error) = self.anchors.add(cert)
        {
            tracing::debug!("a trusted certificate cannot sign others: {error}");
        }
    }

    pub(crate) fn verifier(
        self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, TlsSetupError> {
        let algorithms = provider.signature_verification_algorithms;
        let webpki = if self.anchors.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(self.anchors.into(), provider);
            Some(builder.build().map_err(|error| TlsSetupError::Unsupported(error.to_string()))?)
        };
        Ok(Arc::new(TrustVerifier { webpki, certs: self.certs, algorithms }))
    }
}

struct TrustVerifier {
    webpki: Option<Arc<WebPkiServerVerifier>>,
    certs: HashSet<Vec<u8>>,
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl TrustVerifier {
    /// Judges a certificate that is itself trusted: name and dates decide.
    fn verify_trusted(
        cert: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (_, parsed) =
            X509Certificate::from_der(cert).map_err(|_| CertificateError::BadEncoding)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now > parsed.validity().not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        if now < parsed.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        verify_server_name(&ParsedCertificate::try_from(cert)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for TrustVerifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let by_chain = match &self.webpki {
            Some(webpki) => {
                webpki.verify_server_cert(cert, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        let verdict = match by_chain {
            Err(_) if self.certs.contains(cert.as_ref()) => {
                Self::verify_trusted(cert, server_name, now)
            }
            verdict => verdict,
        };
        verdict.map_err(|error| {
            let reason = reason(&error, cert, intermediates, server_name);
            CertificateError::Other(OtherError(Arc::new(VerifyFailure { reason }))).into()
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for TrustVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustVerifier").field("certs", &self.certs.len()).finish_non_exhaustive()
    }
}

/// Accepts every server (`ssl_insecure`), odd certificates and signatures included.
#[derive(Debug)]
pub(crate) struct NoVerification;

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Anyone may be at the other end: whether they hold the key of a certificate that was not
        // looked at tells nothing.
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::ED448,
            SignatureScheme::ECDSA_SHA1_Legacy,
            SignatureScheme::RSA_PKCS1_SHA1,
        ]
    }
}

/// Puts a verdict into the words OpenSSL has for it.
fn reason(
    error: &Error,
    cert: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    server_name: &ServerName<'_>,
) -> String {
    let Error::InvalidCertificate(error) = error else { return error.to_string() };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate is not yet valid".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let kind = match server_name {
                ServerName::IpAddress(_) => "IP address",
                _ => "hostname",
            };
            format!("{kind} mismatch, certificate is not valid for '{}'", server_name.to_str())
        }
        // webpki says `Other` where the certificate of an authority is shown as a server's, and finds
        // the signature bad where a trusted certificate has the same name.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::Other(_)
            if is_self_signed(cert) =>
        {
            "self-signed certificate".into()
        }
        CertificateError::UnknownIssuer => {
            if intermediates.last().is_some_and(is_self_signed) {
                "self-signed certificate in certificate chain".into()
            } else {
                "unable to get local issuer certificate".into()
            }
        }
        CertificateError::BadSignature => "certificate signature failure".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "unsuitable certificate purpose".into()
        }
        other => other.to_string(),
    }
}

fn is_self_signed(cert: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(cert)
        .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}
