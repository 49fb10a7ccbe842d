//! The command lines of mitmproxy 2.0's documentation that `mitmdump` or all tools take: each does what is documented,
//! or says that it cannot yet.

use crate::flags::{Gives, Gives::Later, check, dump, strs};

#[test]
fn what_is_not_there_yet_says_so() {
    let rows: &[(&[&str], Gives)] = &[
        (&["-p", "443", "-R", "http://localhost:80/"], Later("reverse (-R)")),
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
            Later("reverse (-R)"),
        ),
        (&["--ignore", "^example\\.com:443$"], Later("ignore-hosts (-I)")),
        (&["--nonanonymous"], Later("nonanonymous")),
        (&["--singleuser", "USER"], Later("singleuser")),
        (&["--htpasswd", "PATH"], Later("htpasswd")),
        (&["-R", "https://httpbin.org", "-p", "80"], Later("reverse (-R)")),
        (&["-t", "FILTER"], Later("stickycookie (-t)")),
        (&["-u", "FILTER"], Later("stickyauth (-u)")),
        (&["--tcp", "HOST"], Later("tcp-hosts")),
        (&["-U", "http://hostname:8080"], Later("upstream (-U)")),
        (&["-T", "--spoof-source-address"], Later("transparent (-T)")),
        (&["-T", "--host"], Later("transparent (-T)")),
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
        (&["--no-upstream-cert"], "upstream_cert", false.into()),
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
}
