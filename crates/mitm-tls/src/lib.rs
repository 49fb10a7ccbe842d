//! TLS for a proxy in the middle: the certificate authority, leaf certificates, key logs, and
//! configurations for both sides: of rustls, and of OpenSSL for peers that rustls leaves out.
//!
//! 1. [`CertificateAuthority`] is loaded or made; [`CertStore`] stands on it.
//! 2. Of a client's hello, [`backend_for`] tells which library can answer it and with which kind of
//!    key. (Reading it is the codec's business.)
//! 3. [`choose_alpn`] picks the one protocol to agree on, [`names_for_leaf`] the names of the
//!    certificate, [`CertStore::get`] the certificate, and [`Downstream`] makes the configuration.
//! 4. Towards servers, [`Upstream`] chooses the library and makes the configuration, with verification,
//!    client certificate and sessions to resume.
//! 5. [`client_facts`] and [`server_facts`] read from a finished connection what flows record, and
//!    [`describe_server_error`] and [`describe_client_error`] put failures into words.
//!
//! No sockets here: whoever owns the connection drives the library with what this crate makes.

mod alpn;
mod backend;
mod ca;
mod der;
mod downstream;
mod explain;
mod facts;
mod issue;
mod key;
mod keylog;
mod names;
mod options;
mod ossl;
mod p12;
mod pem;
mod store;
mod suites;
mod upstream;
mod verify;

pub use alpn::{AlpnChoice, choose_alpn, offers_for_proxy, offers_for_server};
pub use backend::{Backend, HelloFacts, Unsupported, backend_for};
pub use ca::{CaError, CertificateAuthority};
pub use downstream::Downstream;
pub use explain::{
    ClientFailure, Severity, describe_bad_hello, describe_client_error, describe_client_tls_error,
    describe_server_error, describe_server_tls_error,
};
pub use facts::{client_facts, openssl_client_facts, openssl_server_facts, server_facts};
pub use key::KeyError;
pub use keylog::{KeyLogFile, key_log};
pub use names::{LeafName, UpstreamFacts, asterisk_forms, is_valid_host, names_for_leaf};
pub use options::{Side, TlsOptionError, TlsOptions, VersionLimit};
pub use ossl::{OpensslAcceptor, OpensslConnector, OpensslFailure, OpensslStream};
pub use pem::PemError;
pub use store::{
    CertStore, CustomCertError, KeyKind, Leaf, LeafRequest, StoreError, parse_cert_spec,
};
pub use suites::cipher_name;
pub use upstream::{
    TlsSetupError, Upstream, UpstreamChoice, UpstreamConfig, UpstreamKey, Verification, server_name,
};
pub use verify::VerifyFailure;
