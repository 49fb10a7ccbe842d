//! Handshakes over OpenSSL, with itself and with rustls, in memory.

use std::{fs, io, path::Path, sync::Arc};

use bytes::Bytes;
use mitm_flow::connection::{Address, TlsVersion};
use mitm_tls::{
    Downstream, KeyKind, Leaf, LeafRequest, OpensslStream, Side, TlsOptions, Upstream,
    UpstreamChoice, UpstreamKey, Verification, VersionLimit, describe_client_error,
    describe_server_error, openssl_client_facts, openssl_server_facts,
};
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use crate::support::{ca, client, have_openssl, openssl, pem, request, store};

type Stream = OpensslStream<DuplexStream>;

fn leaf(name: &str, key: KeyKind) -> Arc<Leaf> {
    store().get(&LeafRequest { key, ..request(&[name]) }).unwrap()
}

fn options(side: Side, version: VersionLimit) -> TlsOptions {
    TlsOptions::new(side).with_versions(version, version)
}

/// An upstream that trusts the authority of [`leaf`].
fn trusting(dir: &Path, options: &TlsOptions) -> Upstream {
    let path = dir.join("trusted.pem");
    fs::write(&path, pem(ca().cert())).unwrap();
    Upstream::new(options, Verification::Trusted { file: Some(path), dir: None }, None).unwrap()
}

fn insecure(options: &TlsOptions) -> Upstream {
    Upstream::new(options, Verification::Insecure, None).unwrap()
}

fn key(host: &str) -> UpstreamKey {
    UpstreamKey { alpn: vec![Bytes::from("http/1.1")], ..UpstreamKey::new(Address::new(host, 443)) }
}

/// Shakes hands; returns what each side made of it.
async fn meet(
    upstream: &Upstream,
    host: &str,
    downstream: &Downstream,
    leaf: &Arc<Leaf>,
) -> (io::Result<Stream>, io::Result<Stream>) {
    let (near, far) = duplex(4096);
    let connector = upstream.fallback(&key(host)).unwrap();
    let acceptor = downstream.openssl(leaf, Some(b"http/1.1")).unwrap();
    tokio::join!(connector.connect(near), acceptor.accept(far))
}

#[tokio::test]
async fn every_version_is_spoken_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    for (limit, version, kind) in [
        (VersionLimit::Ssl3, TlsVersion::Ssl3, KeyKind::Rsa),
        (VersionLimit::Tls1, TlsVersion::Tls1, KeyKind::Rsa),
        (VersionLimit::Tls1_1, TlsVersion::Tls1_1, KeyKind::Ecdsa),
        (VersionLimit::Tls1_2, TlsVersion::Tls1_2, KeyKind::Ecdsa),
        (VersionLimit::Tls1_3, TlsVersion::Tls1_3, KeyKind::Rsa),
    ] {
        let upstream = trusting(dir.path(), &options(Side::Server, limit));
        let downstream = Downstream::new(&options(Side::Client, limit)).unwrap();
        let leaf = leaf("a.example", kind);
        let (near, far) = meet(&upstream, "a.example", &downstream, &leaf).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        let facts = openssl_server_facts(&near, Some("a.example"), &[]);
        assert_eq!(facts.version, Some(version));
        assert_eq!(facts.certificate_list.first(), Some(&leaf.cert));
        assert_eq!(facts.certificate_list.len(), 1 + leaf.chain.len());
        assert!(facts.cipher.is_some_and(|cipher| !cipher.starts_with("0x")));
        // Extensions came with TLS.
        let alpn: &[u8] = if limit == VersionLimit::Ssl3 { b"" } else { b"http/1.1" };
        assert_eq!(facts.alpn.as_deref(), Some(alpn), "{limit}");
        assert_eq!(openssl_client_facts(&far, None, &[], &[]).version, Some(version));

        // Both directions at once, more than either holds.
        let body = vec![7; 1 << 20];
        let echoed = async {
            let mut received = vec![0; body.len()];
            let (mut read, mut write) = tokio::io::split(&mut near);
            let writing = async {
                write.write_all(&body).await.unwrap();
                write.flush().await.unwrap();
                write.shutdown().await.unwrap();
            };
            tokio::join!(writing, async { read.read_exact(&mut received).await.unwrap() });
            assert_eq!(received, body);
            // The other side ends in its own time.
            assert_eq!(read.read(&mut [0; 1]).await.unwrap(), 0);
        };
        let echo = async {
            let (mut read, mut write) = tokio::io::split(&mut far);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(echoed, echo);
    }
}

