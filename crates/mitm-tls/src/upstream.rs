//! [`Upstream`]: client configurations towards servers, of either library.
//!
//! Each place a connection may lead to ([`UpstreamKey`]) has its own configuration, and with it its
//! own sessions to resume: nothing learnt from one server is shown to another.
//!
//! OpenSSL is for servers that get a client certificate, which they may ask for at any time, and for options
//! that rustls does not fulfil. Other servers are met with rustls; one that turns its hello away is worth one
//! more connection with OpenSSL, which is then remembered.

use std::{
    collections::VecDeque,
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use mitm_flow::connection::{Address, Via};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rustls::{
    AlertDescription, ClientConfig, NamedGroup, PeerIncompatible,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        danger::ServerCertVerifier,
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::ServerName;

use crate::{
    keylog::key_log,
    names::{LeafName, is_valid_host},
    options::{Profile, TlsOptions},
    ossl::{Client, ClientIdentity, OpensslConnector},
    pem::PemError,
    suites,
    verify::{NoVerification, Trust},
};

const CONFIGURATIONS: usize = 1_000;
const CLIENT_CERTIFICATES: usize = 256;
/// Servers that are known to need OpenSSL.
const REMEMBERED: usize = 10_000;
/// TLS 1.3 tickets kept per place; each is used once.
const TICKETS: usize = 8;

/// Why TLS cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsSetupError {
    #[error("{0}")]
    Unsupported(String),
    #[error("cannot use {option} {}: {reason}", path.display())]
    Trusted { option: &'static str, path: PathBuf, reason: String },
    #[error("Client certificate path does not exist: {}", .0.display())]
    ClientCertMissing(PathBuf),
    #[error("cannot use the client certificate {}: {source}", path.display())]
    ClientCert { path: PathBuf, source: PemError },
    #[error("'{0}' is no name or address to verify a server by")]
    ServerName(String),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

impl TlsSetupError {
    pub(crate) fn trusted_ca(path: &Path, reason: String) -> Self {
        let option = "ssl_verify_upstream_trusted_ca";
        Self::Trusted { option, path: path.to_owned(), reason }
    }

    pub(crate) fn trusted_dir(path: &Path, reason: String) -> Self {
        let option = "ssl_verify_upstream_trusted_confdir";
        Self::Trusted { option, path: path.to_owned(), reason }
    }
}

/// How server certificates are judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verification {
    /// Not at all (`ssl_insecure`).
    Insecure,
    /// By the authorities browsers ship and those of the system.
    #[default]
    Roots,
    /// By these and no others: `ssl_verify_upstream_trusted_ca` (a PEM file) and
    /// `ssl_verify_upstream_trusted_confdir` (a directory).
    Trusted { file: Option<PathBuf>, dir: Option<PathBuf> },
}

/// Where a connection leads, as far as TLS is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamKey {
    pub address: Address,
    /// The proxy the connection goes through.
    pub via: Option<Via>,
    /// The name to ask for; the host of the address if there is none.
    pub sni: Option<Arc<str>>,
    /// What to offer, in this order; none for no ALPN.
    pub alpn: Vec<Bytes>,
    pub local: Option<IpAddr>,
}

impl UpstreamKey {
    pub fn new(address: Address) -> Self {
        Self { address, via: None, sni: None, alpn: Vec::new(), local: None }
    }

    fn host(&self) -> &str {
        self.sni.as_deref().unwrap_or(&self.address.host)
    }
}

/// What a connection is made with.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    pub config: Arc<ClientConfig>,
    /// Sent as SNI unless it is an address; what the certificate must be valid for.
    pub server_name: ServerName<'static>,
}

/// Which library meets a server, and with what.
#[derive(Clone, Debug)]
pub enum UpstreamChoice {
    /// A failure that [`Upstream::should_retry`] is one for [`Upstream::fallback`], on a new connection.
    Rustls(UpstreamConfig),
    Openssl(OpensslConnector),
}

