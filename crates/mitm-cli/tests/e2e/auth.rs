//! Proxy authentication: who gets in, and where the passwords are not.

use std::{fs, process::Command};

use mitm_testkit::{
    Nginx, Slapd, external,
    slapd::{ADMIN, ADMIN_PASSWORD, PEOPLE},
};

use crate::support::{Home, Proxy, curl, run, text};

/// nginx says on this page what credentials reached it.
const SAYS: &str =
    "location = /auth { return 200 '[$http_authorization][$http_proxy_authorization]'; }";
const NOTHING: &str = "[][]";

/// What must not be found anywhere: the passwords of these tests as they are and in `Basic`.
fn expect_no_secrets(home: &Home, file: &str) {
    let bytes = fs::read(home.path(file)).unwrap();
    let bytes = String::from_utf8_lossy(&bytes);
    assert!(bytes.contains("/auth"), "something was recorded");
    let basic = ["user:s3cret", "user:wrong"].map(base64);
    for secret in
        ["s3cret", "Authorization", "proxyauth"].into_iter().chain(basic.iter().map(|s| &**s))
    {
        assert!(!bytes.to_lowercase().contains(&secret.to_lowercase()), "{secret} is in {file}");
    }
}

fn base64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

struct Site {
    nginx: Nginx,
    home: Home,
}

impl Site {
    fn start() -> Option<Self> {
        external("curl")?;
        Some(Self { nginx: Nginx::start_with(SAYS)?, home: Home::new() })
    }

    fn proxy(&self, words: &[&str]) -> Proxy {
        let trust = text(&self.nginx.trust_file());
        self.home.start(&[&["-w", "flows", "--upstream-trusted-ca", &trust], words].concat())
    }

    /// curl with these words; what it prints, then the status codes of CONNECT and of the page.
    fn load(&self, proxy: &Proxy, words: &[&str]) -> String {
        let mut command: Command = curl(&self.home, proxy).unwrap();
        command.args(["--cacert", &self.home.ca(), "-w", " %{http_connect} %{http_code}"]);
        run(command.args(words)).stdout
    }

    /// Nobody gets in without the right words.
    fn expect_asked(&self, proxy: &Proxy, right: &str) {
        let [http, https] = [self.nginx.http_url("/auth"), self.nginx.https_url("/auth")];
        let load = |said: &str, url: &str| self.load(proxy, &["--proxy-user", said, url]);
        for _ in 0..2 {
            assert_eq!(load(right, &http), format!("{NOTHING} 000 200"), "{proxy:?}");
            assert_eq!(load(right, &https), format!("{NOTHING} 200 200"), "{proxy:?}");
        }
        let page = "<html><head><title>407 Proxy Authentication Required</title></head><body><h1>407 Proxy \
                    Authentication Required</h1></body></html>";
        assert_eq!(self.load(proxy, &[&http]), format!("{page} 000 407"), "{proxy:?}");
        assert_eq!(self.load(proxy, &[&https]), " 407 000", "{proxy:?}");
    }
}

#[test]
fn any_name_and_password() {
    let Some(site) = Site::start() else { return };
    let proxy = site.proxy(&["--nonanonymous"]);
    site.expect_asked(&proxy, "user:s3cret");
    proxy.finish();
    expect_no_secrets(&site.home, "flows");
}

#[test]
fn a_single_user() {
    let Some(site) = Site::start() else { return };
    let proxy = site.proxy(&["--singleuser", "user:s3cret:too"]);
    site.expect_asked(&proxy, "user:s3cret:too");
    let http = site.nginx.http_url("/auth");
    for wrong in ["user:s3cret", "user:wrong", "User:s3cret:too"] {
        assert!(site.load(&proxy, &["--proxy-user", wrong, &http]).ends_with(" 407"), "{wrong}");
    }
    // What is for the server gets there.
    let words =
        ["--proxy-user", "user:s3cret:too", "-H", "Authorization: theirs", "-o", "page", &http];
    site.load(&proxy, &words);
    assert_eq!(fs::read_to_string(site.home.path("page")).unwrap(), "[theirs][]");
    proxy.finish();
}

