//! Peers that speak TLS as it once was: tlslite-ng and OpenSSL on either side, admitted by options, refused by
//! default with a line that names the option.

use std::{fs, path::PathBuf, process::Stdio};

use mitm_testkit::{Nginx, external, nginx::HELLO, peer_python, tls::Authority};

use crate::support::{Home, Proxy, Running, curl, fetch, run, status, text, wait_for};

const SCRIPT: &str = include_str!("old_tls.py");

/// A Python with tlslite-ng.
fn python() -> Option<PathBuf> {
    let python = peer_python()?;
    let mut command = std::process::Command::new(&python);
    let found = command.args(["-c", "import tlslite"]).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    external("tlslite-ng, a package of the Python that MITM_PEER_PYTHON names,")
}

/// Makes `own.pem` and `own.key`, whose key everybody knows how to use.
fn rsa_certificate(home: &Home) -> Option<()> {
    let openssl = external("openssl")?;
    let made = run(home.command(openssl).args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        "own.key",
        "-out",
        "own.pem",
    ]));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    Some(())
}

/// How a peer of a past age speaks, what of the options admits it, and how it calls the result.
struct Age {
    version: &'static str,
    exchange: &'static str,
    cipher: &'static str,
    /// The lowest version and the ciphers that are to be set, if the defaults do not do.
    min: Option<&'static str>,
    ciphers: Option<&'static str>,
    agreed: &'static str,
}

const AGES: [Age; 8] = {
    const fn age(version: &'static str, exchange: &'static str, cipher: &'static str) -> Age {
        Age { version, exchange, cipher, min: None, ciphers: None, agreed: "" }
    }
    [
        Age { min: Some("SSL3"), agreed: "SSL 3.0 3des 0x000a", ..age("SSL3", "rsa", "3des") },
        Age {
            min: Some("SSL3"),
            ciphers: Some("RC4-SHA"),
            agreed: "SSL 3.0 rc4 0x0005",
            ..age("SSL3", "rsa", "rc4")
        },
        Age {
            min: Some("TLS1"),
            ciphers: Some("DHE+AES"),
            agreed: "TLS 1.0 aes256 0x0039",
            ..age("TLS1", "dhe_rsa", "aes256")
        },
        Age {
            min: Some("TLS1_1"),
            agreed: "TLS 1.1 aes128 0xc013",
            ..age("TLS1_1", "ecdhe_rsa", "aes128")
        },
        Age { agreed: "TLS 1.2 aes128 0x0067", ..age("TLS1_2", "dhe_rsa", "aes128") },
        Age { agreed: "TLS 1.2 aes128gcm 0x009e", ..age("TLS1_2", "dhe_rsa", "aes128gcm") },
        Age { agreed: "TLS 1.2 3des 0x000a", ..age("TLS1_2", "rsa", "3des") },
        Age {
            ciphers: Some("RC4-SHA:@SECLEVEL=0"),
            agreed: "TLS 1.2 rc4 0x0005",
            ..age("TLS1_2", "rsa", "rc4")
        },
    ]
};

impl Age {
    fn words(&self) -> [&'static str; 3] {
        [self.version, self.exchange, self.cipher]
    }

    /// The options that admit it on one side; none if the defaults do.
    fn options(&self, side: &str) -> Vec<String> {
        let min = self.min.map(|min| format!("tls_version_{side}_min={min}"));
        let ciphers = self.ciphers.map(|ciphers| format!("ciphers_{side}={ciphers}"));
        let set = |option| ["--set".to_owned(), option];
        min.into_iter().chain(ciphers).flat_map(set).collect()
    }

    /// The option that a refusal has to name.
    fn named(&self, side: &str) -> String {
        if self.min.is_some() {
            format!("tls_version_{side}_min")
        } else {
            format!("ciphers_{side}")
        }
    }
}

fn start(home: &Home, fixed: &[&str], options: &[String]) -> Proxy {
    let options = options.iter().map(String::as_str);
    home.start(&fixed.iter().copied().chain(options).collect::<Vec<_>>())
}

