//! [`OpensslConnector`]: our side of a handshake with a server.
//!
//! Certificates are judged by the very verifier that rustls is given: which library speaks must not
//! decide whom to trust.

use std::{fmt, io, path::Path, sync::Arc};

use bytes::Bytes;
use openssl::{
    error::ErrorStack,
    ex_data::Index,
    pkey::{PKey, Private},
    ssl::{Ssl, SslContext, SslContextBuilder, SslOptions, SslRef, SslVerifyMode},
    x509::{X509, X509StoreContext, X509StoreContextRef, X509VerifyResult},
};
use parking_lot::Mutex;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Lazy, OpensslFailure, OpensslStream, context, demand_certificates,
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

/// Judges the certificate of one server, once for each it shows: there may be another after a renegotiation.
struct Judge {
    verifier: Arc<dyn ServerCertVerifier>,
    server_name: ServerName<'static>,
    judged: Mutex<Option<Judged>>,
}

struct Judged {
    leaf: Vec<u8>,
    verdict: Verdict,
}

type Verdict = Result<(), VerifyFailure>;

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
            demand_certificates(&mut context, &self.options)?;
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
        let shaken = stream.handshake().await;
        if self.verifier.is_none() {
            return shaken.map(|()| stream);
        }
        match (shaken, self.verdict(stream.ssl())) {
            (Ok(()), Some(Ok(()))) => Ok(stream),
            (_, Some(Err(failure))) => Err(OpensslFailure::Verify(failure).into_io()),
            // The library asks for a verdict only if there is something to judge.
            (Ok(()), None) => Err(OpensslFailure::Verify(no_certificate()).into_io()),
            (Err(error), _) => Err(error),
        }
    }

    fn session(&self) -> Result<Ssl, ErrorStack> {
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
                judged: Mutex::default(),
            };
            session.set_ex_data(self.shared.judge, judge);
        }
        session.set_connect_state();
        Ok(session)
    }

    /// What was thought of the latest certificate, if there was one.
    fn verdict(&self, session: &SslRef) -> Option<Verdict> {
        let judge = session.ex_data(self.shared.judge)?;
        judge.judged.lock().as_ref().map(|judged| judged.verdict.clone())
    }
}

/// OpenSSL asks about each certificate of a chain, and about each fault it found; the verdict is one on all
/// of them.
fn verify(store: &mut X509StoreContextRef, judge: Index<Ssl, Judge>) -> bool {
    let verdict = X509StoreContext::ssl_idx().ok().and_then(|index| {
        let session = store.ex_data(index)?;
        Some(session.ex_data(judge)?.judge_peer(session))
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
    fn judge_peer(&self, session: &SslRef) -> Verdict {
        let chain = session.peer_cert_chain().into_iter().flatten();
        let chain = chain.map(|cert| cert.to_der().map(CertificateDer::from));
        let chain = chain.collect::<Result<Vec<_>, ErrorStack>>();
        self.judge(&chain.map_err(|error| VerifyFailure { reason: words(&error) })?)
    }

    fn judge(&self, chain: &[CertificateDer<'_>]) -> Verdict {
        let (leaf, rest) = chain.split_first().ok_or_else(no_certificate)?;
        let mut judged = self.judged.lock();
        if let Some(judged) = judged.as_ref().filter(|judged| judged.leaf == leaf.as_ref()) {
            return judged.verdict.clone();
        }
        let verdict = self
            .verifier
            .verify_server_cert(leaf, rest, &self.server_name, &[], UnixTime::now())
            .map(|_| ())
            .map_err(|error| match VerifyFailure::find(&error) {
                Some(failure) => failure.clone(),
                None => VerifyFailure { reason: error.to_string() },
            });
        *judged = Some(Judged { leaf: leaf.to_vec(), verdict: verdict.clone() });
        verdict
    }
}

fn no_certificate() -> VerifyFailure {
    VerifyFailure { reason: "no certificate".to_owned() }
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

#[cfg(test)]
mod tests {
    use mitm_flow::Cert;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::{options::Side, suites, verify::Trust};

    fn cert(name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn verifier(dir: &Path, cert: &CertificateDer<'_>) -> Arc<dyn ServerCertVerifier> {
        let file = dir.join("trusted.pem");
        std::fs::write(&file, Cert::from_der(cert.to_vec()).to_pem()).unwrap();
        let trust = Trust::given(Some(&file), None).unwrap();
        trust.verifier(Arc::new(suites::provider(None, None))).unwrap()
    }

    #[test]
    fn another_certificate_is_judged_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (cert("a.example"), cert("a.example"));
        let judge = Judge {
            verifier: verifier(dir.path(), &good),
            server_name: ServerName::try_from("a.example").unwrap(),
            judged: Mutex::default(),
        };
        assert_eq!(judge.judge(&[]), Err(no_certificate()));
        for _ in 0..2 {
            assert_eq!(judge.judge(std::slice::from_ref(&good)), Ok(()));
            assert!(judge.judge(std::slice::from_ref(&bad)).is_err());
            assert!(judge.judge(&[bad.clone(), good.clone()]).is_err());
        }
    }

    /// The second line of defence: the context lets anonymous suites pass, as one that verifies does not.
    #[tokio::test]
    async fn a_handshake_without_a_verdict_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let options = |side| {
            let limit = crate::VersionLimit::Tls1_2;
            let options = TlsOptions::new(side).with_versions(limit, limit);
            options.with_ciphers(Some("AECDH-AES128-SHA:AES128-SHA:@SECLEVEL=0"))
        };
        let client = Client::new(&options(Side::Server), true);
        let verifier = verifier(dir.path(), &cert("a.example"));
        let trusting = client.connector(Arc::clone(&verifier), None, name, &[]).unwrap();
        for verifier in [None, Some(verifier)] {
            let connector = OpensslConnector { verifier, ..trusting.clone() };
            let context = context(&options(Side::Client)).unwrap().build();
            let mut session = Ssl::new(&context).unwrap();
            session.set_accept_state();
            let (near, far) = tokio::io::duplex(4096);
            let mut server = OpensslStream::new(session, far).unwrap();
            let (near, far) = tokio::join!(connector.connect(near), server.handshake());
            far.unwrap();
            match near {
                Ok(stream) => {
                    assert!(connector.verifier.is_none());
                    let cipher = stream.ssl().current_cipher().unwrap();
                    assert_eq!(cipher.name(), "AECDH-AES128-SHA");
                }
                Err(error) => {
                    assert!(connector.verifier.is_some(), "{error}");
                    let expected = OpensslFailure::Verify(no_certificate());
                    assert_eq!(OpensslFailure::find(&error), Some(&expected));
                }
            }
        }
    }
}
