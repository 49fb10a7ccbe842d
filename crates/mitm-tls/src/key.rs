//! [`KeyPair`]: a private key that signs certificates and handshakes.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::{
    digest,
    encoding::AsDer,
    rand::{SecureRandom, SystemRandom},
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
        ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use openssl::{
    error::ErrorStack,
    pkey::{PKey, Private},
};
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;
use yasna::DERWriter;

use crate::der::{self, oid};

/// Why a private key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    #[error("the private key is encrypted, and the option cert_passphrase is not set")]
    PassphraseMissing,
    #[error("the passphrase does not fit the private key")]
    WrongPassphrase,
    #[error("the private key is encrypted in a way that is not supported")]
    UnsupportedEncryption,
    #[error(
        "the private key is not supported (RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519 are)"
    )]
    Unsupported,
    #[error("key_size {0} is not supported (2048, 3072, 4096 and 8192 are)")]
    Size(u32),
    #[error("the key could not be made or used")]
    Crypto,
}

enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    P521(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A private key, its public half, and the same key as the TLS libraries want it.
pub(crate) struct KeyPair {
    signer: Signer,
    der: PrivateKeyDer<'static>,
    spki: Vec<u8>,
    handshake: Arc<dyn SigningKey>,
    /// Made when the first handshake needs it.
    openssl: OnceLock<PKey<Private>>,
}

impl KeyPair {
    pub(crate) fn generate_p256() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| KeyError::Crypto)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Crypto)?;
        Self::from_der(&PrivateKeyDer::Pkcs8(pkcs8.as_ref().to_vec().into()))
    }

    /// Makes an RSA key with exponent 65537. Takes from a tenth of a second to minutes.
    pub(crate) fn generate_rsa(bits: u32) -> Result<Self, KeyError> {
        let size = match bits {
            2048 => KeySize::Rsa2048,
            3072 => KeySize::Rsa3072,
            4096 => KeySize::Rsa4096,
            8192 => KeySize::Rsa8192,
            _ => return Err(KeyError::Size(bits)),
        };
        let pair = RsaKeyPair::generate(size).map_err(|_| KeyError::Crypto)?;
        let pkcs8 = pair.as_der().map_err(|_| KeyError::Crypto)?;
        Self::from_der(&PrivateKeyDer::Pkcs8(pkcs8.as_ref().to_vec().into()))
    }

    pub(crate) fn from_der(der: &PrivateKeyDer<'_>) -> Result<Self, KeyError> {
        let signer = Signer::from_der(der).ok_or(KeyError::Unsupported)?;
        let spki = signer.spki().ok_or(KeyError::Crypto)?;
        let handshake = rustls::crypto::aws_lc_rs::sign::any_supported_type(der)
            .map_err(|_| KeyError::Unsupported)?;
        Ok(Self { signer, der: der.clone_key(), spki, handshake, openssl: OnceLock::new() })
    }

    /// Signs a certificate or a revocation list.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| KeyError::Crypto)?;
                Ok(signature)
            }
            Signer::P256(pair) | Signer::P384(pair) | Signer::P521(pair) => {
                let signature = pair.sign(&random, message).map_err(|_| KeyError::Crypto)?;
                Ok(signature.as_ref().to_vec())
            }
            Signer::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// Writes the `AlgorithmIdentifier` of [`sign`](Self::sign).
    pub(crate) fn write_signature_algorithm(&self, writer: DERWriter<'_>) {
        writer.write_sequence(|writer| {
            let id: &[u64] = match &self.signer {
                Signer::Rsa(_) => &[1, 2, 840, 113_549, 1, 1, 11],
                Signer::P256(_) => &[1, 2, 840, 10_045, 4, 3, 2],
                Signer::P384(_) => &[1, 2, 840, 10_045, 4, 3, 3],
                Signer::P521(_) => &[1, 2, 840, 10_045, 4, 3, 4],
                Signer::Ed25519(_) => &[1, 3, 101, 112],
            };
            writer.next().write_oid(&oid(id));
            if self.is_rsa() {
                writer.next().write_null();
            }
        });
    }

    pub(crate) fn is_rsa(&self) -> bool {
        matches!(self.signer, Signer::Rsa(_))
    }

    /// The `SubjectPublicKeyInfo`.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// What the bit string inside [`spki`](Self::spki) holds.
    pub(crate) fn public_key(&self) -> &[u8] {
        match &self.signer {
            Signer::Rsa(pair) => pair.public_key().as_ref(),
            Signer::P256(pair) | Signer::P384(pair) | Signer::P521(pair) => {
                pair.public_key().as_ref()
            }
            Signer::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    pub(crate) fn key_id(&self) -> [u8; 20] {
        key_id(self.public_key())
    }

    /// The key as rustls signs handshakes with it.
    pub(crate) fn handshake(&self) -> &Arc<dyn SigningKey> {
        &self.handshake
    }

    /// The key as OpenSSL signs handshakes with it.
    pub(crate) fn openssl(&self) -> Result<&PKey<Private>, ErrorStack> {
        if let Some(key) = self.openssl.get() {
            return Ok(key);
        }
        let key = match &self.der {
            PrivateKeyDer::Pkcs8(der) => PKey::private_key_from_pkcs8(der.secret_pkcs8_der())?,
            der => PKey::private_key_from_der(der.secret_der())?,
        };
        Ok(self.openssl.get_or_init(|| key))
    }

    /// The key as PKCS#8.
    pub(crate) fn pkcs8(&self) -> Result<Vec<u8>, KeyError> {
        if let PrivateKeyDer::Pkcs8(der) = &self.der {
            return Ok(der.secret_pkcs8_der().to_vec());
        }
        let document = match &self.signer {
            Signer::Rsa(pair) => pair.as_der().map(|der| der.as_ref().to_vec()),
            Signer::P256(pair) | Signer::P384(pair) | Signer::P521(pair) => {
                pair.to_pkcs8v1().map(|der| der.as_ref().to_vec())
            }
            Signer::Ed25519(pair) => pair.to_pkcs8v1().map(|der| der.as_ref().to_vec()),
        };
        document.map_err(|_| KeyError::Crypto)
    }

    /// The key in PEM: PKCS#1 for RSA, as mitmproxy writes it, else PKCS#8.
    pub(crate) fn to_pem(&self) -> Result<String, KeyError> {
        let pkcs8 = self.pkcs8()?;
        if self.is_rsa() {
            let pkcs1 = der::pkcs1_of_pkcs8(&pkcs8).ok_or(KeyError::Crypto)?;
            Ok(crate::pem::encode("RSA PRIVATE KEY", pkcs1))
        } else {
            Ok(crate::pem::encode("PRIVATE KEY", &pkcs8))
        }
    }
}

/// Shows which kind of key it is, never the key.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.signer {
            Signer::Rsa(_) => "KeyPair(RSA)",
            Signer::P256(_) => "KeyPair(P-256)",
            Signer::P384(_) => "KeyPair(P-384)",
            Signer::P521(_) => "KeyPair(P-521)",
            Signer::Ed25519(_) => "KeyPair(Ed25519)",
        })
    }
}

