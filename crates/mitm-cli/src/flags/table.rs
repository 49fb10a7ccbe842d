//! The rows. Within a group the order is that of the help; what may be said by several flags is said by the last one
//! here (so `-d` comes after `-v`).

use Does::{Later, LaterSwitch, Set, Switch};
use Takes::{Count, Many, Number, OneOf, Port, Text};
use Tool::{Mitmdump, Mitmproxy, Mitmweb};

use super::{Does, Flag, Group, Special, Takes, Tool};

const CONSOLE: &[Tool] = &[Mitmproxy];
const DUMP: &[Tool] = &[Mitmdump];
const WEB: &[Tool] = &[Mitmweb];
const INTERACTIVE: &[Tool] = &[Mitmproxy, Mitmweb];

/// What 2.0 called versions of TLS.
const OLD_VERSIONS: &[&str] = &["all", "secure", "SSLv2", "SSLv3", "TLSv1", "TLSv1_1", "TLSv1_2"];

const fn general(long: &'static str, does: Special, help: &'static str) -> Flag {
    Flag::new(Group::General, long, Does::Special(does), help)
}

const fn flows(long: &'static str, does: Does, help: &'static str) -> Flag {
    Flag::new(Group::Flows, long, does, help)
}

const fn proxy(long: &'static str, does: Does, help: &'static str) -> Flag {
    Flag::new(Group::Proxy, long, does, help)
}

const fn tls(long: &'static str, does: Does, help: &'static str) -> Flag {
    Flag::new(Group::Tls, long, does, help)
}

const fn replay(long: &'static str, does: Does, help: &'static str) -> Flag {
    Flag::new(Group::Replay, long, does, help)
}

const fn change(long: &'static str, does: Does, help: &'static str) -> Flag {
    Flag::new(Group::Change, long, does, help)
}

const fn screen(long: &'static str, tools: &'static [Tool], help: &'static str) -> Flag {
    Flag { tools, ..Flag::new(Group::Screen, long, Later, help) }
}