#[test]
fn clients_of_a_past_age() {
    let (Some(python), Some(nginx)) = (python(), Nginx::start()) else { return };
    let home = Home::new();
    let script = home.write("old_tls.py", SCRIPT);
    let trust = text(&nginx.trust_file());
    let target = format!("localhost:{}", nginx.https().port());
    for age in &AGES {
        let ask = |proxy: &Proxy| {
            let address = proxy.address.to_string();
            let words = [&script, "client", &address, &target, "localhost"];
            run(home.command(&python).args(words).args(age.words()))
        };
        let options = age.options("client");
        let proxy = start(&home, &["--upstream-trusted-ca", &trust], &options);
        let ended = ask(&proxy);
        assert_eq!(ended.code, Some(0), "{:?}: {ended:?} {proxy:?}", age.words());
        assert!(ended.stdout.starts_with(age.agreed), "{:?}: {ended:?}", age.words());
        assert!(ended.stdout.contains(HELLO.trim()), "{ended:?}");
        // A client of today is served beside it.
        assert_eq!(fetch(&home, &proxy, &[&nginx.https_url("/")]), HELLO);
        proxy.finish();
        if options.is_empty() {
            continue;
        }
        let proxy = start(&home, &["--upstream-trusted-ca", &trust], &[]);
        assert_ne!(ask(&proxy).code, Some(0), "{:?}", age.words());
        proxy.wait_for_log("client disconnect");
        let output = proxy.finish();
        let named = age.named("client");
        let told = |line: &str| line.contains("TLS handshake failed") && line.contains(&named);
        assert!(output.lines().any(told), "{:?}: {output}", age.words());
    }
}

#[test]
fn servers_of_a_past_age() {
    let home = Home::new();
    let (Some(python), Some(()), Some(_)) = (python(), rsa_certificate(&home), external("curl"))
    else {
        return;
    };
    let script = home.write("old_tls.py", SCRIPT);
    for age in &AGES {
        let words = [&script, "server", "own.pem", "own.key"];
        let server = Running::spawn(home.command(&python).args(words).args(age.words()));
        let port = first_line(&server);
        let url = format!("https://localhost:{port}/");
        let options = age.options("server");
        let proxy = start(&home, &["--upstream-trusted-ca", "own.pem"], &options);
        let (code, page) = status(&home, &proxy, &[&url]);
        assert_eq!((code, &*page), (200, age.agreed), "{:?}: {proxy:?} {server:?}", age.words());
        proxy.finish();
        if options.is_empty() {
            continue;
        }
        let proxy = start(&home, &["--upstream-trusted-ca", "own.pem"], &[]);
        let (code, page) = status(&home, &proxy, &[&url]);
        let named = age.named("server");
        assert_eq!(code, 502, "{page}");
        assert!(page.contains(&named), "{page}");
        let output = proxy.finish();
        let told = |line: &str| line.contains("TLS handshake failed") && line.contains(&named);
        assert!(output.lines().any(told), "{:?}: {output}", age.words());
    }
}

#[test]
fn a_client_that_asks_for_a_host_with_its_port() {
    let (Some(openssl), Some(nginx)) = (external("openssl"), Nginx::start()) else { return };
    let home = Home::new();
    let proxy = home.start(&["--upstream-trusted-ca", &text(&nginx.trust_file())]);
    let target = format!("localhost:{}", nginx.https().port());
    let address = proxy.address.to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let ended = run(home.command(&openssl).args([
            "s_client",
            "-proxy",
            &address,
            "-connect",
            &target,
            "-servername",
            "local_host:443",
            "-CAfile",
            &home.ca(),
            "-verify_return_error",
            "-verify_hostname",
            "localhost",
            "-brief",
            version,
        ]));
        assert_eq!(ended.code, Some(0), "{ended:?} {proxy:?}");
        assert!(ended.stderr.contains("Verification: OK"), "{ended:?}");
    }
    proxy.finish();
}

