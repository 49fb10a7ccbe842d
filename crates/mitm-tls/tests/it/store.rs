//! Custom certificates, copied facts, and the chain.

use std::{path::PathBuf, sync::Arc};

use mitm_flow::Cert;
use mitm_tls::{CertStore, CustomCertError, LeafRequest, UpstreamFacts, names_for_leaf};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, DnValue, IsCa, Issuer,
    KeyPair, SanType,
};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use crate::support::{ca, pem, request, store};

struct Made {
    cert: Cert,
    text: String,
}

fn made(names: &[&str], configure: impl FnOnce(&mut CertificateParams)) -> Made {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    configure(&mut params);
    let cert = params.self_signed(&key).unwrap();
    let text = key.serialize_pem() + &cert.pem();
    Made { cert: Cert::from_der(cert.der().to_vec()), text }
}

#[test]
fn custom_certificates_are_found_by_name_then_wildcard_then_star() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, made: &Made| {
        let path = dir.path().join(name);
        std::fs::write(&path, &made.text).unwrap();
        path
    };
    let exact = made(&["exact.example"], |_| {});
    let wild = made(&["other.invalid"], |_| {});
    let common = made(&["x.invalid"], |params| {
        params.distinguished_name.push(DnType::CommonName, "Common.Example");
    });
    let custom = vec![
        ("ignored.invalid".to_owned(), file("exact.pem", &exact)),
        ("*.example".to_owned(), file("wild.pem", &wild)),
        ("y.invalid".to_owned(), file("common.pem", &common)),
    ];
    let store = CertStore::new(ca(), custom.clone(), None).unwrap();
    let shown =
        |store: &CertStore, names: &[&str]| store.get(&request(names)).unwrap().cert.clone();
    assert_eq!(shown(&store, &["exact.example"]), exact.cert);
    assert_eq!(shown(&store, &["a.b.example"]), wild.cert);
    assert_eq!(shown(&store, &["common.example"]), common.cert);
    assert_eq!(shown(&store, &["a.invalid2", "exact.example"]), exact.cert);
    let generated = shown(&store, &["a.invalid2"]);
    assert!(![&exact.cert, &wild.cert, &common.cert].contains(&&generated));

    let star = made(&["z.invalid"], |_| {});
    let all = custom.into_iter().chain([("*".to_owned(), file("star.pem", &star))]);
    let store = CertStore::new(ca(), all, None).unwrap();
    assert_eq!(shown(&store, &["a.invalid2"]), star.cert);
    assert_eq!(shown(&store, &["exact.example"]), exact.cert);
    assert!(store.warnings().is_empty());
}

#[test]
fn custom_chains_are_sent_and_authorities_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let above = made(&[], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let own = made(&["a.example"], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let path = dir.path().join("chain.pem");
    std::fs::write(&path, format!("{}{}", own.text, pem(&above.cert))).unwrap();
    let store = CertStore::new(ca(), [("*".to_owned(), path)], None).unwrap();
    let leaf = store.get(&request(&["whatever.example"])).unwrap();
    assert_eq!(leaf.cert, own.cert);
    assert_eq!(leaf.chain, [above.cert]);
    assert_eq!(leaf.certified_key.cert.len(), 2);
    assert_eq!(store.warnings().len(), 1);
}

#[test]
fn unusable_custom_certificates_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (made(&["a.example"], |_| {}), made(&["b.example"], |_| {}));
    let new = |path: PathBuf| CertStore::new(ca(), [("*".to_owned(), path)], None).unwrap_err();
    let missing = dir.path().join("missing.pem");
    let error = new(missing.clone());
    assert!(matches!(error, CustomCertError::Missing(_)));
    assert_eq!(
        error.to_string(),
        format!("Certificate file does not exist: {}", missing.display())
    );
    for (content, expected) in [
        (pem(&a.cert), "Unable to find private key in "),
        (a.text.replace(&pem(&a.cert), &pem(&b.cert)), "Private and public keys in "),
        ("rubbish".to_owned(), "Unable to find private key in "),
    ] {
        let path = dir.path().join("bad.pem");
        std::fs::write(&path, content).unwrap();
        let text = new(path.clone()).to_string();
        let start = format!("Invalid certificate format for {}: {expected}", path.display());
        assert!(text.starts_with(&start), "{text}");
    }
}

