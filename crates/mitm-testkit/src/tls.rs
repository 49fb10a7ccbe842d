//! Throw-away certificates and the TLS configurations made of them.
//!
//! A test's [`Authority`] issues certificates for an origin; its PEM is what the program under test
//! is told to trust. Keys are P-256 and live for one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The leaf, followed by what a server sends with it.
    pub certificate_pem: String,
    /// The PKCS #8 private key.
    pub key_pem: String,
    /// What a client must trust for this certificate to verify.
    pub trust_pem: String,
}

impl Identity {
    /// Writes `cert.pem`, `key.pem` and `ca.pem` to a directory and returns the three paths.
    pub fn write(&self, directory: &Path) -> [PathBuf; 3] {
        let files = [
            ("cert.pem", &self.certificate_pem),
            ("key.pem", &self.key_pem),
            ("ca.pem", &self.trust_pem),
        ];
        files.map(|(name, pem)| {
            let path = directory.join(name);
            std::fs::write(&path, pem).expect("the test directory is writable");
            path
        })
    }

    /// Returns a server configuration that offers these application protocols.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificates(&self.certificate_pem), key(&self.key_pem))
            .expect("a certificate that was just made fits its key");
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }
}

/// A certificate authority of one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority with a fresh key.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, new_key()).expect("parameters of ours");
        Self { issuer }
    }

    /// Issues a server certificate for DNS names and addresses; the first is the common name.
    pub fn issue(&self, names: &[&str]) -> Identity {
        let key = new_key();
        let certificate =
            leaf_params(names).signed_by(&key, &self.issuer).expect("parameters of ours");
        Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            trust_pem: self.pem(),
        }
    }

    /// Returns the certificate of the authority.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }
}

/// Makes a certificate that signs itself, as `openssl req -x509` does.
pub fn self_signed(names: &[&str]) -> Identity {
    let key = new_key();
    let pem = leaf_params(names).self_signed(&key).expect("parameters of ours").pem();
    Identity { certificate_pem: pem.clone(), key_pem: key.serialize_pem(), trust_pem: pem }
}

/// Returns a client configuration that trusts the certificates of a PEM text.
pub fn client_config(trust_pem: &str, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(trust_pem) {
        roots.add(certificate).expect("a trust anchor is a well-formed certificate");
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    Arc::new(config)
}

fn leaf_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let common = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names).expect("names of a test are well-formed");
    params.distinguished_name = named(&common);
    params
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the system gives random bytes")
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("certificates of a test are PEM")
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).expect("keys of a test are PKCS #8").into()
}

fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}