#[test]
fn the_flags_of_the_seed_choose_versions() {
    let (Some(openssl), Some(nginx)) = (external("openssl"), Nginx::start()) else { return };
    let home = Home::new();
    let target = format!("localhost:{}", nginx.https().port());
    let trust = text(&nginx.trust_file());
    for (flag, version, is_met) in [
        ("TLSv1", "-tls1", true),
        ("TLSv1", "-tls1_2", false),
        ("TLSv1_1", "-tls1_1", true),
        ("TLSv1_2", "-tls1_2", true),
        ("TLSv1_2", "-tls1_3", false),
        ("all", "-tls1", true),
        ("all", "-tls1_3", true),
        ("secure", "-tls1_1", false),
        ("secure", "-tls1_3", true),
    ] {
        let proxy = home.start(&["--ssl-version-client", flag, "--upstream-trusted-ca", &trust]);
        let address = proxy.address.to_string();
        let words = ["s_client", "-proxy", &address, "-connect", &target, "-CAfile", &home.ca()];
        let mut client = home.command(&openssl);
        client.args(words).args(["-brief", "-cipher", "DEFAULT:@SECLEVEL=0", version]);
        let ended = run(&mut client);
        assert_eq!(ended.code == Some(0), is_met, "{flag} {version}: {ended:?} {proxy:?}");
        proxy.finish();
    }
}

/// `openssl s_server` with these words, on a port of its own.
fn s_server(home: &Home, words: &[&str]) -> Option<(Running, u16)> {
    let mut command = home.command(external("openssl")?);
    command.args(["s_server", "-accept", "127.0.0.1:0", "-cert", "own.pem", "-key", "own.key"]);
    let server = Running::spawn(command.args(["-www"]).args(words));
    let port = wait_for("the server's port", || {
        let output = server.stdout();
        let line = output.lines().find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:"))?;
        line.trim().parse().ok()
    });
    Some((server, port))
}

#[test]
fn servers_of_openssl() {
    let home = Home::new();
    if rsa_certificate(&home).is_none() || external("curl").is_none() {
        return;
    }
    for (words, flag, is_met) in [
        (&["-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"][..], "TLSv1", true),
        (&["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"], "all", true),
        (&["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"], "secure", false),
        (&["-tls1_2", "-cipher", "DHE"], "secure", true),
        (&["-tls1_2", "-cipher", "kRSA"], "secure", true),
        (&["-tls1_3"], "TLSv1_2", false),
    ] {
        let Some((server, port)) = s_server(&home, words) else { return };
        let proxy = home.start(&["--ssl-version-server", flag, "--upstream-trusted-ca", "own.pem"]);
        let url = format!("https://localhost:{port}/");
        let (code, page) = status(&home, &proxy, &[&url]);
        assert_eq!(code, if is_met { 200 } else { 502 }, "{words:?} {page} {proxy:?} {server:?}");
        if !is_met {
            assert!(page.contains("tls_version_server_min"), "{page}");
        }
        proxy.finish();
    }
}

#[test]
fn keys_are_logged_to_the_same_file() {
    let home = Home::new();
    if rsa_certificate(&home).is_none() || external("curl").is_none() {
        return;
    }
    let Some((_server, port)) = s_server(&home, &["-tls1_2", "-cipher", "kRSA"]) else { return };
    let words = ["--upstream-trusted-ca", "own.pem", "--ssl-version-client", "TLSv1_2"];
    let log = home.path("keys.log");
    let proxy = Proxy::spawn(home.proxy(&words).env("SSLKEYLOGFILE", &log));
    assert_eq!(status(&home, &proxy, &[&format!("https://localhost:{port}/")]).0, 200);
    proxy.finish();
    let log = fs::read_to_string(log).unwrap();
    let of_tls12 = log.lines().filter_map(|line| line.strip_prefix("CLIENT_RANDOM "));
    let lengths: Vec<usize> = of_tls12.map(str::len).collect();
    // That of rustls with the client, and that of OpenSSL with the server.
    assert_eq!(lengths, [64 + 1 + 96; 2], "{log}");
}

