//! [`CertificateAuthority`]: the authority clients are asked to trust, and its files.
//!
//! | file | content | mode |
//! |---|---|---|
//! | `mitmproxy-ca.pem` | key, then certificate; the one file that is read back | 0600 |
//! | `mitmproxy-ca.p12` | key and certificate for import, empty password | 0600 |
//! | `mitmproxy-ca-cert.pem`, `.cer` | certificate | umask |
//! | `mitmproxy-ca-cert.p12` | certificate for import | umask |
//! | `mitmproxy-dhparam.pem` | Diffie-Hellman parameters | umask |
//!
//! `-ca.pem` may just as well be someone's own: any key, the authority's certificate, and the chain
//! above it. Each file appears under its name only when it is complete, and of two processes that
//! make an authority at the same time one wins and the other uses the winner's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use mitm_flow::Cert;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use crate::{
    issue::{self, Authority, BACKDATE, DAY, IssuerName, Template},
    key::{self, KeyError, KeyPair, random},
    p12,
    pem::{self, Identity, PemError},
};

const CA_DAYS: i64 = 3650;

/// Why there is no authority to work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    #[error("cannot read the certificate authority {}: {source}", path.display())]
    Load { path: PathBuf, source: PemError },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot make a certificate authority: {0}")]
    Make(#[from] KeyError),
}

/// A certificate authority: key, certificate, and the certificates above it.
#[derive(Debug)]
pub struct CertificateAuthority {
    key: KeyPair,
    cert: Cert,
    chain: Vec<Cert>,
    issuer: IssuerName,
    serial: String,
    not_after: i64,
    room_below: bool,
    crl: Vec<u8>,
}

impl CertificateAuthority {
    /// Loads `<confdir>/<basename>-ca.pem`, or makes an authority and its files if it is missing.
    ///
    /// `key_size` (bits of RSA) matters only then; making a key takes a noticeable time, so this
    /// belongs off the threads that carry traffic. `passphrase` opens an encrypted key.
    pub fn load_or_create(
        confdir: &Path,
        basename: &str,
        key_size: u32,
        passphrase: Option<&str>,
    ) -> Result<Self, CaError> {
        let path = confdir.join(format!("{basename}-ca.pem"));
        if !exists(&path)? {
            create(confdir, basename, &path, key_size)?;
        }
        let identity = pem::read_identity(&path, passphrase)
            .map_err(|source| CaError::Load { path: path.clone(), source })?;
        let authority = Self::new(identity).map_err(|source| CaError::Load { path, source })?;
        let dhparam = confdir.join(format!("{basename}-dhparam.pem"));
        if !dhparam.exists()
            && let Err(error) = write_file(&dhparam, DHPARAM.as_bytes(), Access::Umask)
        {
            // Only other programs read it.
            tracing::warn!("cannot write {}: {error}", dhparam.display());
        }
        Ok(authority)
    }

    /// Reads an authority from PEM: key, certificate, chain.
    pub fn from_pem(pem: &[u8], passphrase: Option<&str>) -> Result<Self, PemError> {
        Self::new(pem::parse_identity(pem, "the certificate authority", passphrase)?)
    }

    /// Makes an authority that exists in memory only.
    pub fn generate(key_size: u32) -> Result<Self, CaError> {
        let (key, cert) = make(key_size)?;
        Self::new(Identity { key, cert, chain: Vec::new() })
            .map_err(|source| CaError::Load { path: PathBuf::new(), source })
    }

    fn new(identity: Identity) -> Result<Self, PemError> {
        let Identity { key, cert, chain } = identity;
        let (_, parsed) =
            X509Certificate::from_der(cert.der()).map_err(|_| PemError::BadCertificate)?;
        let key_id = parsed
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
            .unwrap_or_else(|| key::key_id(&parsed.public_key().subject_public_key.data).to_vec());
        // Each authority of the chain would have those before it and the new one below itself.
        let room_below = std::iter::once(&cert)
            .chain(&chain)
            .zip(1_u32..)
            .all(|(cert, below)| path_length(cert).is_none_or(|path_length| path_length >= below));
        let issuer =
            IssuerName { subject: Bytes::copy_from_slice(parsed.subject().as_raw()), key_id };
        let serial = parsed.serial.to_string();
        let not_after = parsed.validity().not_after.timestamp();
        let crl = issue::empty_crl(&issuer, &key, issue::now())?;
        Ok(Self { key, cert, chain, issuer, serial, not_after, room_below, crl })
    }

    pub fn cert(&self) -> &Cert {
        &self.cert
    }

    /// The certificates above the authority's own, as its file lists them.
    pub fn chain(&self) -> &[Cert] {
        &self.chain
    }

    /// The serial number in decimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub fn is_expired(&self) -> bool {
        self.not_after < issue::now()
    }

    /// A DER revocation list without entries, made when the authority was loaded.
    pub fn crl(&self) -> &[u8] {
        &self.crl
    }

    /// The path under which [`crl`](Self::crl) is served, whatever the host.
    pub fn crl_path(&self) -> String {
        format!("/mitmproxy-{}.crl", self.serial)
    }

    /// The certificate in PEM.
    pub fn cert_pem(&self) -> String {
        self.cert.to_pem()
    }

    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }

    pub(crate) fn issuer(&self) -> &IssuerName {
        &self.issuer
    }

    /// Whether an authority below this one could sign leaves.
    pub(crate) fn allows_intermediate(&self) -> bool {
        self.room_below
    }

    /// The name by which the authority is known to people.
    pub(crate) fn common_name(&self) -> Option<String> {
        let (_, parsed) = X509Certificate::from_der(self.cert.der()).ok()?;
        parsed.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
    }
}

