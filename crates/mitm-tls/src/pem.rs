//! PEM files: a private key, certificates, or both, in any order.
//!
//! Keys may be PKCS#8, PKCS#1 or SEC1, and encrypted either as PKCS#8 (PBES2) or in the old way of
//! OpenSSL, with a `DEK-Info` header. Bundles are read as users have them: text around the blocks is
//! ignored, and so are blocks of other kinds.

use std::{io, path::Path};

use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7};
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use md5::{Digest, Md5};
use mitm_flow::Cert;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject, SectionKind},
};

use crate::key::{KeyError, KeyPair};

/// Files beyond this are not keys or certificates, whatever they are.
const MAX_FILE: u64 = 16 << 20;

/// What a PEM file holds.
#[derive(Debug, Default)]
pub(crate) struct PemContent {
    pub(crate) key: Option<PrivateKeyDer<'static>>,
    pub(crate) certs: Vec<Cert>,
}

/// A certificate, its key, and the rest of the chain.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) key: KeyPair,
    pub(crate) cert: Cert,
    pub(crate) chain: Vec<Cert>,
}

/// Why a PEM file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the file is larger than 16 MiB")]
    TooLarge,
    #[error("broken PEM block ({0})")]
    Syntax(String),
    #[error("Unable to find private key in {0}")]
    NoKey(String),
    #[error("Unable to find a certificate in {0}")]
    NoCertificate(String),
    #[error("the first certificate cannot be parsed")]
    BadCertificate,
    #[error("Private and public keys in {0} do not match")]
    Mismatch(String),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads a whole file, up to a size no PEM file has.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, PemError> {
    use io::Read as _;

    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE { Err(PemError::TooLarge) } else { Ok(bytes) }
}

/// Reads every certificate and the first private key.
pub(crate) fn parse(bytes: &[u8], passphrase: Option<&str>) -> Result<PemContent, PemError> {
    let mut content = PemContent::default();
    // An old-style encrypted key has headers, which the PEM reader rightly takes for an error.
    let legacy = legacy_encrypted_key(bytes);
    let bytes = match &legacy {
        Some(legacy) => {
            content.key = Some(decrypt_legacy(legacy, passphrase)?);
            &legacy.rest
        }
        None => bytes,
    };
    let mut reader = bytes;
    loop {
        let section =
            pem::from_buf(&mut reader).map_err(|error| PemError::Syntax(error.to_string()))?;
        let Some((kind, der)) = section else { break };
        if kind == SectionKind::Certificate {
            content.certs.push(Cert::from_der(der));
        } else if content.key.is_none()
            && let Some(key) = PrivateKeyDer::from_pem(kind, der)
        {
            content.key = Some(key);
        }
    }
    if content.key.is_none() {
        content.key = decrypt_pkcs8(bytes, passphrase)?;
    }
    Ok(content)
}

/// Reads every certificate, whatever else is in the file.
pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<Cert>, PemError> {
    CertificateDer::pem_slice_iter(bytes)
        .map(|der| match der {
            Ok(der) => Ok(Cert::from_der(der.to_vec())),
            Err(error) => Err(PemError::Syntax(error.to_string())),
        })
        .collect()
}

/// Reads a certificate with its key; `name` is how error texts call the file.
pub(crate) fn parse_identity(
    bytes: &[u8],
    name: &str,
    passphrase: Option<&str>,
) -> Result<Identity, PemError> {
    let content = parse(bytes, passphrase)?;
    let key = content.key.ok_or_else(|| PemError::NoKey(name.to_owned()))?;
    let mut certs = content.certs.into_iter();
    let cert = certs.next().ok_or_else(|| PemError::NoCertificate(name.to_owned()))?;
    let key = KeyPair::from_der(&key)?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(cert.der()).map_err(|_| PemError::BadCertificate)?;
    if parsed.public_key().subject_public_key.data != key.public_key() {
        return Err(PemError::Mismatch(name.to_owned()));
    }
    Ok(Identity { key, chain: certs.collect(), cert })
}

/// As [`parse_identity`], from a file.
pub(crate) fn read_identity(path: &Path, passphrase: Option<&str>) -> Result<Identity, PemError> {
    parse_identity(&read_file(path)?, &path.display().to_string(), passphrase)
}

