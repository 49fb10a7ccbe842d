//! [`backend_for`] against what rustls and OpenSSL do with the same hello.

use std::sync::Arc;

use bytes::Bytes;
use mitm_tls::{
    Backend, Downstream, HelloFacts, KeyKind, Leaf, LeafRequest, Side, TlsOptions, VersionLimit,
    backend_for,
};
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{request, store};

const TLS13_SUITES: [u16; 2] = [0x1301, 0x1302];
const ECDHE_ECDSA: u16 = 0xc02b;
const ECDHE_RSA: u16 = 0xc02f;
const RSA_ONLY: u16 = 0x009c;
const RSA_CBC: u16 = 0x002f;
const DHE_RSA: u16 = 0x009e;
const DHE_CBC: u16 = 0x0033;
const ECDHE_ECDSA_CBC: u16 = 0xc009;
const ECDHE_RSA_CBC: u16 = 0xc013;
const RC4: u16 = 0x0005;
const TRIPLE_DES: u16 = 0x000a;
const ADH: u16 = 0x0034;
const X25519: u16 = 0x001d;
const P256: u16 = 0x0017;
const P521: u16 = 0x0019;
const SECP256K1: u16 = 0x0016;
const BRAINPOOL: u16 = 0x001a;
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

    /// What clients before TLS 1.2 sent.
    fn ancient(version: u16) -> Self {
        Self { version, ..Self::older() }
            .suites(&[ECDHE_ECDSA_CBC, ECDHE_RSA_CBC, DHE_CBC, RSA_CBC, TRIPLE_DES, RC4])
            .without(13)
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

/// What keeps OpenSSL from going on after the hello.
async fn openssl_refusal(
    hello: &Hello,
    downstream: &Downstream,
    leaf: &Arc<Leaf>,
) -> Option<String> {
    let acceptor = downstream.openssl(leaf, None).unwrap();
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let accepting = tokio::spawn(async move { acceptor.accept(server).await.map(|_| ()) });
    client.write_all(&hello.wire()).await.unwrap();
    let answer = client.read_u8().await;
    drop(client);
    let error = accepting.await.unwrap().expect_err("nobody shakes hands here");
    // A handshake record, not an alert, nor nothing.
    (!matches!(answer, Ok(0x16))).then(|| error.to_string())
}

/// What is expected of a hello: who answers it with which kind of key, or a part of the reason.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Rustls(KeyKind),
    Openssl(KeyKind),
    Refused(&'static str),
}

use Expected::{Openssl, Refused, Rustls};
use KeyKind::{Ecdsa, Rsa};

#[tokio::test]
async fn the_decision_is_what_the_libraries_do() {
    let store = store();
    let leaf = |key| store.get(&LeafRequest { key, ..request(&["a.example"]) }).unwrap();
    let leaves: [(KeyKind, Arc<Leaf>); 2] = [(Ecdsa, leaf(Ecdsa)), (Rsa, leaf(Rsa))];

    let default = TlsOptions::new(Side::Client);
    let only13 = default.clone().with_versions(VersionLimit::Tls1_3, VersionLimit::Unbounded);
    let only12 = default.clone().with_versions(VersionLimit::Tls1, VersionLimit::Tls1_2);
    let cipher = default.clone().with_ciphers(Some("ECDHE-RSA-AES256-GCM-SHA384"));
    let curve = default.clone().with_curve(Some("secp384r1")).unwrap();
    let (modern, older) = (Hello::modern, Hello::older);

    let any = default.clone().with_versions(VersionLimit::Ssl3, VersionLimit::Unbounded);
    let unbounded = default.clone().with_versions(VersionLimit::Unbounded, VersionLimit::Unbounded);
    let tls11 = default.clone().with_versions(VersionLimit::Tls1_1, VersionLimit::Tls1_1);
    let rc4 = default.clone().with_ciphers(Some("RC4-SHA:@SECLEVEL=0"));
    let high = default.clone().with_ciphers(Some("HIGH:!aNULL:!kRSA"));
    let koblitz = default.clone().with_curve(Some("secp256k1")).unwrap();
    let brainpool = default
        .clone()
        .with_curve(Some("brainpoolP256r1"))
        .unwrap()
        .with_versions(VersionLimit::Tls1_2, VersionLimit::Tls1_2);
    let ancient = Hello::ancient;

    let cases: Vec<(&str, Hello, &TlsOptions, Expected)> = vec![
        ("modern", modern(), &default, Rustls(Ecdsa)),
        ("older", older(), &default, Rustls(Ecdsa)),
        ("modern, no ECDSA", modern().schemes(&[RSA_PSS]), &default, Rustls(Rsa)),
        ("modern, PKCS#1 only", modern().schemes(&[RSA_PKCS1]), &default, Refused("signature")),
        ("older, PKCS#1 only", older().schemes(&[RSA_PKCS1]), &default, Rustls(Rsa)),
        ("older, RSA suites", older().suites(&[ECDHE_RSA]), &default, Rustls(Rsa)),
        ("older, ECDSA suites", older().suites(&[ECDHE_ECDSA]), &default, Rustls(Ecdsa)),
        (
            "suite and scheme disagree",
            older().suites(&[ECDHE_ECDSA]).schemes(&[RSA_PSS]),
            &default,
            Refused("signature"),
        ),
        ("SHA-1 only", older().schemes(&[RSA_SHA1]), &default, Refused("signature")),
        ("SHA-1 admitted", older().schemes(&[RSA_SHA1]), &any, Openssl(Rsa)),
        ("RSA key exchange", older().suites(&[RSA_ONLY]), &default, Openssl(Rsa)),
        ("CBC", older().suites(&[RSA_CBC]), &default, Openssl(Rsa)),
        ("CBC, ECDSA", older().suites(&[ECDHE_ECDSA_CBC]), &default, Openssl(Ecdsa)),
        ("DHE", older().suites(&[DHE_RSA]), &default, Openssl(Rsa)),
        ("DHE, no groups", older().suites(&[DHE_RSA]).without(10), &default, Openssl(Rsa)),
        ("3DES", older().suites(&[TRIPLE_DES]), &default, Openssl(Rsa)),
        ("RC4", older().suites(&[RC4]), &default, Refused("ciphers_client")),
        ("RC4 admitted", older().suites(&[RC4]), &rc4, Openssl(Rsa)),
        ("anonymous", older().suites(&[ADH]), &any, Refused("ciphers_client")),
        ("by OpenSSL's classes", older().suites(&[DHE_CBC]), &high, Openssl(Rsa)),
        ("not by OpenSSL's classes", older().suites(&[RSA_CBC]), &high, Refused("cipher")),
        ("by OpenSSL's classes, rustls", older(), &high, Rustls(Ecdsa)),
        ("no suites of ours", modern().suites(&[0x1305]), &default, Refused("cipher")),
        (
            "a group of OpenSSL's",
            modern().groups(&[P521]).set(51, list16(&[])),
            &default,
            Openssl(Ecdsa),
        ),
        ("no groups of ours", modern().groups(&[SECP256K1]), &default, Refused("group")),
        ("no groups", older().without(10).suites(&[ECDHE_RSA]), &default, Refused("group")),
        ("no groups, RSA", older().without(10), &default, Openssl(Rsa)),
        ("no groups, ECDSA", older().without(10).suites(&[ECDHE_ECDSA]), &any, Refused("group")),
        ("no schemes", older().without(13), &default, Refused("@SECLEVEL=0")),
        ("no schemes, RSA", older().without(13).suites(&[RSA_CBC]), &default, Refused("SECLEVEL")),
        (
            "schemes of another key",
            older().suites(&[RSA_CBC]).schemes(&[ECDSA_P256]),
            &default,
            Refused("signature"),
        ),
        (
            "no schemes, ECDHE",
            older().without(13).suites(&[ECDHE_RSA]),
            &default,
            Refused("@SECLEVEL=0"),
        ),
        ("no schemes, admitted", older().without(13).suites(&[ECDHE_RSA]), &any, Openssl(Rsa)),
        ("no schemes in 1.3", modern().without(13), &default, Refused("signature algorithms")),
        ("no key share", modern().without(51), &default, Refused("key share")),
        ("no server name", modern().without(0), &default, Rustls(Ecdsa)),
        ("address as name", modern().sni(b"192.0.2.1"), &default, Rustls(Ecdsa)),
        ("underscore", modern().sni(b"a_b.example"), &default, Rustls(Ecdsa)),
        ("name with port", modern().sni(b"local_host:443"), &default, Openssl(Ecdsa)),
        ("name not ASCII", modern().sni(b"\xff\xfe"), &default, Openssl(Ecdsa)),
        ("empty name", modern().sni(b""), &default, Openssl(Ecdsa)),
        ("zero in a name", modern().sni(b"a\0b"), &default, Refused("server name")),
        ("long name", modern().sni(&[b'a'; 256]), &default, Refused("server name")),
        (
            "two names",
            modern().set(0, list16(&[&[0, 0, 1, b'a'][..], &[0, 0, 1, b'b']].concat())),
            &default,
            Refused("server name"),
        ),
        ("TLS 1.1", ancient(0x0302), &default, Refused("tls_version_client_min")),
        ("TLS 1.0", ancient(0x0301), &default, Refused("tls_version_client_min")),
        ("SSL 3", ancient(0x0300), &default, Refused("tls_version_client_min")),
        ("TLS 1.1 by list", modern().versions(&[0x0302]), &default, Refused("version")),
        ("TLS 1.1 admitted", ancient(0x0302), &any, Openssl(Rsa)),
        ("TLS 1.0 admitted", ancient(0x0301), &any, Openssl(Rsa)),
        ("TLS 1.0 without bounds", ancient(0x0301), &unbounded, Openssl(Rsa)),
        ("TLS 1.0, below", ancient(0x0301), &tls11, Refused("tls_version_client_min TLS1_1")),
        ("TLS 1.2, above", older().suites(&[RSA_CBC]), &tls11, Openssl(Rsa)),
        (
            "TLS 1.0, new suites",
            ancient(0x0301).suites(&[ECDHE_RSA, RSA_ONLY]),
            &any,
            Refused("cipher"),
        ),
        ("TLS 1.0, ECDSA", ancient(0x0301).suites(&[ECDHE_ECDSA_CBC]), &any, Openssl(Ecdsa)),
        ("SSL 3 admitted", ancient(0x0300).without(0), &any, Openssl(Rsa)),
        ("SSL 3, elliptic", ancient(0x0300).suites(&[ECDHE_RSA_CBC]), &any, Refused("cipher")),
        ("modern where all is admitted", modern(), &any, Rustls(Ecdsa)),
        ("older where all is admitted", older(), &any, Rustls(Ecdsa)),
        ("1.2 where 1.3 is asked", older(), &only13, Refused("tls_version_client_min TLS1_3")),
        ("1.3 where 1.3 is asked", modern(), &only13, Rustls(Ecdsa)),
        ("1.3 where 1.2 is the end", modern(), &only12, Rustls(Ecdsa)),
        (
            "only 1.3",
            modern().versions(&[0x0304]),
            &only12,
            Refused("tls_version_client_max TLS1_2"),
        ),
        ("compression too", Hello { compression: vec![1, 0], ..older() }, &default, Rustls(Ecdsa)),
        (
            "compression only",
            Hello { compression: vec![1], ..older() },
            &default,
            Refused("compression"),
        ),
        (
            "compression in 1.3",
            Hello { compression: vec![1, 0], ..modern() },
            &default,
            Refused("compression"),
        ),
        ("compressed points", older().set(11, vec![1, 1]), &default, Openssl(Rsa)),
        (
            "compressed points, ECDSA",
            older().set(11, vec![1, 1]).suites(&[ECDHE_ECDSA]),
            &default,
            Refused("signature"),
        ),
        ("twice", modern().twice(0), &default, Refused("twice")),
        ("malformed groups", modern().set(10, vec![0, 3, 1, 2, 3]), &default, Refused("malformed")),
        ("malformed versions", modern().set(43, vec![9, 3, 4]), &default, Refused("malformed")),
        ("cipher option, older", older().suites(&[ECDHE_RSA]), &cipher, Refused("ciphers_client")),
        ("cipher option, met", older().suites(&[0xc030]), &cipher, Rustls(Rsa)),
        ("cipher option, 1.3", modern(), &cipher, Rustls(Ecdsa)),
        ("curve option", modern(), &curve, Refused("tls_ecdh_curve_client")),
        ("curve option, met", modern().groups(&[X25519, 0x0018]), &curve, Rustls(Ecdsa)),
        ("curve of OpenSSL's, RSA", older(), &koblitz, Openssl(Rsa)),
        (
            "curve of OpenSSL's",
            older().suites(&[ECDHE_RSA]),
            &koblitz,
            Refused("tls_ecdh_curve_client"),
        ),
        ("curve of OpenSSL's, met", older().groups(&[SECP256K1, P256]), &koblitz, Openssl(Ecdsa)),
        ("curve of OpenSSL's, 1.3", modern().groups(&[SECP256K1]), &koblitz, Openssl(Rsa)),
        ("brainpool", older().groups(&[BRAINPOOL]), &brainpool, Openssl(Rsa)),
    ];
    let mut wrong = Vec::new();
    for (what, hello, options, expected) in cases {
        let downstream = Downstream::new(options).unwrap();
        let leaf = |wanted| &leaves.iter().find(|(kind, _)| *kind == wanted).unwrap().1;
        let rustls = [Ecdsa, Rsa].map(|kind| rustls_accepts(&hello, &downstream, leaf(kind)));
        let decision = hello.judge(options);
        let is_right = match (&decision, expected) {
            (Backend::Rustls(kind), Rustls(wanted)) => {
                *kind == wanted && rustls_accepts(&hello, &downstream, leaf(wanted))
            }
            (Backend::Openssl(kind), Openssl(wanted)) => *kind == wanted && rustls == [false; 2],
            (Backend::Unsupported(reason), Refused(part)) => {
                reason.to_string().contains(part) && rustls == [false; 2]
            }
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{what}: {decision:?}, not {expected:?}; rustls {rustls:?}"));
        }
        for kind in [Ecdsa, Rsa] {
            let refusal = openssl_refusal(&hello, &downstream, leaf(kind)).await;
            match (expected, &refusal) {
                (Openssl(wanted), Some(reason)) if wanted == kind => {
                    wrong.push(format!("{what}: OpenSSL refuses: {reason}"));
                }
                (Refused(_), None) => wrong.push(format!("{what}: OpenSSL takes it: {kind:?}")),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn settings_that_leave_nothing_are_reasons_by_themselves() {
    let options = TlsOptions::new(Side::Client);
    let empty = options.clone().with_versions(VersionLimit::Tls1_3, VersionLimit::Tls1_2);
    let nonsense = options.with_ciphers(Some("NONSENSE"));
    for (options, part) in
        [(empty, "tls_version_client_max TLS1_2"), (nonsense, "ciphers_client 'NONSENSE'")]
    {
        let Backend::Unsupported(reason) = Hello::modern().judge(&options) else {
            panic!("{options:?} is supported");
        };
        assert!(reason.to_string().contains(part), "{reason}");
    }
}
