//! [`CertStore`]: from the names a client needs to the certificate it is shown.
//!
//! Looked up in this order: a custom certificate under the common name, in full and then with
//! leading labels replaced by an asterisk; the same for each further name; a custom certificate for
//! `*`; a generated one, minted if it is not in the cache.
//!
//! An RSA signature costs a millisecond, so leaves for clients that take ECDSA are signed by a P-256
//! *issuer*, which lives in memory, is signed once by the authority and sent along with the leaf.
//! Where the authority's path length forbids that, or its key is none of RSA, it signs the leaves
//! itself.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use mitm_flow::Cert;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    ca::CertificateAuthority,
    issue::{self, Authority, BACKDATE, DAY, IssuerName, Template},
    key::{KeyError, KeyPair},
    names::{LeafName, UpstreamFacts, asterisk_forms},
    pem::{self, PemError},
};

/// How long leaves are valid: what browsers take from an authority they do not ship is more, but
/// this is what public ones are bound to.
const LEAF_DAYS: i64 = 199;
/// A cached leaf this close to its end is minted anew.
const RENEWAL: i64 = 7 * DAY;
const CACHED_LEAVES: usize = 10_000;
/// Common names have a limit (X.520 `ub-common-name`); longer ones are left out.
const MAX_COMMON_NAME: usize = 63;
const RSA_LEAF_BITS: u32 = 2048;

/// Which kind of key a client can verify signatures of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyKind {
    #[default]
    Ecdsa,
    Rsa,
}

/// What a leaf is wanted for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeafRequest {
    /// From [`names_for_leaf`](crate::names_for_leaf); the first becomes the common name.
    pub names: Vec<LeafName>,
    pub organization: Option<Arc<str>>,
    /// From [`CertStore::crl_url`].
    pub crl_url: Option<Arc<str>>,
    /// The server's certificates, if they are to be sent along
    /// (`add_upstream_certs_to_client_chain`).
    pub upstream_chain: Vec<Cert>,
    pub key: KeyKind,
}

/// A certificate to show, and all that is sent with it.
#[derive(Debug)]
pub struct Leaf {
    pub certified_key: Arc<CertifiedKey>,
    pub cert: Cert,
    /// What follows the certificate in the handshake.
    pub chain: Vec<Cert>,
    pub(crate) key: Arc<KeyPair>,
    not_after: i64,
}

/// Why no certificate can be shown.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("cannot make a certificate: {0}")]
    Mint(#[from] KeyError),
    #[error("cannot make a certificate: the thread doing it was stopped")]
    Stopped,
}

/// Why a custom certificate is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CustomCertError {
    #[error("Certificate file does not exist: {}", .0.display())]
    Missing(PathBuf),
    #[error("Invalid certificate format for {}: {source}", path.display())]
    Invalid { path: PathBuf, source: PemError },
    #[error("cannot set up the certificate store: {0}")]
    Setup(#[from] KeyError),
}

/// A certificate the user gave, found under its names.
#[derive(Debug)]
struct Custom {
    cert: Cert,
    chain: Vec<Cert>,
    key: Arc<KeyPair>,
}

/// Key and certificates of whoever signs leaves.
struct Issuer {
    name: IssuerName,
    key: KeyPair,
    cert: Cert,
}

/// The authority, custom certificates, and the cache of generated ones.
pub struct CertStore {
    ca: Arc<CertificateAuthority>,
    custom: HashMap<String, Arc<Custom>>,
    warnings: Vec<String>,
    issuer: Option<Issuer>,
    ecdsa: Arc<KeyPair>,
    rsa: OnceLock<Arc<KeyPair>>,
    /// Held while the RSA key is made, so that it is made once.
    rsa_making: Mutex<()>,
    cache: Cache<LeafRequest, Arc<Leaf>>,
}

impl CertStore {
    /// Sets up a store. `custom` holds pairs of a domain (`*` for any) and a PEM file with key,
    /// certificate and chain, as the option `certs` gives them; see [`parse_cert_spec`].
    pub fn new(
        ca: Arc<CertificateAuthority>,
        custom: impl IntoIterator<Item = (String, PathBuf)>,
        passphrase: Option<&str>,
    ) -> Result<Self, CustomCertError> {
        let issuer = Issuer::below(&ca)?;
        let mut store = Self {
            issuer,
            custom: HashMap::new(),
            warnings: Vec::new(),
            ecdsa: Arc::new(KeyPair::generate_p256()?),
            rsa: OnceLock::new(),
            rsa_making: Mutex::new(()),
            cache: Cache::new(CACHED_LEAVES),
            ca,
        };
        for (domain, path) in custom {
            store.add_custom(&domain, &path, passphrase)?;
        }
        Ok(store)
    }

