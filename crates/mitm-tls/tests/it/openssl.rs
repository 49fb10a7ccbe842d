//! What OpenSSL thinks of our files and handshakes, and we of its.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use mitm_flow::connection::Address;
use mitm_tls::{
    CertStore, CertificateAuthority, Downstream, KeyKind, LeafRequest, Side, TlsOptions, Upstream,
    UpstreamKey, Verification, describe_client_error, describe_server_error, server_facts,
};
use rustls::{ClientConnection, ServerConnection, Stream};

use crate::support::{have_openssl, openssl, openssl_output, pem, request};

const LONG: Duration = Duration::from_secs(20);

fn files(dir: &Path) -> CertificateAuthority {
    CertificateAuthority::load_or_create(dir, "mitmproxy", 2048, None).unwrap()
}

#[test]
fn the_files_of_an_authority_are_readable() {
    if !have_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = files(dir.path());
    let run = |args: &[&str]| openssl(dir.path(), args);

    assert!(run(&["rsa", "-in", "mitmproxy-ca.pem", "-check", "-noout"]).contains("RSA key ok"));
    let secret = fs::read_to_string(dir.path().join("mitmproxy-ca.pem")).unwrap();
    assert!(secret.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
    let shown = run(&["x509", "-in", "mitmproxy-ca-cert.cer", "-noout", "-text"]);
    for part in [
        "Issuer: CN = mitmproxy, O = mitmproxy",
        "Subject: CN = mitmproxy, O = mitmproxy",
        "Exponent: 65537",
        "sha256WithRSAEncryption",
        "Public-Key: (2048 bit)",
    ] {
        assert!(shown.contains(part), "{part} not in {shown}");
    }
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    for (extension, value) in [
        ("X509v3 Basic Constraints: critical", "CA:TRUE"),
        ("X509v3 Extended Key Usage:", "TLS Web Server Authentication"),
        ("X509v3 Key Usage: critical", "Certificate Sign, CRL Sign"),
    ] {
        let at = lines.iter().position(|line| *line == extension).expect(extension);
        assert_eq!(lines[at + 1], value);
    }
    assert!(shown.contains("X509v3 Subject Key Identifier"));
    run(&["verify", "-x509_strict", "-CAfile", "mitmproxy-ca-cert.pem", "mitmproxy-ca-cert.pem"]);

    let both = run(&["pkcs12", "-in", "mitmproxy-ca.p12", "-passin", "pass:", "-nodes", "-info"]);
    for part in ["MAC: sha256, Iteration 2048", "friendlyName: mitmproxy", "BEGIN PRIVATE KEY"] {
        assert!(both.contains(part), "{part} not in {both}");
    }
    assert!(both.contains(pem(ca.cert()).trim()));
    let cert = run(&["pkcs12", "-in", "mitmproxy-ca-cert.p12", "-passin", "pass:", "-info"]);
    assert!(cert.contains(pem(ca.cert()).trim()) && !cert.contains("PRIVATE KEY"), "{cert}");
    assert!(cert.contains("MAC: sha256, Iteration 2048"), "{cert}");

    let dh = run(&["dhparam", "-in", "mitmproxy-dhparam.pem", "-check", "-text", "-noout"]);
    assert!(dh.contains("4096 bit") && dh.contains("appear to be ok"), "{dh}");

    fs::write(dir.path().join("ca.crl"), ca.crl()).unwrap();
    let crl = ["crl", "-inform", "DER", "-in", "ca.crl", "-CAfile", "mitmproxy-ca-cert.pem"];
    let crl = run(&[&crl[..], &["-noout", "-text"]].concat());
    assert!(crl.contains("verify OK") && crl.contains("No Revoked Certificates"), "{crl}");
    assert!(crl.contains("1000"), "{crl}");
}

#[test]
fn leaves_verify_strictly() {
    if !have_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = CertStore::new(Arc::new(files(dir.path())), [], None).unwrap();
    for key in [KeyKind::Ecdsa, KeyKind::Rsa] {
        let leaf = store
            .get(&LeafRequest {
                key,
                organization: Some("O".into()),
                crl_url: Some("http://a.example/x.crl".into()),
                ..request(&["a.example", "192.0.2.1", "2001:db8::1"])
            })
            .unwrap();
        fs::write(dir.path().join("leaf.pem"), pem(&leaf.cert)).unwrap();
        let chain: String = leaf.chain.iter().map(pem).collect();
        fs::write(dir.path().join("chain.pem"), chain).unwrap();
        let mut args = vec!["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"];
        args.push("mitmproxy-ca-cert.pem");
        if !leaf.chain.is_empty() {
            args.extend(["-untrusted", "chain.pem"]);
        }
        let names: [&[&str]; 3] = [
            &["-verify_hostname", "a.example"],
            &["-verify_ip", "192.0.2.1"],
            &["-verify_ip", "2001:db8::1"],
        ];
        for expected in names {
            openssl(dir.path(), &[&args[..], expected, &["leaf.pem"]].concat());
        }
        let other = [&args[..], &["-verify_hostname", "b.example", "leaf.pem"]].concat();
        assert!(!openssl_output(dir.path(), &other).status.success());
        let shown = openssl(dir.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]);
        assert!(shown.contains("URI:http://a.example/x.crl"), "{shown}");
    }
}