impl Signer {
    fn from_der(der: &PrivateKeyDer<'_>) -> Option<Self> {
        let secret = der.secret_der();
        let rsa = match der {
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(secret).ok(),
            PrivateKeyDer::Pkcs8(_) => RsaKeyPair::from_pkcs8(secret).ok(),
            _ => None,
        };
        if let Some(pair) = rsa {
            return Some(Self::Rsa(pair));
        }
        if let Ok(pair) =
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, secret)
        {
            return Some(Self::P256(pair));
        }
        if let Ok(pair) =
            EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_ASN1_SIGNING, secret)
        {
            return Some(Self::P384(pair));
        }
        if let Ok(pair) =
            EcdsaKeyPair::from_private_key_der(&ECDSA_P521_SHA512_ASN1_SIGNING, secret)
        {
            return Some(Self::P521(pair));
        }
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(secret).ok().map(Self::Ed25519)
    }

    fn spki(&self) -> Option<Vec<u8>> {
        let spki = match self {
            Self::Rsa(pair) => pair.public_key().as_der(),
            Self::P256(pair) | Self::P384(pair) | Self::P521(pair) => pair.public_key().as_der(),
            Self::Ed25519(pair) => pair.public_key().as_der(),
        };
        Some(spki.ok()?.as_ref().to_vec())
    }
}

/// The key identifier of RFC 5280 §4.2.1.2, method 1.
pub(crate) fn key_id(public_key: &[u8]) -> [u8; 20] {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, public_key);
    hash.as_ref().try_into().expect("SHA-1 has 20 bytes")
}

/// Random bytes from the system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::Crypto)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_pem() {
        for key in [KeyPair::generate_p256().unwrap(), KeyPair::generate_rsa(2048).unwrap()] {
            let pem = key.to_pem().unwrap();
            let content = crate::pem::parse(pem.as_bytes(), None).unwrap();
            let again = KeyPair::from_der(&content.key.unwrap()).unwrap();
            assert_eq!(again.spki(), key.spki());
            assert_eq!(again.pkcs8().unwrap(), key.pkcs8().unwrap());
        }
    }

    #[test]
    fn odd_key_sizes_are_refused_by_name() {
        let error = KeyPair::generate_rsa(1000).unwrap_err();
        assert!(error.to_string().contains("key_size 1000"));
    }

    #[test]
    fn debug_output_holds_no_secret() {
        assert_eq!(format!("{:?}", KeyPair::generate_p256().unwrap()), "KeyPair(P-256)");
    }
}