/// How many authorities a certificate allows below itself, if it says so.
fn path_length(cert: &Cert) -> Option<u32> {
    let (_, parsed) = X509Certificate::from_der(cert.der()).ok()?;
    parsed.basic_constraints().ok()??.value.path_len_constraint
}

/// Makes a key and the certificate it signs for itself.
fn make(key_size: u32) -> Result<(KeyPair, Cert), KeyError> {
    let key = KeyPair::generate_rsa(key_size)?;
    let not_before = issue::now() - BACKDATE;
    let template = Template {
        common_name: Some("mitmproxy"),
        organization: Some("mitmproxy"),
        not_before,
        not_after: not_before + CA_DAYS * DAY,
        authority: Some(Authority { path_length: None }),
        subject_key_id: true,
        ..Template::default()
    };
    let cert = issue::certificate(&template, &key, None, &key)?;
    Ok((key, cert))
}

/// Makes an authority and writes its files. The one with the key decides between two processes.
fn create(confdir: &Path, basename: &str, ca: &Path, key_size: u32) -> Result<(), CaError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CaError::Write { path, source }
    };
    fs::create_dir_all(confdir).map_err(failed(confdir))?;
    let (key, cert) = make(key_size)?;
    let pem = cert.to_pem();
    let secret = format!("{}{pem}", key.to_pem()?);
    let files = [
        ("ca.p12", p12::encode(&cert, Some(&key.pkcs8()?))?, Access::Owner),
        ("ca-cert.pem", pem.clone().into_bytes(), Access::Umask),
        ("ca-cert.cer", pem.into_bytes(), Access::Umask),
        ("ca-cert.p12", p12::encode(&cert, None)?, Access::Umask),
        ("dhparam.pem", DHPARAM.as_bytes().to_vec(), Access::Umask),
    ];
    if !write_first(ca, secret.as_bytes()).map_err(failed(ca))? {
        return Ok(());
    }
    for (suffix, content, access) in files {
        let path = confdir.join(format!("{basename}-{suffix}"));
        write_file(&path, &content, access).map_err(failed(&path))?;
    }
    Ok(())
}

fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists()
        .map_err(|source| CaError::Load { path: path.to_owned(), source: source.into() })
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Owner,
    Umask,
}

/// Writes a file that others see whole or not at all.
fn write_file(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let temporary = write_temporary(path, content, access)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Writes a file only its owner can read, unless it exists by now. True if it was written.
fn write_first(path: &Path, content: &[u8]) -> io::Result<bool> {
    let temporary = write_temporary(path, content, Access::Owner)?;
    // A hard link, unlike a rename, fails where the name is taken.
    let linked = match fs::hard_link(&temporary, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        // File systems without hard links.
        Err(_) => return fs::rename(&temporary, path).map(|()| true),
    };
    fs::remove_file(&temporary)?;
    linked
}

fn write_temporary(path: &Path, content: &[u8], access: Access) -> io::Result<PathBuf> {
    use io::Write as _;

    let tag = random::<8>().map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.tmp", u64::from_be_bytes(tag)));
    let temporary = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if access == Access::Owner {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = access;
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(temporary),
        Err(error) => {
            drop(fs::remove_file(&temporary));
            Err(error)
        }
    }
}

/// The 4096-bit group of RFC 3526 §5, generator 2.
pub(crate) const DHPARAM: &str = include_str!("dhparam.pem");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_authority_is_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        let confdir = dir.path().join("deep/er");
        let made = CertificateAuthority::load_or_create(&confdir, "mitmproxy", 2048, None).unwrap();
        let loaded =
            CertificateAuthority::load_or_create(&confdir, "mitmproxy", 2048, None).unwrap();
        assert_eq!(made.cert(), loaded.cert());
        assert_eq!(made.serial(), loaded.serial());
        assert!(!loaded.is_expired());
        assert!(loaded.allows_intermediate());
        let mut files: Vec<_> = fs::read_dir(&confdir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(
            files,
            [
                "mitmproxy-ca-cert.cer",
                "mitmproxy-ca-cert.p12",
                "mitmproxy-ca-cert.pem",
                "mitmproxy-ca.p12",
                "mitmproxy-ca.pem",
                "mitmproxy-dhparam.pem",
            ]
        );
    }

    #[cfg(unix)]
    #[test]
    fn files_with_keys_are_private() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        CertificateAuthority::load_or_create(dir.path(), "mitmproxy", 2048, None).unwrap();
        for name in ["mitmproxy-ca.pem", "mitmproxy-ca.p12"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn two_at_once_agree_on_one_authority() {
        let dir = tempfile::tempdir().unwrap();
        let load = || {
            let ca = CertificateAuthority::load_or_create(dir.path(), "mitmproxy", 2048, None);
            ca.unwrap().cert().clone()
        };
        let certs: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(load)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(certs.iter().all(|cert| *cert == certs[0]));
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mitmproxy-ca.pem"), "nothing").unwrap();
        let error = CertificateAuthority::load_or_create(dir.path(), "mitmproxy", 2048, None);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("mitmproxy-ca.pem") && text.contains("private key"), "{text}");
    }
}
