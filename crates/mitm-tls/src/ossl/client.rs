//! [`OpensslConnector`]: our side of a handshake with a server.
//!
//! Certificates are judged by the very verifier that rustls is given: which library speaks must not
//! decide whom to trust.

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use openssl::{
    ex_data::Index,
    pkey::{PKey, Private},
    ssl::{Ssl, SslContext, SslContextBuilder, SslOptions, SslRef, SslVerifyMode},
    x509::{X509, X509StoreContext, X509StoreContextRef, X509VerifyResult},
};
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Lazy, OpensslFailure, OpensslStream, context,
    error::{setup_error, words},
    offer, x509,
};
use crate::{
    key::KeyError,
    options::TlsOptions,
    pem::{self, PemError},
    verify::VerifyFailure,
};

/// `SSL_OP_LEGACY_SERVER_CONNECT`, for which the bindings have no name.
const LEGACY_SERVER_CONNECT: u32 = 1 << 2;

/// The context that all connections to servers share.
pub(crate) struct Client {
    options: TlsOptions,
    insecure: bool,
    context: Lazy<Shared>,
}

struct Shared {
    context: SslContext,
    judge: Index<Ssl, Judge>,
}

/// A client certificate with its key.
pub(crate) struct ClientIdentity {
    key: PKey<Private>,
    cert: X509,
    chain: Vec<X509>,
}

/// Judges the certificate of one server, once.
struct Judge {
    verifier: Arc<dyn ServerCertVerifier>,
    server_name: ServerName<'static>,
    verdict: OnceLock<Result<(), VerifyFailure>>,
}

/// What a server is met with.
#[derive(Clone)]
pub struct OpensslConnector {
    shared: Arc<Shared>,
    /// `None` to take any certificate.
    verifier: Option<Arc<dyn ServerCertVerifier>>,
    identity: Option<Arc<ClientIdentity>>,
    server_name: ServerName<'static>,
    alpn: Vec<Bytes>,
}

impl Client {
    pub(crate) fn new(options: &TlsOptions, insecure: bool) -> Self {
        Self { options: options.clone(), insecure, context: Lazy::new() }
    }

    /// Sets the library up, and makes sure that the options leave it something.
    pub(crate) fn check(&self) -> Result<(), String> {
        offer(&self.options)?;
        self.shared().map(|_| ())
    }

    pub(crate) fn connector(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        identity: Option<Arc<ClientIdentity>>,
        server_name: ServerName<'static>,
        alpn: &[Bytes],
    ) -> Result<OpensslConnector, String> {
        Ok(OpensslConnector {
            shared: self.shared()?,
            verifier: (!self.insecure).then_some(verifier),
            identity,
            server_name,
            alpn: alpn.to_vec(),
        })
    }

    fn shared(&self) -> Result<Arc<Shared>, String> {
        self.context.get_or_init(|| self.make().map(Arc::new)).clone()
    }

    fn make(&self) -> Result<Shared, String> {
        let mut context = context(&self.options)?;
        allow_post_handshake_auth(&mut context);
        let judge = Ssl::new_ex_index::<Judge>().map_err(|error| words(&error))?;
        if self.insecure {
            context.set_verify(SslVerifyMode::NONE);
            context.set_options(SslOptions::from_bits_retain(LEGACY_SERVER_CONNECT.into()));
        } else {
            context.clear_options(SslOptions::from_bits_retain(LEGACY_SERVER_CONNECT.into()));
            context.set_verify_callback(SslVerifyMode::PEER, move |_, store| verify(store, judge));
        }
        Ok(Shared { context: context.build(), judge })
    }
}

impl ClientIdentity {
    /// Reads a PEM file: a key, which may be encrypted, its certificate, and the rest of the chain.
    pub(crate) fn read(path: &Path, passphrase: Option<&str>) -> Result<Self, PemError> {
        let name = || path.display().to_string();
        let content = pem::parse(&pem::read_file(path)?, passphrase)?;
        let key = content.key.ok_or_else(|| PemError::NoKey(name()))?;
        let der = match &key {
            PrivateKeyDer::Pkcs8(key) => PKey::private_key_from_pkcs8(key.secret_pkcs8_der()),
            other => PKey::private_key_from_der(other.secret_der()),
        };
        let key = der.map_err(|_| KeyError::Unsupported)?;
        let mut certs = content.certs.iter().map(x509);
        let cert = certs.next().ok_or_else(|| PemError::NoCertificate(name()))?;
        let cert = cert.map_err(|_| PemError::BadCertificate)?;
        let matches = cert.public_key().is_ok_and(|public| public.public_eq(&key));
        if !matches {
            return Err(PemError::Mismatch(name()));
        }
        let chain = certs.collect::<Result<_, _>>().map_err(|_| PemError::BadCertificate)?;
        Ok(Self { key, cert, chain })
    }
}