#[tokio::test]
async fn an_end_without_a_word_is_told_from_a_proper_one() {
    let downstream = Downstream::new(&TlsOptions::new(Side::Client)).unwrap();
    let upstream = insecure(&TlsOptions::new(Side::Server));
    let (near, far) =
        meet(&upstream, "a.example", &downstream, &leaf("a.example", KeyKind::Ecdsa)).await;
    let mut near = near.unwrap();
    drop(far.unwrap());
    let error = near.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn certificates_are_judged_as_with_rustls() {
    let dir = tempfile::tempdir().unwrap();
    let server = TlsOptions::new(Side::Server);
    let downstream = Downstream::new(&TlsOptions::new(Side::Client)).unwrap();
    for kind in [KeyKind::Ecdsa, KeyKind::Rsa] {
        let leaf = leaf("a.example", kind);
        let upstream = trusting(dir.path(), &server);
        meet(&upstream, "a.example", &downstream, &leaf).await.0.unwrap();
        let (near, far) = meet(&upstream, "b.example", &downstream, &leaf).await;
        let error = describe_server_error(&near.unwrap_err(), "b.example");
        assert!(
            error.starts_with(
                "Certificate verify failed: hostname mismatch, certificate is not valid for \
                 'b.example'"
            ),
            "{error}"
        );
        let message = describe_client_error(&far.unwrap_err(), "b.example").message;
        assert!(message.contains("does not trust the proxy's certificate"), "{message}");
        let roots = Upstream::new(&server, Verification::Roots, None).unwrap();
        let (near, _) = meet(&roots, "a.example", &downstream, &leaf).await;
        let error = describe_server_error(&near.unwrap_err(), "a.example");
        assert!(error.contains("unable to get local issuer certificate"), "{error}");
        meet(&insecure(&server), "b.example", &downstream, &leaf).await.0.unwrap();
    }
    let leaf = leaf("192.0.2.1", KeyKind::Ecdsa);
    let upstream = trusting(dir.path(), &server);
    meet(&upstream, "192.0.2.1", &downstream, &leaf).await.0.unwrap();
    let (near, _) = meet(&upstream, "192.0.2.2", &downstream, &leaf).await;
    assert!(describe_server_error(&near.unwrap_err(), "x").contains("IP address mismatch"));
}

/// Without a certificate there is nothing that the library would verify.
#[tokio::test]
async fn servers_without_certificates_are_not_met() {
    let dir = tempfile::tempdir().unwrap();
    let leaf = leaf("a.example", KeyKind::Rsa);
    for (min, ours) in [
        (VersionLimit::Tls1_2, "ALL:@SECLEVEL=0"),
        (VersionLimit::Tls1, "HIGH"),
        (VersionLimit::Tls1_2, "ADH-AES256-SHA256 AES256-SHA256 @SECLEVEL=0"),
    ] {
        let server = TlsOptions::new(Side::Server).with_versions(min, VersionLimit::Tls1_2);
        let server = server.with_ciphers(Some(ours));
        let theirs = "ADH-AES256-SHA256:AES256-SHA256:@SECLEVEL=0";
        let client = options(Side::Client, VersionLimit::Tls1_2).with_ciphers(Some(theirs));
        let downstream = Downstream::new(&client).unwrap();
        let (near, _far) = meet(&insecure(&server), "b.example", &downstream, &leaf).await;
        let cipher = openssl_server_facts(&near.unwrap(), None, &[]).cipher;
        // ADH-AES256-SHA256: the case is a real one.
        assert_eq!(cipher.as_deref(), Some("0x006D"));

        let upstream = trusting(dir.path(), &server);
        let (near, _far) = meet(&upstream, "a.example", &downstream, &leaf).await;
        let cipher = openssl_server_facts(&near.unwrap(), None, &[]).cipher;
        assert_eq!(cipher.as_deref(), Some("AES256-SHA256"));
        let (near, _far) = meet(&upstream, "b.example", &downstream, &leaf).await;
        let error = describe_server_error(&near.unwrap_err(), "b.example");
        assert!(error.contains("hostname mismatch"), "{error}");
    }
}

#[tokio::test]
async fn refusals_name_the_option() {
    let leaf = leaf("a.example", KeyKind::Rsa);
    let upstream = insecure(&options(Side::Server, VersionLimit::Tls1));
    let downstream = Downstream::new(&TlsOptions::new(Side::Client)).unwrap();
    let (near, far) = meet(&upstream, "a.example", &downstream, &leaf).await;
    let message = describe_client_error(&far.unwrap_err(), "a.example").message;
    assert!(message.contains("tls_version_client_min"), "{message}");
    let message = describe_server_error(&near.unwrap_err(), "a.example");
    assert!(message.contains("tls_version_server_min"), "{message}");

    let (near, mut far) = duplex(4096);
    let connector = upstream.fallback(&key("a.example")).unwrap();
    let plain = async {
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        assert_ne!(far.read(&mut [0; 512]).await.unwrap(), 0);
    };
    let (result, ()) = tokio::join!(connector.connect(near), plain);
    let message = describe_server_error(&result.unwrap_err(), "a.example");
    assert_eq!(message, "The remote server does not speak TLS.");

    let (near, far) = duplex(4096);
    drop(far);
    let error = connector.connect(near).await.unwrap_err();
    assert_eq!(describe_server_error(&error, "a.example"), "connection closed");
}

#[tokio::test]
async fn a_client_of_rustls_is_served_too() {
    let downstream = Downstream::new(&TlsOptions::new(Side::Client)).unwrap();
    let acceptor = downstream.openssl(&leaf("a.example", KeyKind::Ecdsa), None).unwrap();
    let (near, far) = duplex(4096);
    let server = tokio::spawn(async move {
        let mut stream = acceptor.accept(far).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let config = client(ca().cert(), &[&rustls::version::TLS13]);
    let text = tokio::task::spawn_blocking(move || {
        let mut connection =
            rustls::ClientConnection::new(Arc::new(config), crate::support::name("a.example"))
                .unwrap();
        let mut io = blocking(near);
        let mut text = String::new();
        io::Read::read_to_string(&mut rustls::Stream::new(&mut connection, &mut io), &mut text)
            .unwrap();
        text
    });
    assert_eq!(text.await.unwrap(), "hello");
    server.await.unwrap();
}

fn blocking(io: DuplexStream) -> impl io::Read + io::Write {
    struct Blocking(DuplexStream, tokio::runtime::Handle);

    impl io::Read for Blocking {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1.block_on(self.0.read(buf))
        }
    }

    impl io::Write for Blocking {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.1.block_on(self.0.write(buf))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    Blocking(io, tokio::runtime::Handle::current())
}

/// A client certificate with its key, in one PEM text.
fn identity() -> String {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&key);
    key.serialize_pem() + &cert.unwrap().pem()
}

#[tokio::test]
async fn client_certificates_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.example.pem");
    fs::write(&file, identity()).unwrap();
    let options = TlsOptions::new(Side::Server);
    for version in [VersionLimit::Tls1_2, VersionLimit::Tls1_3] {
        let asking = self::options(Side::Client, version).with_request_client_cert(true);
        let downstream = Downstream::new(&asking).unwrap();
        for (certs, host, shown) in [
            (file.as_path(), "any.example", 1),
            (dir.path(), "a.example", 1),
            (dir.path(), "b.example", 0),
        ] {
            let certs = Some(certs.to_owned());
            let upstream = Upstream::new(&options, Verification::Insecure, certs).unwrap();
            let choice = upstream.choose(&key(host)).unwrap();
            assert_eq!(matches!(choice, UpstreamChoice::Openssl(_)), shown == 1, "{host}");
            let leaf = leaf(host, KeyKind::Ecdsa);
            let (near, far) = meet(&upstream, host, &downstream, &leaf).await;
            near.unwrap();
            let facts = openssl_client_facts(&far.unwrap(), None, &[], &[]);
            assert_eq!(facts.certificate_list.len(), shown, "{host}");
        }
    }
    let bad = dir.path().join("bad.pem");
    fs::write(&bad, pem(ca().cert())).unwrap();
    let error = Upstream::new(&options, Verification::Insecure, Some(bad.clone())).unwrap_err();
    assert!(error.to_string().contains("Unable to find private key in"), "{error}");
    let other = KeyPair::generate().unwrap().serialize_pem() + &pem(ca().cert());
    fs::write(&bad, other).unwrap();
    let error = Upstream::new(&options, Verification::Insecure, Some(bad)).unwrap_err();
    assert!(error.to_string().contains("do not match"), "{error}");
}

#[test]
fn encrypted_keys_of_client_certificates_need_their_passphrase() {
    if !have_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("plain.pem"), identity()).unwrap();
    for encrypt in [
        &["pkey", "-in", "plain.pem", "-aes256", "-passout", "pass:secret", "-out", "key.pem"][..],
        &["ec", "-in", "plain.pem", "-aes128", "-passout", "pass:secret", "-out", "key.pem"],
    ] {
        openssl(dir.path(), encrypt);
        openssl(dir.path(), &["x509", "-in", "plain.pem", "-out", "cert.pem"]);
        let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        let path = dir.path().join("both.pem");
        fs::write(&path, read("key.pem") + &read("cert.pem")).unwrap();
        let upstream = |passphrase| {
            Upstream::with_passphrase(
                &TlsOptions::new(Side::Server),
                Verification::Insecure,
                Some(path.clone()),
                passphrase,
            )
        };
        upstream(Some("secret")).unwrap();
        let error = upstream(Some("wrong")).unwrap_err().to_string();
        assert!(error.contains("passphrase does not fit"), "{error}");
        let error = upstream(None).unwrap_err().to_string();
        assert!(error.contains("cert_passphrase"), "{error}");
    }
}

