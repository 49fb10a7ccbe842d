//! The main job: see, record and re-read what curl and nginx say to each other.

use std::{fmt::Write as _, fs};

use mitm_testkit::{
    Nginx, RawServer, Step, external,
    nginx::HELLO,
    tls::{Authority, Identity},
};
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use crate::{
    peer,
    support::{Home, curl, fetch, lines_with, run, status, text},
};

fn sha256(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[test]
fn curl_and_nginx_are_seen_and_recorded() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    let home = Home::new();
    let proxy =
        home.start(&["-w", "flows.mitm", "--upstream-trusted-ca", &text(&nginx.trust_file())]);
    let urls = [nginx.http_url("/"), nginx.https_url("/")];
    for url in &urls {
        assert_eq!(fetch(&home, &proxy, &[url]), HELLO);
    }
    assert_eq!(fetch(&home, &proxy, &[&nginx.https_url("/large")]).len(), 1 << 20);
    assert_eq!(nginx.access_log(), ["GET / 200", "GET / 200", "GET /large 200"]);
    let output = proxy.finish();

    // one line for the request and one for the response
    for url in &urls {
        assert_eq!(output.lines().filter(|line| line.ends_with(url)).count(), 1, "{output}");
    }
    assert_eq!(lines_with(&output, "<< 200 OK 17b"), 2, "{output}");
    assert_eq!(lines_with(&output, "<< 200 OK"), 3, "{output}");
    assert_eq!(lines_with(&output, "GET "), 3, "{output}");
    assert_eq!(lines_with(&output, "CONNECT"), 0, "{output}");

    // read again, here
    let again = home.run(&["-nr", "flows.mitm"]);
    assert_eq!((again.code, &*again.stderr), (Some(0), ""), "{}", again.stdout);
    let flows = |output: &str| -> Vec<String> {
        let is_flow = |line: &&str| line.contains("GET ") || line.contains("<< ");
        output.lines().filter(is_flow).map(str::to_owned).collect()
    };
    assert_eq!(flows(&again.stdout), flows(&output));

    // and there
    let Some(seen) = peer::read(&home, &home.path("flows.mitm")) else { return };
    let large = sha256(vec![b'm'; 1 << 20]);
    let paths = [urls[0].clone(), urls[1].clone(), nginx.https_url("/large")];
    let contents = [sha256(HELLO), sha256(HELLO), large];
    assert_eq!(seen.len(), 3);
    for ((flow, url), content) in seen.iter().zip(&paths).zip(&contents) {
        assert_eq!((&*flow.method, &flow.url, &*flow.status), ("GET", url, "200"));
        assert_eq!((&*flow.request, &flow.response), (&*sha256(""), content));
        assert!(!flow.has_error);
    }
}

/// A certificate that signs itself, as the manual of openssl says to make one.
fn openssl_certificate(home: &Home) -> Option<Identity> {
    let made = run(home.command(external("openssl")?).args([
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
        "self.key",
        "-out",
        "self.pem",
    ]));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let read = |name| fs::read_to_string(home.path(name)).unwrap();
    Some(Identity {
        certificate_pem: read("self.pem"),
        key_pem: read("self.key"),
        trust_pem: read("self.pem"),
    })
}

async fn greeter(identity: &Identity) -> RawServer {
    RawServer::start_tls(identity.server_config(&[]), |_| {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n".to_vec();
        vec![Step::Request, Step::Send(answer), Step::Again]
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_can_be_trusted() {
    let home = Home::new();
    let (Some(identity), Some(_)) = (openssl_certificate(&home), external("curl")) else { return };
    let origin = greeter(&identity).await;
    let url = format!("https://localhost:{}/", origin.port());

    let proxy = home.start(&["--upstream-trusted-ca", "self.pem"]);
    assert_eq!(fetch(&home, &proxy, &[&url]), "hi\n", "{proxy:?}");
    proxy.finish();

    // without the option it is not
    let proxy = home.start(&[]);
    let (code, page) = status(&home, &proxy, &[&url]);
    assert_eq!(code, 502, "{page}");
    proxy.finish();
    // nor does it matter when nobody asks
    let proxy = home.start(&["--insecure"]);
    assert_eq!(fetch(&home, &proxy, &[&url]), "hi\n", "{proxy:?}");
    proxy.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_server_gives_a_page_with_host_and_option() {
    if external("curl").is_none() {
        return;
    }
    let home = Home::new();
    let origin = greeter(&Authority::new("unheard of").issue(&["localhost"])).await;
    let url = format!("https://localhost:{}/secret", origin.port());
    for strategy in ["eager", "lazy"] {
        let set = format!("connection_strategy={strategy}");
        let proxy = home.start(&["-w", "+flows", "--set", &set]);
        let (code, page) = status(&home, &proxy, &[&url]);
        assert_eq!(code, 502, "{page}");
        for word in ["localhost", "ssl_insecure"] {
            assert!(page.contains(word), "{strategy}: no {word} in {page}");
        }
        let output = proxy.finish();
        assert!(output.contains("localhost"), "{output}");
    }
    assert!(origin.requests().is_empty(), "nothing is said to whom nobody trusts");
}

#[test]
fn a_client_that_does_not_trust_is_named_with_its_host() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    let home = Home::new();
    let proxy = home.start(&["--upstream-trusted-ca", &text(&nginx.trust_file())]);
    let ended = run(curl(&home, &proxy).unwrap().arg(nginx.https_url("/")));
    // "peer certificate cannot be authenticated with known CA certificates"
    assert_eq!(ended.code, Some(60), "{ended:?}");
    proxy.wait_for_log("client disconnect");
    let ended = proxy.stop(Signal::SIGINT);
    let told = |line: &str| {
        line.contains("TLS handshake failed")
            && line.contains("localhost")
            && line.contains("trust")
    };
    let told = ended.stdout.lines().filter(|line| told(line)).count();
    assert_eq!(told, 1, "{}", ended.stdout);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(nginx.access_log().is_empty());
}
