use super::*;
use crate::{hosts::HostList, mode::Mode};

const HELLO_START: &[u8] = b"\x16\x03\x01\x02\x00\x01";
/// A whole hello for `sni.test`.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00\
    \x00\x11\x00\x00\x00\x0d\x00\x0b\x00\x00\x08sni.test";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: host.test\r\n\r\n";

/// A case. What it does not say is as in a tunnel to `target.test:443` without lists.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Case {
    mode: &'static str,
    at_proxy: bool,
    data: &'static [u8],
    complete: bool,
    server_spoke: bool,
    peer: Option<&'static str>,
    ended: Option<(Option<&'static str>, Option<&'static [u8]>)>,
    was_raw: bool,
    ignore: &'static str,
    allow: &'static str,
    tcp: &'static str,
    no_rawtcp: bool,
    expected: Decision,
}

const TUNNEL: Case = Case {
    mode: "regular",
    at_proxy: false,
    data: b"",
    complete: false,
    server_spoke: false,
    peer: None,
    ended: None,
    was_raw: false,
    ignore: "",
    allow: "",
    tcp: "",
    no_rawtcp: false,
    expected: Decision::NeedMore,
};
const PROXY: Case = Case { at_proxy: true, ..TUNNEL };
const INSIDE: Case = Case { ended: Some((Some("sni.test"), None)), ..TUNNEL };

const HTTP: Decision = Decision::Layer(LayerKind::Http);
const TCP: Decision = Decision::Layer(LayerKind::Tcp);
const TLS: Decision = Decision::Layer(LayerKind::Tls);
const IGNORE: Decision = Decision::Layer(LayerKind::Ignore);
const MORE: Decision = Decision::NeedMore;

fn list(entry: &str) -> HostList {
    if entry.is_empty() { HostList::default() } else { HostList::new(&[entry]).unwrap() }
}

fn decision(case: &Case) -> Decision {
    let mode = Mode::parse(case.mode).unwrap();
    let target = Destination::plain("target.test".into(), 443);
    let peer = case.peer.map(|host| Address::new(host, 443));
    let settings = Settings {
        ignore_hosts: list(case.ignore),
        allow_hosts: list(case.allow),
        tcp_hosts: list(case.tcp),
        rawtcp: !case.no_rawtcp,
        ..Settings::default()
    };
    decide(&Known {
        data: case.data,
        complete: case.complete,
        server_spoke: case.server_spoke,
        mode: &mode.kind,
        target: (!case.at_proxy).then_some(&target),
        peer: peer.as_ref(),
        ended: case.ended.map(|(sni, alpn)| Ended { sni, alpn }),
        was_raw: case.was_raw,
        settings: &settings,
    })
}

#[track_caller]
fn check(cases: &[Case]) {
    for (number, case) in cases.iter().enumerate() {
        let data = case.data.escape_ascii();
        assert_eq!(decision(case), case.expected, "case {number}: {} \"{data}\"", case.mode);
    }
}

#[test]
fn at_the_proxy_itself() {
    check(&[
        Case { expected: MORE, ..PROXY },
        Case { data: HELLO_START, expected: TLS, ..PROXY },
        Case { data: b"\x16", expected: MORE, ..PROXY },
        Case { data: b"\x16", complete: true, expected: HTTP, ..PROXY },
        Case { data: b"CONNECT a:1 HTTP/1.1\r\n", expected: HTTP, ..PROXY },
        Case { data: b"\x00\x01\x02\x03", expected: HTTP, ..PROXY },
        Case { data: b"P", expected: HTTP, ..PROXY },
        Case { mode: "upstream:http://p:1", data: b"SSH-2.0-x\r\n", expected: HTTP, ..PROXY },
        // TLS to the proxy, and another hello inside of it.
        Case { data: HELLO_START, ended: INSIDE.ended, expected: HTTP, ..PROXY },
        // Requests to the proxy itself are never ignored: their target is not known yet.
        Case { data: GET, ignore: ".", expected: HTTP, ..PROXY },
        Case { data: GET, allow: "^nothing$", expected: HTTP, ..PROXY },
    ]);
}