/// Makes client configurations, one set of options for all of them.
pub struct Upstream {
    /// `None` where the options ask for OpenSSL.
    profile: Option<Profile>,
    openssl: Client,
    verification: Verification,
    client_certs: Option<PathBuf>,
    passphrase: Option<String>,
    /// Made at the first use: the system's certificates take a while.
    verifier: OnceLock<Arc<dyn ServerCertVerifier>>,
    identities: Cache<PathBuf, Arc<ClientIdentity>>,
    configs: Cache<UpstreamKey, Arc<ClientConfig>>,
    /// Servers that rustls failed with.
    fallen_back: Cache<UpstreamKey, ()>,
}

impl Upstream {
    /// Sets up configurations for these options. Files of trusted authorities are read now, those of
    /// `client_certs` (a PEM file, or a directory of `<name>.pem`) when they are needed.
    pub fn new(
        options: &TlsOptions,
        verification: Verification,
        client_certs: Option<PathBuf>,
    ) -> Result<Self, TlsSetupError> {
        Self::with_passphrase(options, verification, client_certs, None)
    }

    /// As [`new`](Self::new), with what opens the keys of client certificates (`cert_passphrase`).
    pub fn with_passphrase(
        options: &TlsOptions,
        verification: Verification,
        client_certs: Option<PathBuf>,
        passphrase: Option<&str>,
    ) -> Result<Self, TlsSetupError> {
        let profile = if options.ask_for_openssl() { None } else { options.profile().ok() };
        let client_certs = client_certs.map(|path| expand_home(&path));
        if let Some(path) = client_certs.as_ref().filter(|path| !path.exists()) {
            return Err(TlsSetupError::ClientCertMissing(path.clone()));
        }
        let upstream = Self {
            profile,
            openssl: Client::new(options, verification == Verification::Insecure),
            verification,
            client_certs,
            passphrase: passphrase.map(str::to_owned),
            verifier: OnceLock::new(),
            identities: Cache::new(CLIENT_CERTIFICATES),
            configs: Cache::new(CONFIGURATIONS),
            fallen_back: Cache::new(REMEMBERED),
        };
        if upstream.profile.is_none() {
            upstream.openssl.check().map_err(TlsSetupError::Unsupported)?;
        }
        if upstream.verification != Verification::Roots {
            upstream.verifier()?;
        }
        if let Some(path) = upstream.client_certs.as_deref().filter(|path| path.is_file()) {
            upstream.identity(path)?;
        }
        Ok(upstream)
    }

    /// Chooses the library to meet a server with. The first call of all may read the system's certificates.
    pub fn choose(&self, key: &UpstreamKey) -> Result<UpstreamChoice, TlsSetupError> {
        let is_for_openssl = self.profile.is_none()
            || self.fallen_back.get(key).is_some()
            || self.client_cert_path(key.host()).is_some();
        if is_for_openssl {
            self.fallback(key).map(UpstreamChoice::Openssl)
        } else {
            self.config(key).map(UpstreamChoice::Rustls)
        }
    }

    /// Returns what rustls meets a server with, whatever [`choose`](Self::choose) says.
    pub fn config(&self, key: &UpstreamKey) -> Result<UpstreamConfig, TlsSetupError> {
        let server_name = server_name(key.host())?;
        let profile = self.profile.as_ref().ok_or_else(|| {
            TlsSetupError::Unsupported("the options leave rustls nothing to speak".into())
        })?;
        let config = self.configs.get_or_insert_with(key, || self.make(profile, key))?;
        Ok(UpstreamConfig { config, server_name })
    }

    /// Returns what to meet a server with that turned rustls away.
    pub fn fallback(&self, key: &UpstreamKey) -> Result<OpensslConnector, TlsSetupError> {
        let identity =
            self.client_cert_path(key.host()).map(|path| self.identity(&path)).transpose()?;
        self.openssl
            .connector(self.verifier()?, identity, server_name(key.host())?, &key.alpn)
            .map_err(TlsSetupError::Unsupported)
    }

    /// Remembers that a server is for OpenSSL: the fallback succeeded.
    pub fn remember_fallback(&self, key: &UpstreamKey) {
        self.fallen_back.insert(key.clone(), ());
    }