#[test]
fn facts_of_the_server_are_carried_over() {
    let upstream = made(&["www.a.example", "*.b.example", "192.0.2.7"], |params| {
        params.distinguished_name.push(DnType::CommonName, "A Server");
        params.distinguished_name.push(DnType::OrganizationName, "Örg");
        params.subject_alt_names.push(SanType::Rfc822Name("me@a.example".try_into().unwrap()));
        params.crl_distribution_points = vec![CrlDistributionPoint {
            uris: vec!["http://crl.a.example:8080/x/y.crl?z".to_owned()],
        }];
    });
    let facts = UpstreamFacts::of(&upstream.cert);
    assert_eq!(facts.organization.as_deref(), Some("Örg"));
    assert_eq!(facts.crl_origin.as_deref(), Some("http://crl.a.example:8080"));

    let store = store();
    let leaf = store
        .get(&LeafRequest {
            names: names_for_leaf(Some(&facts), Some("sni.example"), None, Some("192.0.2.9")),
            organization: facts.organization.clone(),
            crl_url: store.crl_url(&facts),
            upstream_chain: vec![upstream.cert.clone()],
            ..LeafRequest::default()
        })
        .unwrap();
    assert_eq!(leaf.chain.last(), Some(&upstream.cert));
    assert_eq!(leaf.chain.len(), 2);

    let (_, parsed) = X509Certificate::from_der(leaf.cert.der()).unwrap();
    let subject: Vec<_> =
        parsed.subject().iter_attributes().map(|attribute| attribute.as_str().unwrap()).collect();
    assert_eq!(subject, ["A Server", "Örg"]);
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(
        names[..],
        [
            GeneralName::DNSName("www.a.example"),
            GeneralName::DNSName("*.b.example"),
            GeneralName::IPAddress(&[192, 0, 2, 7]),
            GeneralName::RFC822Name("me@a.example"),
            GeneralName::DNSName("sni.example"),
            GeneralName::IPAddress(&[192, 0, 2, 9]),
        ]
    );
    assert_eq!(UpstreamFacts::of(&leaf.cert).crl_origin.as_deref(), facts.crl_origin.as_deref());
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert!(parsed.basic_constraints().unwrap().is_none());
    assert!(parsed.key_usage().unwrap().is_none());
    let ids = parsed.iter_extensions().filter(|extension| {
        matches!(extension.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_))
    });
    assert_eq!(ids.count(), 1);
}

#[test]
fn hostile_server_certificates_make_no_huge_leaves() {
    let names: Vec<String> = (0..4_000).map(|i| format!("name-number-{i}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let upstream = made(&names, |params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, DnValue::Utf8String("x".repeat(100_000)));
    });
    let facts = UpstreamFacts::of(&upstream.cert);
    assert!(facts.organization.is_none());
    let names = names_for_leaf(Some(&facts), Some("sni.example"), None, None);
    let leaf = store().get(&LeafRequest { names, ..LeafRequest::default() }).unwrap();
    assert!(leaf.cert.der().len() < 60_000);
    let (_, parsed) = X509Certificate::from_der(leaf.cert.der()).unwrap();
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.last(), Some(&GeneralName::DNSName("sni.example")));
    assert_eq!(UpstreamFacts::of(&Cert::from_der(vec![0x30, 0x80])), UpstreamFacts::default());
}

#[test]
fn an_authority_with_an_odd_name_is_named_byte_for_byte() {
    // Two attributes of one type, an unusual string type, and no key identifier.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (oid, value) in
        [(vec![0, 9, 2342, 19_200_300, 100, 1, 25], "example"), (vec![2, 5, 4, 11], "Unit")]
    {
        let value = DnValue::Ia5String(value.try_into().unwrap());
        params.distinguished_name.push(DnType::CustomDnType(oid), value);
    }
    let cert = params.self_signed(&key).unwrap();
    let text = key.serialize_pem() + &cert.pem();
    let ca = mitm_tls::CertificateAuthority::from_pem(text.as_bytes(), None).unwrap();
    let leaf = CertStore::new(Arc::new(ca), [], None).unwrap().get(&request(&["a.example"]));
    let leaf = leaf.unwrap();
    assert!(leaf.chain.is_empty(), "an ECDSA authority signs itself");
    let (_, above) = X509Certificate::from_der(cert.der()).unwrap();
    let (_, below) = X509Certificate::from_der(leaf.cert.der()).unwrap();
    assert_eq!(below.issuer().as_raw(), above.subject().as_raw());
    below.verify_signature(Some(above.public_key())).unwrap();
}

/// An RSA authority below a root.
fn below_a_root(constraint: BasicConstraints) -> (CertStore, Cert) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(constraint);
    let root_cert = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "below the root");
    let cert = params.signed_by(&key, &issuer).unwrap();
    let text = key.serialize_pem() + &cert.pem() + &root_cert.pem();
    let ca = mitm_tls::CertificateAuthority::from_pem(text.as_bytes(), None).unwrap();
    assert_eq!(ca.chain().len(), 1);
    let store = CertStore::new(Arc::new(ca), [], None).unwrap();
    (store, Cert::from_der(root_cert.der().to_vec()))
}

#[test]
fn the_chain_above_the_authority_is_sent() {
    // The leaf is followed by our issuer, where the root leaves room for it, the authority, the root.
    for (constraint, sent) in [
        (BasicConstraints::Unconstrained, 3),
        (BasicConstraints::Constrained(2), 3),
        (BasicConstraints::Constrained(1), 2),
        (BasicConstraints::Constrained(0), 2),
    ] {
        let (store, root) = below_a_root(constraint);
        let leaf = store.get(&request(&["a.example"])).unwrap();
        assert_eq!(leaf.chain.len(), sent, "{constraint:?}");
        let client = crate::support::client(&root, &[&rustls::version::TLS13]);
        let options = mitm_tls::TlsOptions::new(mitm_tls::Side::Client);
        let server = mitm_tls::Downstream::new(&options).unwrap().config(&leaf, None);
        let name = crate::support::name("a.example");
        crate::support::handshake(Arc::new(client), server, name).unwrap();
    }
}

#[tokio::test]
async fn one_leaf_is_minted_for_many_askers() {
    let store = Arc::new(store());
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        let request = LeafRequest { key: mitm_tls::KeyKind::Rsa, ..request(&["a.example"]) };
        tasks.push(tokio::spawn(async move { store.get_async(request).await.unwrap() }));
    }
    let mut leaves = Vec::new();
    for task in tasks {
        leaves.push(task.await.unwrap());
    }
    assert!(leaves.iter().all(|leaf| Arc::ptr_eq(leaf, &leaves[0])));
}
