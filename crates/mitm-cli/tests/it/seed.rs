//! The command lines of mitmproxy 2.0's documentation that `mitmdump` or all tools take: each does what is documented,
//! or says that it cannot yet.

use crate::flags::{Gives, Gives::Later, check, dump, strs};

#[test]
fn what_is_not_there_yet_says_so() {
    let rows: &[(&[&str], Gives)] = &[
        (&["-nc", "outfile"], Later("client-replay (-C, -c)")),
        (&["-nc", "srcfile", "-w", "dstfile"], Later("client-replay (-C, -c)")),
        (&["-s", "examples/add_header.py"], Later("scripts (-s)")),
        (
            &["-ns", "examples/add_header.py", "-r", "srcfile", "-w", "dstfile"],
            Later("scripts (-s)"),
        ),
        (&["--anticache"], Later("anticache")),
        (&["--replace-from-file", ":~q:foo:~/xss-exploit"], Later("replace-from-file")),
        (&["--replace", ":~q:foo:bar"], Later("replace")),
        (&["-c", "path"], Later("client-replay (-C, -c)")),
        (&["--rheader", "headername"], Later("server-replay-use-header")),
        (&["--norefresh"], Later("no-server-replay-refresh")),
        (&["-S", "path"], Later("server-replay (-S)")),
        (
            &["-R", "http://example.com", "--setheader", ":~q:Host:example.com"],
            Later("modify-headers (-H)"),
        ),
        (&["-t", "FILTER"], Later("stickycookie (-t)")),
        (&["-u", "FILTER"], Later("stickyauth (-u)")),
        (&["-dd", "-s", "./script_arguments.py html faketml"], Later("scripts (-s)")),
        (
            &["-dd", "-s", "./arguments.py html fakehtml", "-r", "saved", "-w", "changed"],
            Later("scripts (-s)"),
        ),
    ];
    for (words, gives) in rows {
        check(words, gives);
    }
}

#[test]
fn what_is_there_does_what_is_documented() {
    let rows = [
        (&["--cert", "*=cert.pem"][..], "certs", strs(&["*=cert.pem"])),
        (&["--cert", "*.example.com=cert.pem"], "certs", strs(&["*.example.com=cert.pem"])),
        (&["--cadir", "DIRECTORY"], "confdir", "DIRECTORY".into()),
        (&["--client-certs", "DIRECTORY"], "client_certs", "DIRECTORY".into()),
        (&["-w", "outfile"], "save_stream_file", "outfile".into()),
        (&["--stream", "3m"], "stream_large_bodies", "3m".into()),
        (&["--stream", "0"], "stream_large_bodies", "0".into()),
        (&["--nonanonymous"], "proxyauth", "any".into()),
        (&["--singleuser", "USER:PASS"], "proxyauth", "USER:PASS".into()),
        (&["--htpasswd", "PATH"], "proxyauth", "@PATH".into()),
        (&["--no-upstream-cert"], "upstream_cert", false.into()),
        (&["-T"], "mode", strs(&["transparent"])),
        (&["-U", "http://hostname:8080"], "mode", strs(&["upstream:http://hostname:8080"])),
        (&["--tcp", "HOST"], "tcp_hosts", strs(&["HOST"])),
        (&["--ignore", "^example\\.com:443$"], "ignore_hosts", strs(&["^example\\.com:443$"])),
        (&["--host"], "showhost", true.into()),
        (&["-r", "wireless-login"], "rfile", "wireless-login".into()),
    ];
    for (words, name, value) in rows {
        check(words, &Gives::Option(name, value));
    }
    let args = dump(&["-nr", "infile", "-w", "outfile", "~m post"]).unwrap();
    assert_eq!(args.filter.as_deref(), Some("~m post"));
    assert_eq!(args.options.len(), 3);
    assert_eq!(dump(&["-v"]).unwrap().options["termlog_verbosity"], "debug".into());
    for (words, expected) in [
        (
            &["-p", "443", "-R", "http://localhost:80/"][..],
            [("mode", strs(&["reverse:http://localhost:80/"])), ("listen_port", 443.into())],
        ),
        (
            &["-R", "https://httpbin.org", "-p", "80"],
            [("mode", strs(&["reverse:https://httpbin.org"])), ("listen_port", 80.into())],
        ),
        (
            &["-T", "--spoof-source-address"],
            [("mode", strs(&["transparent"])), ("spoof_source_address", true.into())],
        ),
        (&["-T", "--host"], [("mode", strs(&["transparent"])), ("showhost", true.into())]),
    ] {
        let args = dump(words).unwrap();
        assert_eq!(args.options.len(), expected.len(), "{words:?}");
        for (name, value) in expected {
            assert_eq!(args.options[name], value, "{words:?}");
        }
    }
}
