//! Transparent mode between network namespaces, with the rules that the documentation gives: a client, a server, and
//! between them a router where the proxy runs. Needs root; what it makes is gone when the test ends.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::chown,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use mitm_testkit::{external, tls::Authority};
use nix::{
    sched::{CloneFlags, setns},
    unistd::geteuid,
};

use crate::support::{Ended, Home, PATIENCE, Running, note, run, text, wait_for};

/// The addresses are those of the documentation.
const CLIENT: [&str; 2] = ["192.168.1.2", "fd00:1::2"];
const ROUTER: [&str; 2] = ["198.51.100.1", "2001:db8::1"];
pub(crate) const SERVER: [&str; 2] = ["198.51.100.2", "2001:db8::2"];
/// Where the server speaks first, and nothing known.
const RAW: u16 = 2525;
/// A user without rights.
const NOBODY: u32 = 65534;

/// Three network namespaces; they are removed when this is dropped.
pub(crate) struct Network {
    prefix: String,
    home: Home,
    /// The authority of the server.
    trust: String,
    nginx: Option<Running>,
}

/// Where something runs.
#[derive(Clone, Copy)]
pub(crate) enum At {
    Client,
    Router,
    Server,
}

impl Network {
    /// Makes the network and starts the servers; `None` if this machine cannot. The router's interface towards the
    /// client is called `interface`.
    pub(crate) fn new(interface: &str) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        for program in ["ip", "iptables", "ip6tables", "nft", "sysctl", "curl", "nginx"] {
            external(program)?;
        }
        if !geteuid().is_root() {
            note("skipped: network namespaces need root");
            return None;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let home = Home::new();
        let authority = Authority::new("of the server");
        let trust = home.write("trust.pem", authority.pem());
        let prefix = format!("mitm{}-{count}", std::process::id());
        let mut network = Self { prefix, home, trust, nginx: None };
        network.build(interface);
        network.serve(&authority);
        Some(network)
    }

    fn name(&self, at: At) -> String {
        let letter = match at {
            At::Client => 'c',
            At::Router => 'r',
            At::Server => 's',
        };
        format!("{}{letter}", self.prefix)
    }

    fn build(&self, interface: &str) {
        let [c, r, s] = [At::Client, At::Router, At::Server].map(|at| self.name(at));
        for name in [&c, &r, &s] {
            self.root(&format!("ip netns add {name}"));
            self.root(&format!("ip -n {name} link set lo up"));
        }
        self.root(&format!("ip link add eth0 netns {c} type veth peer name {interface} netns {r}"));
        self.root(&format!("ip link add eth0 netns {s} type veth peer name out netns {r}"));
        for (name, link, addresses) in [
            (&c, "eth0", CLIENT),
            (&r, interface, ["192.168.1.1", "fd00:1::1"]),
            (&r, "out", ROUTER),
            (&s, "eth0", SERVER),
        ] {
            let [v4, v6] = addresses;
            self.root(&format!("ip -n {name} addr add {v4}/24 dev {link}"));
            self.root(&format!("ip -n {name} addr add {v6}/64 dev {link} nodad"));
            self.root(&format!("ip -n {name} link set {link} up"));
        }
        for (name, v4, v6) in [(&c, "192.168.1.1", "fd00:1::1"), (&s, ROUTER[0], ROUTER[1])] {
            self.root(&format!("ip -n {name} route add default via {v4}"));
            self.root(&format!("ip -n {name} -6 route add default via {v6}"));
        }
        self.rules("sysctl -w net.ipv4.ip_forward=1");
        self.rules("sysctl -w net.ipv6.conf.all.forwarding=1");
    }