#[test]
fn in_tunnels() {
    check(&[
        Case { expected: MORE, ..TUNNEL },
        Case { data: HELLO_START, expected: TLS, ..TUNNEL },
        Case { data: b"\x16\x03", expected: MORE, ..TUNNEL },
        Case { data: b"\x16\x03", complete: true, expected: TCP, ..TUNNEL },
        Case { data: b"\x16\x03\x04", expected: TCP, ..TUNNEL },
        Case { data: GET, expected: HTTP, ..TUNNEL },
        Case { data: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", expected: HTTP, ..TUNNEL },
        Case { data: b"PRI * HT", expected: HTTP, ..TUNNEL },
        Case { data: b"GET", expected: MORE, ..TUNNEL },
        Case { data: b"GE", complete: true, expected: TCP, ..TUNNEL },
        Case { data: b"ge", expected: TCP, ..TUNNEL },
        Case { data: b"SSH-2.0-x\r\n", expected: TCP, ..TUNNEL },
        Case { data: b"\x00\x01\x02\x03", expected: TCP, ..TUNNEL },
        Case { data: b"\x00\x01\x02\x03", no_rawtcp: true, expected: HTTP, ..TUNNEL },
        Case { server_spoke: true, expected: TCP, ..TUNNEL },
        Case { server_spoke: true, no_rawtcp: true, expected: HTTP, ..TUNNEL },
        Case { server_spoke: true, data: GET, expected: TCP, ..TUNNEL },
        Case { server_spoke: true, data: HELLO_START, expected: TLS, ..TUNNEL },
        Case { mode: "socks5", data: GET, expected: HTTP, ..TUNNEL },
        Case { mode: "transparent", data: b"\x00\x01\x02", expected: TCP, ..TUNNEL },
    ]);
}

#[test]
fn inside_of_tls() {
    let alpn = |protocol: &'static [u8]| Some((None, Some(protocol)));
    check(&[
        Case { expected: MORE, ..INSIDE },
        Case { data: GET, expected: HTTP, ..INSIDE },
        Case { data: b"\x00\x01\x02", expected: TCP, ..INSIDE },
        Case { data: b"\x00\x01\x02", ended: alpn(b"http/1.1"), expected: HTTP, ..TUNNEL },
        Case { data: b"G", ended: alpn(b"h2"), expected: HTTP, ..TUNNEL },
        Case { data: b"\x00\x01\x02", ended: alpn(b"imap"), expected: TCP, ..TUNNEL },
        Case { data: HELLO_START, expected: TCP, ..INSIDE },
        Case { data: HELLO_START, no_rawtcp: true, expected: TCP, ..INSIDE },
        Case { data: b"EHLO x\r\n", expected: HTTP, ..INSIDE },
        Case { data: b"EHLO x\r\n", was_raw: true, expected: TCP, ..INSIDE },
        Case { was_raw: true, expected: TCP, ..INSIDE },
        Case { tcp: "target", expected: TCP, ..INSIDE },
        Case { mode: "reverse:tcp://target.test:443", expected: TCP, ..INSIDE },
        Case { data: HELLO_START, was_raw: true, expected: TLS, ..TUNNEL },
    ]);
}

#[test]
fn in_reverse_mode() {
    let to = |mode| Case { mode, ..TUNNEL };
    let (http, https) = ("reverse:http://target.test:443", "reverse:https://target.test");
    let (tcp, tls) = ("reverse:tcp://target.test:443", "reverse:tls://target.test:443");
    check(&[
        Case { data: GET, expected: HTTP, ..to(http) },
        Case { data: b"G", expected: HTTP, ..to(http) },
        Case { data: b"\x00\x01\x02", expected: HTTP, ..to(https) },
        Case { data: HELLO_START, expected: TLS, ..to(http) },
        Case { data: HELLO_START, expected: TLS, ..to(tcp) },
        Case { data: HELLO_START, ended: INSIDE.ended, expected: TCP, ..to(tls) },
        Case { data: HELLO_START, ended: INSIDE.ended, expected: HTTP, ..to(https) },
        Case { data: GET, expected: TCP, ..to(tcp) },
        Case { data: b"x", expected: TCP, ..to(tls) },
        Case { data: b"\x16", expected: MORE, ..to(tls) },
        Case { expected: MORE, ..to(tcp) },
        Case { complete: true, expected: TCP, ..to(tcp) },
        Case { complete: true, expected: MORE, ..to(http) },
        Case { server_spoke: true, expected: TCP, ..to(tcp) },
        Case { data: GET, no_rawtcp: true, expected: TCP, ..to(tcp) },
        Case { data: GET, ended: Some((None, Some(b"http/1.1"))), expected: TCP, ..to(tls) },
    ]);
}

#[test]
fn hosts_of_raw_tcp() {
    check(&[
        Case { tcp: "^target.test$", data: GET, expected: TCP, ..TUNNEL },
        Case { tcp: "^target.test:443$", data: b"G", expected: TCP, ..TUNNEL },
        Case { tcp: "TARGET", data: b"G", no_rawtcp: true, expected: TCP, ..TUNNEL },
        Case { tcp: "target", data: HELLO_START, expected: TLS, ..TUNNEL },
        Case { tcp: "target", data: b"\x16\x03", expected: MORE, ..TUNNEL },
        Case { tcp: "target", expected: MORE, ..TUNNEL },
        Case { tcp: "^sni.test$", data: GET, expected: TCP, ..INSIDE },
        Case {
            tcp: "target",
            data: GET,
            ended: Some((None, Some(b"h2"))),
            expected: TCP,
            ..TUNNEL
        },
        Case { tcp: "other", data: GET, expected: HTTP, ..TUNNEL },
        Case { tcp: "10.0.0.1", peer: Some("10.0.0.1"), data: GET, expected: TCP, ..TUNNEL },
    ]);
}

#[test]
fn hosts_that_are_ignored() {
    const ALL_BUT: &str = r"^(?!sni\.test)(?!host\.test)";
    check(&[
        Case { ignore: "^target.test:443$", expected: IGNORE, ..TUNNEL },
        Case { ignore: "^target.test$", data: HELLO_START, expected: IGNORE, ..TUNNEL },
        Case { ignore: "10.0.0.1:443", peer: Some("10.0.0.1"), expected: IGNORE, ..TUNNEL },
        Case { ignore: "target.test:80", data: GET, expected: HTTP, ..TUNNEL },
        // The name in the hello, once all of it is there.
        Case { ignore: "sni", data: HELLO, expected: IGNORE, ..TUNNEL },
        Case { ignore: "^sni.test:443$", data: HELLO, expected: IGNORE, ..TUNNEL },
        Case { ignore: "sni", data: HELLO_START, expected: MORE, ..TUNNEL },
        Case { ignore: "sni", data: HELLO_START, complete: true, expected: TLS, ..TUNNEL },
        Case { ignore: "sni", data: b"\x16\x03\x01\x00\x01\x02", expected: TLS, ..TUNNEL },
        Case { ignore: "sni", data: b"\x16", expected: MORE, ..TUNNEL },
        Case { ignore: "sni", data: b"\x16", complete: true, expected: TCP, ..TUNNEL },
        // The name of a session that was ended.
        Case { ignore: "sni", data: GET, expected: IGNORE, ..INSIDE },
        // The Host header, once all of the head is there.
        Case { ignore: "host.test:443", data: GET, expected: IGNORE, ..TUNNEL },
        Case { ignore: "host", data: b"GE", expected: MORE, ..TUNNEL },
        Case { ignore: "host", data: b"GET / HT", expected: MORE, ..TUNNEL },
        Case { ignore: "host", data: b"GET / HTTP/1.1\r\nHost: ho", expected: MORE, ..TUNNEL },
        Case {
            ignore: "host",
            data: b"GET / HTTP/1.1\r\nHost: ho",
            complete: true,
            expected: HTTP,
            ..TUNNEL
        },
        Case {
            ignore: "host.test:8",
            data: b"GET / HTTP/1.1\r\nHost: host.test:8\r\n\r\n",
            expected: IGNORE,
            ..TUNNEL
        },
        Case { ignore: "host", data: b"HELO there\r\n", expected: HTTP, ..TUNNEL },
        Case { ignore: "host", server_spoke: true, expected: TCP, ..TUNNEL },
        // Exceptions.
        Case { ignore: ALL_BUT, data: HELLO, peer: Some("10.0.0.1"), expected: TLS, ..TUNNEL },
        Case { ignore: ALL_BUT, data: GET, expected: HTTP, ..TUNNEL },
        Case { ignore: ALL_BUT, data: b"GET / HTTP/1.1\r\n\r\n", expected: IGNORE, ..TUNNEL },
        // What is allowed.
        Case { allow: "target", data: GET, expected: HTTP, ..TUNNEL },
        Case { allow: "sni", data: HELLO, expected: TLS, ..TUNNEL },
        Case { allow: "sni", data: HELLO_START, expected: MORE, ..TUNNEL },
        Case { allow: "other", data: HELLO, expected: IGNORE, ..TUNNEL },
        Case { allow: "target", ignore: "sni", data: HELLO, expected: IGNORE, ..TUNNEL },
        // Whatever the mode says.
        Case { mode: "reverse:https://target.test", ignore: "target", expected: IGNORE, ..TUNNEL },
        Case { tcp: "target", ignore: "target", data: GET, expected: IGNORE, ..TUNNEL },
    ]);
}

#[test]
fn what_never_completes_is_decided_in_the_end() {
    let endless = |start: &[u8], byte: u8| {
        let mut data = start.to_vec();
        data.resize(70_000, byte);
        data
    };
    let settings = Settings { ignore_hosts: list("nothing"), ..Settings::default() };
    let target = Destination::plain("target.test".into(), 443);
    for (data, expected) in [
        (endless(b"GET / HTTP/1.1\r\nA: ", b'x'), HTTP),
        (endless(b"GET /", b'x'), HTTP),
        (endless(b"", b'G'), TCP),
        // A hello as long as this is none.
        (endless(b"\x16\x03\x01\x40\x00\x01\x02\x00\x00", b'x'), TLS),
    ] {
        let known = Known {
            data: &data,
            complete: false,
            server_spoke: false,
            mode: &ModeKind::Regular,
            target: Some(&target),
            peer: None,
            ended: None,
            was_raw: false,
            settings: &settings,
        };
        assert_eq!(decide(&known), expected);
    }
}
