//! Every mode with every protocol, each by real clients and servers: a table, printed when the test ends.
//!
//! All of it happens at once, and modes that can share a process do. What a client got is one half of a cell; the other
//! is what the flow files of all proxies on the way say when they have ended.

mod site;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    fs::File,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use mitm_flow::{FlowSnapshot, Request, Response, SnapshotData, snapshot::WebSocketSnapshot};
use mitm_testkit::external;

use self::site::{GREETING, Ground, Ports, SCRIPT, Servers, Station};
use crate::{
    support::{Ended, Home, note, run},
    transparent::{At, Network},
};

/// How a client gets to a server.
enum Way {
    Http(SocketAddr),
    Socks(SocketAddr),
    /// Each server has its own port of the proxy.
    Reverse(BTreeMap<u16, SocketAddr>),
    /// The network leads to the proxy.
    Redirected,
}

/// A row of the table.
struct Row<'a> {
    /// Goes into everything that is sent, so that it is found among flows.
    name: &'static str,
    /// What the specification of the mode begins with.
    mode: &'static str,
    ground: &'a Ground,
    servers: &'a Servers,
    way: Way,
    /// The numbers of the proxies on the way.
    stations: Vec<usize>,
    /// The home of the first of them.
    home: &'a Home,
}

impl Row<'_> {
    /// Where to connect to for a server, and how to call the server.
    fn place(&self, port: u16) -> (SocketAddr, String) {
        let name = self.servers.name;
        match &self.way {
            Way::Http(proxy) | Way::Socks(proxy) => (*proxy, format!("{name}:{port}")),
            Way::Reverse(ports) => (ports[&port], format!("{name}:{}", ports[&port].port())),
            Way::Redirected => (
                SocketAddr::new(self.servers.address.parse().unwrap(), port),
                format!("{name}:{port}"),
            ),
        }
    }

    fn path(&self, of: &str) -> String {
        format!("/{}/{of}", self.name)
    }

    /// A command with the words that make curl go this way to a server.
    fn curl(&self, port: u16, trust: &Path) -> Command {
        let mut command = self.home.command(external("curl").expect("it was there"));
        command.args(["-sS", "-N", "--max-time", "50", "--noproxy", "", "--cacert"]).arg(trust);
        let (place, _) = self.place(port);
        match self.way {
            Way::Http(_) => command.args(["-x", &format!("http://{place}")]),
            Way::Socks(_) => command.args(["-x", &format!("socks5h://{place}")]),
            Way::Reverse(_) | Way::Redirected => {
                command.args(["--connect-to", &format!("::{place}")])
            }
        };
        command
    }

    fn run(&self, command: &mut Command) -> Ended {
        self.ground.inside(At::Client, || run(command))
    }

    /// Loads a page, whose text says how the server was asked.
    fn load(&self, trust: &Path, words: &[&str], scheme: &str, port: u16, of: &str, version: &str) {
        let (_, server) = self.place(port);
        let path = self.path(of);
        let mut command = self.curl(port, trust);
        command.args(["-w", " %{http_version}", &format!("{scheme}://{server}{path}")]).args(words);
        let ended = self.run(&mut command);
        let expected =
            format!("{scheme} {port} {path} HTTP/{version} {}", version.trim_end_matches(".0"));
        assert_eq!((ended.code, &*ended.stdout), (Some(0), &*expected), "{command:?} {ended:?}");
    }

    /// What clients trust to whom the proxy shows its own certificates.
    fn ca(&self) -> PathBuf {
        self.home.ca().into()
    }

    fn http(&self) {
        let port = self.servers.ports.http;
        self.load(&self.ca(), &["--http1.1"], "http", port, "http", "1.1");
    }

    fn https(&self) {
        let port = self.servers.ports.https;
        self.load(&self.ca(), &["--http1.1"], "https", port, "https", "1.1");
        if let Way::Reverse(_) = self.way {
            // TLS is left to the proxy.
            let (_, server) = self.place(port);
            let path = self.path("plain");
            let mut command = self.curl(port, &self.ca());
            let ended = self.run(command.arg(format!("http://{server}{path}")));
            assert_eq!(ended.stdout, format!("https {port} {path} HTTP/1.1"), "{ended:?}");
        }
    }

    fn http2(&self) {
        let Ports { https, h2c, .. } = self.servers.ports;
        self.load(&self.ca(), &["--http2"], "https", https, "h2", "2.0");
        let words: &[&str] = match self.way {
            Way::Http(_) => &["--http2-prior-knowledge", "-p"],
            _ => &["--http2-prior-knowledge"],
        };
        self.load(&self.ca(), words, "http", h2c, "h2c", "2.0");
    }

    /// Runs the Python client for a server of each scheme.
    fn talk(&self, servers: &[(&str, u16, &str)]) {
        let way = match self.way {
            Way::Http(_) => "http",
            Way::Socks(_) => "socks5",
            Way::Reverse(_) | Way::Redirected => "direct",
        };
        let python = self.servers.python.as_ref().expect("the cell is skipped otherwise");
        let mut command = self.home.command(python);
        command.args(["-c", SCRIPT, "talk", way, &self.home.ca()]);
        for (scheme, port, of) in servers {
            let (place, server) = self.place(*port);
            // The names of servers are for TLS and for the proxy; the client needs no resolver.
            command.args([place.to_string(), format!("{scheme}://{server}{}", self.path(of))]);
        }
        let ended = self.run(&mut command);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    fn websocket(&self) {
        let Ports { ws, wss, .. } = self.servers.ports;
        self.talk(&[("ws", ws, "ws"), ("wss", wss, "wss")]);
    }

    fn raw(&self) {
        let Ports { server_first, client_first, .. } = self.servers.ports;
        if self.servers.python.is_some() {
            // Its greeting is waited for.
            self.talk(&[("lines", server_first, "server-first")]);
        }
        let (_, server) = self.place(client_first);
        let line = format!("*{}\r\n", self.path("client-first"));
        let mut command = self.curl(client_first, &self.ca());
        command.arg(format!("telnet://{server}"));
        if let Way::Http(_) = self.way {
            command.arg("-p");
        }
        let said = self.home.write(&format!("{}.txt", self.name), &line);
        let ended = self.run(command.stdin(File::open(said).unwrap()));
        assert_eq!(
            (ended.code, ended.stdout),
            (Some(0), format!("250 {line}")),
            "{}",
            ended.stderr
        );
    }

    fn raw_tls(&self) {
        self.talk(&[("lines+tls", self.servers.ports.lines, "lines")]);
    }

    fn ignored(&self) {
        let port = self.servers.ports.ignored;
        // Two versions: the choice of the protocol is the server's alone.
        self.load(&self.servers.trust, &["--http2"], "https", port, "ignored", "2.0");
        self.load(&self.servers.trust, &["--http1.1"], "https", port, "ignored", "1.1");
        let (_, server) = self.place(port);
        let mut command = self.curl(port, &self.ca());
        let ended = self.run(command.arg(format!("https://{server}/")));
        assert_eq!(ended.code, Some(60), "the certificate is not the server's: {ended:?}");
    }
}

