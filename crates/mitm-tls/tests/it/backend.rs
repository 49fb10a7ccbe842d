//! [`backend_for`] against what rustls does with the same hello.

use std::sync::Arc;

use bytes::Bytes;
use mitm_tls::{
    Backend, Downstream, HelloFacts, KeyKind, Leaf, LeafRequest, Side, TlsOptions, VersionLimit,
    backend_for,
};
use rustls::server::Acceptor;

use crate::support::{request, store};

const TLS13_SUITES: [u16; 2] = [0x1301, 0x1302];
const ECDHE_ECDSA: u16 = 0xc02b;
const ECDHE_RSA: u16 = 0xc02f;
const RSA_ONLY: u16 = 0x009c;
const X25519: u16 = 0x001d;
const P256: u16 = 0x0017;
const P521: u16 = 0x0019;
const ECDSA_P256: u16 = 0x0403;
const RSA_PSS: u16 = 0x0804;
const RSA_PKCS1: u16 = 0x0401;
const RSA_SHA1: u16 = 0x0201;

#[derive(Clone)]
struct Hello {
    version: u16,
    suites: Vec<u16>,
    compression: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

fn list16(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

impl Hello {
    /// What browsers send.
    fn modern() -> Self {
        let share = [numbers(&[X25519]), list16(&[9; 32])].concat();
        Self {
            version: 0x0303,
            suites: [&TLS13_SUITES[..], &[ECDHE_ECDSA, ECDHE_RSA]].concat(),
            compression: vec![0],
            extensions: Vec::new(),
        }
        .sni(b"a.example")
        .groups(&[X25519, P256])
        .schemes(&[ECDSA_P256, RSA_PSS, RSA_PKCS1])
        .versions(&[0x0304, 0x0303])
        .set(51, list16(&share))
    }

    /// What clients before TLS 1.3 sent.
    fn older() -> Self {
        Self { suites: vec![ECDHE_ECDSA, ECDHE_RSA, RSA_ONLY], ..Self::modern() }
            .without(43)
            .without(51)
            .set(11, vec![1, 0])
    }

    fn without(mut self, kind: u16) -> Self {
        self.extensions.retain(|(number, _)| *number != kind);
        self
    }

    fn set(self, kind: u16, body: Vec<u8>) -> Self {
        let mut hello = self.without(kind);
        hello.extensions.push((kind, body));
        hello
    }

    fn sni(self, name: &[u8]) -> Self {
        self.set(0, list16(&[&[0][..], &list16(name)].concat()))
    }

    fn groups(self, groups: &[u16]) -> Self {
        self.set(10, list16(&numbers(groups)))
    }

    fn schemes(self, schemes: &[u16]) -> Self {
        self.set(13, list16(&numbers(schemes)))
    }

    fn versions(self, versions: &[u16]) -> Self {
        let list = numbers(versions);
        self.set(43, [&[u8::try_from(list.len()).unwrap()], &list[..]].concat())
    }

    fn suites(self, suites: &[u16]) -> Self {
        Self { suites: suites.to_vec(), ..self }
    }

    fn twice(mut self, kind: u16) -> Self {
        let again = self.extensions.iter().find(|(number, _)| *number == kind).unwrap().clone();
        self.extensions.push(again);
        self
    }

    fn wire(&self) -> Vec<u8> {
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, body)| [numbers(&[*kind]), list16(body)].concat())
            .collect();
        let body = [
            &numbers(&[self.version])[..],
            &[7; 32],
            &[0],
            &list16(&numbers(&self.suites)),
            &[u8::try_from(self.compression.len()).unwrap()],
            &self.compression,
            &list16(&extensions),
        ]
        .concat();
        let message = [&[1, 0][..], &list16(&body)].concat();
        [&[0x16, 3, 1][..], &list16(&message)].concat()
    }

    fn judge(&self, options: &TlsOptions) -> Backend {
        let extensions: Vec<(u16, Bytes)> = self
            .extensions
            .iter()
            .map(|(kind, body)| (*kind, Bytes::copy_from_slice(body)))
            .collect();
        let facts = HelloFacts {
            version: self.version,
            cipher_suites: &self.suites,
            compression_methods: &self.compression,
            extensions: &extensions,
        };
        backend_for(&facts, options)
    }
}

