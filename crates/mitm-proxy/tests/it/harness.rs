//! A proxy with hooks under the test's control.

use std::{net::SocketAddr, path::Path, sync::Arc};

use mitm_flow::FlowRef;
use mitm_proxy::{
    Event, Hook, HookSet, Hooks, ListenDefaults, Mode, Proxy, Settings, TlsContext,
    hooks::{Direction, HookFuture, Need, Stage},
};
use mitm_testkit::{RawClient, wait::until};
use mitm_tls::{
    CertStore, CertificateAuthority, Downstream, Side, TlsOptions, Upstream, Verification,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

type React = dyn Fn(&Event) + Send + Sync;

/// Notes every hook, reacts as the test says, and states the needs the test wants.
pub(crate) struct Recorder {
    names: Mutex<Vec<String>>,
    flows: Mutex<Vec<FlowRef>>,
    react: Box<React>,
    need: Need,
    wanted: HookSet,
    watches_servers: bool,
}

impl Hooks for Recorder {
    fn wanted(&self) -> HookSet {
        self.wanted
    }

    fn fire(self: Arc<Self>, event: Event, stage: Stage) -> Option<HookFuture> {
        // Nobody here changes heads only.
        if stage == Stage::Head {
            return None;
        }
        self.names.lock().push(event.hook().name().to_owned());
        if let Event::Requestheaders(flow) | Event::HttpConnect(flow) | Event::TcpStart(flow) =
            &event
        {
            self.flows.lock().push(flow.clone());
        }
        (self.react)(&event);
        None
    }

    fn need(&self, _: &FlowRef, _: Direction) -> (Need, bool) {
        (self.need, false)
    }

    fn servers_are_watched(&self) -> bool {
        self.watches_servers
    }
}

pub(crate) struct Proxied {
    pub(crate) proxy: Proxy,
    pub(crate) address: SocketAddr,
    recorder: Arc<Recorder>,
}

/// What a test sets up.
pub(crate) struct Setup {
    /// As in the option `mode`.
    pub(crate) mode: String,
    /// As if a script listened to hooks of server connections: they are not shared.
    pub(crate) watches_servers: bool,
    pub(crate) settings: Settings,
    pub(crate) need: Need,
    pub(crate) wanted: HookSet,
    pub(crate) react: Box<React>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            mode: "regular".into(),
            watches_servers: false,
            settings: Settings::default(),
            need: Need::Nothing,
            wanted: HookSet::ALL,
            react: Box::new(|_| ()),
        }
    }
}

impl Setup {
    pub(crate) fn needing(need: Need) -> Self {
        Self { need, ..Self::default() }
    }

    pub(crate) fn reacting(react: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { react: Box::new(react), ..Self::default() }
    }

    pub(crate) async fn start(self) -> Proxied {
        let recorder = Arc::new(Recorder {
            names: Mutex::default(),
            flows: Mutex::default(),
            react: self.react,
            need: self.need,
            wanted: self.wanted,
            watches_servers: self.watches_servers,
        });
        let proxy = Proxy::new(recorder.clone(), self.settings);
        let mode = Mode::parse(&format!("{}@127.0.0.1:0", self.mode)).unwrap();
        let errors = proxy.listen(vec![mode], &ListenDefaults::default()).await;
        assert!(errors.is_empty(), "{errors:?}");
        let address = proxy.listening()[0];
        Proxied { proxy, address, recorder }
    }
}

impl Proxied {
    pub(crate) async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    /// Returns the names of the hooks so far.
    pub(crate) fn hooks(&self) -> Vec<String> {
        self.recorder.names.lock().clone()
    }

    pub(crate) async fn wait_for_hook(&self, hook: Hook) {
        until(hook.name(), || self.hooks().iter().any(|name| name == hook.name())).await;
    }

    pub(crate) fn flow(&self, index: usize) -> FlowRef {
        self.recorder.flows.lock()[index].clone()
    }

    pub(crate) fn flows(&self) -> usize {
        self.recorder.flows.lock().len()
    }

    /// Gives the proxy certificates; returns the PEM of its authority.
    pub(crate) fn set_tls(&self, confdir: &Path, verification: Verification) -> String {
        let ca = CertificateAuthority::load_or_create(confdir, "mitmproxy", 2048, None).unwrap();
        let ca = Arc::new(ca);
        let pem = ca.cert_pem();
        let client = TlsOptions::new(Side::Client);
        self.proxy.set_tls(TlsContext {
            store: Arc::new(CertStore::new(ca, [], None).unwrap()),
            downstream: Downstream::new(&client).unwrap(),
            upstream: Upstream::new(&TlsOptions::new(Side::Server), verification, None).unwrap(),
            client_options: client,
        });
        pem
    }
}

/// Grants every tunnel, and leads it to `origin`.
pub(crate) async fn granting_proxy(origin: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    client.read_line(&mut line).await?;
                }
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                let mut server = TcpStream::connect(origin).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    address
}
