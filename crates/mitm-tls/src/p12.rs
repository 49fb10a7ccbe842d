//! PKCS#12 files (RFC 7292): unencrypted, with an integrity code under the empty password.
//!
//! Just what system certificate stores import. Reading them, encryption and anything else of the
//! format is not here.

use aws_lc_rs::{digest, hmac};
use mitm_flow::Cert;
use yasna::{DERWriter, Tag};

use crate::{
    der::oid,
    key::{KeyError, random},
};

const ITERATIONS: u32 = 2048;
const FRIENDLY_NAME: &str = "mitmproxy";

const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];
const KEY_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 1];
const CERT_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 3];
const X509_CERTIFICATE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 22, 1];
const FRIENDLY_NAME_ID: &[u64] = &[1, 2, 840, 113_549, 1, 9, 20];
const LOCAL_KEY_ID: &[u64] = &[1, 2, 840, 113_549, 1, 9, 21];
const SHA256: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];

/// Writes a certificate, and its PKCS#8 key if there is one.
pub(crate) fn encode(cert: &Cert, pkcs8: Option<&[u8]>) -> Result<Vec<u8>, KeyError> {
    let fingerprint = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, cert.der());
    let key_id = pkcs8.map(|_| fingerprint.as_ref());
    let contents = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            write_data(writer.next(), &cert_bag(cert, key_id));
            if let Some(key) = pkcs8 {
                write_data(writer.next(), &key_bag(key, key_id));
            }
        });
    });
    let salt = random::<8>()?;
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, &mac_key(salt));
    let mac = hmac::sign(&mac_key, &contents);
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(3);
            write_data(writer.next(), &contents);
            writer.next().write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    writer.next().write_sequence(|writer| {
                        writer.next().write_oid(&oid(SHA256));
                        writer.next().write_null();
                    });
                    writer.next().write_bytes(mac.as_ref());
                });
                writer.next().write_bytes(&salt);
                writer.next().write_u32(ITERATIONS);
            });
        });
    }))
}

/// A `ContentInfo` of type data.
fn write_data(writer: DERWriter<'_>, data: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(DATA));
        writer.next().write_tagged(Tag::context(0), |writer| writer.write_bytes(data));
    });
}

fn key_bag(pkcs8: &[u8], key_id: Option<&[u8]>) -> Vec<u8> {
    bag(KEY_BAG, key_id, |writer| writer.write_der(pkcs8))
}

fn cert_bag(cert: &Cert, key_id: Option<&[u8]>) -> Vec<u8> {
    bag(CERT_BAG, key_id, |writer| {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&oid(X509_CERTIFICATE));
            writer.next().write_tagged(Tag::context(0), |writer| writer.write_bytes(cert.der()));
        });
    })
}

/// `SafeContents` of one bag with its attributes.
fn bag(kind: &[u64], key_id: Option<&[u8]>, value: impl FnOnce(DERWriter<'_>)) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&oid(kind));
                writer.next().write_tagged(Tag::context(0), value);
                writer.next().write_set(|writer| {
                    write_attribute(writer.next(), FRIENDLY_NAME_ID, |writer| {
                        let name: Vec<u8> =
                            FRIENDLY_NAME.encode_utf16().flat_map(u16::to_be_bytes).collect();
                        writer.write_tagged_implicit(yasna::tags::TAG_BMPSTRING, |writer| {
                            writer.write_bytes(&name);
                        });
                    });
                    if let Some(id) = key_id {
                        write_attribute(writer.next(), LOCAL_KEY_ID, |writer| {
                            writer.write_bytes(id);
                        });
                    }
                });
            });
        });
    })
}

fn write_attribute(writer: DERWriter<'_>, id: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(id));
        writer.next().write_set(|writer| value(writer.next()));
    });
}

/// The key derivation of RFC 7292 appendix B.2 for the empty password, SHA-256 and purpose 3
/// (integrity). One round of the hash yields all the bytes that are needed.
fn mac_key(salt: [u8; 8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    const PURPOSE: [u8; BLOCK] = [3; BLOCK];

    let mut input = PURPOSE.to_vec();
    input.extend(salt.iter().cycle().take(BLOCK));
    // The empty password is one NUL character of two bytes, repeated to a whole block.
    input.extend([0; BLOCK]);
    let mut hash = digest::digest(&digest::SHA256, &input);
    for _ in 1..ITERATIONS {
        hash = digest::digest(&digest::SHA256, hash.as_ref());
    }
    hash.as_ref().to_vec()
}