    /// HTTP and HTTPS by nginx, which says who asks for what.
    fn serve(&mut self, authority: &Authority) {
        let identity = authority.issue(&[SERVER[0], SERVER[1], "server.test"]);
        let identity = self.home.write_identity("server.pem", &identity);
        let directory = text(&self.home.path(""));
        let [v4, v6] = SERVER;
        let config = format!(
            "daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
            events {{ }}
            http {{
                access_log off;
                client_body_temp_path {directory}/1; proxy_temp_path {directory}/2;
                fastcgi_temp_path {directory}/3; uwsgi_temp_path {directory}/4;
                scgi_temp_path {directory}/5;
                server {{
                    listen {v4}:80; listen [{v6}]:80;
                    listen {v4}:443 ssl http2; listen [{v6}]:443 ssl http2;
                    ssl_certificate {identity}; ssl_certificate_key {identity};
                    return 200 \"$remote_addr $scheme $http_host$request_uri $server_protocol\";
                }}
            }}"
        );
        let config = self.home.write("nginx.conf", config);
        let nginx = external("nginx").expect("it was there");
        let nginx = self.inside(At::Server, || {
            let mut command = self.home.command(nginx);
            command.args(["-p", &directory, "-c", &config, "-e", "stderr"]);
            Running::spawn(&mut command)
        });
        self.nginx = Some(nginx);
        wait_for("nginx listens", || {
            self.inside(At::Server, || TcpStream::connect((v4, 443)).ok().map(drop))
        });
    }

    /// Does something in a namespace. What is started there stays there.
    pub(crate) fn inside<T: Send>(&self, at: At, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name(at))).unwrap();
        let done = thread::scope(|scope| {
            let work = move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(work).join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn root(&self, line: &str) {
        let ended = self.try_root(line);
        assert_eq!(ended.code, Some(0), "{line}: {}", ended.stderr);
    }

    fn try_root(&self, line: &str) -> Ended {
        let (program, words) = line.split_once(' ').unwrap();
        let mut command = self.home.command(external(program).expect("it was there"));
        run(command.args(words.split_whitespace()))
    }

    /// Runs lines on the router, as a user would type them.
    pub(crate) fn rules(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.inside(At::Router, || self.root(line));
        }
    }

    fn mitmdump(&self, words: &[&str]) -> Command {
        let fixed = ["-p", "8080", "--upstream-trusted-ca", &self.trust];
        self.home.mitmdump(&[&fixed, words].concat())
    }

    fn start(&self, mut command: Command) -> Running {
        let proxy = self.inside(At::Router, || Running::spawn(&mut command));
        wait_for(&format!("the proxy listens: {proxy:?}"), || {
            proxy.stdout().contains("listening at").then_some(())
        });
        proxy
    }

    /// Runs curl on the client.
    fn curl(&self, words: &[&str]) -> Ended {
        let mut command = self.home.command(external("curl").expect("it was there"));
        command.args(["-sS", "-g", "--max-time", "50", "--cacert", &self.home.ca()]);
        self.inside(At::Client, || run(command.args(words)))
    }

    /// Asks for pages in every way, and says who the server took for the client. All of it passes the proxy.
    fn sources(&self, proxy: &Running, family: usize) -> Vec<String> {
        let server = SERVER[family];
        let host = if family == 0 { server.to_owned() } else { format!("[{server}]") };
        let named = format!("server.test:443:{host}");
        let mut sources = Vec::new();
        for (url, words, version) in [
            (format!("http://{host}/a"), &["--http1.1"][..], "1.1"),
            (format!("https://{host}/b"), &["--http1.1"], "1.1"),
            (format!("https://{host}/c"), &["--http2"], "2.0"),
            ("https://server.test/d".to_owned(), &["--resolve", &named], "2.0"),
        ] {
            let ended = self.curl(&[words, &[&url]].concat());
            let (source, rest) = ended.stdout.split_once(' ').unwrap_or_default();
            let (scheme, place) = url.split_once("://").unwrap();
            assert_eq!(rest, format!("{scheme} {place} HTTP/{version}"), "{ended:?} {proxy:?}");
            sources.push(source.to_owned());
            // There without brackets, as in mitmproxy.
            let logged = url.replace(['[', ']'], "");
            wait_for("the request is in the log", || {
                proxy.stdout().contains(&logged).then_some(())
            });
        }
        sources.push(self.raw(family));
        let raw = format!("server connect {host}:{RAW}");
        wait_for("the talk is in the log", || proxy.stdout().contains(&raw).then_some(()));
        sources.dedup();
        sources
    }

    /// Has a talk that the server begins, and returns whom it saw.
    fn raw(&self, family: usize) -> String {
        let address = (SERVER[family], RAW);
        let listener = self.inside(At::Server, || TcpListener::bind(address)).unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut stream, peer) = listener.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(b"220 hello\r\n").unwrap();
                let mut said = String::new();
                stream.read_to_string(&mut said).unwrap();
                stream.write_all(said.to_uppercase().as_bytes()).unwrap();
                peer.ip().to_string()
            });
            let mut stream = self.inside(At::Client, || TcpStream::connect(address)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut greeting = [0; 11];
            stream.read_exact(&mut greeting).unwrap();
            stream.write_all(b"good bye").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!((&greeting, &*answer), (b"220 hello\r\n", "GOOD BYE"));
            server.join().unwrap()
        })
    }

    /// Lets a user without rights write to the home, where nothing is of root but what the servers need.
    fn give_away_home(&self) {
        fs::remove_dir_all(self.home.path(".mitmproxy")).unwrap();
        chown(self.home.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    }

    /// The same command by a user without rights, but for these capabilities.
    fn without_root(&self, command: &Command, capabilities: &str) -> Command {
        let mut other = self.home.command(external("setpriv").expect("it is in every Debian"));
        let user = NOBODY.to_string();
        other.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        other.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
        other.args(["--bounding-set", capabilities, "--no-new-privs"]);
        other.arg(command.get_program()).args(command.get_args());
        other
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.nginx = None;
        for at in [At::Client, At::Router, At::Server] {
            // It may not have been made.
            self.try_root(&format!("ip netns del {}", self.name(at)));
        }
    }
}

