//! TLS that rustls leaves out, on either side of the proxy. The peers are OpenSSL, by way of `mitm-tls`.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mitm_flow::connection::{Address, TlsVersion};
use mitm_proxy::{Event, Hook, Settings, TlsContext};
use mitm_testkit::{RawServer, Step, tls, wait::within};
use mitm_tls::{
    CertStore, CertificateAuthority, Downstream, KeyKind, LeafName, LeafRequest, OpensslStream,
    Side, TlsOptions, Upstream, UpstreamKey, Verification, VersionLimit,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Proxied, Setup};

const BODY: usize = 300_000;

/// A server that speaks what it is told to, and answers each connection once.
struct Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    /// `None` closes every connection once something came.
    async fn start(options: Option<TlsOptions>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let names = vec![LeafName::from_host("origin.test").unwrap()];
        let leaf = store.get(&LeafRequest { names, key: KeyKind::Rsa, ..LeafRequest::default() });
        let leaf = leaf.unwrap();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let Some(options) = &options else {
                    drop(tcp.read(&mut [0; 1]).await);
                    continue;
                };
                let acceptor = Downstream::new(options).unwrap().openssl(&leaf, None).unwrap();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                    read_head(&mut stream).await;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                    stream.write_all(head.as_bytes()).await.unwrap();
                    stream.write_all(&vec![b'x'; BODY]).await.unwrap();
                    stream.flush().await.unwrap();
                    // The proxy keeps it as long as it likes.
                    drop(stream.read(&mut [0; 1]).await);
                });
            }
        });
        Self { address, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn store(confdir: &Path) -> Arc<CertStore> {
    let ca = CertificateAuthority::load_or_create(confdir, "mitmproxy", 2048, None).unwrap();
    Arc::new(CertStore::new(Arc::new(ca), [], None).unwrap())
}

/// A proxy with these options; returns the PEM of its authority too.
async fn proxy(settings: Settings, client: TlsOptions, server: &TlsOptions) -> (Proxied, String) {
    let proxied = Setup { settings, ..Setup::default() }.start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let pem = store.ca().cert_pem();
    proxied.proxy.set_tls(TlsContext {
        store,
        downstream: Downstream::new(&client).unwrap(),
        upstream: Upstream::new(server, Verification::Insecure, None).unwrap(),
        client_options: client,
    });
    (proxied, pem)
}

fn both(min: VersionLimit, max: VersionLimit) -> [TlsOptions; 2] {
    [Side::Client, Side::Server].map(|side| TlsOptions::new(side).with_versions(min, max))
}

/// A client of rustls asks through the proxy. Returns the status and the length of the body.
async fn ask(proxy: &Proxied, pem: &str, origin: SocketAddr) -> (u16, Vec<u8>) {
    let mut client = proxy.client().await;
    client.tunnel(&origin.to_string()).await.expect("the tunnel is granted");
    let config = tls::client_config(pem, &["http/1.1"]);
    let mut client = client.start_tls(config, "origin.test").await.unwrap();
    let answer = client.request("GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n").await;
    (answer.status(), answer.content())
}

/// A client of OpenSSL opens a tunnel and begins TLS in it.
async fn old_client(
    proxy: &Proxied,
    target: SocketAddr,
    options: &TlsOptions,
) -> std::io::Result<OpensslStream<TcpStream>> {
    let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut tcp).await.starts_with("HTTP/1.1 200"));
    let upstream = Upstream::new(options, Verification::Insecure, None).unwrap();
    let key = UpstreamKey::new(Address::new("origin.test", 443));
    within("the handshake", upstream.fallback(&key).unwrap().connect(tcp)).await
}

#[tokio::test]
async fn a_server_that_turns_rustls_away_is_met_with_openssl() {
    let [tls12, _] = both(VersionLimit::Tls1_2, VersionLimit::Tls1_2);
    for eager in [true, false] {
        for ciphers in ["DHE-RSA-AES128-GCM-SHA256", "AES128-SHA"] {
            let origin = Origin::start(Some(tls12.clone().with_ciphers(Some(ciphers)))).await;
            let settings = Settings { eager, ..Settings::default() };
            let (client, server) = (TlsOptions::new(Side::Client), TlsOptions::new(Side::Server));
            let (proxy, pem) = proxy(settings, client, &server).await;
            let (status, body) = ask(&proxy, &pem, origin.address).await;
            assert_eq!((status, body.len()), (200, BODY));
            assert_eq!(origin.connections(), 2, "one was turned away");
            let server = proxy.flow(1).server().get();
            assert_eq!(server.tls_facts.version, Some(TlsVersion::Tls1_2));
            assert_eq!(server.tls_facts.cipher.as_deref(), Some(ciphers));
            assert_eq!(server.tls_facts.certificate_list.len(), 1);
            let hooks = proxy.hooks();
            for hook in ["server_connected", "tls_start_server", "tls_established_server"] {
                assert_eq!(hooks.iter().filter(|name| *name == hook).count(), 1, "{hook}");
            }
            // It is known now.
            assert_eq!(ask(&proxy, &pem, origin.address).await.0, 200);
            assert_eq!(origin.connections(), 3);
        }
    }
}