#[tokio::test]
async fn ciphers_and_curves_are_those_of_the_options() {
    let tls12 = |side| options(side, VersionLimit::Tls1_2);
    let leaf = leaf("a.example", KeyKind::Rsa);
    for (ciphers, curve, expected) in [
        ("RC4-SHA:@SECLEVEL=0", None, "RC4-SHA"),
        ("DES-CBC3-SHA", None, "DES-CBC3-SHA"),
        ("kDHE+AES128:!SHA1", None, "DHE-RSA-AES128-GCM-SHA256"),
        ("ECDHE-RSA-AES256-SHA", Some("secp256k1"), "ECDHE-RSA-AES256-SHA"),
        ("ECDHE-RSA-AES256-SHA", Some("brainpoolP512r1"), "ECDHE-RSA-AES256-SHA"),
        ("ECDHE-RSA-AES256-SHA:@SECLEVEL=0", Some("secp192r1"), "ECDHE-RSA-AES256-SHA"),
        ("ECDHE-RSA-AES256-SHA:@SECLEVEL=0", Some("secp224r1"), "ECDHE-RSA-AES256-SHA"),
    ] {
        let with = |side| tls12(side).with_ciphers(Some(ciphers)).with_curve(curve).unwrap();
        let downstream = Downstream::new(&with(Side::Client)).unwrap();
        let (near, _far) =
            meet(&insecure(&with(Side::Server)), "a.example", &downstream, &leaf).await;
        let facts = openssl_server_facts(&near.unwrap(), None, &[]);
        assert_eq!(facts.cipher.as_deref(), Some(expected));
        let other = with(Side::Server).with_ciphers(Some("AES256-SHA256")).with_curve(None);
        let (near, far) = meet(&insecure(&other.unwrap()), "a.example", &downstream, &leaf).await;
        assert!(near.is_err());
        let message = describe_client_error(&far.unwrap_err(), "a.example").message;
        assert!(message.contains("ciphers_client"), "{message}");
    }
}

#[tokio::test]
async fn unusable_diffie_hellman_parameters_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Side::Client, VersionLimit::Tls1_2).with_ciphers(Some("DHE"));
    let leaf = leaf("a.example", KeyKind::Rsa);
    for content in [None, Some("nonsense")] {
        let path = dir.path().join("dhparam.pem");
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let downstream = Downstream::with_dhparam(&options, Some(path)).unwrap();
        let upstream = insecure(&TlsOptions::new(Side::Server));
        let (near, _far) = meet(&upstream, "a.example", &downstream, &leaf).await;
        let cipher = openssl_server_facts(&near.unwrap(), None, &[]).cipher.unwrap();
        assert!(cipher.starts_with("DHE-"), "{cipher}");
    }
}