/// What a proxy on the way recorded.
struct Record<'a> {
    row: &'a Row<'a>,
    /// It is the proxy that the client knows.
    is_first: bool,
    flows: &'a [FlowSnapshot],
}

impl Record<'_> {
    /// Finds the one exchange with a path.
    fn exchange(
        &self,
        of: &str,
    ) -> (&FlowSnapshot, &Request, &Response, Option<&WebSocketSnapshot>) {
        let path = self.row.path(of);
        let mut found = self.flows.iter().filter_map(|flow| match &flow.data {
            SnapshotData::Http { request, response, websocket } if request.path == path => {
                let response = response.as_deref().expect("it has been answered");
                Some((flow, &**request, response, websocket.as_ref()))
            }
            _ => None,
        });
        let first = found.next().unwrap_or_else(|| panic!("no flow of {path}"));
        assert!(found.next().is_none(), "several flows of {path}");
        first
    }

    fn expect_exchange(&self, of: &str, scheme: &str, port: u16, version: &str) {
        let (flow, request, response, _) = self.exchange(of);
        self.expect_mode(flow);
        let has_tls = scheme == "https";
        assert_eq!((&request.scheme[..], request.port), (scheme.as_bytes(), port), "{of}");
        assert_eq!((&flow.error, response.status_code), (&None, 200), "{of}");
        assert_eq!(flow.server.tls, has_tls, "{of}");
        let version = format!("HTTP/{version}");
        assert_eq!(
            (&*request.http_version, &*response.http_version),
            (version.as_bytes(), version.as_bytes()),
            "{of}"
        );
        if has_tls {
            let alpn: &[u8] = if version == "HTTP/2.0" { b"h2" } else { b"http/1.1" };
            assert_eq!(flow.server.tls_facts.alpn.as_deref(), Some(alpn), "{of}: with the server");
        }
    }

    /// The flow says in which mode, and through which proxy.
    fn expect_mode(&self, flow: &FlowSnapshot) {
        let via = flow.server.via.as_ref().map(|via| &*via.scheme);
        let expected = self.row.mode.strip_prefix("upstream:").filter(|_| self.is_first);
        assert_eq!(via, expected, "{flow:?}");
        let mode = &flow.client.proxy_mode;
        assert!(!self.is_first || mode.starts_with(self.row.mode), "{mode}");
    }

    fn http(&self) {
        self.expect_exchange("http", "http", self.ports().http, "1.1");
    }

    fn https(&self) {
        self.expect_exchange("https", "https", self.ports().https, "1.1");
    }

    fn http2(&self) {
        self.expect_exchange("h2", "https", self.ports().https, "2.0");
        self.expect_exchange("h2c", "http", self.ports().h2c, "2.0");
    }

    fn websocket(&self) {
        for (of, port) in [("ws", self.ports().ws), ("wss", self.ports().wss)] {
            let (flow, request, response, websocket) = self.exchange(of);
            assert_eq!((request.port, response.status_code), (port, 101), "{of}");
            assert_eq!((&flow.error, flow.server.tls), (&None, of == "wss"), "{of}");
            self.expect_mode(flow);
            let websocket = websocket.unwrap_or_else(|| panic!("{of}: no messages"));
            let from: Vec<_> =
                websocket.messages.iter().map(|message| message.from_client).collect();
            assert_eq!(from, [true, false, true, false], "{of}");
            assert_eq!(websocket.close_code, Some(4001), "{of}");
        }
    }

    fn raw(&self) {
        let Ports { server_first, client_first, .. } = self.ports();
        if self.row.servers.python.is_some() {
            self.expect_talk(server_first, true, &format!("{}\r\n", self.row.path("server-first")));
        }
        self.expect_talk(client_first, false, &format!("*{}\r\n", self.row.path("client-first")));
    }

    fn raw_tls(&self) {
        self.expect_talk(self.ports().lines, true, &format!("{}\r\n", self.row.path("lines")));
    }

    /// There is one flow of a conversation about this line.
    fn expect_talk(&self, port: u16, greets: bool, line: &str) {
        let talks = self.flows.iter().filter_map(|flow| match &flow.data {
            SnapshotData::Tcp(messages) => {
                let said = |from_client| {
                    let said = messages.iter().filter(|one| one.from_client == from_client);
                    let said = said.flat_map(|one| one.content.bytes().unwrap().unwrap());
                    String::from_utf8(said.collect()).unwrap()
                };
                let talk = (said(true), said(false));
                (talk.0 == line).then_some((flow, talk.1))
            }
            _ => None,
        });
        let talks: Vec<_> = talks.collect();
        let [(flow, answer)] = &talks[..] else { panic!("{} flows of {line:?}", talks.len()) };
        self.expect_mode(flow);
        let greeting = if greets { GREETING } else { "" };
        assert_eq!(*answer, format!("{greeting}250 {line}"));
        assert_eq!(flow.server.address.as_ref().map(|address| address.port), Some(port));
        assert_eq!((&flow.error, flow.server.tls), (&None, port == self.ports().lines));
    }

    /// Nothing was seen of it.
    fn ignored(&self) {
        let port = self.ports().ignored;
        for flow in self.flows {
            let to = flow.server.address.as_ref().map(|address| address.port);
            assert_ne!(to, Some(port), "a flow of what is to be ignored: {flow:?}");
        }
    }

    fn ports(&self) -> Ports {
        self.row.servers.ports
    }
}