    /// True if a handshake of rustls failed in a way that says that the server found nothing it could use in
    /// the hello.
    pub fn should_retry(error: &io::Error) -> bool {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => matches!(
                alert,
                AlertDescription::HandshakeFailure
                    | AlertDescription::ProtocolVersion
                    | AlertDescription::InsufficientSecurity
            ),
            // OpenSSL is held to the same lowest version.
            Some(rustls::Error::PeerIncompatible(reason)) => !matches!(
                reason,
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                    | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            ),
            Some(_) => false,
            None => matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
            ),
        }
    }

    /// Returns the file with the client certificate for a host, if there is one.
    pub fn client_cert_path(&self, host: &str) -> Option<PathBuf> {
        let path = self.client_certs.as_ref()?;
        if !path.is_dir() {
            return Some(path.clone());
        }
        // The host may be a client's invention; only the form of a valid one becomes part of a path.
        let file = path.join(format!("{}.pem", is_valid_host(host).then_some(host)?));
        file.exists().then_some(file)
    }

    fn make(
        &self,
        profile: &Profile,
        key: &UpstreamKey,
    ) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&profile.provider))
            .with_protocol_versions(&profile.versions)?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier()?)
            .with_no_client_auth();
        config.alpn_protocols = key.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::store(Arc::new(Sessions::default()));
        config.enable_early_data = false;
        config.key_log = key_log();
        Ok(Arc::new(config))
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, TlsSetupError> {
        if let Some(verifier) = self.verifier.get() {
            return Ok(Arc::clone(verifier));
        }
        let trust = match &self.verification {
            Verification::Insecure => None,
            Verification::Roots => Some(Trust::default_roots()),
            Verification::Trusted { file, dir } => {
                let (file, dir) =
                    (file.as_deref().map(expand_home), dir.as_deref().map(expand_home));
                Some(Trust::given(file.as_deref(), dir.as_deref())?)
            }
        };
        let verifier = match trust {
            None => Arc::new(NoVerification) as Arc<dyn ServerCertVerifier>,
            Some(trust) => trust.verifier(self.provider())?,
        };
        // rustls resumes sessions only under the very same verifier.
        Ok(Arc::clone(self.verifier.get_or_init(|| verifier)))
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        match &self.profile {
            Some(profile) => Arc::clone(&profile.provider),
            None => Arc::new(suites::provider(None, None)),
        }
    }

    fn identity(&self, path: &Path) -> Result<Arc<ClientIdentity>, TlsSetupError> {
        self.identities.get_or_insert_with(&path.to_owned(), || {
            ClientIdentity::read(path, self.passphrase.as_deref())
                .map(Arc::new)
                .map_err(|source| TlsSetupError::ClientCert { path: path.to_owned(), source })
        })
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("verification", &self.verification)
            .field("client_certs", &self.client_certs)
            .finish_non_exhaustive()
    }
}

/// Returns the name to ask a server for and to verify it by: an IP address or a host name.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsSetupError> {
    let bad = || TlsSetupError::ServerName(host.to_owned());
    match LeafName::from_host(host) {
        Some(LeafName::Ip(ip)) => Ok(ServerName::from(ip)),
        Some(LeafName::Dns(name)) => ServerName::try_from(String::from(name)).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

/// Replaces a leading `~/` by the user's home.
pub(crate) fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// The sessions of one place. The name rustls passes is always the same here.
#[derive(Default)]
struct Sessions {
    state: Mutex<SessionState>,
}

#[derive(Default)]
struct SessionState {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.state.lock().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.state.lock().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.state.lock().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.state.lock().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.state.lock().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut state = self.state.lock();
        if state.tickets.len() >= TICKETS {
            state.tickets.pop_front();
        }
        state.tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.state.lock().tickets.pop_back()
    }
}