#[test]
fn an_encrypted_key_is_opened_for_servers_that_want_a_certificate() {
    let home = Home::new();
    let (Some(openssl), Some(()), Some(_)) =
        (external("openssl"), rsa_certificate(&home), external("curl"))
    else {
        return;
    };
    let authority = Authority::new("of clients");
    home.write("clients.pem", authority.pem());
    home.write_identity("client.pem", &authority.issue(&["the client"]));
    let encrypt = ["pkey", "-in", "client.pem", "-aes256", "-passout", "pass:secret"];
    let made = run(home.command(openssl).args(encrypt).args(["-out", "locked.pem"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    let locked = fs::read_to_string(home.path("locked.pem")).unwrap();
    let certificate = authority.issue(&["another"]).certificate_pem;
    home.write("other.pem", locked.clone() + &certificate);
    let own = fs::read_to_string(home.path("client.pem")).unwrap();
    let (_, own) = own.split_once("-----BEGIN CERTIFICATE-----").unwrap();
    home.write("locked.pem", format!("{locked}-----BEGIN CERTIFICATE-----{own}"));
    for version in ["-tls1_2", "-tls1_3"] {
        let words = ["-Verify", "1", "-verify_return_error", "-CAfile", "clients.pem", version];
        let Some((server, port)) = s_server(&home, &words) else { return };
        let url = format!("https://localhost:{port}/");
        let trust = ["--upstream-trusted-ca", "own.pem"];
        let certs = ["--client-certs", "locked.pem", "--set", "cert_passphrase=secret"];
        let proxy = home.start(&[&trust[..], &certs].concat());
        let (code, page) = status(&home, &proxy, &[&url]);
        assert_eq!(code, 200, "{page} {proxy:?} {server:?}");
        assert!(page.contains("the client"), "{page}");
        proxy.finish();
        let proxy = home.start(&trust);
        let ended = run(curl(&home, &proxy).unwrap().args(["--cacert", &home.ca(), &url]));
        assert!(!ended.stdout.contains("Client certificate"), "{ended:?}");
        proxy.finish();
    }
    for (words, reason) in [
        (&["--client-certs", "locked.pem"][..], "cert_passphrase"),
        (
            &["--client-certs", "locked.pem", "--set", "cert_passphrase=wrong"],
            "passphrase does not fit",
        ),
        (&["--client-certs", "other.pem", "--set", "cert_passphrase=secret"], "do not match"),
    ] {
        let ended = run(&mut home.proxy(words));
        assert_ne!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains(reason), "{words:?}: {ended:?}");
    }
}

#[test]
fn a_server_may_ask_for_a_certificate_late() {
    let home = Home::new();
    let (Some(python), Some(()), Some(_)) = (python(), rsa_certificate(&home), external("curl"))
    else {
        return;
    };
    let script = home.write("asking_late.py", include_str!("asking_late.py"));
    let authority = Authority::new("of clients");
    home.write("clients.pem", authority.pem());
    home.write_identity("client.pem", &authority.issue(&["the client"]));
    for version in ["TLS1_3", "TLS1_2"] {
        let words = [&script, version, "own.pem", "own.key", "clients.pem"];
        let server = Running::spawn(home.command(&python).args(words));
        let port = first_line(&server);
        let trust = ["--upstream-trusted-ca", "own.pem", "--client-certs", "client.pem"];
        let proxy = home.start(&trust);
        let (code, page) = status(&home, &proxy, &[&format!("https://localhost:{port}/")]);
        assert_eq!((code, &*page), (200, "the client"), "{version}: {proxy:?} {server:?}");
        proxy.finish();
    }
}

/// The port that a server prints first.
fn first_line(server: &Running) -> u16 {
    wait_for("the server's port", || {
        let output = server.stdout();
        let (line, _) = output.split_once('\n')?;
        line.trim().parse().ok()
    })
}