/// A column of the table.
#[derive(Clone, Copy)]
enum Column {
    Http,
    Https,
    Http2,
    WebSocket,
    Raw,
    RawTls,
    Ignored,
}

const COLUMNS: [Column; 7] = {
    use Column::*;
    [Http, Https, Http2, WebSocket, Raw, RawTls, Ignored]
};

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Http2 => "HTTP/2",
            Self::WebSocket => "WebSocket",
            Self::Raw => "raw TCP",
            Self::RawTls => "raw in TLS",
            Self::Ignored => "pass-through",
        }
    }

    fn needs_python(self) -> bool {
        matches!(self, Self::WebSocket | Self::RawTls)
    }

    /// Does what the clients do.
    fn go(self, row: &Row<'_>) {
        match self {
            Self::Http => row.http(),
            Self::Https => row.https(),
            Self::Http2 => row.http2(),
            Self::WebSocket => row.websocket(),
            Self::Raw => row.raw(),
            Self::RawTls => row.raw_tls(),
            Self::Ignored => row.ignored(),
        }
    }

    /// Compares with what is expected of each flow file.
    fn check(self, record: &Record<'_>) {
        match self {
            Self::Http => record.http(),
            Self::Https => record.https(),
            Self::Http2 => record.http2(),
            Self::WebSocket => record.websocket(),
            Self::Raw => record.raw(),
            Self::RawTls => record.raw_tls(),
            Self::Ignored => record.ignored(),
        }
    }
}

