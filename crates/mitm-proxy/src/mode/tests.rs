use proptest::prelude::*;

use super::*;

/// What a specification means, in a word.
fn meaning(spec: &str) -> Result<String, String> {
    let mode = Mode::parse(spec).map_err(|error| error.reason)?;
    let kind = match &mode.kind {
        ModeKind::Regular => "regular".to_owned(),
        ModeKind::Transparent => "transparent".to_owned(),
        ModeKind::Socks5 => "socks5".to_owned(),
        ModeKind::Reverse(target) => format!("reverse {target}"),
        ModeKind::Upstream(proxy) => match &proxy.credentials {
            None => format!("upstream {proxy}"),
            Some(Credentials { name, password }) => format!(
                "upstream {proxy} as {} {}",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(password)
            ),
        },
    };
    let place = match (&mode.host, mode.port) {
        (None, None) => String::new(),
        (host, port) => format!(
            " on {}|{}",
            host.as_deref().unwrap_or_default(),
            port.map(|port| port.to_string()).unwrap_or_default()
        ),
    };
    Ok(format!("{kind}{place}"))
}

#[test]
fn specifications() {
    for (spec, expected) in [
        ("regular", "regular"),
        ("regular:", "regular"),
        ("REGULAR@8081", "regular on |8081"),
        ("regular@127.0.0.1:0", "regular on 127.0.0.1|0"),
        ("regular@[::1]:80", "regular on ::1|80"),
        ("regular@::1:80", "regular on ::1|80"),
        ("regular@:80", "regular on |80"),
        ("transparent", "transparent"),
        ("Transparent@1", "transparent on |1"),
        ("socks5@localhost:1081", "socks5 on localhost|1081"),
        ("reverse:example.com", "reverse https://example.com:443"),
        ("reverse:example.com:8443", "reverse https://example.com:8443"),
        ("reverse:http://example.com/", "reverse http://example.com:80"),
        ("reverse:HTTP://Example.com:1/", "reverse http://Example.com:1"),
        ("Reverse:https://[::1]", "reverse https://[::1]:443"),
        ("reverse:https://[2001:db8::1]:8/", "reverse https://[2001:db8::1]:8"),
        ("reverse:tcp://127.0.0.1:22", "reverse tcp://127.0.0.1:22"),
        ("reverse:tls://h:993@[::]:993", "reverse tls://h:993 on ::|993"),
        ("reverse:http://b\u{fc}cher.de", "reverse http://xn--bcher-kva.de:80"),
        ("reverse:http://a_b.local.:80@9", "reverse http://a_b.local.:80 on |9"),
        ("upstream:proxy", "upstream http://proxy:80"),
        ("upstream:proxy:3128@8081", "upstream http://proxy:3128 on |8081"),
        ("upstream:https://proxy@127.0.0.1:1", "upstream https://proxy:443 on 127.0.0.1|1"),
        ("upstream:socks5://proxy", "upstream socks5://proxy:1080"),
        ("upstream:socks5h://[::1]:9@8080", "upstream socks5h://[::1]:9 on |8080"),
        // The `@` of credentials, or that of the place.
        ("upstream:socks5://n:s@proxy", "upstream socks5://proxy:1080 as n s"),
        ("upstream:socks5://n:1@[::1]", "upstream socks5://[::1]:1080 as n 1"),
        ("upstream:socks5://n:a@b@h:2", "upstream socks5://b:1080 as n a on h|2"),
        ("upstream:socks5://n:s@proxy:9", "upstream socks5://proxy:9 as n s"),
        ("UPSTREAM:SOCKS5://n:s@[::1]:9", "upstream socks5://[::1]:9 as n s"),
        ("upstream:socks5://n:s@proxy@9", "upstream socks5://proxy:1080 as n s on |9"),
        ("upstream:socks5h://n:1@p:9@h:8", "upstream socks5h://p:9 as n 1 on h|8"),
        ("upstream:socks5://n:%31@p:9", "upstream socks5://p:9 as n 1"),
        ("upstream:socks5://a%40b:c%3ad@p:9", "upstream socks5://p:9 as a@b c:d"),
        ("upstream:socks5://a:b:c@p:9", "upstream socks5://p:9 as a b:c"),
        ("upstream:socks5://p:9/@h:8", "upstream socks5://p:9 on h|8"),
        ("upstream:socks5://p@h:8", "upstream socks5://p:1080 on h|8"),
        ("upstream:socks5://127.0.0.1:9@::1:8", "upstream socks5://127.0.0.1:9 on ::1|8"),
        ("upstream:socks5://localhost:9@h:8", "upstream socks5://localhost:9 on h|8"),
        ("upstream:socks5://[::1]:9@h:8", "upstream socks5://[::1]:9 on h|8"),
        ("upstream:socks5://p:9@:8", "upstream socks5://p:9 on |8"),
    ] {
        assert_eq!(meaning(spec).as_deref(), Ok(expected), "{spec}");
    }
}

