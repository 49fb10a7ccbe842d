//! Makes certificates: an issuer signs what a [`Template`] says.
//!
//! Written by hand on top of `yasna` because the issuer's name must appear in what it signs byte for
//! byte as in its own certificate. Corporate authorities have names (several `OU` or `DC`, unusual
//! string types) that certificate libraries rebuild differently.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mitm_flow::Cert;
use yasna::{DERWriter, Tag};

use crate::{
    der::{
        GENERAL_NAME_DNS, GENERAL_NAME_IP, GENERAL_NAME_URI, oid, write_context_bytes,
        write_extension, write_time,
    },
    key::{KeyError, KeyPair, random},
    names::LeafName,
};

pub(crate) const DAY: i64 = 86_400;
/// Certificates are valid from two days ago: clocks differ.
pub(crate) const BACKDATE: i64 = 2 * DAY;

const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const CRL_NUMBER: &[u64] = &[2, 5, 29, 20];
const CRL_DISTRIBUTION_POINTS: &[u64] = &[2, 5, 29, 31];
const AUTHORITY_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];

/// What an issuer puts into the certificates it signs, beside its signature.
#[derive(Clone, Debug)]
pub(crate) struct IssuerName {
    /// Its subject, DER.
    pub(crate) subject: Bytes,
    pub(crate) key_id: Vec<u8>,
}

/// A certificate to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template<'a> {
    pub(crate) common_name: Option<&'a str>,
    pub(crate) organization: Option<&'a str>,
    /// Unix seconds.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) names: &'a [LeafName],
    pub(crate) crl_url: Option<&'a str>,
    pub(crate) authority: Option<Authority>,
    /// Whether the public key's identifier is written; authorities have one.
    pub(crate) subject_key_id: bool,
    pub(crate) authority_key_id: bool,
}

/// That a certificate may sign others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authority {
    pub(crate) path_length: Option<u8>,
}

/// Signs a certificate for `subject`'s public key.
pub(crate) fn certificate(
    template: &Template<'_>,
    subject: &KeyPair,
    issuer: Option<&IssuerName>,
    issuer_key: &KeyPair,
) -> Result<Cert, KeyError> {
    let mut serial = random::<20>()?;
    // Positive, and always of the same length.
    serial[0] = (serial[0] & 0x3f) | 0x40;
    let own_name = yasna::construct_der(|writer| write_name(writer, template));
    let issuer_subject = issuer.map_or(own_name.as_slice(), |issuer| &issuer.subject);
    let tbs = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
            writer.next().write_bigint_bytes(&serial, true);
            issuer_key.write_signature_algorithm(writer.next());
            writer.next().write_der(issuer_subject);
            writer.next().write_sequence(|writer| {
                write_time(writer.next(), template.not_before);
                write_time(writer.next(), template.not_after);
            });
            writer.next().write_der(&own_name);
            writer.next().write_der(subject.spki());
            writer.next().write_tagged(Tag::context(3), |writer| {
                writer.write_sequence(|writer| {
                    write_extensions(writer, template, subject, issuer);
                });
            });
        });
    });
    Ok(Cert::from_der(signed(&tbs, issuer_key)?))
}

/// Signs a list that revokes nothing, valid from two days ago for a week from now.
pub(crate) fn empty_crl(issuer: &IssuerName, key: &KeyPair, now: i64) -> Result<Vec<u8>, KeyError> {
    let tbs = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(1);
            key.write_signature_algorithm(writer.next());
            writer.next().write_der(&issuer.subject);
            write_time(writer.next(), now - BACKDATE);
            write_time(writer.next(), now + 7 * DAY);
            writer.next().write_tagged(Tag::context(0), |writer| {
                writer.write_sequence(|writer| {
                    write_extension(
                        writer.next(),
                        AUTHORITY_KEY_IDENTIFIER,
                        false,
                        &authority_key_id(&issuer.key_id),
                    );
                    let number = yasna::construct_der(|writer| writer.write_u32(1000));
                    write_extension(writer.next(), CRL_NUMBER, false, &number);
                });
            });
        });
    });
    signed(&tbs, key)
}