/// How a cell ended.
enum Verdict {
    Ok,
    Skipped,
    Bad(String),
}

/// Fills cells at once, a few at a time.
fn fill(rows: &[Row<'_>]) -> Vec<Vec<Verdict>> {
    let cells = (0..COLUMNS.len()).flat_map(|at| (0..rows.len()).map(move |row| (row, at)));
    let todo: Mutex<VecDeque<_>> = Mutex::new(cells.collect());
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().unwrap().pop_front();
                    let Some((row, at)) = next else { return };
                    let (is, column) = (&rows[row], COLUMNS[at]);
                    let verdict = if column.needs_python() && is.servers.python.is_none() {
                        Verdict::Skipped
                    } else {
                        verdict(|| column.go(is))
                    };
                    done.lock().unwrap().insert((row, at), verdict);
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    let line = |row| (0..COLUMNS.len()).map(|at| done.remove(&(row, at)).unwrap()).collect();
    (0..rows.len()).map(line).collect()
}

/// What the panic says, if there is one.
fn verdict(work: impl FnOnce()) -> Verdict {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => Verdict::Ok,
        Err(panic) => Verdict::Bad(match panic.downcast::<String>() {
            Ok(said) => *said,
            Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or("?").to_owned(),
        }),
    }
}

/// Prints the table. Returns what is wrong.
fn show(rows: &[Row<'_>], verdicts: &[Vec<Verdict>]) -> String {
    let width = |column: Column| column.name().len() + 2;
    let mut table = format!("{:18}", "");
    for column in COLUMNS {
        write!(table, "{:width$}", column.name(), width = width(column)).unwrap();
    }
    let mut wrong = String::new();
    for (row, verdicts) in rows.iter().zip(verdicts) {
        write!(table, "\n{:18}", row.name).unwrap();
        for (column, verdict) in COLUMNS.into_iter().zip(verdicts) {
            let said = match verdict {
                Verdict::Ok => "ok",
                Verdict::Skipped => "skipped",
                Verdict::Bad(said) => {
                    writeln!(wrong, "--- {} × {}: {said}", row.name, column.name()).unwrap();
                    "BAD"
                }
            };
            write!(table, "{said:width$}", width = width(column)).unwrap();
        }
    }
    note(table.trim_end());
    wrong
}

#[test]
fn every_mode_carries_every_protocol() {
    if external("curl").is_none() {
        return;
    }
    let ground = Ground::Loopback;
    let home = Home::new();
    let Some(servers) = Servers::start(&ground, &home) else { return };
    let far = Network::new("eth0").map(Ground::Network);
    let far_home = Home::new();
    let far_servers = far.as_ref().and_then(|far| Servers::start(far, &far_home));
    let Ports { ignored, .. } = servers.ports;

    let homes: [Home; 4] = std::array::from_fn(|_| Home::new());
    // One process for three modes with all their listeners.
    let reverse = servers.reverse();
    let mut modes = vec!["regular".to_owned(), "socks5".to_owned()];
    modes.extend(reverse.iter().map(|(_, mode)| mode.clone()));
    let first = Station::start(&ground, &homes[0], &servers.trust, &modes, ignored);
    // One for those behind, and one for all kinds of ways to them.
    let modes = ["regular", "socks5"].map(str::to_owned);
    let behind = Station::start(&ground, &homes[1], &servers.trust, &modes, ignored);
    let [regular, socks] = behind.addresses[..] else { panic!("two modes") };
    let modes = [
        format!("upstream:http://{regular}"),
        format!("upstream:https://localhost:{}", regular.port()),
        format!("upstream:socks5://{socks}"),
        format!("upstream:socks5h://{socks}"),
    ];
    let trust = PathBuf::from(behind.home.ca());
    let upstream = Station::start(&ground, &homes[2], &trust, &modes, ignored);
    let mut stations = vec![first, behind, upstream];
    if let (Some(far), Some(servers)) = (&far, &far_servers) {
        let Ground::Network(network) = far else { unreachable!() };
        network.rules("iptables -t nat -A PREROUTING -i eth0 -p tcp -j REDIRECT --to-port 8080");
        let modes = ["transparent".to_owned()];
        let ignored = servers.ports.ignored;
        stations.push(Station::start(far, &homes[3], &servers.trust, &modes, ignored));
    }

    let row = |name, mode, way, on: &[usize]| Row {
        name,
        mode,
        ground: &ground,
        servers: &servers,
        way,
        stations: on.to_vec(),
        home: stations[on[0]].home,
    };
    let ports = reverse.iter().map(|(port, _)| *port).zip(stations[0].addresses[2..].to_vec());
    let mut rows = vec![
        row("regular", "regular", Way::Http(stations[0].addresses[0]), &[0]),
        row("socks5", "socks5", Way::Socks(stations[0].addresses[1]), &[0]),
        row("reverse", "reverse:", Way::Reverse(ports.collect()), &[0]),
    ];
    let kinds = [
        ("upstream-http", "upstream:http"),
        ("upstream-https", "upstream:https"),
        ("upstream-socks5", "upstream:socks5"),
        ("upstream-socks5h", "upstream:socks5h"),
    ];
    for ((name, mode), address) in kinds.into_iter().zip(&stations[2].addresses) {
        rows.push(row(name, mode, Way::Http(*address), &[2, 1]));
    }
    if let (Some(far), Some(servers)) = (&far, &far_servers) {
        let home = stations[3].home;
        let way = Way::Redirected;
        let (name, mode) = ("transparent", "transparent");
        rows.push(Row { name, mode, ground: far, servers, way, stations: vec![3], home });
    }
    let mut verdicts = fill(&rows);

    let records: Vec<_> = stations.into_iter().map(Station::finish).collect();
    for (row, verdicts) in rows.iter().zip(&mut verdicts) {
        for (column, was) in COLUMNS.into_iter().zip(verdicts) {
            for (at, &station) in row.stations.iter().enumerate() {
                if let Verdict::Ok = was {
                    *was = match &records[station] {
                        Ok(flows) => {
                            verdict(|| column.check(&Record { row, is_first: at == 0, flows }))
                        }
                        Err(said) => Verdict::Bad(said.clone()),
                    };
                }
            }
        }
    }
    let wrong = show(&rows, &verdicts);
    assert!(wrong.is_empty(), "\n{wrong}");
}
