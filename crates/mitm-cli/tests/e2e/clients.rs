//! Programs that people use, each loading a page over http and https.

use std::{env, fs, path::PathBuf, process::Command};

use mitm_testkit::{Nginx, external, nginx::HELLO, peer_python};

use crate::support::{Home, Proxy, lines_with, run, text};

/// nginx, and a proxy in front of it.
struct Site {
    nginx: Nginx,
    home: Home,
    proxy: Proxy,
}

impl Site {
    fn start() -> Option<Self> {
        let nginx = Nginx::start()?;
        let home = Home::new();
        let proxy =
            home.start(&["-w", "flows", "--upstream-trusted-ca", &text(&nginx.trust_file())]);
        Some(Self { nginx, home, proxy })
    }

    fn urls(&self) -> [String; 2] {
        [self.nginx.http_url("/"), self.nginx.https_url("/")]
    }

    /// Runs a client that prints what it loads. It ends well and has seen the page this many times.
    fn expect(&self, client: &mut Command, times: usize) {
        let ended = run(client);
        assert_eq!(ended.code, Some(0), "{ended:?} {:?}", self.proxy);
        let seen = ended.stdout.matches(HELLO.trim_end()).count();
        assert_eq!(seen, times, "{ended:?} {:?}", self.proxy);
    }

    /// Both pages went through the proxy once, and are in its file.
    fn end(self) {
        let urls = self.urls();
        let output = self.proxy.finish();
        let again = self.home.run(&["-nr", "flows"]);
        assert_eq!((again.code, &*again.stderr), (Some(0), ""), "{}", again.stdout);
        for url in urls {
            let request = format!("GET {url}");
            for output in [&output, &again.stdout] {
                let times = output.lines().filter(|line| line.ends_with(&request)).count();
                assert_eq!(times, 1, "{url}: {output}");
            }
        }
        assert_eq!(lines_with(&output, "handshake failed"), 0, "{output}");
        let pages = self.nginx.access_log().iter().filter(|line| *line == "GET / 200").count();
        assert_eq!(pages, 2, "nginx saw something else than the proxy");
    }
}

#[test]
fn curl_loads_pages() {
    let Some(program) = external("curl") else { return };
    let Some(site) = Site::start() else { return };
    // one process, so that the connection to the proxy can be kept
    let mut client = site.home.command(program);
    client.args(["-sS", "--max-time", "50", "--noproxy", "", "-x", &site.proxy.url()]);
    client.args(["--cacert", &site.home.ca()]).args(site.urls());
    site.expect(&mut client, 2);
    site.end();
}

#[test]
fn wget_loads_pages() {
    let Some(program) = external("wget") else { return };
    let Some(site) = Site::start() else { return };
    let proxy = site.proxy.url();
    let mut client = site.home.command(program);
    client.args(["-nv", "-O", "-", "--tries=1", "--timeout=50", "-e", "use_proxy=yes"]);
    client.args(["-e", &format!("http_proxy={proxy}"), "-e", &format!("https_proxy={proxy}")]);
    client.arg(format!("--ca-certificate={}", site.home.ca())).args(site.urls());
    site.expect(&mut client, 2);
    site.end();
}

#[test]
fn requests_loads_pages() {
    const SCRIPT: &str = "
import sys, requests
proxy, ca, *urls = sys.argv[1:]
with requests.Session() as session:
    session.trust_env = False
    session.proxies = {'http': proxy, 'https': proxy}
    session.verify = ca
    for url in urls:
        response = session.get(url, timeout=50)
        response.raise_for_status()
        print(response.text)
";
    let Some(python) = peer_python() else { return };
    let Some(site) = Site::start() else { return };
    let mut client = site.home.command(python);
    client.args(["-c", SCRIPT, &site.proxy.url(), &site.home.ca()]).args(site.urls());
    site.expect(&mut client, 2);
    site.end();
}

#[test]
fn undici_loads_pages() {
    const SCRIPT: &str = "
const { readFileSync } = require('fs');
const { ProxyAgent, fetch } = require('undici');
const [proxy, ca, ...urls] = process.argv.slice(1);
const dispatcher = new ProxyAgent({ uri: proxy, requestTls: { ca: readFileSync(ca) } });
(async () => {
  for (const url of urls) {
    const response = await fetch(url, { dispatcher });
    if (!response.ok) throw new Error(`status ${response.status}`);
    console.log(await response.text());
  }
  await dispatcher.close();
})().catch((error) => { console.error(error); process.exit(1); });
";
    let Some(node) = external("node") else { return };
    let Some(modules) = node_modules() else { return };
    let Some(site) = Site::start() else { return };
    let mut client = site.home.command(node);
    client.env("NODE_PATH", modules).args(["-e", SCRIPT, &site.proxy.url(), &site.home.ca()]);
    client.args(site.urls());
    site.expect(&mut client, 2);
    site.end();
}