/// The rules of the guide, for Linux.
const GUIDE: &str = "
    iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-port 8080
    iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 443 -j REDIRECT --to-port 8080
    iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 2525 -j REDIRECT --to-port 8080
    ip6tables -t nat -A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-port 8080
    ip6tables -t nat -A PREROUTING -i eth0 -p tcp --dport 443 -j REDIRECT --to-port 8080
    ip6tables -t nat -A PREROUTING -i eth0 -p tcp --dport 2525 -j REDIRECT --to-port 8080";

/// Those of the walk-through with virtual machines.
const WALK_THROUGH: &str = "
    iptables -t nat -A PREROUTING -i eth1 -p tcp --dport 80 -j REDIRECT --to-port 8080
    iptables -t nat -A PREROUTING -i eth1 -p tcp --dport 443 -j REDIRECT --to-port 8080
    iptables -t nat -A PREROUTING -i eth1 -p tcp --dport 2525 -j REDIRECT --to-port 8080";

/// The same by nftables, for both families.
const NFTABLES: &str = "
    nft add table inet proxy
    nft add chain inet proxy before { type nat hook prerouting priority dstnat ; }
    nft add rule inet proxy before iifname eth0 tcp dport { 80, 443, 2525 } redirect to :8080";

#[test]
fn redirected_connections_reach_their_server() {
    for (interface, rules, families) in
        [("eth0", GUIDE, 2), ("eth1", WALK_THROUGH, 1), ("eth0", NFTABLES, 2)]
    {
        let Some(network) = Network::new(interface) else { return };
        network.rules(rules);
        let proxy = network.start(network.mitmdump(&["-T", "--host"]));
        for (family, source) in ROUTER.iter().enumerate().take(families) {
            assert_eq!(network.sources(&proxy, family), [*source], "{rules} {proxy:?}");
        }
        // Who was not redirected has no destination, and does not reach the proxy through itself.
        let ended = network.curl(&["http://192.168.1.1:8080/"]);
        assert!(!ended.stdout.contains("http"), "{ended:?}");
        wait_for("the loop is noticed", || {
            proxy.stdout().contains("Request destination unknown").then_some(())
        });
    }
}