/// Whether rustls goes on after the hello.
fn rustls_accepts(hello: &Hello, downstream: &Downstream, leaf: &Leaf) -> bool {
    let mut acceptor = Acceptor::default();
    let wire = hello.wire();
    acceptor.read_tls(&mut wire.as_slice()).unwrap();
    match acceptor.accept() {
        Ok(accepted) => {
            let accepted = accepted.expect("the hello is complete");
            accepted.into_connection(downstream.config(leaf, None)).is_ok()
        }
        Err(_) => false,
    }
}

#[test]
fn the_decision_is_what_rustls_does() {
    let store = store();
    let leaf = |key| store.get(&LeafRequest { key, ..request(&["a.example"]) }).unwrap();
    let leaves: [(KeyKind, Arc<Leaf>); 2] =
        [(KeyKind::Ecdsa, leaf(KeyKind::Ecdsa)), (KeyKind::Rsa, leaf(KeyKind::Rsa))];

    let default = TlsOptions::new(Side::Client);
    let only13 = default.clone().with_versions(VersionLimit::Tls1_3, VersionLimit::Unbounded);
    let only12 = default.clone().with_versions(VersionLimit::Tls1, VersionLimit::Tls1_2);
    let cipher = default.clone().with_ciphers(Some("ECDHE-RSA-AES256-GCM-SHA384"));
    let curve = default.clone().with_curve(Some("secp384r1")).unwrap();
    let (modern, older) = (Hello::modern, Hello::older);

    // Each with the kind of key it needs, or a part of the reason.
    let cases: Vec<(&str, Hello, &TlsOptions, Result<KeyKind, &str>)> = vec![
        ("modern", modern(), &default, Ok(KeyKind::Ecdsa)),
        ("older", older(), &default, Ok(KeyKind::Ecdsa)),
        ("modern, no ECDSA", modern().schemes(&[RSA_PSS]), &default, Ok(KeyKind::Rsa)),
        ("modern, PKCS#1 only", modern().schemes(&[RSA_PKCS1]), &default, Err("signature")),
        ("older, PKCS#1 only", older().schemes(&[RSA_PKCS1]), &default, Ok(KeyKind::Rsa)),
        ("older, RSA suites", older().suites(&[ECDHE_RSA]), &default, Ok(KeyKind::Rsa)),
        ("older, ECDSA suites", older().suites(&[ECDHE_ECDSA]), &default, Ok(KeyKind::Ecdsa)),
        (
            "suite and scheme disagree",
            older().suites(&[ECDHE_ECDSA]).schemes(&[RSA_PSS]),
            &default,
            Err("signature"),
        ),
        ("SHA-1 only", older().schemes(&[RSA_SHA1]), &default, Err("signature")),
        ("RSA key exchange", older().suites(&[RSA_ONLY]), &default, Err("cipher")),
        ("no suites of ours", modern().suites(&[0x1305]), &default, Err("cipher")),
        ("no groups of ours", modern().groups(&[P521]), &default, Err("group")),
        ("no groups", older().without(10), &default, Err("group")),
        ("no schemes", older().without(13), &default, Err("signature algorithms")),
        ("no key share", modern().without(51), &default, Err("key share")),
        ("no server name", modern().without(0), &default, Ok(KeyKind::Ecdsa)),
        ("address as name", modern().sni(b"192.0.2.1"), &default, Ok(KeyKind::Ecdsa)),
        ("underscore", modern().sni(b"a_b.example"), &default, Ok(KeyKind::Ecdsa)),
        ("name with port", modern().sni(b"a.example:443"), &default, Err("a.example:443")),
        ("name not ASCII", modern().sni(b"\xff\xfe"), &default, Err("server name")),
        ("empty name", modern().sni(b""), &default, Err("server name")),
        (
            "two names",
            modern().set(0, list16(&[&[0, 0, 1, b'a'][..], &[0, 0, 1, b'b']].concat())),
            &default,
            Err("server name"),
        ),
        ("TLS 1.1", Hello { version: 0x0302, ..older() }, &default, Err("tls_version_client_min")),
        ("SSL 3", Hello { version: 0x0300, ..older() }, &default, Err("tls_version_client_min")),
        ("TLS 1.1 by list", modern().versions(&[0x0302]), &default, Err("version")),
        ("1.2 where 1.3 is asked", older(), &only13, Err("tls_version_client_min TLS1_3")),
        ("1.3 where 1.3 is asked", modern(), &only13, Ok(KeyKind::Ecdsa)),
        ("1.3 where 1.2 is the end", modern(), &only12, Ok(KeyKind::Ecdsa)),
        ("only 1.3", modern().versions(&[0x0304]), &only12, Err("tls_version_client_max TLS1_2")),
        (
            "compression too",
            Hello { compression: vec![1, 0], ..older() },
            &default,
            Ok(KeyKind::Ecdsa),
        ),
        (
            "compression only",
            Hello { compression: vec![1], ..older() },
            &default,
            Err("compression"),
        ),
        (
            "compression in 1.3",
            Hello { compression: vec![1, 0], ..modern() },
            &default,
            Err("compression"),
        ),
        ("compressed points", older().set(11, vec![1, 1]), &default, Err("points")),
        ("twice", modern().twice(0), &default, Err("twice")),
        ("malformed groups", modern().set(10, vec![0, 3, 1, 2, 3]), &default, Err("malformed")),
        ("malformed versions", modern().set(43, vec![9, 3, 4]), &default, Err("malformed")),
        ("cipher option, older", older().suites(&[ECDHE_RSA]), &cipher, Err("ciphers_client")),
        ("cipher option, met", older().suites(&[0xc030]), &cipher, Ok(KeyKind::Rsa)),
        ("cipher option, 1.3", modern(), &cipher, Ok(KeyKind::Ecdsa)),
        ("curve option", modern(), &curve, Err("tls_ecdh_curve_client")),
        ("curve option, met", modern().groups(&[X25519, 0x0018]), &curve, Ok(KeyKind::Ecdsa)),
    ];
    for (what, hello, options, expected) in cases {
        let downstream = Downstream::new(options).unwrap();
        let decision = hello.judge(options);
        let accepted = |wanted| {
            let (_, leaf) = leaves.iter().find(|(kind, _)| *kind == wanted).unwrap();
            rustls_accepts(&hello, &downstream, leaf)
        };
        match (&decision, expected) {
            (Backend::Rustls(kind), Ok(wanted)) => {
                assert_eq!(*kind, wanted, "{what}");
                assert!(accepted(wanted), "{what}: rustls refuses");
            }
            (Backend::Unsupported(reason), Err(part)) => {
                assert!(reason.to_string().contains(part), "{what}: {reason}");
                assert!(!accepted(KeyKind::Ecdsa), "{what}: rustls takes it with ECDSA");
                assert!(!accepted(KeyKind::Rsa), "{what}: rustls takes it with RSA");
            }
            _ => panic!("{what}: {decision:?}, not {expected:?}"),
        }
    }
}

#[test]
fn settings_beyond_rustls_are_reasons_by_themselves() {
    let options = TlsOptions::new(Side::Client);
    let old = options.clone().with_versions(VersionLimit::Ssl3, VersionLimit::Tls1_1);
    let exotic = options.clone().with_ciphers(Some("HIGH:!aNULL@SECLEVEL=1"));
    let curve = options.with_curve(Some("brainpoolP256r1")).unwrap();
    for (options, part) in [
        (old, "tls_version_client_max TLS1_1"),
        (exotic, "ciphers_client"),
        (curve, "tls_ecdh_curve_client"),
    ] {
        let Backend::Unsupported(reason) = Hello::modern().judge(&options) else {
            panic!("{options:?} is supported");
        };
        assert!(reason.to_string().contains(part), "{reason}");
        assert!(Downstream::new(&options).is_err());
    }
}