impl OpensslConnector {
    /// Shakes hands with a server, to which nothing has been sent yet.
    pub async fn connect<S>(&self, io: S) -> io::Result<OpensslStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let session = self.session().map_err(|error| setup_error(&error))?;
        let mut stream = OpensslStream::new(session, io)?;
        match stream.handshake().await {
            Ok(()) => Ok(stream),
            Err(error) => Err(self.verdict(stream.ssl()).unwrap_or(error)),
        }
    }

    fn session(&self) -> Result<Ssl, openssl::error::ErrorStack> {
        let mut session = Ssl::new(&self.shared.context)?;
        if let ServerName::DnsName(name) = &self.server_name {
            session.set_hostname(name.as_ref())?;
        }
        if let Some(identity) = &self.identity {
            session.set_certificate(&identity.cert)?;
            session.set_private_key(&identity.key)?;
            for cert in &identity.chain {
                session.add_chain_cert(cert.clone())?;
            }
        }
        let mut protocols = Vec::new();
        for name in &self.alpn {
            if let Ok(length @ 1..) = u8::try_from(name.len()) {
                protocols.push(length);
                protocols.extend_from_slice(name);
            }
        }
        if !protocols.is_empty() {
            session.set_alpn_protos(&protocols)?;
        }
        if let Some(verifier) = &self.verifier {
            let judge = Judge {
                verifier: Arc::clone(verifier),
                server_name: self.server_name.clone(),
                verdict: OnceLock::new(),
            };
            session.set_ex_data(self.shared.judge, judge);
        }
        session.set_connect_state();
        Ok(session)
    }

    /// Why the certificate was refused, if that is what happened.
    fn verdict(&self, session: &SslRef) -> Option<io::Error> {
        let judge = session.ex_data(self.shared.judge)?;
        let failure = judge.verdict.get()?.as_ref().err()?.clone();
        Some(OpensslFailure::Verify(failure).into_io())
    }
}

/// OpenSSL asks about each certificate of a chain, and about each fault it found; the verdict is one on all
/// of them.
fn verify(store: &mut X509StoreContextRef, judge: Index<Ssl, Judge>) -> bool {
    let verdict = X509StoreContext::ssl_idx().ok().and_then(|index| {
        let session = store.ex_data(index)?;
        let judge = session.ex_data(judge)?;
        Some(judge.verdict.get_or_init(|| judge.judge(session)).clone())
    });
    let is_trusted = matches!(verdict, Some(Ok(())));
    if is_trusted {
        store.set_error(X509VerifyResult::OK);
    } else if store.error() == X509VerifyResult::OK {
        // Else what OpenSSL found itself, not knowing any authority, becomes the alert.
        store.set_error(X509VerifyResult::APPLICATION_VERIFICATION);
    }
    is_trusted
}

impl Judge {
    fn judge(&self, session: &SslRef) -> Result<(), VerifyFailure> {
        let failed = |reason: &str| VerifyFailure { reason: reason.to_owned() };
        let mut chain = Vec::new();
        for cert in session.peer_cert_chain().into_iter().flatten() {
            let der = cert.to_der().map_err(|error| failed(&words(&error)))?;
            chain.push(CertificateDer::from(der));
        }
        let (cert, rest) = chain.split_first().ok_or_else(|| failed("no certificate"))?;
        self.verifier
            .verify_server_cert(cert, rest, &self.server_name, &[], UnixTime::now())
            .map(|_| ())
            .map_err(|error| match VerifyFailure::find(&error) {
                Some(failure) => failure.clone(),
                None => failed(&error.to_string()),
            })
    }
}

/// Lets servers of TLS 1.3 ask for a certificate whenever they come to want one.
#[expect(unsafe_code, reason = "the bindings have no safe form of this")]
fn allow_post_handshake_auth(context: &mut SslContextBuilder) {
    // SAFETY: the pointer is that of a context that is borrowed for the call, which sets a flag in it.
    unsafe { openssl_sys::SSL_CTX_set_post_handshake_auth(context.as_ptr(), 1) };
}

impl fmt::Debug for OpensslConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpensslConnector")
            .field("server_name", &self.server_name)
            .field("alpn", &self.alpn)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}