/// All flags of all programs.
pub static TABLE: &[Flag] = &[
    // ---- general ----
    Flag { shorts: &['h'], ..general("help", Special::Help, "Print this help and exit") },
    Flag {
        aliases: &["sysinfo"],
        ..general("version", Special::Version, "Print versions and the platform, and exit")
    },
    general("shortversion", Special::ShortVersion, "Print the version number alone, and exit"),
    general("options", Special::Options, "Print all options with help and defaults, and exit"),
    general("commands", Special::Commands, "Print all commands, and exit"),
    Flag {
        takes: Many("OPTION[=VALUE]"),
        ..general(
            "set",
            Special::Set,
            "Set an option. Without a value a switch is turned on and a list emptied; repeat it to give a list \
             several values",
        )
    },
    Flag {
        aliases: &["cadir"],
        takes: Text("DIR"),
        ..general(
            "confdir",
            Special::Confdir,
            "Directory of the certificate authority and config.yaml [default: ~/.mitmproxy]",
        )
    },
    Flag {
        takes: Text("FILE"),
        ..general(
            "conf",
            Special::Conf,
            "Read this configuration file in place of config.yaml and config.yml",
        )
    },
    Flag {
        shorts: &['q'],
        replaces: &["verbose"],
        ..general("quiet", Special::Quiet, "Print errors only, and no flows")
    },
    Flag {
        shorts: &['v'],
        replaces: &["quiet"],
        ..general("verbose", Special::Verbose, "Print debug messages, and flows with headers")
    },
    // ---- flows ----
    Flag {
        aliases: &["read-flows"],
        shorts: &['r'],
        takes: Text("FILE"),
        ..flows("rfile", Set("rfile"), "Read flows from a file; - is standard input")
    },
    Flag {
        aliases: &["wfile"],
        shorts: &['w'],
        takes: Text("FILE"),
        against: &["afile"],
        ..flows(
            "save-stream-file",
            Set("save_stream_file"),
            "Write flows to a file. A leading + appends; %Y, %H and other strftime codes are replaced",
        )
    },
    Flag {
        shorts: &['a'],
        takes: Text("FILE"),
        against: &["save-stream-file"],
        ..flows("afile", Does::Special(Special::Append), "Append flows to a file")
    },
    Flag {
        takes: Number("LEVEL"),
        tools: DUMP,
        replaces: &["detail"],
        ..flows(
            "flow-detail",
            Set("flow_detail"),
            "How much to print of each flow: 0 nothing, 1 a line, 2 headers, 3 bodies cut short, 4 everything \
             [default: 1]",
        )
    },
    Flag {
        shorts: &['d'],
        takes: Count,
        tools: DUMP,
        replaces: &["flow-detail"],
        ..flows(
            "detail",
            Does::Special(Special::Detail),
            "The same by the number of letters: -d is level 1, -dd level 2",
        )
    },
    Flag {
        tools: DUMP,
        ..flows(
            "keepserving",
            Switch("keepserving", true),
            "Do not exit when all of the file has been read",
        )
    },
    Flag {
        aliases: &["host"],
        opposite: &["no-showhost"],
        ..flows(
            "showhost",
            Switch("showhost", true),
            "Show URLs with the host of the Host header, rather than the address",
        )
    },
    Flag {
        opposite: &["no-show-ignored-hosts"],
        ..flows(
            "show-ignored-hosts",
            Switch("show_ignored_hosts", true),
            "Record connections that are passed through",
        )
    },
    // ---- proxy ----
    Flag {
        shorts: &['m'],
        takes: Many("MODE"),
        ..proxy(
            "mode",
            Does::Special(Special::Mode),
            "What kind of proxy to be, and where: regular, transparent, socks5, reverse:SERVER or upstream:PROXY, and \
             [@[HOST:]PORT] behind it. Several run side by side",
        )
    },
    Flag {
        aliases: &["bind-address"],
        shorts: &['b'],
        takes: Text("HOST"),
        ..proxy("listen-host", Set("listen_host"), "Address to listen on [default: all]")
    },
    Flag {
        aliases: &["port"],
        shorts: &['p'],
        takes: Port("PORT"),
        ..proxy("listen-port", Set("listen_port"), "Port to listen on [default: 8080]")
    },
    Flag {
        shorts: &['n'],
        opposite: &["server"],
        ..proxy("no-server", Switch("server", false), "Do not listen")
    },
    Flag {
        takes: Text("ADDR"),
        ..proxy(
            "upstream-bind-address",
            Set("connect_addr"),
            "Local address to connect to servers from",
        )
    },
    Flag {
        shorts: &['Z'],
        takes: Text("SIZE"),
        ..proxy(
            "body-size-limit",
            Set("body_size_limit"),
            "Refuse larger bodies; bytes, or with a suffix as in 512k, 3m or 1g",
        )
    },
    Flag {
        takes: Text("SIZE"),
        ..proxy(
            "stream",
            Set("stream_large_bodies"),
            "Forward larger bodies as they come, without looking at them",
        )
    },
    Flag {
        opposite: &["no-store-streamed-bodies"],
        ..proxy(
            "store-streamed-bodies",
            Switch("store_streamed_bodies", true),
            "Keep a copy of bodies that are streamed",
        )
    },
    Flag {
        opposite: &["no-http2"],
        ..proxy("http2", Switch("http2", true), "Speak HTTP/2 with those who offer it")
    },
    Flag {
        opposite: &["no-websocket"],
        ..proxy("websocket", Switch("websocket", true), "Decode WebSocket messages")
    },
    Flag {
        aliases: &["no-raw-tcp"],
        opposite: &["rawtcp", "raw-tcp"],
        ..proxy(
            "no-rawtcp",
            Switch("rawtcp", false),
            "Take what is neither TLS nor HTTP for HTTP rather than for plain TCP",
        )
    },
    Flag {
        aliases: &["ignore"],
        shorts: &['I'],
        takes: Many("REGEX"),
        ..proxy(
            "ignore-hosts",
            Set("ignore_hosts"),
            "Pass connections to these hosts through, untouched: a regular expression, tried on HOST:PORT",
        )
    },
    Flag {
        takes: Many("REGEX"),
        ..proxy(
            "allow-hosts",
            Set("allow_hosts"),
            "Pass connections to all other hosts through, untouched",
        )
    },
    Flag {
        aliases: &["tcp"],
        takes: Many("REGEX"),
        ..proxy(
            "tcp-hosts",
            Set("tcp_hosts"),
            "Take what connections to these hosts carry for plain TCP; TLS is intercepted",
        )
    },
    Flag {
        shorts: &['R'],
        takes: Text("SPEC"),
        against: &["mode", "upstream", "transparent", "socks"],
        ..proxy(
            "reverse",
            Does::Special(Special::ModeOf("reverse")),
            "Reverse proxy: be this server, [SCHEME://]HOST[:PORT] with https, http, tls or tcp",
        )
    },
    Flag {
        shorts: &['U'],
        takes: Text("SPEC"),
        against: &["mode", "transparent", "socks"],
        ..proxy(
            "upstream",
            Does::Special(Special::ModeOf("upstream")),
            "Go through another proxy, [SCHEME://]HOST[:PORT] with http, https, socks5 or socks5h",
        )
    },
    Flag {
        shorts: &['T'],
        against: &["mode", "socks"],
        ..proxy(
            "transparent",
            Does::Special(Special::ModeOf("transparent")),
            "Transparent proxy: take connections that the network redirects here",
        )
    },
    Flag {
        against: &["mode"],
        ..proxy("socks", Does::Special(Special::ModeOf("socks5")), "SOCKS5 proxy")
    },
    Flag {
        takes: Text("USER:PASS"),
        ..proxy(
            "upstream-auth",
            Set("upstream_auth"),
            "Credentials for the upstream proxy or reverse server",
        )
    },
    Flag {
        takes: Text("SPEC"),
        against: &["nonanonymous", "singleuser", "htpasswd"],
        ..proxy(
            "proxyauth",
            Set("proxyauth"),
            "Ask clients for a name and password: USER:PASS, any, @FILE (htpasswd), or \
             ldap[s]:HOST[:PORT]:BIND_DN:PASS:SUBTREE",
        )
    },
    Flag {
        against: &["singleuser", "htpasswd"],
        ..proxy(
            "nonanonymous",
            Does::Special(Special::NonAnonymous),
            "Ask clients for any name and password",
        )
    },
    Flag {
        takes: Text("USER:PASS"),
        against: &["htpasswd"],
        ..proxy(
            "singleuser",
            Does::Special(Special::SingleUser),
            "Ask clients for this name and password",
        )
    },
    Flag {
        takes: Text("FILE"),
        ..proxy(
            "htpasswd",
            Does::Special(Special::Htpasswd),
            "Ask clients for a name and password of this file",
        )
    },
    Flag {
        opposite: &["no-http2-priority"],
        ..proxy("http2-priority", LaterSwitch, "Forward priorities of HTTP/2")
    },
    Flag {
        against: &["upstream-bind-address"],
        ..proxy(
            "spoof-source-address",
            Switch("spoof_source_address", true),
            "Connect to servers from the client's address; needs CAP_NET_ADMIN, and routes for the answers",
        )
    },
    proxy("no-onboarding", Later, "Do not serve the pages of mitm.it"),
    Flag { takes: Text("HOST"), ..proxy("onboarding-host", Later, "Name of mitm.it") },
    Flag { takes: Port("PORT"), ..proxy("onboarding-port", Later, "Port of mitm.it") },
    // ---- TLS ----
    Flag {
        aliases: &["cert"],
        takes: Many("[DOMAIN=]FILE"),
        ..tls(
            "certs",
            Set("certs"),
            "Certificate to show to clients, for a domain such as *.example.com or for all; a PEM file with its key",
        )
    },
    Flag {
        takes: Text("PASS"),
        ..tls(
            "cert-passphrase",
            Set("cert_passphrase"),
            "Passphrase of the keys; safer in config.yaml, where other users cannot see it",
        )
    },
    Flag {
        takes: Text("PATH"),
        ..tls(
            "client-certs",
            Set("client_certs"),
            "Certificate to present to servers: a PEM file, or a directory of files named HOST.pem",
        )
    },
    Flag {
        aliases: &["insecure"],
        shorts: &['k'],
        opposite: &["no-ssl-insecure"],
        ..tls(
            "ssl-insecure",
            Switch("ssl_insecure", true),
            "Accept any certificate from servers. Others on the network can then pose as them",
        )
    },
    Flag {
        takes: Text("FILE"),
        ..tls(
            "upstream-trusted-ca",
            Set("ssl_verify_upstream_trusted_ca"),
            "PEM file of the authorities to trust, in place of the system's",
        )
    },
    Flag {
        aliases: &["upstream-trusted-confdir"],
        takes: Text("DIR"),
        ..tls(
            "upstream-trusted-cadir",
            Set("ssl_verify_upstream_trusted_confdir"),
            "Directory of such files, as c_rehash makes it",
        )
    },
    Flag {
        against: &["add-upstream-certs-to-client-chain"],
        ..tls(
            "no-upstream-cert",
            Switch("upstream_cert", false),
            "Do not connect to the server first for the names in its certificate",
        )
    },
    Flag {
        against: &["no-upstream-cert"],
        ..tls(
            "add-upstream-certs-to-client-chain",
            Switch("add_upstream_certs_to_client_chain", true),
            "Append the server's certificates to the chain shown to clients",
        )
    },
    Flag {
        takes: OneOf("VERSION", OLD_VERSIONS),
        ..tls(
            "ssl-version-client",
            Does::Special(Special::Old("ssl_version_client")),
            "TLS version to speak with clients; finer by tls_version_client_min and _max",
        )
    },
    Flag {
        takes: OneOf("VERSION", OLD_VERSIONS),
        ..tls(
            "ssl-version-server",
            Does::Special(Special::Old("ssl_version_server")),
            "TLS version to speak with servers; finer by tls_version_server_min and _max",
        )
    },
    Flag {
        takes: Text("CIPHERS"),
        ..tls("ciphers-client", Set("ciphers_client"), "Ciphers to accept, as OpenSSL writes them")
    },
    Flag {
        takes: Text("CIPHERS"),
        ..tls("ciphers-server", Set("ciphers_server"), "Ciphers to offer, as OpenSSL writes them")
    },
    // ---- replay ----
    Flag {
        shorts: &['C', 'c'],
        takes: Many("FILE"),
        ..replay("client-replay", Later, "Send the requests of a file again")
    },
    Flag {
        shorts: &['S'],
        takes: Many("FILE"),
        ..replay("server-replay", Later, "Answer with the responses of a file")
    },
    Flag {
        aliases: &["replay-kill-extra"],
        opposite: &["no-server-replay-kill-extra"],
        ..replay("server-replay-kill-extra", LaterSwitch, "Kill requests without an answer there")
    },
    Flag {
        takes: Text("ACTION"),
        ..replay("server-replay-extra", Later, "What to do with requests without an answer there")
    },
    Flag {
        aliases: &["no-pop", "server-replay-nopop"],
        opposite: &["no-server-replay-reuse"],
        ..replay("server-replay-reuse", LaterSwitch, "Use each answer any number of times")
    },
    Flag {
        aliases: &["norefresh"],
        opposite: &["server-replay-refresh"],
        ..replay("no-server-replay-refresh", LaterSwitch, "Leave the dates of answers as they are")
    },
    Flag {
        aliases: &["rheader"],
        takes: Many("NAME"),
        ..replay("server-replay-use-header", Later, "Header that must be equal")
    },
    replay("replay-ignore-content", Later, "Bodies need not be equal"),
    Flag {
        takes: Many("NAME"),
        ..replay("replay-ignore-payload-param", Later, "Form field that need not be equal")
    },
    Flag {
        takes: Many("NAME"),
        ..replay("replay-ignore-param", Later, "Query parameter that need not be equal")
    },
    replay("replay-ignore-host", Later, "Hosts need not be equal"),
    // ---- changing messages ----
    Flag {
        aliases: &["script"],
        shorts: &['s'],
        takes: Many("FILE"),
        ..change("scripts", Later, "Run a script")
    },
    Flag {
        opposite: &["no-anticache"],
        ..change("anticache", LaterSwitch, "Remove headers that let servers answer 304")
    },
    Flag {
        opposite: &["no-anticomp"],
        shorts: &['z'],
        ..change("anticomp", LaterSwitch, "Ask servers for uncompressed bodies")
    },
    Flag {
        shorts: &['t'],
        takes: Text("FILTER"),
        ..change("stickycookie", Later, "Keep sending the cookies that servers set")
    },
    Flag {
        shorts: &['u'],
        takes: Text("FILTER"),
        ..change("stickyauth", Later, "Keep sending the credentials that clients sent")
    },
    Flag {
        shorts: &['M'],
        takes: Many("PATTERN"),
        ..change("map-remote", Later, "Send requests elsewhere")
    },
    Flag { takes: Many("PATTERN"), ..change("map-local", Later, "Answer with local files") },
    Flag {
        shorts: &['B'],
        takes: Many("PATTERN"),
        ..change("modify-body", Later, "Replace text in bodies")
    },
    Flag {
        shorts: &['H'],
        aliases: &["setheader"],
        takes: Many("PATTERN"),
        ..change("modify-headers", Later, "Set and remove headers")
    },
    Flag { takes: Many("PATTERN"), ..change("replace", Later, "Replace text in messages") },
    Flag {
        takes: Many("PATTERN"),
        ..change("replace-from-file", Later, "Replace text in messages by that of a file")
    },
    // ---- user interfaces ----
    Flag {
        takes: Text("FILTER"),
        shorts: &['i'],
        ..screen("intercept", INTERACTIVE, "Hold flows that match")
    },
    Flag {
        takes: Text("FILTER"),
        aliases: &["filter"],
        shorts: &['f'],
        ..screen("view-filter", CONSOLE, "Show only flows that match")
    },
    Flag { takes: Text("LAYOUT"), ..screen("console-layout", CONSOLE, "Arrangement of the panes") },
    Flag {
        opposite: &["no-console-layout-headers"],
        ..screen("console-layout-headers", CONSOLE, "Show the titles of the panes")
    },
    Flag { takes: Text("PALETTE"), ..screen("palette", CONSOLE, "Colours") },
    screen("palette-transparent", CONSOLE, "Use the terminal's background"),
    Flag { shorts: &['e'], ..screen("eventlog", CONSOLE, "Show the event log") },
    screen("follow", CONSOLE, "Go to new flows"),
    Flag { takes: Text("KEY"), ..screen("order", CONSOLE, "Order of the flows") },
    screen("no-mouse", CONSOLE, "Leave the mouse to the terminal"),
    Flag {
        aliases: &["no-browser"],
        opposite: &["web-open-browser"],
        ..screen("no-web-open-browser", WEB, "Do not open a browser")
    },
    Flag { takes: Port("PORT"), ..screen("web-port", WEB, "Port of the interface") },
    Flag {
        aliases: &["web-iface"],
        takes: Text("HOST"),
        ..screen("web-host", WEB, "Address of the interface")
    },
    screen("web-debug", WEB, "Debug the interface"),
];