/// Where undici is installed.
fn node_modules() -> Option<PathBuf> {
    const NAME: &str = "MITM_NODE_MODULES";
    let found = env::var_os(NAME).map(PathBuf::from).filter(|at| at.join("undici").is_dir());
    if found.is_none() {
        let required = env::var_os(external::REQUIRE).is_some_and(|value| value == "1");
        assert!(!required, "this test needs undici in the directory named by {NAME}");
        eprintln!("skipped: this test needs undici in the directory named by {NAME}");
    }
    found
}

#[test]
fn java_loads_pages() {
    const PROGRAM: &str = r#"
import java.net.*;
import java.net.http.*;
import java.time.Duration;

public class Load {
    public static void main(String[] words) throws Exception {
        var proxy = URI.create(words[0]);
        var client = HttpClient.newBuilder()
            .proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())))
            .connectTimeout(Duration.ofSeconds(50))
            .build();
        for (int i = 1; i < words.length; i++) {
            var request = HttpRequest.newBuilder(URI.create(words[i]))
                .timeout(Duration.ofSeconds(50)).build();
            var response = client.send(request, HttpResponse.BodyHandlers.ofString());
            if (response.statusCode() != 200) throw new Exception("status " + response.statusCode());
            System.out.println(response.body());
        }
    }
}
"#;
    let (Some(java), Some(keytool)) = (external("java"), external("keytool")) else { return };
    let Some(site) = Site::start() else { return };
    let imported = run(site
        .home
        .command(keytool)
        .args(["-importcert", "-noprompt", "-alias", "mitm", "-storepass", "changeit"])
        .args(["-keystore", "trust.p12", "-storetype", "PKCS12", "-file", &site.home.ca()]));
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let mut client = site.home.command(java);
    client.arg(format!("-Djavax.net.ssl.trustStore={}", text(&site.home.path("trust.p12"))));
    client.arg("-Djavax.net.ssl.trustStorePassword=changeit");
    client.args([&site.home.write("Load.java", PROGRAM), &site.proxy.url()]).args(site.urls());
    site.expect(&mut client, 2);
    site.end();
}

/// Chromium, which prints the page behind a URL that it loads through a proxy.
pub(crate) struct Chromium {
    program: PathBuf,
    profiles: usize,
}

impl Chromium {
    /// Makes it trust the proxies of this home.
    pub(crate) fn trusting(home: &Home) -> Option<Self> {
        let (program, certutil) = (external("chromium")?, external("certutil")?);
        let database = home.path(".pki/nssdb");
        fs::create_dir_all(&database).unwrap();
        let database = format!("sql:{}", text(&database));
        for words in
            [&["-N", "--empty-password"][..], &["-A", "-t", "C,,", "-n", "mitm", "-i", &home.ca()]]
        {
            let ended = run(home.command(&certutil).args(["-d", &database]).args(words));
            assert_eq!(ended.code, Some(0), "certutil {words:?}: {ended:?}");
        }
        Some(Self { program, profiles: 0 })
    }

    /// Loads a page in a profile of its own.
    pub(crate) fn load(&mut self, home: &Home, proxy: &str, url: &str) -> Command {
        let profile = home.path(&format!("profile-{}", self.profiles));
        self.profiles += 1;
        fs::create_dir(&profile).unwrap();
        let mut client = home.command(&self.program);
        client.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // loopback would be asked directly
            "--proxy-bypass-list=<-loopback>",
        ]);
        client.arg(format!("--user-data-dir={}", text(&profile)));
        client.arg(format!("--proxy-server={proxy}"));
        client.args(["--dump-dom", url]);
        client
    }
}

#[test]
fn chromium_loads_pages() {
    if external("chromium").is_none() {
        return;
    }
    let Some(site) = Site::start() else { return };
    let Some(mut chromium) = Chromium::trusting(&site.home) else { return };
    // an icon of its own would be asked for with each page
    fs::write(site.nginx.root().join("favicon.ico"), "").unwrap();
    for url in site.urls() {
        site.expect(&mut chromium.load(&site.home, &site.proxy.url(), &url), 1);
    }
    site.end();
}
