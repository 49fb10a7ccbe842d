//! Servers and proxies of the table, on the loopback device or between network namespaces.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
};

use mitm_flow::FlowSnapshot;
use mitm_flowfile::FlowReader;
use mitm_testkit::{
    external,
    net::free_port,
    tls::{Authority, Identity},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    support::{Home, PATIENCE, Running, note, text, wait_for},
    transparent::{At, Network, SERVER},
    websocket,
};

pub(super) const SCRIPT: &str = include_str!("../matrix.py");
pub(super) const GREETING: &str = "220 ready\r\n";

/// Servers for all columns, which live as long as this.
pub(super) struct Servers {
    pub(super) ports: Ports,
    pub(super) address: &'static str,
    pub(super) name: &'static str,
    /// The certificate of their authority.
    pub(super) trust: PathBuf,
    /// With the package `websockets`.
    pub(super) python: Option<PathBuf>,
    _running: Vec<Running>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Ports {
    pub(super) http: u16,
    /// HTTP/2 without TLS.
    pub(super) h2c: u16,
    pub(super) https: u16,
    pub(super) ignored: u16,
    pub(super) server_first: u16,
    pub(super) client_first: u16,
    pub(super) ws: u16,
    pub(super) wss: u16,
    pub(super) lines: u16,
}

/// Where servers and clients are.
pub(super) enum Ground {
    Loopback,
    Network(Network),
}

impl Ground {
    pub(super) fn inside<T: Send>(&self, at: At, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Loopback => work(),
            Self::Network(network) => network.inside(at, work),
        }
    }
}

impl Servers {
    pub(super) fn start(ground: &Ground, home: &Home) -> Option<Self> {
        let (address, name) = match ground {
            Ground::Loopback => ("127.0.0.1", "localhost"),
            Ground::Network(_) => (SERVER[0], "server.test"),
        };
        let authority = Authority::new("of the servers");
        home.write("trust.pem", authority.pem());
        let identity = authority.issue(&[name, address]);
        let mut ports = Ports {
            server_first: ground.inside(At::Server, || serve_lines(address, true)),
            client_first: ground.inside(At::Server, || serve_lines(address, false)),
            ..Ports::default()
        };
        let mut running = vec![start_nginx(ground, home, address, &identity, &mut ports)?];
        let python = websocket::python(home);
        if let Some(python) = &python {
            let certificate = home.write_identity("server.pem", &identity);
            let server = ground.inside(At::Server, || {
                let mut command = home.command(python);
                command.args(["-c", SCRIPT, "serve", address, &certificate]);
                Running::spawn(&mut command)
            });
            let said = wait_for(&format!("the servers in Python listen: {server:?}"), || {
                server.stdout().strip_suffix('\n').map(str::to_owned)
            });
            let said: Vec<u16> = said.split(' ').map(|port| port.parse().unwrap()).collect();
            let [ws, wss, lines] = said[..] else { panic!("{said:?}") };
            ports = Ports { ws, wss, lines, ..ports };
            running.push(server);
        }
        let trust = home.path("trust.pem");
        Some(Self { ports, address, name, trust, python, _running: running })
    }

    /// The servers a reverse proxy stands for, by their ports, each with its mode.
    pub(super) fn reverse(&self) -> Vec<(u16, String)> {
        let Ports { http, h2c, https, ignored, server_first, client_first, ws, wss, lines } =
            self.ports;
        let servers = [
            ("http", http),
            ("http", h2c),
            ("https", https),
            ("https", ignored),
            ("tcp", server_first),
            ("tcp", client_first),
            ("http", ws),
            ("https", wss),
            ("tls", lines),
        ];
        // Without Python nothing is behind some of them.
        let servers = servers.into_iter().filter(|(_, port)| *port != 0);
        let mode = |(scheme, port)| (port, format!("reverse:{scheme}://{}:{port}", self.name));
        servers.map(mode).collect()
    }
}

