//! Each flag of mitmproxy 2.0 and of today, for `mitmdump`.

use mitm_cli::{
    args::{Action, Args, parse},
    flags::{self, Does, TABLE, Tool},
};
use mitm_options::OptionValue;

pub(crate) fn dump(words: &[&str]) -> Result<Args, String> {
    let words: Vec<_> = std::iter::once("mitmdump").chain(words.iter().copied()).collect();
    parse(Tool::Mitmdump, words, 100).map_err(|error| error.to_string())
}

/// What a flag gives.
pub(crate) enum Gives {
    Option(&'static str, OptionValue),
    /// The error that names this flag as not supported yet.
    Later(&'static str),
    /// No option changes: it asks for what is so.
    Nothing,
}

use Gives::{Later, Nothing};

fn opt(name: &'static str, value: impl Into<OptionValue>) -> Gives {
    Gives::Option(name, value.into())
}

pub(crate) fn strs(list: &[&str]) -> OptionValue {
    OptionValue::Strs(list.iter().map(|&item| item.to_owned()).collect())
}

pub(crate) fn check(words: &[&str], gives: &Gives) {
    let got = dump(words);
    match (got, gives) {
        (Ok(args), Gives::Option(name, value)) => {
            assert_eq!(args.options.get(*name), Some(value), "{words:?}");
            assert_eq!(args.options.len(), 1, "{words:?}: {args:?}");
        }
        (Ok(args), Nothing) => assert_eq!(args, Args::default(), "{words:?}"),
        (Err(error), Later(flag)) => {
            let expected = format!("error: --{flag}");
            assert!(error.starts_with(&expected), "{words:?}: {error}");
            assert!(error.contains(": not supported yet by mitm-rs 0.1\n"), "{words:?}: {error}");
        }
        (Ok(args), Later(_)) => panic!("{words:?} is accepted: {args:?}"),
        (Err(error), _) => panic!("{words:?}: {error}"),
    }
}

/// A flag with what it needs, as one spells it, and what it gives.
fn rows() -> Vec<(&'static [&'static str], Gives)> {
    vec![
        // 2.0, basic options.
        (&["--anticache"], Later("anticache")),
        (&["--host"], opt("showhost", true)),
        (&["-r", "f"], opt("rfile", "f")),
        (&["--read-flows", "-"], opt("rfile", "-")),
        (&["-s", "x.py a"], Later("scripts (-s)")),
        (&["--script", "x.py"], Later("scripts (-s)")),
        (&["-t", "~q"], Later("stickycookie (-t)")),
        (&["--stickycookie", "~q"], Later("stickycookie (-t)")),
        (&["-u", "~q"], Later("stickyauth (-u)")),
        (&["--stickyauth", "~q"], Later("stickyauth (-u)")),
        (&["-w", "f"], opt("save_stream_file", "f")),
        (&["--wfile", "f"], opt("save_stream_file", "f")),
        (&["-a", "f"], opt("save_stream_file", "+f")),
        (&["--afile", "f"], opt("save_stream_file", "+f")),
        (&["-z"], Later("anticomp (-z)")),
        (&["--anticomp"], Later("anticomp (-z)")),
        (&["-Z", "3m"], opt("body_size_limit", "3m")),
        (&["--body-size-limit", "3m"], opt("body_size_limit", "3m")),
        (&["--stream", "0"], opt("stream_large_bodies", "0")),
        // 2.0, modes.
        (&["-R", "http://h"], opt("mode", strs(&["reverse:http://h"]))),
        (&["--reverse", "http://h"], opt("mode", strs(&["reverse:http://h"]))),
        (&["--socks"], opt("mode", strs(&["socks5"]))),
        (&["-T"], opt("mode", strs(&["transparent"]))),
        (&["--transparent"], opt("mode", strs(&["transparent"]))),
        (&["-U", "http://h"], opt("mode", strs(&["upstream:http://h"]))),
        (&["--upstream", "http://h"], opt("mode", strs(&["upstream:http://h"]))),
        // 2.0, proxy options.
        (&["-b", "::1"], opt("listen_host", "::1")),
        (&["--bind-address", "::1"], opt("listen_host", "::1")),
        (&["-I", "x"], opt("ignore_hosts", strs(&["x"]))),
        (&["--ignore", "x"], opt("ignore_hosts", strs(&["x"]))),
        (&["--tcp", "x"], opt("tcp_hosts", strs(&["x"]))),
        (&["-n"], opt("server", false)),
        (&["--no-server"], opt("server", false)),
        (&["-p", "80"], opt("listen_port", 80)),
        (&["--port", "80"], opt("listen_port", 80)),
        (&["--http2"], opt("http2", true)),
        (&["--no-http2"], opt("http2", false)),
        (&["--http2-priority"], Later("http2-priority")),
        (&["--no-http2-priority"], Nothing),
        (&["--websocket"], opt("websocket", true)),
        (&["--no-websocket"], opt("websocket", false)),
        (&["--upstream-auth", "u:p"], opt("upstream_auth", "u:p")),
        (&["--raw-tcp"], opt("rawtcp", true)),
        (&["--no-raw-tcp"], opt("rawtcp", false)),
        (&["--spoof-source-address"], opt("spoof_source_address", true)),
        (&["--upstream-bind-address", "::1"], opt("connect_addr", "::1")),
        // 2.0, SSL.
        (&["--cert", "*=c.pem"], opt("certs", strs(&["*=c.pem"]))),
        (&["--ciphers-client", "X"], opt("ciphers_client", "X")),
        (&["--ciphers-server", "X"], opt("ciphers_server", "X")),
        (&["--client-certs", "d"], opt("client_certs", "d")),
        (&["--no-upstream-cert"], opt("upstream_cert", false)),
        (
            &["--add-upstream-certs-to-client-chain"],
            opt("add_upstream_certs_to_client_chain", true),
        ),
        (&["--insecure"], opt("ssl_insecure", true)),
        (&["--upstream-trusted-cadir", "d"], opt("ssl_verify_upstream_trusted_confdir", "d")),
        (&["--upstream-trusted-ca", "f"], opt("ssl_verify_upstream_trusted_ca", "f")),
        // 2.0, onboarding, replay, replacements, headers, authentication.
        (&["--no-onboarding"], Later("no-onboarding")),
        (&["--onboarding-host", "h"], Later("onboarding-host")),
        (&["--onboarding-port", "80"], Later("onboarding-port")),
        (&["-c", "f"], Later("client-replay (-C, -c)")),
        (&["--client-replay", "f"], Later("client-replay (-C, -c)")),
        (&["-S", "f"], Later("server-replay (-S)")),
        (&["--server-replay", "f"], Later("server-replay (-S)")),
        (&["--replay-kill-extra"], Later("server-replay-kill-extra")),
        (&["--server-replay-use-header", "h"], Later("server-replay-use-header")),
        (&["--rheader", "h"], Later("server-replay-use-header")),
        (&["--norefresh"], Later("no-server-replay-refresh")),
        (&["--no-pop"], Later("server-replay-reuse")),
        (&["--replay-ignore-content"], Later("replay-ignore-content")),
        (&["--replay-ignore-payload-param", "p"], Later("replay-ignore-payload-param")),
        (&["--replay-ignore-param", "p"], Later("replay-ignore-param")),
        (&["--replay-ignore-host"], Later("replay-ignore-host")),
        (&["--replace", "/a/b"], Later("replace")),
        (&["--replace-from-file", "/a/b"], Later("replace-from-file")),
        (&["--setheader", "/a/b"], Later("modify-headers (-H)")),
        (&["--nonanonymous"], opt("proxyauth", "any")),
        (&["--singleuser", "u:p"], opt("proxyauth", "u:p")),
        (&["--htpasswd", "f"], opt("proxyauth", "@f")),
        // 2.0, mitmdump.
        (&["--keepserving"], opt("keepserving", true)),
        (&["-d"], opt("flow_detail", 1)),
        (&["-dd"], opt("flow_detail", 2)),
        (&["-d", "--detail", "-d"], opt("flow_detail", 3)),
        (&["-dddd"], opt("flow_detail", 4)),
        (&["-dddddddd"], opt("flow_detail", 4)),
        // Today, common.
        (&["--mode", "regular@8081"], opt("mode", strs(&["regular@8081"]))),
        (&["-m", "regular", "-m", "regular@1"], opt("mode", strs(&["regular", "regular@1"]))),
        (&["-m", "bogus"], opt("mode", strs(&["bogus"]))),
        (&["--mode", "reverse:http://h"], opt("mode", strs(&["reverse:http://h"]))),
        (&["-m", "Transparent@80"], opt("mode", strs(&["Transparent@80"]))),
        (&["-m", "upstream:http://h"], opt("mode", strs(&["upstream:http://h"]))),
        (&["-m", "regular", "-m", "socks5"], opt("mode", strs(&["regular", "socks5"]))),
        (&["-m", "dns"], Later("mode dns")),
        (&["-m", "regular", "-m", "reverse:quic://h"], Later("mode reverse:quic://h")),
        (&["--no-anticache"], Nothing),
        (&["--showhost"], opt("showhost", true)),
        (&["--no-showhost"], opt("showhost", false)),
        (&["--show-ignored-hosts"], opt("show_ignored_hosts", true)),
        (&["--no-show-ignored-hosts"], opt("show_ignored_hosts", false)),
        (&["--rfile", "f"], opt("rfile", "f")),
        (&["--scripts", "f"], Later("scripts (-s)")),
        (&["--save-stream-file", "+%F"], opt("save_stream_file", "+%F")),
        (&["--no-anticomp"], Nothing),
        // Today, grouped.
        (&["--listen-host", "h"], opt("listen_host", "h")),
        (&["--listen-port", "0"], opt("listen_port", 0)),
        (&["--server"], opt("server", true)),
        (&["--ignore-hosts", "x"], opt("ignore_hosts", strs(&["x"]))),
        (&["--allow-hosts", "x"], opt("allow_hosts", strs(&["x"]))),
        (&["--tcp-hosts", "x"], opt("tcp_hosts", strs(&["x"]))),
        (&["--proxyauth", "any"], opt("proxyauth", "any")),
        (&["--store-streamed-bodies"], opt("store_streamed_bodies", true)),
        (&["--no-store-streamed-bodies"], opt("store_streamed_bodies", false)),
        (&["--rawtcp"], opt("rawtcp", true)),
        (&["--no-rawtcp"], opt("rawtcp", false)),
        (&["--certs", "a", "--cert", "b"], opt("certs", strs(&["a", "b"]))),
        (&["--cert-passphrase", "x"], opt("cert_passphrase", "x")),
        (&["-k"], opt("ssl_insecure", true)),
        (&["--ssl-insecure"], opt("ssl_insecure", true)),
        (&["--no-ssl-insecure"], opt("ssl_insecure", false)),
        (&["-C", "f"], Later("client-replay (-C, -c)")),
        (&["--server-replay-kill-extra"], Later("server-replay-kill-extra")),
        (&["--no-server-replay-kill-extra"], Nothing),
        (&["--server-replay-extra", "kill"], Later("server-replay-extra")),
        (&["--server-replay-reuse"], Later("server-replay-reuse")),
        (&["--no-server-replay-reuse"], Nothing),
        (&["--server-replay-refresh"], Nothing),
        (&["--no-server-replay-refresh"], Later("no-server-replay-refresh")),
        (&["--map-remote", "/a/b"], Later("map-remote (-M)")),
        (&["-M", "/a/b"], Later("map-remote (-M)")),
        (&["--map-local", "/a/b"], Later("map-local")),
        (&["--modify-body", "/a/b"], Later("modify-body (-B)")),
        (&["-B", "/a/b"], Later("modify-body (-B)")),
        (&["--modify-headers", "/a/b"], Later("modify-headers (-H)")),
        (&["-H", "/a/b"], Later("modify-headers (-H)")),
        // Today, mitmdump.
        (&["--flow-detail", "3"], opt("flow_detail", 3)),
        // Once more with other ways to give a value.
        (&["-p80"], opt("listen_port", 80)),
        (&["--port=80"], opt("listen_port", 80)),
        (&["-wfile"], opt("save_stream_file", "file")),
        // The last one counts.
        (&["-p", "1", "--listen-port", "2"], opt("listen_port", 2)),
        (&["-r", "a", "--rfile=b"], opt("rfile", "b")),
        (&["-n", "-n"], opt("server", false)),
        (&["-dd", "--flow-detail", "0"], opt("flow_detail", 0)),
        (&["--flow-detail", "0", "-dd"], opt("flow_detail", 2)),
        // Abbreviations.
        (&["--save", "f"], opt("save_stream_file", "f")),
        (&["--flow", "2"], opt("flow_detail", 2)),
        (&["--keep"], opt("keepserving", true)),
        (&["--por", "2"], opt("listen_port", 2)),
    ]
}

#[test]
fn every_flag_sets_its_option_or_says_that_it_cannot() {
    for (words, gives) in rows() {
        check(words, &gives);
    }
}

#[test]
fn no_flag_is_left_out_above() {
    let rows = rows();
    let special = [
        "help",
        "version",
        "shortversion",
        "options",
        "commands",
        "set",
        "confdir",
        "conf",
        "quiet",
        "verbose",
        "ssl-version-client",
        "ssl-version-server",
        "sysinfo",
        "cadir",
        "server-replay-nopop",
        "upstream-trusted-confdir",
    ];
    for flag in flags::of(Tool::Mitmdump) {
        for long in flag.longs().chain(flag.opposite.iter().copied()) {
            let is_here = |word: &&str| {
                word.strip_prefix("--").is_some_and(|word| word.split('=').next() == Some(long))
            };
            let is_tested = rows.iter().any(|(words, _)| words.iter().any(is_here));
            assert!(is_tested || special.contains(&long), "--{long}");
        }
        for short in flag.shorts {
            let is_here =
                |word: &&str| word.strip_prefix('-').is_some_and(|word| word.starts_with(*short));
            let is_tested = rows.iter().any(|(words, _)| words.iter().any(is_here));
            assert!(is_tested || "hqv".contains(*short), "-{short}");
        }
    }
}

#[test]
fn the_table_is_sound() {
    let mut ids = std::collections::BTreeSet::new();
    for flag in TABLE {
        assert!(ids.insert(flag.long), "{} is there twice", flag.long);
        assert!(!flag.help.ends_with('.') && !flag.help.contains("  "), "{}", flag.long);
        for other in flag.against.iter().chain(flag.replaces) {
            assert!(TABLE.iter().any(|flag| flag.long == *other), "{}: {other}", flag.long);
        }
        let switches = matches!(flag.does, Does::Switch(..) | Does::LaterSwitch | Does::Later);
        assert!(switches || flag.opposite.is_empty(), "{}", flag.long);
    }
    for tool in Tool::ALL {
        flags::command(tool, 100).debug_assert();
    }
}

#[test]
fn shorthands_set_two_options_and_yield_to_details() {
    let set = |words: &[&str]| {
        let args = dump(words).unwrap();
        let get = |name: &str| args.options[name].clone();
        (get("termlog_verbosity"), get("flow_detail"))
    };
    for (words, level, detail) in [
        (&["-q"][..], "error", 0),
        (&["--quiet"], "error", 0),
        (&["-v"], "debug", 2),
        (&["--verbose"], "debug", 2),
        (&["-qv"], "debug", 2),
        (&["-vq"], "error", 0),
        (&["-vd"], "debug", 1),
        (&["--flow-detail=3", "-q"], "error", 3),
    ] {
        assert_eq!(set(words), (level.into(), detail.into()), "{words:?}");
    }
}

#[test]
fn old_tls_versions_and_set_are_passed_on() {
    let args = dump(&["--ssl-version-client", "TLSv1", "--set", "a=b", "--set=c"]).unwrap();
    assert_eq!(args.old, ["ssl_version_client=TLSv1"]);
    assert_eq!(args.set, ["a=b", "c"]);
    let args = dump(&["--ssl-version-server=all"]).unwrap();
    assert_eq!(args.old, ["ssl_version_server=all"]);
    let error = dump(&["--ssl-version-client", "TLSv9"]).unwrap_err();
    assert!(error.contains("possible values: all, secure, SSLv2, "), "{error}");
}

#[test]
fn the_configuration_directory_has_three_spellings() {
    for words in [&["--cadir", "d"][..], &["--confdir=d"], &["--set", "confdir=d"]] {
        assert_eq!(dump(words).unwrap().confdir.as_deref(), Some("d"), "{words:?}");
    }
    let both = dump(&["--confdir", "a", "--set", "confdir=b"]).unwrap();
    assert_eq!(both.confdir.as_deref(), Some("a"));
    let args = dump(&["--conf", "f"]).unwrap();
    assert_eq!((args.conf.as_deref(), args.confdir), (Some("f"), None));
}

#[test]
fn actions() {
    for (word, action) in [
        ("--version", Action::Version),
        ("--sysinfo", Action::Version),
        ("--shortversion", Action::ShortVersion),
        ("--options", Action::Options),
        ("--commands", Action::Commands),
    ] {
        assert_eq!(dump(&[word]).unwrap().action, action, "{word}");
    }
    assert_eq!(dump(&[]).unwrap(), Args::default());
}

#[test]
fn clusters_and_filter_words() {
    let args = dump(&["-nr", "in", "-w", "out", "~m", "post", "-n", "--nope", "!~s"]).unwrap();
    assert_eq!(args.options["server"], false.into());
    assert_eq!(args.options["rfile"], "in".into());
    assert_eq!(args.options["save_stream_file"], "out".into());
    assert_eq!(args.filter.as_deref(), Some("~m post -n --nope !~s"));
    let args = dump(&["-qnrin", "--", "-x"]).unwrap();
    assert_eq!(args.options["rfile"], "in".into());
    assert_eq!(args.filter.as_deref(), Some("-x"));
    let args = dump(&["~bad(", "-n"]).unwrap();
    assert_eq!(args.filter.as_deref(), Some("~bad( -n"));
    assert!(args.options.is_empty());
}

#[test]
fn usage_errors_say_what_to_do() {
    for (words, text) in [
        (&["--nope"][..], "unexpected argument '--nope'"),
        (&["-y"], "unexpected argument '-y'"),
        (&["-w", "a", "-a", "b"], "cannot be used with"),
        (&["--showhost", "--no-showhost"], "cannot be used with"),
        (&["--no-upstream-cert", "--add-upstream"], "cannot be used with"),
        (&["-R", "http://h", "-T"], "cannot be used with"),
        (&["-U", "h", "--socks"], "cannot be used with"),
        (&["-U", "h", "-R", "h"], "cannot be used with"),
        (&["-T", "-m", "regular"], "cannot be used with"),
        (&["--socks", "-T"], "cannot be used with"),
        (&["--spoof-source-address", "--upstream-bind-address", "::1"], "cannot be used with"),
        (&["-r"], "a value is required"),
        (&["-p", "http"], "invalid value 'http' for '--listen-port <PORT>'"),
        (&["-p", "65536"], "65536 is not in 0..=65535"),
        (&["-n=1"], "unexpected"),
        (&["--anti"], "--anti is ambiguous: it may stand for --anticache, --anticomp"),
        (&["--listen", "x"], "may stand for --listen-host, --listen-port"),
        (&["--listen_port", "1"], "it is written --listen-port"),
        (&["--palette", "dark"], "--palette is a flag of mitmproxy, not of mitmdump"),
        (&["-i", "x"], "-i is a flag of mitmproxy and mitmweb, not of mitmdump"),
        (&["--web-port=1"], "--web-port is a flag of mitmweb, not of mitmdump"),
        (&["--tcp-timeout", "3"], "use --set tcp_timeout=VALUE"),
        (&["--hardump", "f"], "--hardump: not supported yet by mitm-rs 0.1"),
        (&["-kS", "f"], "note: -k is short for --ssl-insecure"),
        (&["--singleuser", "user"], "Invalid single-user auth specification"),
        (&["--singleuser", "any"], "Invalid single-user auth specification"),
        (&["--singleuser", "@f:x"], "Invalid single-user auth specification"),
        (&["--singleuser", "ldap:p"], "Invalid single-user auth specification"),
        (&["--nonanonymous", "--singleuser", "u:p"], "cannot be used with"),
        (&["--htpasswd", "f", "--singleuser", "u:p"], "cannot be used with"),
        (&["--proxyauth", "any", "--htpasswd", "f"], "cannot be used with"),
        (&["-nc", "f", "--anticache"], "--anticache: not supported yet"),
    ] {
        let error = dump(words).unwrap_err();
        assert!(error.starts_with("error: ") && error.contains(text), "{words:?}: {error}");
        assert!(error.contains("try '--help'"), "{words:?}: {error}");
    }
}

#[test]
fn words_that_are_no_text_are_refused() {
    #[cfg(unix)]
    {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let bad = OsStr::from_bytes(b"\xff");
        for words in
            [vec![OsStr::new("mitmdump"), bad], vec![OsStr::new("m"), OsStr::new("-r"), bad]]
        {
            assert_eq!(parse(Tool::Mitmdump, words, 80).unwrap_err().exit_code(), 2);
        }
    }
}