#[test]
fn redirected_connections_pass_untouched() {
    let Some(network) = Network::new("eth0") else { return };
    network.rules(GUIDE);
    let by_address = format!("^{}:443$", SERVER[0].replace('.', "\\."));
    for (pattern, url) in [
        (&*by_address, format!("https://{}/", SERVER[0])),
        ("^server\\.test:443$", "https://server.test/".to_owned()),
    ] {
        let proxy = network.start(network.mitmdump(&["-T", "--ignore", pattern]));
        let named = format!("server.test:443:{}", SERVER[0]);
        let ended = network.curl(&["--resolve", &named, "--cacert", &network.trust, &url]);
        assert!(ended.stdout.starts_with(ROUTER[0]), "{ended:?} {proxy:?}");
        let ended = network.curl(&["--resolve", &named, &url]);
        assert_eq!(ended.code, Some(60), "it is not the certificate of the proxy: {ended:?}");
        assert!(!proxy.stdout().contains(&url), "{proxy:?}");
    }
}

#[test]
fn diverted_connections_reach_their_server() {
    let by_iptables = "
        iptables -t mangle -A PREROUTING -i eth0 -p tcp -m multiport --dports 80,443,2525 \
            -j TPROXY --on-port 8080 --tproxy-mark 1
        ip6tables -t mangle -A PREROUTING -i eth0 -p tcp -m multiport --dports 80,443,2525 \
            -j TPROXY --on-port 8080 --tproxy-mark 1";
    let by_nftables = "
        nft add table inet proxy
        nft add chain inet proxy before { type filter hook prerouting priority mangle ; }
        nft add rule inet proxy before iifname eth0 tcp dport { 80, 443, 2525 } \
            meta mark set 1 tproxy to :8080 accept";
    let routes = "
        ip rule add fwmark 1 lookup 100
        ip route add local 0.0.0.0/0 dev lo table 100
        ip -6 rule add fwmark 1 lookup 100
        ip -6 route add local ::/0 dev lo table 100";
    for rules in [by_iptables, by_nftables] {
        let Some(network) = Network::new("eth0") else { return };
        network.rules(rules);
        network.rules(routes);
        let proxy = network.start(network.mitmdump(&["-T", "--host"]));
        for (family, source) in ROUTER.iter().enumerate() {
            assert_eq!(network.sources(&proxy, family), [*source], "{rules} {proxy:?}");
        }
    }
}

/// The rules of the guide for a fully transparent mode, and the same for IPv6.
const SPOOFING: &str = "
    iptables -t mangle -A PREROUTING -d 192.168.1.0/24 -j MARK --set-mark 1
    iptables -t nat -A PREROUTING -p tcp -s 192.168.1.0/24 --match multiport --dports 80,443,2525 \
        -j REDIRECT --to-port 8080
    ip rule add fwmark 1 lookup 100
    ip route add local 192.168.1.0/24 dev lo table 100
    ip6tables -t mangle -A PREROUTING -d fd00:1::/64 -j MARK --set-mark 1
    ip6tables -t nat -A PREROUTING -p tcp -s fd00:1::/64 --match multiport --dports 80,443,2525 \
        -j REDIRECT --to-port 8080
    ip -6 rule add fwmark 1 lookup 100
    ip -6 route add local fd00:1::/64 dev lo table 100";

#[test]
fn servers_see_the_address_of_the_client() {
    let Some(network) = Network::new("eth0") else { return };
    network.rules(SPOOFING);
    let words = ["-T", "--host", "--spoof-source-address"];
    let proxy = network.start(network.mitmdump(&words));
    for (family, source) in CLIENT.iter().enumerate() {
        assert_eq!(network.sources(&proxy, family), [*source], "{proxy:?}");
    }
    drop(proxy);

    // The same without root: by a capability.
    network.give_away_home();
    let proxy = network.start(network.without_root(&network.mitmdump(&words), "-all,+net_admin"));
    for (family, source) in CLIENT.iter().enumerate() {
        assert_eq!(network.sources(&proxy, family), [*source], "{proxy:?}");
    }
    drop(proxy);

    // Without that it is refused at once, and what is not needed works.
    let ended = run(&mut network.without_root(&network.mitmdump(&words), "-all"));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("CAP_NET_ADMIN"), "{ended:?}");
    network.rules(
        "iptables -t mangle -F
        ip6tables -t mangle -F",
    );
    let proxy = network.start(network.without_root(&network.mitmdump(&["-T", "--host"]), "-all"));
    for (family, source) in ROUTER.iter().enumerate() {
        assert_eq!(network.sources(&proxy, family), [*source], "{proxy:?}");
    }
}
