//! Reverse proxies as the documentation puts them to use: in front of a site, and around a program that knows no TLS.

use mitm_testkit::{Nginx, external, nginx::HELLO};

use crate::support::{Home, Proxy, fetch, text};

/// Loads a page from a proxy that stands for the server.
fn load(home: &Home, proxy: &Proxy, scheme: &str, path: &str, words: &[&str]) -> String {
    let url = format!("{scheme}://localhost:{}{path}", proxy.address.port());
    fetch(home, proxy, &[&["-4", "-x", "", &url], words].concat())
}

#[test]
fn one_port_serves_a_tls_site_to_plain_and_tls_clients() {
    let says = "location = /who { return 200 '$scheme $http_host $server_protocol'; }";
    let (Some(_), Some(origin)) = (external("curl"), Nginx::start_with(says)) else { return };
    let home = Home::new();
    let site = origin.https_url("");
    let proxy = home.start(&["-R", &site, "--upstream-trusted-ca", &text(&origin.trust_file())]);
    let host = site.strip_prefix("https://").unwrap();
    for (scheme, version) in [("http", "--http1.1"), ("https", "--http1.1"), ("https", "--http2")] {
        let said = load(&home, &proxy, scheme, "/who", &[version]);
        assert_eq!(said, format!("https {host} HTTP/1.1"), "{scheme} {version}");
        assert_eq!(load(&home, &proxy, scheme, "/", &[version]), HELLO);
    }
    let log = proxy.finish();
    let requests = log.lines().filter(|line| line.ends_with(&format!("GET {site}/who")));
    assert_eq!(requests.count(), 3, "{log}");
}

#[test]
fn a_compressing_proxy_without_tls_is_put_between_two() {
    let (Some(_), Some(origin)) = (external("curl"), Nginx::start()) else { return };
    let (begins_tls, ends_tls) = (Home::new(), Home::new());
    let trust = text(&origin.trust_file());
    let inner = begins_tls.start(&["-R", &origin.https_url(""), "--upstream-trusted-ca", &trust]);
    let compresses = format!(
        "location /through/ {{
            proxy_pass {}/;
            gzip on; gzip_types *; gzip_min_length 1;
        }}",
        inner.url()
    );
    let Some(middle) = Nginx::start_with(&compresses) else { return };
    let outer = ends_tls.start(&["-R", &middle.http_url("")]);

    let words = ["--compressed", "-w", " %{size_download}"];
    let answer = load(&ends_tls, &outer, "https", "/through/large", &words);
    let (page, size) = answer.split_once(' ').unwrap();
    assert!(page.len() == 1 << 20 && page.bytes().all(|byte| byte == b'm'));
    assert!(size.parse::<usize>().unwrap() < 10_000, "{size} bytes are not compressed");
    let url = format!("GET {}", middle.http_url("/through/large"));
    assert!(outer.finish().contains(&url), "{url}");
    let url = format!("GET {}", origin.https_url("/large"));
    assert!(inner.finish().contains(&url), "{url}");
}
