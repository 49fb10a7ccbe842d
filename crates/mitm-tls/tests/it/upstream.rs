//! Handshakes with servers.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use mitm_flow::connection::Address;
use mitm_tls::{
    Side, TlsOptions, Upstream, UpstreamKey, Verification, VersionLimit, describe_server_tls_error,
    server_facts,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use crate::support::{Pair, Refused, handshake};

struct Server {
    cert: rcgen::Certificate,
    key: KeyPair,
}

impl Server {
    fn new(names: &[&str], configure: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        configure(&mut params);
        let cert = params.self_signed(&key).unwrap();
        Self { cert, key }
    }

    fn config(&self, version: &'static rustls::SupportedProtocolVersion) -> ServerConfig {
        ServerConfig::builder_with_protocol_versions(&[version])
            .with_no_client_auth()
            .with_single_cert(
                vec![self.cert.der().clone()],
                self.key.serialize_der().try_into().unwrap(),
            )
            .unwrap()
    }

    fn save(&self, path: &Path) {
        std::fs::write(path, self.cert.pem()).unwrap();
    }
}

fn upstream(verification: Verification) -> Upstream {
    Upstream::new(&TlsOptions::new(Side::Server), verification, None).unwrap()
}

fn trusting(path: &Path) -> Upstream {
    upstream(Verification::Trusted { file: Some(path.to_owned()), dir: None })
}

fn connect(upstream: &Upstream, host: &str, server: &Arc<ServerConfig>) -> Result<Pair, String> {
    let config = upstream.config(&UpstreamKey::new(Address::new(host, 443))).unwrap();
    handshake(config.config, Arc::clone(server), config.server_name).map_err(
        |refused| match refused {
            Refused::ByClient(error, _) | Refused::ByServer(error) => {
                describe_server_tls_error(&error, host)
            }
        },
    )
}

#[test]
fn trusted_self_signed_certificates_verify() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trusted.pem");
    for ca in [IsCa::NoCa, IsCa::ExplicitNoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let server = Server::new(&["a.example", "192.0.2.1"], |params| params.is_ca = ca);
        server.save(&path);
        for version in [&TLS12, &TLS13] {
            let config = Arc::new(server.config(version));
            for host in ["a.example", "192.0.2.1"] {
                connect(&trusting(&path), host, &config).unwrap();
            }
            let error = connect(&trusting(&path), "b.example", &config).err().unwrap();
            assert!(
                error.starts_with(
                    "Certificate verify failed: hostname mismatch, certificate is not valid for \
                     'b.example'"
                ),
                "{error}"
            );
            let error = connect(&trusting(&path), "192.0.2.2", &config).err().unwrap();
            assert!(error.contains("IP address mismatch"), "{error}");
        }
    }
}

#[test]
fn untrusted_certificates_are_refused_with_host_and_option() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trusted.pem");
    Server::new(&["a.example"], |_| {}).save(&path);
    for ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let other = Server::new(&["a.example"], |params| params.is_ca = ca);
        let config = Arc::new(other.config(&TLS13));
        for upstream in [trusting(&path), upstream(Verification::Roots)] {
            let error = connect(&upstream, "a.example", &config).err().unwrap();
            assert!(
                error.starts_with("Certificate verify failed: self-signed certificate."),
                "{error}"
            );
            for part in ["a.example", "ssl_insecure", "ssl_verify_upstream_trusted_ca"] {
                assert!(error.contains(part), "{error}");
            }
        }
        connect(&upstream(Verification::Insecure), "b.example", &config).unwrap();
    }
}

#[test]
fn other_reasons_have_their_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trusted.pem");
    let expired =
        Server::new(&["a.example"], |params| params.not_after = date_time_ymd(2001, 1, 1));
    expired.save(&path);
    let error = connect(&trusting(&path), "a.example", &expired.config(&TLS13).into());
    assert!(error.err().unwrap().contains("certificate has expired"));
    let early = Server::new(&["a.example"], |params| params.not_before = date_time_ymd(4000, 1, 1));
    early.save(&path);
    let error = connect(&trusting(&path), "a.example", &early.config(&TLS13).into());
    assert!(error.err().unwrap().contains("not yet valid"));

    let leaf = crate::support::store().get(&crate::support::request(&["a.example"])).unwrap();
    let downstream = mitm_tls::Downstream::new(&TlsOptions::new(Side::Client)).unwrap();
    let config = downstream.config(&leaf, None);
    let error = connect(&trusting(&path), "a.example", &config).err().unwrap();
    assert!(error.contains("unable to get local issuer certificate"), "{error}");
    std::fs::write(&path, crate::support::pem(crate::support::ca().cert())).unwrap();
    connect(&trusting(&path), "a.example", &config).unwrap();
}