/// Writes one PEM block, 64 columns, as OpenSSL does.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    const COLUMNS: usize = 64;

    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(COLUMNS / 4 * 3) {
        BASE64.encode_append(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

pub(crate) fn rustls_cert(cert: &Cert) -> CertificateDer<'static> {
    CertificateDer::from(cert.der().to_vec())
}

/// Decrypts the first `ENCRYPTED PRIVATE KEY` block, if there is one.
fn decrypt_pkcs8(
    bytes: &[u8],
    passphrase: Option<&str>,
) -> Result<Option<PrivateKeyDer<'static>>, PemError> {
    const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";

    let text = String::from_utf8_lossy(bytes);
    let Some((_, after)) = text.split_once(BEGIN) else { return Ok(None) };
    let Some((body, _)) = after.split_once(END) else {
        return Err(PemError::Syntax("encrypted key without an end".into()));
    };
    let der = decode_base64(body)
        .ok_or_else(|| PemError::Syntax("encrypted key is not base64".into()))?;
    let passphrase = passphrase.ok_or(KeyError::PassphraseMissing)?;
    let encrypted = pkcs8::EncryptedPrivateKeyInfoRef::try_from(der.as_slice())
        .map_err(|_| KeyError::UnsupportedEncryption)?;
    let key = encrypted.decrypt(passphrase).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }) => {
            KeyError::UnsupportedEncryption
        }
        _ => KeyError::WrongPassphrase,
    })?;
    Ok(Some(PrivateKeyDer::Pkcs8(key.as_bytes().to_vec().into())))
}

/// A key block with `Proc-Type` and `DEK-Info` headers, and the file without it.
struct LegacyKey {
    label: String,
    cipher: String,
    iv: Vec<u8>,
    body: Vec<u8>,
    rest: Vec<u8>,
}

fn legacy_encrypted_key(bytes: &[u8]) -> Option<LegacyKey> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (before_headers, headers) = text.split_once("Proc-Type: 4,ENCRYPTED")?;
    let (before, begin) = before_headers.rsplit_once("-----BEGIN ")?;
    let label = begin.trim_end().strip_suffix("-----")?;
    let (body, after) = headers.split_once("-----END ")?;
    let (_, after) = after.split_once("-----")?;
    let info = body.trim_start().strip_prefix("DEK-Info:")?;
    let (info, body) = info.split_once('\n')?;
    let (cipher, iv) = info.trim().split_once(',')?;
    Some(LegacyKey {
        label: label.to_owned(),
        cipher: cipher.trim().to_ascii_uppercase(),
        iv: HEXLOWER_PERMISSIVE.decode(iv.trim().as_bytes()).ok()?,
        body: decode_base64(body)?,
        rest: format!("{before}{after}").into_bytes(),
    })
}

fn decrypt_legacy(
    key: &LegacyKey,
    passphrase: Option<&str>,
) -> Result<PrivateKeyDer<'static>, KeyError> {
    fn cbc<C>(key: &[u8], iv: &[u8], body: &[u8]) -> Option<Vec<u8>>
    where
        cbc::Decryptor<C>: KeyIvInit + BlockModeDecrypt,
        C: cbc::cipher::BlockCipherDecrypt,
    {
        cbc::Decryptor::<C>::new_from_slices(key, iv).ok()?.decrypt_padded_vec::<Pkcs7>(body).ok()
    }

    let passphrase = passphrase.ok_or(KeyError::PassphraseMissing)?.as_bytes();
    let salt = key.iv.get(..8).ok_or(KeyError::UnsupportedEncryption)?;
    let derive = |length| legacy_key(passphrase, salt, length);
    let plain = match key.cipher.as_str() {
        "AES-128-CBC" => cbc::<aes::Aes128>(&derive(16), &key.iv, &key.body),
        "AES-192-CBC" => cbc::<aes::Aes192>(&derive(24), &key.iv, &key.body),
        "AES-256-CBC" => cbc::<aes::Aes256>(&derive(32), &key.iv, &key.body),
        "DES-EDE3-CBC" => cbc::<des::TdesEde3>(&derive(24), &key.iv, &key.body),
        _ => return Err(KeyError::UnsupportedEncryption),
    }
    .ok_or(KeyError::WrongPassphrase)?;
    match key.label.as_str() {
        "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(plain.into())),
        "EC PRIVATE KEY" => Ok(PrivateKeyDer::Sec1(plain.into())),
        _ => Err(KeyError::UnsupportedEncryption),
    }
}

/// OpenSSL's `EVP_BytesToKey` with MD5 and one round, which these files are bound to.
fn legacy_key(passphrase: &[u8], salt: &[u8], length: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(length + 16);
    let mut block = Vec::new();
    while key.len() < length {
        block.extend_from_slice(passphrase);
        block.extend_from_slice(salt);
        let digest = Md5::digest(&block);
        key.extend_from_slice(&digest);
        block.clear();
        block.extend_from_slice(&digest);
    }
    key.truncate(length);
    key
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(&digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_round_trips() {
        for length in [0, 1, 47, 48, 49, 200_usize] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 37) as u8).collect();
            let text = encode("X", &bytes);
            let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
            assert_eq!(decode_base64(&body).unwrap(), bytes);
            assert!(text.lines().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn a_file_of_something_else_has_no_key() {
        let error = parse_identity(b"hello\n", "a.pem", None).unwrap_err();
        assert_eq!(error.to_string(), "Unable to find private key in a.pem");
    }
}