#[test]
fn refusals() {
    for (spec, reason) in [
        ("", "unknown mode"),
        ("bogus", "unknown mode"),
        ("@x", "unknown mode"),
        ("osproxy:x", "osproxy mode has been renamed to local"),
        ("regular:x", "mode takes no arguments"),
        ("transparent:x@80", "mode takes no arguments"),
        ("socks5:x", "mode takes no arguments"),
        ("regular@x", "invalid port: x"),
        ("regular@", "invalid port: "),
        ("regular@70000", "invalid port: 70000"),
        ("reverse", "Invalid server specification: "),
        ("reverse:", "Invalid server specification: "),
        ("reverse:http://", "Invalid server specification: http://"),
        ("reverse:://h", "Invalid server specification: ://h"),
        ("reverse:http://h/path", "Invalid server specification: http://h/path"),
        ("reverse:http://h:1/path", "Invalid server specification: http://h:1/path"),
        ("reverse:::1", "Invalid server specification: ::1"),
        ("reverse:[::1", "Invalid server specification: [::1"),
        ("reverse:[::1]1", "Invalid server specification: [::1]1"),
        ("reverse:[h]", "Invalid hostname: h"),
        ("reverse:a b", "Invalid hostname: a b"),
        ("reverse:a\r\nb", "Invalid hostname: a\r\nb"),
        ("reverse:*.h", "Invalid hostname: *.h"),
        ("reverse:gopher://h", "Invalid server scheme: gopher"),
        ("reverse:socks5://h", "Invalid server scheme: socks5"),
        ("reverse:tcp://h", "Port specification missing."),
        ("reverse:tls://h", "Port specification missing."),
        ("reverse:h:0", "Invalid port: 0"),
        ("reverse:h:", "Invalid port: "),
        ("reverse:h:+1", "Invalid port: +1"),
        ("reverse:h:65536", "Invalid port: 65536"),
        ("upstream", "Invalid server specification: "),
        ("upstream:tcp://h:1", "invalid upstream proxy scheme"),
        ("upstream:x://h:1", "Invalid server scheme: x"),
    ] {
        let error = Mode::parse(spec).unwrap_err();
        assert_eq!(error.reason, reason, "{spec}");
        assert!(!error.is_planned(), "{spec}");
        let text = error.to_string();
        assert!(text.contains(&format!("specification: {spec} ({reason})")), "{text}");
        assert!(text.contains("regular, transparent, socks5, reverse:"), "{text}");
    }
    for spec in [
        "upstream:socks5://proxy:1080@127.0.0.1:8080",
        "upstream:socks5://n:1@h:2",
        "upstream:socks5://:s@h:2",
        "upstream:socks5://n:@h:2@1",
        "upstream:socks5://n@h:2@1",
        "upstream:socks5://n:a@b@h",
        "upstream:socks5://n:a@b@c@1",
        "upstream:http://n:s@h:2@1",
    ] {
        assert!(meaning(spec).is_err(), "{spec}: {:?}", meaning(spec));
    }
    for spec in
        ["dns", "DNS@53", "wireguard:x", "local:curl", "tun", "reverse:quic://h", "reverse:dns://h"]
    {
        let error = Mode::parse(spec).unwrap_err();
        assert!(error.is_planned(), "{spec}");
        assert!(error.reason.ends_with("not supported yet"), "{spec}");
    }
}

#[test]
fn credentials_are_not_shown() {
    let mode = Mode::parse("upstream:socks5://joe:hunter2@proxy:9@8080").unwrap();
    assert_eq!(&*mode.spec, "upstream:socks5://proxy:9@8080");
    let shown = format!("{mode} {mode:?} {}", mode.description());
    assert!(!shown.contains("hunter2") && !shown.contains("joe"), "{shown}");
    let other = Mode::parse("upstream:socks5://joe:other@proxy:9@8080").unwrap();
    assert_ne!(mode, other);
}

#[test]
fn descriptions_and_ports() {
    for (spec, description, port) in [
        ("regular", "HTTP(S) proxy", 8080),
        ("upstream:h", "HTTP(S) proxy (upstream mode)", 8080),
        ("transparent", "Transparent Proxy", 8080),
        ("reverse:http://h", "reverse proxy to http://h:80", 8080),
        ("socks5", "SOCKS v5 proxy", 1080),
    ] {
        let mode = Mode::parse(spec).unwrap();
        assert_eq!((&*mode.description(), mode.default_port()), (description, port), "{spec}");
    }
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}",
        any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
        any::<[u16; 8]>().prop_map(|ip| format!("[{}]", std::net::Ipv6Addr::from(ip))),
    ]
}

#[test]
fn what_is_refused_shows_no_password() {
    for spec in [
        "upstream:socks5://user:s3cret@",
        "upstream:http://user:s3cret@proxy.test",
        "reverse:https://user:s3cret@server.test:443",
    ] {
        let error = Mode::parse(spec).unwrap_err().to_string();
        assert!(!error.contains("s3cret") && error.contains("***"), "{spec}: {error}");
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_read(
        scheme in prop::sample::select(
            &["reverse:http", "reverse:https", "reverse:tcp", "reverse:tls", "upstream:http",
              "upstream:https", "upstream:socks5", "upstream:socks5h"][..]
        ),
        host in host(),
        port in 1u16..,
        place in prop_oneof![Just(String::new()), any::<u16>().prop_map(|port| format!("@{port}"))],
    ) {
        let spec = format!("{scheme}://{host}:{port}{place}");
        let mode = Mode::parse(&spec).unwrap();
        let printed = match &mode.kind {
            ModeKind::Reverse(target) => format!("reverse:{target}{place}"),
            ModeKind::Upstream(proxy) => format!("upstream:{proxy}{place}"),
            kind => panic!("{kind:?}"),
        };
        prop_assert_eq!(&printed, &spec);
        prop_assert_eq!(Mode::parse(&printed).unwrap(), mode);
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".*") {
        let _ = Mode::parse(&text);
        let _ = Mode::parse(&format!("reverse:{text}"));
        let _ = Mode::parse(&format!("upstream:socks5://{text}"));
    }
}
