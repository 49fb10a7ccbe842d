//! What the tests share: handshakes in memory, authorities, other programs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock},
};

use mitm_flow::Cert;
use mitm_tls::{CertStore, CertificateAuthority, LeafName, LeafRequest};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::{CertificateDer, ServerName};

/// The one authority most tests use: making an RSA key takes time.
pub(crate) fn ca() -> Arc<CertificateAuthority> {
    static CA: OnceLock<Arc<CertificateAuthority>> = OnceLock::new();
    Arc::clone(CA.get_or_init(|| Arc::new(CertificateAuthority::generate(2048).unwrap())))
}

pub(crate) fn store() -> CertStore {
    CertStore::new(ca(), [], None).unwrap()
}

pub(crate) fn request(names: &[&str]) -> LeafRequest {
    LeafRequest {
        names: names.iter().map(|name| LeafName::from_host(name).unwrap()).collect(),
        ..LeafRequest::default()
    }
}

pub(crate) fn pem(cert: &Cert) -> String {
    cert.to_pem()
}

/// A client that trusts one certificate, with defaults of rustls but for the versions.
pub(crate) fn client(
    trusted: &Cert,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(trusted.der().to_vec())).unwrap();
    ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Both ends of a finished handshake, or the error of the side that refused it.
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

impl Pair {
    pub(crate) fn is_resumed(&self) -> bool {
        self.server.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

#[derive(Debug)]
pub(crate) enum Refused {
    ByClient(rustls::Error, Option<rustls::Error>),
    ByServer(rustls::Error),
}

/// Shakes hands in memory. One side's refusal is told to the other.
#[expect(clippy::result_large_err, reason = "a few of them in tests")]
pub(crate) fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Result<Pair, Refused> {
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..20 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        feed(&mut bytes.as_slice(), |read| server.read_tls(read));
        if let Err(error) = server.process_new_packets() {
            return Err(Refused::ByServer(error));
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        feed(&mut bytes.as_slice(), |read| client.read_tls(read));
        if let Err(error) = client.process_new_packets() {
            let mut alert = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut alert).unwrap();
            }
            feed(&mut alert.as_slice(), |read| server.read_tls(read));
            return Err(Refused::ByClient(error, server.process_new_packets().err()));
        }
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok(Pair { client, server });
        }
    }
    panic!("the handshake goes on and on");
}

fn feed(bytes: &mut &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !bytes.is_empty() {
        read(bytes).unwrap();
    }
}

pub(crate) fn name(host: &str) -> ServerName<'static> {
    mitm_tls::server_name(host).unwrap()
}

/// Tells that a test cannot run, or fails if it has to.
#[expect(clippy::print_stdout, reason = "the reason is for whoever runs the tests")]
pub(crate) fn skip(reason: &str) {
    assert!(
        std::env::var_os("MITM_REQUIRE_EXTERNAL").is_none_or(|value| value != "1"),
        "required: {reason}"
    );
    println!("skipped: {reason}");
}

/// True if the OpenSSL command line is there.
pub(crate) fn have_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    if !found {
        skip("the openssl command is missing");
    }
    found
}

/// Runs OpenSSL in a directory; panics with its output if it fails.
pub(crate) fn openssl(dir: &Path, args: &[&str]) -> String {
    let output = openssl_output(dir, args);
    let text = text(&output);
    assert!(output.status.success(), "openssl {args:?}: {text}");
    text
}

pub(crate) fn openssl_output(dir: &Path, args: &[&str]) -> Output {
    Command::new("openssl").args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}
