//! Certificates that users bring, and logs of keys.

use std::{collections::HashSet, fs};

use mitm_testkit::{Nginx, external, nginx::HELLO, tls::Authority};

use crate::support::{Home, Proxy, curl, fetch, run, status, text};

#[test]
fn a_certificate_of_the_user_is_shown() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    let home = Home::new();
    let authority = Authority::new("our own");
    let certificate = home.write_identity("own.pem", &authority.issue(&["localhost"]));
    let elsewhere = home.write_identity("else.pem", &authority.issue(&["elsewhere.test"]));
    let trust = home.write("own-ca.pem", authority.pem());
    let upstream = text(&nginx.trust_file());
    for (spec, is_shown) in [
        (certificate.clone(), true),
        (format!("localhost={certificate}"), true),
        (format!("*={certificate}"), true),
        (format!("elsewhere.test={elsewhere}"), false),
    ] {
        let proxy = home.start(&["--upstream-trusted-ca", &upstream, "--certs", &spec]);
        let usual = home.ca();
        for (ca, code) in
            [(&trust, if is_shown { 0 } else { 60 }), (&usual, if is_shown { 60 } else { 0 })]
        {
            let mut client = curl(&home, &proxy).unwrap();
            let ended = run(client.args(["--cacert", ca, &nginx.https_url("/")]));
            assert_eq!(ended.code, Some(code), "{spec} with {ca}: {ended:?} {proxy:?}");
        }
        proxy.finish();
    }
}

#[test]
fn a_certificate_of_the_user_is_presented_to_servers() {
    if external("curl").is_none() {
        return;
    }
    let home = Home::new();
    let authority = Authority::new("of clients");
    let ca = home.write("clients.pem", authority.pem());
    let identity = authority.issue(&["the client"]);
    let file = home.write_identity("client.pem", &identity);
    home.write_identity("by-host/localhost.pem", &identity);
    home.write_identity("by-other-host/elsewhere.test.pem", &identity);
    let Some(nginx) = Nginx::start_with(&format!(
        "ssl_client_certificate {ca};
        ssl_verify_client on;
        location = /who {{ return 200 \"$ssl_client_s_dn\\n\"; }}"
    )) else {
        return;
    };
    let url = nginx.https_url("/who");
    let upstream = text(&nginx.trust_file());
    for (path, is_presented) in
        [(&*file, true), ("by-host", true), ("by-other-host", false), ("", false)]
    {
        let mut words = vec!["--upstream-trusted-ca", &upstream];
        if !path.is_empty() {
            words.extend(["--client-certs", path]);
        }
        let proxy = home.start(&words);
        let (code, page) = status(&home, &proxy, &[&url]);
        let expected = if is_presented { (200, "CN=the client") } else { (400, "SSL certificate") };
        assert_eq!(code, expected.0, "{path:?}: {page} {proxy:?}");
        assert!(page.contains(expected.1), "{path:?}: {page}");
        proxy.finish();
    }
}

#[test]
fn keys_of_both_sides_are_logged() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    for name in ["SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE"] {
        let home = Home::new();
        let words = ["--upstream-trusted-ca", &text(&nginx.trust_file())];
        let proxy = Proxy::spawn(home.proxy(&words).env(name, home.path("keys.log")));
        for versions in [["--tlsv1.3", "--tls-max", "1.3"], ["--tlsv1.2", "--tls-max", "1.2"]] {
            let mut client = curl(&home, &proxy).unwrap();
            client.env("SSLKEYLOGFILE", home.path("curl.log"));
            client.args(["--cacert", &home.ca(), &nginx.https_url("/")]).args(versions);
            let ended = run(&mut client);
            assert_eq!((ended.code, &*ended.stdout), (Some(0), HELLO), "{ended:?} {proxy:?}");
        }
        proxy.finish();
        let read = |name| {
            let log = fs::read_to_string(home.path(name)).unwrap();
            log.lines().map(str::to_owned).collect::<HashSet<String>>()
        };
        let (ours, theirs) = (read("keys.log"), read("curl.log"));
        // these two are of the secrets that both sides of a connection log
        for label in ["CLIENT_TRAFFIC_SECRET_0 ", "CLIENT_RANDOM "] {
            let of_label = |log: &HashSet<String>| -> HashSet<String> {
                log.iter().filter(|line| line.starts_with(label)).cloned().collect()
            };
            let client_side = of_label(&theirs);
            assert_eq!(client_side.len(), 1, "{label}: {theirs:?}");
            assert!(of_label(&ours).is_superset(&client_side), "{label}: {ours:?}");
        }
        // and those of the connections to nginx
        let connections: HashSet<&str> =
            ours.iter().filter_map(|line| line.split(' ').nth(1)).collect();
        assert!(connections.len() >= 3, "{ours:?}");
    }
}

#[test]
fn a_bad_certificate_file_is_refused() {
    let home = Home::new();
    let identity = Authority::new("our own").issue(&["localhost"]);
    let other = Authority::new("another").issue(&["localhost"]);
    home.write("no-key.pem", &identity.certificate_pem);
    home.write("no-certificate.pem", &identity.key_pem);
    home.write("wrong-key.pem", format!("{}{}", other.key_pem, identity.certificate_pem));
    home.write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    home.write("empty.pem", "");
    for flag in ["--certs", "--client-certs"] {
        for name in
            ["no-key.pem", "no-certificate.pem", "wrong-key.pem", "broken.pem", "empty.pem", "gone"]
        {
            let ended = home.run(&["--listen-host", "127.0.0.1", "-p", "0", flag, name]);
            assert_eq!(ended.code, Some(1), "{flag} {name}: {ended:?}");
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(said.contains(name), "{flag} {name}: {said}");
        }
    }
    for name in ["broken.pem", "empty.pem", "gone"] {
        let words = ["--listen-host", "127.0.0.1", "-p", "0", "--upstream-trusted-ca", name];
        let ended = home.run(&words);
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains(name), "{name}: {said}");
    }
    // a CA that cannot be used
    home.write(".mitmproxy/mitmproxy-ca.pem", "nonsense");
    let ended = home.run(&["--listen-host", "127.0.0.1", "-p", "0"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(format!("{ended:?}").contains("mitmproxy-ca.pem"), "{ended:?}");
}

/// A certificate authority is made once, and is the same after a restart.
#[test]
fn the_authority_is_kept() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    let home = Home::new();
    let upstream = text(&nginx.trust_file());
    let mut seen = HashSet::new();
    for _ in 0..2 {
        let proxy = home.start(&["--upstream-trusted-ca", &upstream]);
        assert_eq!(fetch(&home, &proxy, &[&nginx.https_url("/")]), HELLO);
        proxy.finish();
        seen.insert(fs::read_to_string(home.ca()).unwrap());
    }
    assert_eq!(seen.len(), 1);
}