/// Starts nginx, which says what it was asked. Between choosing a port and listening on it, others may take it.
fn start_nginx(
    ground: &Ground,
    home: &Home,
    address: &str,
    identity: &Identity,
    ports: &mut Ports,
) -> Option<Running> {
    let program = external("nginx")?;
    let certificate = home.write_identity("nginx.pem", identity);
    let directory = text(&home.path(""));
    for _ in 0..3 {
        let [http, h2c, https, ignored] = std::array::from_fn(|_| free_port());
        let config = format!(
            "daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
            events {{ }}
            http {{
                access_log off;
                client_body_temp_path {directory}/1; proxy_temp_path {directory}/2;
                fastcgi_temp_path {directory}/3; uwsgi_temp_path {directory}/4;
                scgi_temp_path {directory}/5;
                server {{
                    listen {address}:{http}; listen {address}:{h2c} http2;
                    listen {address}:{https} ssl http2; listen {address}:{ignored} ssl http2;
                    ssl_certificate {certificate}; ssl_certificate_key {certificate};
                    return 200 \"$scheme $server_port $request_uri $server_protocol\";
                }}
            }}"
        );
        let config = home.write("nginx.conf", config);
        let mut running = ground.inside(At::Server, || {
            let mut command = home.command(&program);
            command.args(["-p", &directory, "-c", &config, "-e", "stderr"]);
            Running::spawn(&mut command)
        });
        let listens = wait_for("nginx listens or ends", || {
            let connect = || TcpStream::connect((address, ignored)).is_ok();
            match running.is_running() {
                true if ground.inside(At::Server, connect) => Some(true),
                true => None,
                false => Some(false),
            }
        });
        if listens {
            *ports = Ports { http, h2c, https, ignored, ..*ports };
            return Some(running);
        }
        note(&format!("nginx does not start: {running:?}"));
    }
    panic!("nginx does not start");
}

/// Answers one line of each client, and greets before if asked to. Returns the port.
fn serve_lines(address: &str, greets: bool) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the process, and nobody is served longer than for a line.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).ok();
                if greets {
                    stream.write_all(GREETING.as_bytes()).ok();
                }
                let mut line = String::new();
                if let Ok(1..) = BufReader::new(&stream).read_line(&mut line) {
                    stream.write_all(format!("250 {line}").as_bytes()).ok();
                }
            });
        }
    });
    port
}

/// A proxy of the test.
pub(super) struct Station<'a> {
    pub(super) home: &'a Home,
    running: Running,
    pub(super) addresses: Vec<SocketAddr>,
}

impl<'a> Station<'a> {
    /// Starts mitmdump with these modes and waits until it listens for each of them.
    pub(super) fn start(
        ground: &Ground,
        home: &'a Home,
        trust: &Path,
        modes: &[String],
        ignored: u16,
    ) -> Self {
        let pattern = format!(":{ignored}$");
        let mut command = home.mitmdump(&["-w", "flows", "--ignore-hosts", &pattern]);
        command.arg("--upstream-trusted-ca").arg(trust);
        match ground {
            Ground::Loopback => command.args(["--listen-host", "127.0.0.1", "-p", "0"]),
            Ground::Network(_) => command.args(["-p", "8080"]),
        };
        for mode in modes {
            command.args(["--mode", mode]);
        }
        let running = ground.inside(At::Router, || Running::spawn(&mut command));
        let addresses = wait_for(&format!("the proxy listens: {running:?}"), || {
            let log = running.stdout();
            let (complete, _) = log.rsplit_once('\n')?;
            let places = complete.lines().filter_map(|line| line.split_once("listening at "));
            let places: Vec<_> = places.map(|(_, place)| place.to_owned()).collect();
            (places.len() == modes.len()).then_some(places)
        });
        let first = |place: &String| {
            let address = place.split(' ').next().unwrap().trim_end_matches('.');
            address.replace('*', "0.0.0.0").parse().unwrap()
        };
        Self { home, addresses: addresses.iter().map(first).collect(), running }
    }

    /// Ends it, and returns what it recorded.
    pub(super) fn finish(self) -> Result<Vec<FlowSnapshot>, String> {
        let pid = i32::try_from(self.running.pid()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
        let ended = self.running.end(PATIENCE);
        if ended.code != Some(0) || !ended.stderr.is_empty() {
            return Err(format!("the proxy ended badly: {ended:?}"));
        }
        let file = File::open(self.home.path("flows")).map_err(|error| error.to_string())?;
        let flows = FlowReader::new(file).map(|flow| flow.unwrap().snapshot().unwrap());
        Ok(flows.collect())
    }
}