    pub fn ca(&self) -> &Arc<CertificateAuthority> {
        &self.ca
    }

    /// What the user should know about the certificates given.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns where a leaf should say its revocation list is, given the server's certificate: at
    /// the server's own place, since clients reach that, under a path that the proxy answers.
    pub fn crl_url(&self, upstream: &UpstreamFacts) -> Option<Arc<str>> {
        let origin = upstream.crl_origin.as_ref()?;
        Some(format!("{origin}{}", self.ca.crl_path()).into())
    }

    /// Returns the certificate for a request.
    ///
    /// A miss costs about 0.1 ms for ECDSA and a few for RSA. The first request for RSA makes a key,
    /// which takes up to a second: [`get_async`](Self::get_async) does that elsewhere. Of several
    /// calls for the same leaf one mints and the others wait for it.
    pub fn get(&self, request: &LeafRequest) -> Result<Arc<Leaf>, StoreError> {
        if let Some(custom) = self.find_custom(&request.names) {
            return Ok(Arc::new(custom.leaf(&request.upstream_chain)));
        }
        let leaf = self.cache.get_or_insert_with(request, || self.mint(request).map(Arc::new))?;
        if leaf.not_after - RENEWAL > issue::now() {
            return Ok(leaf);
        }
        let leaf = Arc::new(self.mint(request)?);
        self.cache.insert(request.clone(), Arc::clone(&leaf));
        Ok(leaf)
    }

    /// As [`get`](Self::get), with what takes long on a thread for such work.
    pub async fn get_async(
        self: &Arc<Self>,
        request: LeafRequest,
    ) -> Result<Arc<Leaf>, StoreError> {
        let quick = request.key == KeyKind::Ecdsa && !self.signs_with_rsa();
        if quick || self.find_custom(&request.names).is_some() {
            return self.get(&request);
        }
        if let Some(leaf) = self.cache.get(&request)
            && leaf.not_after - RENEWAL > issue::now()
        {
            return Ok(leaf);
        }
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || store.get(&request))
            .await
            .map_err(|_| StoreError::Stopped)?
    }

    fn signs_with_rsa(&self) -> bool {
        self.issuer.is_none() && self.ca.key().is_rsa()
    }

    fn add_custom(
        &mut self,
        domain: &str,
        path: &Path,
        passphrase: Option<&str>,
    ) -> Result<(), CustomCertError> {
        if !path.exists() {
            return Err(CustomCertError::Missing(path.to_owned()));
        }
        let invalid = |source| CustomCertError::Invalid { path: path.to_owned(), source };
        let identity = pem::read_identity(path, passphrase).map_err(invalid)?;
        let (_, parsed) = X509Certificate::from_der(identity.cert.der())
            .map_err(|_| invalid(PemError::BadCertificate))?;
        if parsed.is_ca() {
            self.warnings.push(format!(
                "{} is the certificate of an authority; clients may refuse it for a server.",
                path.display()
            ));
        }
        let custom = Arc::new(Custom {
            cert: identity.cert,
            chain: identity.chain,
            key: Arc::new(identity.key),
        });
        let facts = UpstreamFacts::of(&custom.cert);
        let own = facts.names.iter().filter_map(LeafName::text).map(|name| name.to_lowercase());
        for name in own.chain([index_form(domain)]) {
            self.custom.insert(name, Arc::clone(&custom));
        }
        Ok(())
    }

    fn find_custom(&self, names: &[LeafName]) -> Option<&Arc<Custom>> {
        if self.custom.is_empty() {
            return None;
        }
        names
            .iter()
            .filter_map(LeafName::text)
            .flat_map(|name| asterisk_forms(&name.to_lowercase()).collect::<Vec<_>>())
            .find_map(|form| self.custom.get(&form))
            .or_else(|| self.custom.get("*"))
    }

    fn mint(&self, request: &LeafRequest) -> Result<Leaf, KeyError> {
        let key = match request.key {
            KeyKind::Ecdsa => &self.ecdsa,
            KeyKind::Rsa => self.rsa_key()?,
        };
        let common_name = request
            .names
            .first()
            .and_then(LeafName::text)
            .filter(|name| name.chars().count() <= MAX_COMMON_NAME);
        let not_before = issue::now() - BACKDATE;
        let not_after = not_before + LEAF_DAYS * DAY;
        let template = Template {
            common_name: common_name.as_deref(),
            organization: request.organization.as_deref(),
            not_before,
            not_after,
            names: &request.names,
            crl_url: request.crl_url.as_deref(),
            authority_key_id: true,
            ..Template::default()
        };
        // Clients without ECDSA could not verify the issuer's signatures.
        let issuer = self.issuer.as_ref().filter(|_| request.key == KeyKind::Ecdsa);
        let (name, signer) = match issuer {
            Some(issuer) => (&issuer.name, &issuer.key),
            None => (self.ca.issuer(), self.ca.key()),
        };
        let cert = issue::certificate(&template, key, Some(name), signer)?;
        let above = issuer.map(|issuer| &issuer.cert);
        // The authority's own certificate is sent only along with what is above it: as mitmproxy
        // does, and because a client that has neither needs both.
        let authority = (!self.ca.chain().is_empty()).then(|| self.ca.cert());
        let chain = above.into_iter().chain(authority).chain(self.ca.chain());
        let chain = chain.chain(&request.upstream_chain).cloned();
        Ok(Leaf::new(cert, dedup(chain), Arc::clone(key), not_after))
    }

    fn rsa_key(&self) -> Result<&Arc<KeyPair>, KeyError> {
        if let Some(key) = self.rsa.get() {
            return Ok(key);
        }
        let _making = self.rsa_making.lock();
        if self.rsa.get().is_none() {
            let key = Arc::new(KeyPair::generate_rsa(RSA_LEAF_BITS)?);
            return Ok(self.rsa.get_or_init(|| key));
        }
        self.rsa.get().ok_or(KeyError::Crypto)
    }
}