/// Sessions are secrets.
impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Side;

    #[test]
    fn hosts_become_server_names() {
        assert!(matches!(server_name("::1").unwrap(), ServerName::IpAddress(_)));
        assert!(matches!(server_name("[::1]").unwrap(), ServerName::IpAddress(_)));
        assert_eq!(server_name("BÜCHER.example").unwrap().to_str(), "xn--bcher-kva.example");
        assert!(server_name("a:80").unwrap_err().to_string().contains("a:80"));
    }

    #[test]
    fn one_place_has_one_configuration() {
        let options = TlsOptions::new(Side::Server);
        let upstream = Upstream::new(&options, Verification::Insecure, None).unwrap();
        let key = UpstreamKey::new(Address::new("a.example", 443));
        let config = |key| match upstream.choose(key).unwrap() {
            UpstreamChoice::Rustls(config) => config.config,
            UpstreamChoice::Openssl(_) => panic!("not by default"),
        };
        let first = config(&key);
        assert!(Arc::ptr_eq(&first, &config(&key)));
        let other = UpstreamKey::new(Address::new("a.example", 444));
        assert!(!Arc::ptr_eq(&first, &config(&other)));
    }

    #[test]
    fn openssl_is_for_what_options_or_servers_need() {
        let default = TlsOptions::new(Side::Server);
        let old = default
            .clone()
            .with_versions(crate::VersionLimit::Ssl3, crate::VersionLimit::Unbounded);
        let exotic = default.clone().with_ciphers(Some("DHE-RSA-AES128-SHA"));
        let modern = default.clone().with_ciphers(Some("ECDHE+AESGCM"));
        let curve = default.clone().with_curve(Some("secp521r1")).unwrap();
        let key = UpstreamKey::new(Address::new("a.example", 443));
        for (options, openssl) in
            [(&default, false), (&old, true), (&exotic, true), (&modern, false), (&curve, true)]
        {
            let upstream = Upstream::new(options, Verification::Insecure, None).unwrap();
            let is_openssl = |key| matches!(upstream.choose(key), Ok(UpstreamChoice::Openssl(_)));
            assert_eq!(is_openssl(&key), openssl, "{options:?}");
            upstream.remember_fallback(&key);
            assert!(is_openssl(&key));
            let other = UpstreamKey::new(Address::new("b.example", 443));
            assert_eq!(is_openssl(&other), openssl);
        }
        let bad = default.with_ciphers(Some("NONSENSE"));
        let error = Upstream::new(&bad, Verification::Insecure, None).unwrap_err();
        assert!(error.to_string().contains("ciphers_server 'NONSENSE'"), "{error}");
    }

    #[test]
    fn only_refusals_of_the_hello_are_worth_another_try() {
        let retry = |error| Upstream::should_retry(&io::Error::other(error));
        for alert in [40, 70, 71] {
            assert!(retry(rustls::Error::AlertReceived(AlertDescription::from(alert))));
        }
        assert!(!retry(rustls::Error::AlertReceived(AlertDescription::UnknownCA)));
        assert!(!retry(rustls::Error::DecryptError));
        let old = PeerIncompatible::ServerDoesNotSupportTls12Or13;
        assert!(!retry(rustls::Error::PeerIncompatible(old)));
        assert!(Upstream::should_retry(&io::ErrorKind::UnexpectedEof.into()));
        assert!(!Upstream::should_retry(&io::ErrorKind::TimedOut.into()));
    }

    #[test]
    fn missing_files_are_named() {
        let options = TlsOptions::new(Side::Server);
        let error = Upstream::new(&options, Verification::Roots, Some("/no/such".into()));
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "Client certificate path does not exist: /no/such");
        let trusted = Verification::Trusted { file: Some("/no/ca.pem".into()), dir: None };
        let text = Upstream::new(&options, trusted, None).unwrap_err().to_string();
        assert!(text.contains("ssl_verify_upstream_trusted_ca /no/ca.pem"), "{text}");
    }

    #[test]
    fn client_certificates_are_found_by_valid_names_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("certs")).unwrap();
        std::fs::write(dir.path().join("secret.pem"), "").unwrap();
        std::fs::write(dir.path().join("certs/a.example.pem"), "").unwrap();
        let options = TlsOptions::new(Side::Server);
        let certs = Some(dir.path().join("certs"));
        let upstream = Upstream::new(&options, Verification::Insecure, certs).unwrap();
        assert!(upstream.client_cert_path("a.example").is_some());
        assert!(upstream.client_cert_path("b.example").is_none());
        assert!(upstream.client_cert_path("../secret").is_none());
    }
}