#[tokio::test]
async fn a_server_that_turns_everybody_away_is_tried_twice() {
    let [_, server] = both(VersionLimit::Tls1_2, VersionLimit::Unbounded);
    let closing = Origin::start(None).await;
    let (proxy, pem) = proxy(Settings::default(), TlsOptions::new(Side::Client), &server).await;
    let (status, page) = ask(&proxy, &pem, closing.address).await;
    assert_eq!(status, 502);
    assert!(String::from_utf8(page).unwrap().contains("connection closed"));
    assert_eq!(closing.connections(), 2);

    let [tls11, _] = both(VersionLimit::Tls1_1, VersionLimit::Tls1_1);
    let old = Origin::start(Some(tls11)).await;
    let (status, page) = ask(&proxy, &pem, old.address).await;
    assert_eq!(status, 502);
    assert!(String::from_utf8(page).unwrap().contains("tls_version_server_min"));
    let weak = TlsOptions::new(Side::Client).with_ciphers(Some("RC4-SHA:@SECLEVEL=0"));
    let weak = Origin::start(Some(weak.with_versions(VersionLimit::Tls1_2, VersionLimit::Tls1_2)));
    let (status, page) = ask(&proxy, &pem, weak.await.address).await;
    assert_eq!(status, 502);
    assert!(String::from_utf8(page).unwrap().contains("ciphers_server"));
}

#[tokio::test]
async fn old_versions_are_spoken_on_both_sides_where_options_admit_them() {
    for (limit, version) in [
        (VersionLimit::Ssl3, TlsVersion::Ssl3),
        (VersionLimit::Tls1, TlsVersion::Tls1),
        (VersionLimit::Tls1_1, TlsVersion::Tls1_1),
    ] {
        let [theirs, ours] = both(limit, limit);
        let origin = Origin::start(Some(theirs)).await;
        let [client, server] = both(VersionLimit::Ssl3, VersionLimit::Unbounded);
        let (proxy, pem) = proxy(Settings::default(), client, &server).await;
        let mut stream = old_client(&proxy, origin.address, &ours).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n").await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut body = vec![0; BODY];
        within("the body", stream.read_exact(&mut body)).await.unwrap();
        assert_eq!(origin.connections(), 1);
        let flow = proxy.flow(1);
        let (client, server) = (flow.client().get(), flow.server().get());
        assert_eq!(client.tls_facts.version, Some(version));
        assert_eq!(server.tls_facts.version, Some(version));
        assert!(client.mitmcert.is_some());
        // The proxy ends the session when the client does.
        stream.shutdown().await.unwrap();
        within("the end", stream.read(&mut [0; 1])).await.unwrap();
        proxy.wait_for_hook(Hook::ClientDisconnected).await;
        // A modern client does not notice.
        let (status, body) = ask(&proxy, &pem, origin.address).await;
        assert_eq!((status, body.len()), (200, BODY));
        assert_eq!(
            proxy.flow(3).client().get().tls_facts.version,
            Some(TlsVersion::Tls1_3),
            "rustls serves whom it can"
        );
    }
}

#[tokio::test]
async fn old_clients_are_refused_by_default_and_told_why() {
    let origin = RawServer::start(|_| vec![Step::End]).await;
    for limit in [VersionLimit::Ssl3, VersionLimit::Tls1, VersionLimit::Tls1_1] {
        let [client, server] = both(VersionLimit::Tls1_2, VersionLimit::Unbounded);
        let (proxy, _) = proxy(Settings::default(), client, &server).await;
        let [_, ours] = both(limit, limit);
        assert!(old_client(&proxy, origin.address(), &ours).await.is_err());
        proxy.wait_for_hook(Hook::TlsFailedClient).await;
    }
    // The reason is in the connection's cell, for addons.
    let seen = Arc::new(parking_lot::Mutex::new(None));
    let noted = Arc::clone(&seen);
    let setup = Setup::reacting(move |event| {
        if let Event::TlsFailedClient(data) = event {
            *noted.lock() = data.client.get().error;
        }
    });
    let proxy = setup.start().await;
    let dir = tempfile::tempdir().unwrap();
    proxy.set_tls(dir.path(), Verification::Insecure);
    let rc4 = TlsOptions::new(Side::Server).with_ciphers(Some("RC4-SHA:@SECLEVEL=0"));
    let rc4 = rc4.with_versions(VersionLimit::Tls1_2, VersionLimit::Tls1_2);
    for (options, named) in [
        (both(VersionLimit::Tls1, VersionLimit::Tls1)[1].clone(), "tls_version_client_min"),
        (rc4, "ciphers_client"),
    ] {
        assert!(old_client(&proxy, origin.address(), &options).await.is_err());
        proxy.wait_for_hook(Hook::TlsFailedClient).await;
        mitm_testkit::wait::until("the reason is noted", || seen.lock().is_some()).await;
        let error = seen.lock().take().unwrap();
        assert!(error.contains(named), "{error}");
    }
}