impl fmt::Debug for CertStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertStore")
            .field("ca", &self.ca)
            .field("custom", &self.custom.len())
            .field("cached", &self.cache.len())
            .finish_non_exhaustive()
    }
}

impl Leaf {
    fn new(cert: Cert, chain: Vec<Cert>, key: Arc<KeyPair>, not_after: i64) -> Self {
        let sent = std::iter::once(&cert).chain(&chain).map(pem::rustls_cert).collect();
        let certified_key = CertifiedKey::new(sent, Arc::clone(key.handshake()));
        Self { certified_key: Arc::new(certified_key), cert, chain, key, not_after }
    }
}

impl Custom {
    fn leaf(&self, upstream: &[Cert]) -> Leaf {
        let chain = dedup(self.chain.iter().chain(upstream).cloned());
        Leaf::new(self.cert.clone(), chain, Arc::clone(&self.key), i64::MAX)
    }
}

impl Issuer {
    /// Makes the issuer below an RSA authority.
    fn below(ca: &CertificateAuthority) -> Result<Option<Self>, KeyError> {
        if !ca.key().is_rsa() || !ca.allows_intermediate() {
            return Ok(None);
        }
        let key = KeyPair::generate_p256()?;
        let key_id = key.key_id();
        // Clients remember issuers by name. Since this one lives as long as the process, the next
        // one must have another name.
        let title: String = ca
            .common_name()
            .unwrap_or_else(|| "mitmproxy".into())
            .chars()
            .take(32)
            .chain(" issuer ".chars())
            .chain(
                key_id
                    .iter()
                    .take(6)
                    .flat_map(|byte| format!("{byte:02x}").into_bytes())
                    .map(char::from),
            )
            .collect();
        let not_before = issue::now() - BACKDATE;
        let template = Template {
            common_name: Some(&title),
            not_before,
            not_after: not_before + 2 * 365 * DAY,
            authority: Some(Authority { path_length: Some(0) }),
            subject_key_id: true,
            authority_key_id: true,
            ..Template::default()
        };
        let cert = issue::certificate(&template, &key, Some(ca.issuer()), ca.key())?;
        let subject = X509Certificate::from_der(cert.der())
            .map(|(_, parsed)| bytes::Bytes::copy_from_slice(parsed.subject().as_raw()))
            .map_err(|_| KeyError::Crypto)?;
        Ok(Some(Self { name: IssuerName { subject, key_id: key_id.to_vec() }, key, cert }))
    }
}

