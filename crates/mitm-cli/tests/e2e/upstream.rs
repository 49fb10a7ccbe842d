//! Proxies one behind the other, and SOCKS on either side.

use std::fs;

use mitm_testkit::{Nginx, external, net::refusing};

use crate::support::{Home, Proxy, curl, fetch, run, text};

/// nginx says on this page what credentials reached it.
const SAYS: &str =
    "location = /auth { return 200 '[$http_authorization][$http_proxy_authorization]'; }";
const NOTHING: &str = "[][]";

/// A proxy with a home of its own, which records, and trusts whoever comes next on the way.
struct Station {
    home: Home,
    proxy: Proxy,
}

impl Station {
    fn start(trust: &str, words: &[&str]) -> Self {
        let home = Home::new();
        let trust = home.write("trust.pem", fs::read_to_string(trust).unwrap());
        let words = [&["-w", "flows", "--upstream-trusted-ca", &trust], words].concat();
        let proxy = home.start(&words);
        Self { home, proxy }
    }

    fn fetch(&self, url: &str) -> String {
        fetch(&self.home, &self.proxy, &[url])
    }

    /// Ends it. Its file has these URLs, and no password.
    fn finish(self, urls: &[String]) {
        let log = self.proxy.finish();
        let bytes = fs::read(self.home.path("flows")).unwrap();
        let bytes = String::from_utf8_lossy(&bytes);
        for said in ["user:s3cret", "other:pa55"] {
            let basic = data_encoding::BASE64.encode(said.as_bytes());
            for secret in [&basic, said.split_once(':').unwrap().1] {
                assert!(!bytes.contains(secret) && !log.contains(secret), "{secret}: {log}");
            }
        }
        for url in urls {
            assert!(log.lines().any(|line| line.ends_with(&format!("GET {url}"))), "{url}: {log}");
        }
    }
}

fn start() -> Option<Nginx> {
    external("curl")?;
    Nginx::start_with(SAYS)
}

fn urls(nginx: &Nginx) -> [String; 2] {
    [nginx.http_url("/auth"), nginx.https_url("/auth")]
}

#[test]
fn three_proxies_in_a_row_with_a_password_each() {
    let Some(nginx) = start() else { return };
    let third = Station::start(&text(&nginx.trust_file()), &["--proxyauth", "user:s3cret"]);
    let mode = format!("upstream:{}", third.proxy.url());
    let words = ["--mode", &mode, "--upstream-auth", "user:s3cret", "--singleuser", "other:pa55"];
    let second = Station::start(&third.home.ca(), &words);
    let words = ["-U", &second.proxy.url(), "--upstream-auth", "other:pa55"];
    let first = Station::start(&second.home.ca(), &words);
    let urls = urls(&nginx);
    for url in &urls {
        for _ in 0..2 {
            assert_eq!(first.fetch(url), NOTHING, "{url} {:?}", first.proxy);
        }
    }
    for station in [first, second, third] {
        station.finish(&urls);
    }
}

#[test]
fn a_reverse_proxy_ends_tls_in_front_of_a_chain() {
    let Some(nginx) = start() else { return };
    let third = Station::start(&text(&nginx.trust_file()), &["--singleuser", "user:s3cret"]);
    let words = ["-U", &third.proxy.url(), "--upstream-auth", "user:s3cret"];
    let second = Station::start(&third.home.ca(), &words);
    let words = ["-R", &second.proxy.url(), "--set", "keep_host_header=true"];
    let first = Station::start(&second.home.ca(), &words);
    let port = first.proxy.address.port();
    let host = format!("Host: {}", nginx.http());
    for scheme in ["https", "http"] {
        let url = format!("{scheme}://localhost:{port}/auth");
        let page = fetch(&first.home, &first.proxy, &["-x", "", "-4", "-H", &host, &url]);
        assert_eq!(page, NOTHING, "{scheme}");
    }
    let url = [nginx.http_url("/auth")];
    second.finish(&url);
    third.finish(&url);
    first.finish(&[]);
}

#[test]
fn socks_proxies_behind_and_in_front() {
    let Some(nginx) = start() else { return };
    let words = ["--mode", "socks5", "--proxyauth", "user:s3cret"];
    let second = Station::start(&text(&nginx.trust_file()), &words);
    let address = second.proxy.address;
    let urls = urls(&nginx);
    let in_mode = ["socks5", "socks5h"]
        .map(|scheme| vec![format!("upstream:{scheme}://user:s3cret@{address}")]);
    let by_option = ["socks5", "socks5h"].map(|scheme| {
        vec![
            format!("upstream:{scheme}://{address}/"),
            "--upstream-auth".into(),
            "user:s3cret".into(),
        ]
    });
    for words in in_mode.iter().chain(&by_option) {
        let words: Vec<&str> =
            ["--mode"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let first = Station::start(&second.home.ca(), &words);
        for url in &urls {
            assert_eq!(first.fetch(url), NOTHING, "{words:?} {url} {:?}", first.proxy);
        }
        first.finish(&urls);
    }
    second.finish(&urls);
}

#[test]
fn proxies_behind_are_reached_by_tls() {
    let Some(nginx) = start() else { return };
    // A regular proxy takes TLS on its port as well.
    let second = Station::start(&text(&nginx.trust_file()), &[]);
    let mode = format!("upstream:https://localhost:{}", second.proxy.address.port());
    let first = Station::start(&second.home.ca(), &["--mode", &mode]);
    let urls = urls(&nginx);
    for url in &urls {
        assert_eq!(first.fetch(url), NOTHING, "{url} {:?} {:?}", first.proxy, second.proxy);
    }
    first.finish(&urls);
    second.finish(&urls);
}

#[test]
fn what_goes_wrong_behind_is_told_in_its_words() {
    let Some(nginx) = start() else { return };
    let asking = Station::start(&text(&nginx.trust_file()), &["--singleuser", "user:s3cret"]);
    let (nobody, _guard) = refusing();
    let nobody = nobody.to_string();
    let [http, https] = urls(&nginx);
    let refused = "refused HTTP CONNECT request: ";
    let no_proxy = nginx.http().to_string();
    for (scheme, address, expected_http, expected_https) in [
        (
            "http",
            asking.proxy.address.to_string(),
            "407",
            format!(
                "{refused}407 Proxy Authentication Required. Give its credentials by upstream_auth."
            ),
        ),
        ("http", nobody.clone(), "502", "Connection refused".into()),
        ("socks5h", nobody, "502", "Connection refused".into()),
        // It takes absolute forms for its own pages.
        ("http", no_proxy.clone(), "200", refused.into()),
        ("socks5h", no_proxy, "502", "does not speak SOCKS5".into()),
    ] {
        let mode = format!("upstream:{scheme}://{address}/");
        let first = Station::start(&text(&nginx.trust_file()), &["--mode", &mode]);
        let load = |url: &str| {
            let mut command = curl(&first.home, &first.proxy).unwrap();
            command.args(["--cacert", &first.home.ca(), "-w", " %{http_code}", url]);
            run(&mut command).stdout
        };
        let page = load(&http);
        assert!(page.ends_with(&format!(" {expected_http}")), "{mode}: {page}");
        let page = load(&https);
        assert!(page.ends_with(" 502") && page.contains(&expected_https), "{mode}: {page}");
        assert!(page.contains(&address), "{mode}: {page}");
    }
}