#[test]
fn users_of_a_file() {
    let Some(site) = Site::start() else { return };
    let bcrypt = "$2y$05$abcdefghijklmnopqrstuuMceFj4VbmHOj8C7PetMxzZkwre/z.Ri";
    let mut openssl = site.home.command(external("openssl").unwrap());
    let apr1 = run(openssl.args(["passwd", "-apr1", "s3cret"])).stdout;
    let users =
        format!("user:{}\nsha:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=\nbcrypt:{bcrypt}\n", apr1.trim());
    let path = site.home.write("users", users);
    let proxy = site.proxy(&["--htpasswd", &path]);
    site.expect_asked(&proxy, "user:s3cret");
    site.expect_asked(&proxy, "sha:test");
    site.expect_asked(&proxy, "bcrypt:test");
    let http = site.nginx.http_url("/auth");
    assert!(site.load(&proxy, &["--proxy-user", "user:wrong", &http]).ends_with(" 407"));
    proxy.finish();
    expect_no_secrets(&site.home, "flows");

    let ended = site.home.run(&["--htpasswd", "/nowhere"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("Could not open htpasswd file: /nowhere"), "{ended:?}");
}

#[test]
fn users_of_a_directory() {
    let Some(site) = Site::start() else { return };
    let users = [("User", "user", "s3cret")];
    let Some(slapd) = Slapd::start(&users) else { return };
    let trust = text(&slapd.trust_file());
    let (plain, tls) = (slapd.ldap(), slapd.ldaps());
    for (spec, trust, right) in [
        (format!("ldap:127.0.0.1:{plain}:{ADMIN}:{ADMIN_PASSWORD}:{PEOPLE}"), None, "User:s3cret"),
        (
            format!(
                "ldaps:localhost:{tls}:{ADMIN}:{ADMIN_PASSWORD}:{PEOPLE}?search_filter_key=uid"
            ),
            Some(&trust),
            "user:s3cret",
        ),
    ] {
        let words = ["--proxyauth", &spec];
        let proxy = match trust {
            None => site.proxy(&words),
            Some(trust) => {
                // One file for both: the servers' authority and that of the directory.
                let both = fs::read_to_string(trust).unwrap() + site.nginx.trust_pem();
                let both = site.home.write("both.pem", both);
                let words = ["-w", "flows", "--upstream-trusted-ca", &both, words[0], words[1]];
                site.home.start(&words)
            }
        };
        site.expect_asked(&proxy, right);
        let http = site.nginx.http_url("/auth");
        for wrong in ["user:wrong", "*:s3cret", "us*:s3cret", "user:", "*)(uid=*:s3cret"] {
            assert!(
                site.load(&proxy, &["--proxy-user", wrong, &http]).ends_with(" 407"),
                "{wrong}"
            );
        }
        let log = proxy.finish();
        assert!(!log.contains("s3cret") && !log.contains(ADMIN_PASSWORD), "{log}");
        expect_no_secrets(&site.home, "flows");
    }

    // A service that may not ask is found out at the start.
    let spec = format!("ldap:127.0.0.1:{plain}:{ADMIN}:wrong:{PEOPLE}");
    let ended = site.home.proxy(&["--proxyauth", &spec]);
    let mut command = ended;
    let ended = run(&mut command);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("cannot check users: the bind as"), "{ended:?}");
}

#[test]
fn servers_are_asked_for_as_servers_in_reverse_mode() {
    let Some(site) = Site::start() else { return };
    let target = format!("reverse:{}", site.nginx.http_url(""));
    let proxy = site.proxy(&["--mode", &target, "--singleuser", "user:s3cret"]);
    let url = format!("{}/auth", proxy.url());
    let load = |words: &[&str]| site.load(&proxy, &[&["-x", "", &*url][..], words].concat());
    assert_eq!(load(&["-u", "user:s3cret"]), format!("{NOTHING} 000 200"));
    assert!(
        load(&["-u", "user:wrong"]).ends_with("<h1>401 Unauthorized</h1></body></html> 000 401")
    );
    proxy.finish();
    expect_no_secrets(&site.home, "flows");
}

#[test]
fn socks_clients_say_who_they_are() {
    let Some(site) = Site::start() else { return };
    let proxy = site.proxy(&["--mode", "socks5", "--proxyauth", "user:s3cret"]);
    let [http, https] = [site.nginx.http_url("/auth"), site.nginx.https_url("/auth")];
    for scheme in ["socks5", "socks5h"] {
        let address = proxy.address;
        let right = format!("{scheme}://user:s3cret@{address}");
        for url in [&http, &https] {
            let loaded = site.load(&proxy, &["-x", &right, url]);
            assert_eq!(loaded, format!("{NOTHING} 000 200"), "{scheme} {url} {proxy:?}");
        }
        for wrong in [format!("{scheme}://user:wrong@{address}"), format!("{scheme}://{address}")] {
            assert_eq!(site.load(&proxy, &["-x", &wrong, &http]), " 000 000", "{wrong}");
        }
    }
    // A server behind it may ask for the same words, and gets them.
    let right = format!("socks5h://user:s3cret@{}", proxy.address);
    let loaded = site.load(&proxy, &["-x", &right, "-H", "Authorization: theirs", &http]);
    assert_eq!(loaded, "[theirs][] 000 200");
    proxy.finish();
    let flows = String::from_utf8_lossy(&fs::read(site.home.path("flows")).unwrap()).into_owned();
    assert!(!flows.contains("s3cret") && !flows.contains("proxyauth"));
}
