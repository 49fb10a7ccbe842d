//! Handshakes with clients.

use std::sync::Arc;

use bytes::Bytes;
use mitm_flow::{Cert, connection::TlsVersion};
use mitm_tls::{
    Downstream, KeyKind, LeafRequest, Severity, Side, TlsOptions, VersionLimit, client_facts,
    describe_client_tls_error, server_facts,
};
use rustls::{
    CipherSuite, ClientConfig, RootCertStore, SignatureScheme,
    client::WebPkiServerVerifier,
    crypto::aws_lc_rs,
    version::{TLS12, TLS13},
};

use crate::support::{Refused, ca, client, handshake, name, request, store};

fn downstream() -> Downstream {
    Downstream::new(&TlsOptions::new(Side::Client)).unwrap()
}

#[test]
fn a_client_that_trusts_the_authority_is_satisfied() {
    let leaf = store().get(&request(&["a.example", "192.0.2.1"])).unwrap();
    let downstream = downstream();
    for (version, tls) in [(&TLS12, TlsVersion::Tls1_2), (&TLS13, TlsVersion::Tls1_3)] {
        let mut config = client(ca().cert(), &[version]);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        for host in ["a.example", "192.0.2.1"] {
            let server = downstream.config(&leaf, Some(b"http/1.1"));
            let pair = handshake(Arc::clone(&config), server, name(host)).unwrap();
            let offers = ["h2", "http/1.1"].map(Bytes::from);
            let facts = server_facts(&pair.client, Some(host), &offers);
            assert_eq!(facts.version, Some(tls));
            assert_eq!(facts.alpn.as_deref(), Some(&b"http/1.1"[..]));
            assert_eq!(facts.certificate_list.len(), 2);
            assert_eq!(facts.certificate_list[0], leaf.cert);
            let ours = client_facts(&pair.server, Some(host), &offers, &[0x1301]);
            assert_eq!(ours.cipher, facts.cipher);
            assert_eq!(ours.cipher_list[..], ["TLS_AES_128_GCM_SHA256".into()]);
            assert!(ours.certificate_list.is_empty());
        }
    }
}

#[test]
fn no_protocol_is_promised_unless_chosen() {
    let leaf = store().get(&request(&["a.example"])).unwrap();
    let mut config = client(ca().cert(), &[&TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let pair = handshake(Arc::new(config), downstream().config(&leaf, None), name("a.example"));
    let facts = server_facts(&pair.unwrap().client, None, &[]);
    assert_eq!(facts.alpn.as_deref(), Some(&b""[..]));
}

#[test]
fn clients_without_ecdsa_get_an_rsa_leaf_from_the_authority_itself() {
    let leaf = store().get(&LeafRequest { key: KeyKind::Rsa, ..request(&["a.example"]) }).unwrap();
    assert!(leaf.chain.is_empty());
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256);
    let mut roots = RootCertStore::empty();
    roots.add(ca().cert().der().to_vec().into()).unwrap();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::new(provider.clone()));
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_webpki_verifier(verifier.build().unwrap())
        .with_no_client_auth();
    let pair =
        handshake(Arc::new(config), downstream().config(&leaf, None), name("a.example")).unwrap();
    let facts = server_facts(&pair.client, None, &[]);
    assert_eq!(facts.cipher.as_deref(), Some("ECDHE-RSA-AES128-GCM-SHA256"));
    assert_eq!(facts.certificate_list.len(), 1);
    assert!(leaf.certified_key.key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).is_some());
}

#[test]
fn sessions_are_resumed_across_configurations_and_keep_their_facts() {
    let store = store();
    for version in [&TLS12, &TLS13] {
        let downstream = downstream();
        let mut config = client(ca().cert(), &[version]);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let connect = |organization: &str| {
            // Another certificate for the same name does not stand in the way.
            let leaf = store.get(&LeafRequest {
                organization: Some(organization.into()),
                ..request(&["a.example"])
            });
            let server = downstream.config(&leaf.unwrap(), Some(b"http/1.1"));
            handshake(Arc::clone(&config), server, name("a.example")).unwrap()
        };
        assert!(!connect("A").is_resumed());
        let resumed = connect("B");
        assert!(resumed.is_resumed(), "{version:?}");
        let facts = server_facts(&resumed.client, None, &[]);
        assert_eq!(facts.certificate_list.len(), 2);
        assert_eq!(facts.alpn.as_deref(), Some(&b"http/1.1"[..]));
        assert!(facts.cipher.is_some() && facts.version.is_some());
    }
}

#[test]
fn client_certificates_are_asked_for_and_any_is_taken() {
    let leaf = store().get(&request(&["a.example"])).unwrap();
    let options = TlsOptions::new(Side::Client).with_request_client_cert(true);
    let downstream = Downstream::new(&options).unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
    for version in [&TLS12, &TLS13] {
        let without = Arc::new(client(ca().cert(), &[version]));
        let server = downstream.config(&leaf, None);
        let pair = handshake(without, server, name("a.example")).unwrap();
        assert!(client_facts(&pair.server, None, &[], &[]).certificate_list.is_empty());

        let mut roots = RootCertStore::empty();
        roots.add(ca().cert().der().to_vec().into()).unwrap();
        let with = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![own.cert.der().clone()],
                own.signing_key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
        let with = Arc::new(with);
        for resumed in [false, true] {
            let server = downstream.config(&leaf, None);
            let pair = handshake(Arc::clone(&with), server, name("a.example")).unwrap();
            assert_eq!(pair.is_resumed(), resumed);
            let facts = client_facts(&pair.server, None, &[], &[]);
            assert_eq!(facts.certificate_list[..], [Cert::from_der(own.cert.der().to_vec())]);
        }
    }
}

#[test]
fn a_client_that_does_not_trust_us_is_understood() {
    let leaf = store().get(&request(&["a.example"])).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
    let other = Cert::from_der(other.cert.der().to_vec());
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(client(&other, &[version]));
        let server = downstream().config(&leaf, None);
        let Err(Refused::ByClient(_, Some(seen))) = handshake(config, server, name("a.example"))
        else {
            panic!("not refused by the client");
        };
        let failure = describe_client_tls_error(&seen, "a.example");
        assert_eq!(failure.severity, Severity::Warn);
        let expected = "does not trust the proxy's certificate for a.example (alert unknown ca)";
        assert!(failure.message.contains(expected), "{}", failure.message);
    }
}

#[test]
fn no_common_version_names_the_option() {
    let leaf = store().get(&request(&["a.example"])).unwrap();
    let options =
        TlsOptions::new(Side::Client).with_versions(VersionLimit::Tls1_3, VersionLimit::Unbounded);
    let server = Downstream::new(&options).unwrap().config(&leaf, None);
    let config = Arc::new(client(ca().cert(), &[&TLS12]));
    let Err(Refused::ByServer(error)) = handshake(config, server, name("a.example")) else {
        panic!("not refused by the server");
    };
    let failure = describe_client_tls_error(&error, "a.example");
    assert!(failure.message.contains("tls_version_client_min"), "{}", failure.message);
}