/// Splits `[domain=]path`; the domain is `*` if there is none. A leading `~/` is the user's home.
pub fn parse_cert_spec(spec: &str) -> (String, PathBuf) {
    let (domain, path) = spec.split_once('=').unwrap_or(("*", spec));
    let path = match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    };
    (domain.to_owned(), path)
}

/// The form of a configured domain that lookups have.
fn index_form(domain: &str) -> String {
    LeafName::from_host(domain)
        .and_then(|name| name.text().map(std::borrow::Cow::into_owned))
        .unwrap_or_else(|| domain.to_lowercase())
}

fn dedup(certs: impl Iterator<Item = Cert>) -> Vec<Cert> {
    let mut seen = HashSet::new();
    certs.filter(|cert| seen.insert(cert.der().clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> CertStore {
        let ca = Arc::new(CertificateAuthority::generate(2048).unwrap());
        CertStore::new(ca, [], None).unwrap()
    }

    fn request(names: &[&str]) -> LeafRequest {
        LeafRequest {
            names: names.iter().map(|name| LeafName::from_host(name).unwrap()).collect(),
            ..LeafRequest::default()
        }
    }

    #[test]
    fn leaves_are_cached_by_all_that_is_in_them() {
        let store = store();
        let first = store.get(&request(&["a.example"])).unwrap();
        assert!(Arc::ptr_eq(&first, &store.get(&request(&["a.example"])).unwrap()));
        let named = LeafRequest { organization: Some("O".into()), ..request(&["a.example"]) };
        assert!(!Arc::ptr_eq(&first, &store.get(&named).unwrap()));
        let rsa = LeafRequest { key: KeyKind::Rsa, ..request(&["a.example"]) };
        assert!(!Arc::ptr_eq(&first, &store.get(&rsa).unwrap()));
    }

    #[test]
    fn serials_differ() {
        let store = store();
        let serial = |name: &str| {
            let leaf = store.get(&request(&[name])).unwrap();
            let (_, parsed) = X509Certificate::from_der(leaf.cert.der()).unwrap();
            assert!(!parsed.raw_serial().is_empty() && parsed.raw_serial().len() <= 20);
            parsed.serial.clone()
        };
        assert_ne!(serial("a.example"), serial("b.example"));
    }

    #[test]
    fn long_common_names_are_left_out_and_the_names_critical() {
        let store = store();
        let long = format!("{}.{}.example", "a".repeat(40), "b".repeat(40));
        for (name, critical) in [("short.example", false), (long.as_str(), true)] {
            let leaf = store.get(&request(&[name])).unwrap();
            let (_, parsed) = X509Certificate::from_der(leaf.cert.der()).unwrap();
            assert_eq!(parsed.subject().iter_common_name().next().is_none(), critical);
            let names = parsed.subject_alternative_name().unwrap().unwrap();
            assert_eq!(names.critical, critical);
            let validity = parsed.validity();
            let days = (validity.not_after.timestamp() - validity.not_before.timestamp()) / DAY;
            assert_eq!(days, 199);
        }
    }

    #[test]
    fn an_authority_without_room_below_signs_itself() {
        let key = KeyPair::generate_rsa(2048).unwrap();
        let template = Template {
            common_name: Some("flat"),
            not_after: issue::now() + DAY,
            authority: Some(Authority { path_length: Some(0) }),
            subject_key_id: true,
            ..Template::default()
        };
        let cert = issue::certificate(&template, &key, None, &key).unwrap();
        let text = key.to_pem().unwrap() + &cert.to_pem();
        let ca = CertificateAuthority::from_pem(text.as_bytes(), None).unwrap();
        let store = CertStore::new(Arc::new(ca), [], None).unwrap();
        let leaf = store.get(&request(&["a.example"])).unwrap();
        assert!(leaf.chain.is_empty());
        let (_, parsed) = X509Certificate::from_der(leaf.cert.der()).unwrap();
        let (_, above) = X509Certificate::from_der(cert.der()).unwrap();
        parsed.verify_signature(Some(above.public_key())).unwrap();
    }

    #[test]
    fn cert_specs_split_at_the_first_equals_sign() {
        assert_eq!(parse_cert_spec("a.pem"), ("*".into(), PathBuf::from("a.pem")));
        let expected = ("*.example".into(), PathBuf::from("/x=y.pem"));
        assert_eq!(parse_cert_spec("*.example=/x=y.pem"), expected);
    }
}
