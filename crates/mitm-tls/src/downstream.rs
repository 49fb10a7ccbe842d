//! [`Downstream`]: server configurations towards clients, of either library.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs::Ticketer},
    server::{
        ClientHello, NoClientAuth, ResolvesServerCert, ServerSessionMemoryCache,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{
    keylog::key_log,
    options::{Profile, TlsOptions},
    ossl::{OpensslAcceptor, Server},
    store::Leaf,
    upstream::TlsSetupError,
};

/// Sessions that are kept for clients without tickets.
const SESSIONS: usize = 1024;

/// Makes server configurations, which share tickets and sessions.
///
/// There is one for each authority and set of options: what a ticket resumes must have been set up
/// under the same rules.
#[derive(Debug)]
pub struct Downstream {
    template: ServerConfig,
    /// Whether the options leave rustls something to speak.
    serves: bool,
    openssl: Server,
}

impl Downstream {
    /// Sets up configurations. OpenSSL is left alone until a client, or what the options say, needs it.
    pub fn new(options: &TlsOptions) -> Result<Self, TlsSetupError> {
        Self::with_dhparam(options, None)
    }

    /// As [`new`](Self::new), with a PEM file of Diffie-Hellman parameters for the clients that use them. One
    /// that cannot be used is reported when it is needed, and replaced.
    pub fn with_dhparam(
        options: &TlsOptions,
        dhparam: Option<PathBuf>,
    ) -> Result<Self, TlsSetupError> {
        let openssl = Server::new(options, dhparam);
        let (profile, serves) = if let Ok(profile) = options.profile() {
            (profile, true)
        } else {
            openssl.check().map_err(TlsSetupError::Unsupported)?;
            let default = TlsOptions::new(options.side);
            (default.profile().map_err(TlsSetupError::Unsupported)?, false)
        };
        Ok(Self { template: Self::template(options, profile)?, serves, openssl })
    }

    fn template(options: &TlsOptions, profile: Profile) -> Result<ServerConfig, TlsSetupError> {
        let algorithms = profile.provider.signature_verification_algorithms;
        let verifier: Arc<dyn ClientCertVerifier> = if options.request_client_cert {
            Arc::new(AnyClientCert { algorithms })
        } else {
            Arc::new(NoClientAuth)
        };
        let mut template = ServerConfig::builder_with_provider(profile.provider)
            .with_protocol_versions(&profile.versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(NoCert));
        template.ticketer = Ticketer::new()?;
        template.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        template.key_log = key_log();
        template.max_early_data_size = 0;
        Ok(template)
    }

    /// Returns the configuration for one connection: this certificate, and this protocol or none.
    /// Cheap. `alpn` must be one the client offers, as [`choose_alpn`](crate::choose_alpn) makes
    /// sure; the handshake fails otherwise. If the options leave rustls nothing to speak, it refuses everybody.
    pub fn config(&self, leaf: &Leaf, alpn: Option<&[u8]>) -> Arc<ServerConfig> {
        let mut config = self.template.clone();
        if self.serves {
            config.cert_resolver = Arc::new(OneCert(Arc::clone(&leaf.certified_key)));
        }
        config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
        Arc::new(config)
    }

    /// As [`config`](Self::config), for a client that is for OpenSSL.
    pub fn openssl(
        &self,
        leaf: &Arc<Leaf>,
        alpn: Option<&[u8]>,
    ) -> Result<OpensslAcceptor, TlsSetupError> {
        self.openssl.acceptor(leaf, alpn).map_err(TlsSetupError::Unsupported)
    }
}

/// Stands in the template, and refuses where it is used as it is.
#[derive(Debug)]
struct NoCert;

impl ResolvesServerCert for NoCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[derive(Debug)]
struct OneCert(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Asks for a certificate and takes any, or none. Who shows one must have its key.
#[derive(Debug)]
struct AnyClientCert {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClientCert {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
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