#[test]
fn encrypted_keys_open_with_the_passphrase() {
    if !have_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = files(dir.path());
    let encrypt: [&[&str]; 6] = [
        &["pkcs8", "-topk8", "-v2", "aes-256-cbc"],
        &["pkcs8", "-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"],
        &["pkcs8", "-topk8", "-v2", "des3"],
        &["rsa", "-traditional", "-aes256"],
        &["rsa", "-traditional", "-aes128"],
        &["rsa", "-traditional", "-des3"],
    ];
    for args in encrypt {
        let file = ["-in", "mitmproxy-ca.pem", "-out", "locked.pem", "-passout", "pass:sesame"];
        openssl(dir.path(), &[args, &file].concat());
        let locked = fs::read_to_string(dir.path().join("locked.pem")).unwrap();
        let locked = format!("some text\n{}{locked}", pem(ca.cert()));
        let open = |passphrase| {
            CertificateAuthority::from_pem(locked.as_bytes(), passphrase)
                .map(|opened| opened.cert().clone())
                .map_err(|error| error.to_string())
        };
        assert_eq!(open(Some("sesame")).as_ref(), Ok(ca.cert()), "{args:?}");
        assert!(open(Some("wrong")).unwrap_err().contains("passphrase does not fit"), "{args:?}");
        assert!(open(None).unwrap_err().contains("cert_passphrase"), "{args:?}");
    }
}

#[test]
fn keys_of_other_kinds_make_authorities() {
    if !have_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kinds: [&[&str]; 5] = [
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
        &["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
        &["genpkey", "-algorithm", "ED25519"],
    ];
    for kind in kinds {
        openssl(dir.path(), &[kind, &["-out", "key.pem"]].concat());
        let subject = "/DC=com/DC=example/OU=One/OU=Two/CN=An Authority";
        let args = ["req", "-x509", "-key", "key.pem", "-subj", subject, "-out", "cert.pem"];
        openssl(dir.path(), &args);
        let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        fs::write(dir.path().join("own-ca.pem"), read("key.pem") + &read("cert.pem")).unwrap();
        let ca = CertificateAuthority::load_or_create(dir.path(), "own", 2048, None).unwrap();
        let store = CertStore::new(Arc::new(ca), [], None).unwrap();
        let leaf = store.get(&request(&["a.example"])).unwrap();
        fs::write(dir.path().join("leaf.pem"), pem(&leaf.cert)).unwrap();
        let chain: String = leaf.chain.iter().map(pem).collect();
        let mut args = vec!["verify", "-CAfile", "cert.pem"];
        if !chain.is_empty() {
            fs::write(dir.path().join("chain.pem"), chain).unwrap();
            args.extend(["-untrusted", "chain.pem"]);
        }
        openssl(dir.path(), &[&args[..], &["leaf.pem"]].concat());
    }
}

/// Accepts one connection, shakes hands, and says hello.
fn serve_once(config: Arc<rustls::ServerConfig>) -> (u16, thread::JoinHandle<Option<io::Error>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let mut connection = ServerConnection::new(config).unwrap();
        let mut stream = Stream::new(&mut connection, &mut socket);
        if let Err(error) = stream.write_all(b"hello\n") {
            return Some(error);
        }
        stream.conn.send_close_notify();
        drop(stream.flush());
        drop(stream.read(&mut [0; 16]));
        None
    });
    (port, thread)
}

#[test]
fn s_client_accepts_our_certificates() {
    if !have_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = CertStore::new(Arc::new(files(dir.path())), [], None).unwrap();
    let downstream = Downstream::new(&TlsOptions::new(Side::Client)).unwrap();
    let cases: [(KeyKind, &[&str], &str); 4] = [
        (KeyKind::Ecdsa, &["-tls1_3"], "TLS_A"),
        (KeyKind::Ecdsa, &["-tls1_2"], "ECDHE-ECDSA-"),
        (KeyKind::Rsa, &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "ECDHE-RSA-AES128"),
        (KeyKind::Rsa, &["-tls1_3", "-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"], "TLS_A"),
    ];
    for (key, args, cipher) in cases {
        let leaf = store.get(&LeafRequest { key, ..request(&["a.example"]) }).unwrap();
        let (port, server) = serve_once(downstream.config(&leaf, Some(b"http/1.1")));
        let address = format!("127.0.0.1:{port}");
        let common = [
            "s_client",
            "-connect",
            &address,
            "-servername",
            "a.example",
            "-CAfile",
            "mitmproxy-ca-cert.pem",
            "-verify_hostname",
            "a.example",
            "-verify_return_error",
            "-alpn",
            "h2,http/1.1",
            "-ign_eof",
        ];
        let output = openssl(dir.path(), &[&common[..], args].concat());
        assert!(output.contains("Verify return code: 0 (ok)"), "{output}");
        assert!(output.contains("ALPN protocol: http/1.1"), "{output}");
        assert!(output.contains(cipher) && output.contains("hello"), "{output}");
        assert!(server.join().unwrap().is_none());
    }
}