#[test]
fn names_in_the_subject_alone_are_not_enough() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trusted.pem");
    let server = Server::new(&[], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "a.example");
    });
    server.save(&path);
    let error = connect(&trusting(&path), "a.example", &server.config(&TLS13).into());
    assert!(error.err().unwrap().contains("hostname mismatch"));
}

#[test]
fn directories_of_authorities_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(&["a.example"], |_| {});
    let config: Arc<_> = server.config(&TLS13).into();
    let trusting =
        || upstream(Verification::Trusted { file: None, dir: Some(dir.path().to_owned()) });
    std::fs::write(dir.path().join("notes.txt"), "no certificate").unwrap();
    assert!(connect(&trusting(), "a.example", &config).is_err());
    server.save(&dir.path().join("plain.pem"));
    connect(&trusting(), "a.example", &config).unwrap();
    // Once there are hashed names, only they count.
    Server::new(&["b.example"], |_| {}).save(&dir.path().join("0123abcd.0"));
    assert!(connect(&trusting(), "a.example", &config).is_err());
    // Keys in such files do not matter, not even locked ones.
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(dir.path().join("0123abcd.1"), locked.to_owned() + &server.cert.pem()).unwrap();
    connect(&trusting(), "a.example", &config).unwrap();
}

#[test]
fn sessions_are_resumed_per_place_and_keep_their_facts() {
    let server = Server::new(&["a.example"], |_| {});
    for version in [&TLS12, &TLS13] {
        let upstream = upstream(Verification::Insecure);
        let mut config = server.config(version);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let mut key = UpstreamKey::new(Address::new("a.example", 443));
        key.alpn = vec![Bytes::from("http/1.1")];
        let mut connect = |port| {
            key.address.port = port;
            let ours = upstream.config(&key).unwrap();
            handshake(ours.config, Arc::clone(&config), ours.server_name).unwrap()
        };
        assert!(!connect(443).is_resumed());
        let resumed = connect(443);
        assert!(resumed.is_resumed(), "{version:?}");
        let facts = server_facts(&resumed.client, Some("a.example"), &[Bytes::from("http/1.1")]);
        assert_eq!(facts.certificate_list.len(), 1);
        assert_eq!(facts.alpn.as_deref(), Some(&b"http/1.1"[..]));
        assert!(!connect(444).is_resumed(), "another port is another place");
    }
}

#[test]
fn refusals_for_versions_name_the_option() {
    let server = Server::new(&["a.example"], |_| {});
    let options =
        TlsOptions::new(Side::Server).with_versions(VersionLimit::Tls1_3, VersionLimit::Unbounded);
    let upstream = Upstream::new(&options, Verification::Insecure, None).unwrap();
    let config = upstream.config(&UpstreamKey::new(Address::new("a.example", 443))).unwrap();
    let error = handshake(config.config, server.config(&TLS12).into(), config.server_name);
    let Err(Refused::ByServer(error)) = error else { panic!("not refused") };
    assert!(matches!(error, rustls::Error::PeerIncompatible(_)));
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion);
    assert!(describe_server_tls_error(&alert, "a.example").contains("tls_version_server_min"));
}

#[test]
fn a_missing_client_certificate_is_noticed_by_strict_servers() {
    let own = Server::new(&["client"], |_| {});
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let server = Server::new(&["a.example"], |_| {});
    let verifier = WebPkiClientVerifier::builder(roots.into()).build().unwrap();
    let strict = ServerConfig::builder_with_protocol_versions(&[&TLS12])
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![server.cert.der().clone()],
            server.key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    assert!(connect(&upstream(Verification::Insecure), "a.example", &strict.into()).is_err());
}