/// The present time in Unix seconds.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn signed(tbs: &[u8], key: &KeyPair) -> Result<Vec<u8>, KeyError> {
    let signature = key.sign(tbs)?;
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(tbs);
            key.write_signature_algorithm(writer.next());
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

fn write_name(writer: DERWriter<'_>, template: &Template<'_>) {
    writer.write_sequence(|writer| {
        for (id, value) in
            [(COMMON_NAME, template.common_name), (ORGANIZATION, template.organization)]
        {
            let Some(value) = value else { continue };
            writer.next().write_set(|writer| {
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&oid(id));
                    writer.next().write_utf8_string(value);
                });
            });
        }
    });
}

fn write_extensions(
    writer: &mut yasna::DERWriterSeq<'_>,
    template: &Template<'_>,
    subject: &KeyPair,
    issuer: Option<&IssuerName>,
) {
    if let Some(authority) = template.authority {
        let constraints = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_bool(true);
                if let Some(length) = authority.path_length {
                    writer.next().write_u8(length);
                }
            });
        });
        write_extension(writer.next(), BASIC_CONSTRAINTS, true, &constraints);
    }
    let usage = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| writer.next().write_oid(&oid(SERVER_AUTH)));
    });
    write_extension(writer.next(), EXTENDED_KEY_USAGE, false, &usage);
    if template.authority.is_some() {
        // keyCertSign is bit 5, cRLSign bit 6.
        let usage = yasna::construct_der(|writer| writer.write_bitvec_bytes(&[0x06], 7));
        write_extension(writer.next(), KEY_USAGE, true, &usage);
    }
    if template.subject_key_id {
        let id = yasna::construct_der(|writer| writer.write_bytes(&subject.key_id()));
        write_extension(writer.next(), SUBJECT_KEY_IDENTIFIER, false, &id);
    }
    if template.names.iter().any(LeafName::is_alternative) {
        let names = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                for name in template.names {
                    write_general_name(writer, name);
                }
            });
        });
        let critical = template.common_name.is_none();
        write_extension(writer.next(), SUBJECT_ALT_NAME, critical, &names);
    }
    if template.authority_key_id
        && let Some(issuer) = issuer
    {
        let id = authority_key_id(&issuer.key_id);
        write_extension(writer.next(), AUTHORITY_KEY_IDENTIFIER, false, &id);
    }
    if let Some(url) = template.crl_url {
        let points = crl_distribution_points(url);
        write_extension(writer.next(), CRL_DISTRIBUTION_POINTS, false, &points);
    }
}

fn write_general_name(writer: &mut yasna::DERWriterSeq<'_>, name: &LeafName) {
    match name {
        LeafName::Dns(name) => {
            write_context_bytes(writer.next(), number(GENERAL_NAME_DNS), name.as_bytes());
        }
        LeafName::Ip(std::net::IpAddr::V4(ip)) => {
            write_context_bytes(writer.next(), number(GENERAL_NAME_IP), &ip.octets());
        }
        LeafName::Ip(std::net::IpAddr::V6(ip)) => {
            write_context_bytes(writer.next(), number(GENERAL_NAME_IP), &ip.octets());
        }
        LeafName::Other(der) => writer.next().write_der(der),
        LeafName::Title(_) => {}
    }
}

fn authority_key_id(key_id: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| write_context_bytes(writer.next(), 0, key_id));
    })
}

/// One distribution point with one full name.
fn crl_distribution_points(url: &str) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_tagged_implicit(Tag::context(0), |writer| {
                        writer.write_sequence(|writer| {
                            let tag = number(GENERAL_NAME_URI);
                            write_context_bytes(writer.next(), tag, url.as_bytes());
                        });
                    });
                });
            });
        });
    })
}

/// The number in a context-specific tag byte.
fn number(tag: u8) -> u64 {
    u64::from(tag & 0x1f)
}