/// `openssl s_server`, killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem"])
            .args(["-www"])
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit(':').next()?.parse().ok())
            .expect("s_server says where it listens");
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Connects and returns what the server answered to a request.
fn fetch(upstream: &Upstream, host: &str, port: u16) -> Result<String, String> {
    let key =
        UpstreamKey { sni: Some(host.into()), ..UpstreamKey::new(Address::new("127.0.0.1", port)) };
    let config = upstream.config(&key).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut connection = ClientConnection::new(config.config, config.server_name).unwrap();
    let mut stream = Stream::new(&mut connection, &mut socket);
    let failed = |error| describe_server_error(&error, host);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(failed)?;
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer)
        && answer.is_empty()
    {
        return Err(failed(error));
    }
    let facts = server_facts(&connection, Some(host), &[]);
    assert!(!facts.certificate_list.is_empty());
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn self_signed_servers_given_as_trusted_verify() {
    if !have_openssl() {
        return;
    }
    let variants: [&[&str]; 4] = [
        &["-newkey", "rsa:2048"],
        &["-newkey", "rsa:2048", "-addext", "basicConstraints=critical,CA:FALSE"],
        &["-newkey", "rsa:2048", "-config", "bare.cnf", "-extensions", "bare"],
        &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    ];
    for variant in variants {
        let dir = tempfile::tempdir().unwrap();
        let bare = "[req]\ndistinguished_name=dn\n[dn]\n\
                    [bare]\nsubjectAltName=DNS:a.example,IP:127.0.0.1\n";
        fs::write(dir.path().join("bare.cnf"), bare).unwrap();
        let mut args = vec!["req", "-x509", "-nodes", "-subj", "/CN=a.example"];
        args.extend(["-keyout", "key.pem", "-out", "cert.pem"]);
        args.extend(variant);
        if !variant.contains(&"-config") {
            args.extend(["-addext", "subjectAltName=DNS:a.example,IP:127.0.0.1"]);
        }
        openssl(dir.path(), &args);
        let options = TlsOptions::new(Side::Server);
        let trusted = Verification::Trusted { file: Some(dir.path().join("cert.pem")), dir: None };
        let upstream = Upstream::new(&options, trusted, None).unwrap();
        let default = Upstream::new(&options, Verification::Roots, None).unwrap();
        let insecure = Upstream::new(&options, Verification::Insecure, None).unwrap();
        for version in ["-tls1_2", "-tls1_3"] {
            let server = Server::start(dir.path(), &[version]);
            for host in ["a.example", "127.0.0.1"] {
                let answer = fetch(&upstream, host, server.port).unwrap();
                assert!(answer.starts_with("HTTP/1.0 200"), "{variant:?} {answer}");
            }
            let error = fetch(&upstream, "b.example", server.port).unwrap_err();
            assert!(error.contains("not valid for 'b.example'"), "{error}");
            let error = fetch(&default, "a.example", server.port).unwrap_err();
            assert!(error.contains("failed: self-signed certificate."), "{error}");
            fetch(&insecure, "b.example", server.port).unwrap();
        }
    }
}

#[test]
fn plain_servers_and_old_servers_are_told_apart() {
    if !have_openssl() {
        return;
    }
    let options = TlsOptions::new(Side::Server);
    let upstream = Upstream::new(&options, Verification::Insecure, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        drop(socket.read(&mut [0; 4096]));
        drop(socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    });
    let error = fetch(&upstream, "a.example", port).unwrap_err();
    assert_eq!(error, "The remote server does not speak TLS.");
    thread.join().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let args = ["req", "-x509", "-nodes", "-subj", "/CN=a.example", "-newkey", "rsa:2048"];
    let out = ["-keyout", "key.pem", "-out", "cert.pem"];
    openssl(dir.path(), &[&args[..], &out].concat());
    let server = Server::start(dir.path(), &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]);
    let error = fetch(&upstream, "a.example", server.port).unwrap_err();
    assert!(error.contains("tls_version_server_min"), "{error}");
}

#[test]
fn a_client_that_insists_on_old_tls_is_refused_by_name() {
    if !have_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = CertStore::new(Arc::new(files(dir.path())), [], None).unwrap();
    let leaf = store.get(&request(&["a.example"])).unwrap();
    let downstream = Downstream::new(&TlsOptions::new(Side::Client)).unwrap();
    let (port, server) = serve_once(downstream.config(&leaf, None));
    let address = format!("127.0.0.1:{port}");
    let args = ["s_client", "-connect", &address, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"];
    assert!(!openssl_output(dir.path(), &args).status.success());
    let failure = describe_client_error(&server.join().unwrap().unwrap(), "a.example");
    assert!(failure.message.contains("tls_version_client_min"), "{}", failure.message);
}
