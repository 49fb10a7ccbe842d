//! Programs that people use, each with HTTP/2 on either side, both or none: bodies of several sizes both ways.

use std::{
    fmt::Write,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use mitm_testkit::{Nginx, external, nginx::HELLO, peer_python, tls};

use crate::{
    clients::Chromium,
    support::{Home, Proxy, run, text},
};

const SIZES: [usize; 4] = [0, 1, 64 << 10, 16 << 20];

/// The origin, and a proxy in front of it.
struct Site {
    home: Home,
    proxy: Proxy,
    origin: Child,
    port: u16,
    is_http2: bool,
}

impl Drop for Site {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.origin.kill();
        let _ = self.origin.wait();
    }
}

impl Site {
    /// With a mode, in which `{}` is the port of the origin.
    fn start(is_http2: bool, mode: &str) -> Option<Self> {
        let node = external("node")?;
        let home = Home::new();
        let identity = tls::self_signed(&["localhost", "127.0.0.1"]);
        let cert = home.write("cert.pem", &identity.certificate_pem);
        let key = home.write("key.pem", &identity.key_pem);
        let script = home.write("origin.js", include_str!("http2_origin.js"));
        let version = if is_http2 { "h2" } else { "http/1.1" };
        let mut origin = home
            .command(node)
            .args([&script, version, &cert, &key])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(origin.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        let mode = mode.replace("{}", line.trim());
        let mut words = vec!["-w", "flows", "--insecure", "--mode", &mode];
        if !is_http2 {
            // Otherwise the client would be offered what the server agrees on.
            words.extend(["--set", "connection_strategy=lazy", "--set", "upstream_cert=false"]);
        }
        let proxy = home.start(&words);
        Some(Self { home, proxy, origin, port, is_http2 })
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// What the origin says about uploads: HTTP/2 towards it needs a client that offers it as well.
    fn expected(&self, client_http2: bool) -> String {
        let version = if self.is_http2 && client_http2 { "2.0" } else { "1.1" };
        let lines =
            SIZES.iter().map(|size| format!("get {size} true\npost {size} true over {version}\n"));
        lines.collect()
    }

    /// Runs a client that prints a line for each body.
    fn expect(&self, client: &mut Command, client_http2: bool) {
        let ended = run(client);
        assert_eq!(ended.code, Some(0), "{ended:?} {:?}", self.proxy);
        assert_eq!(ended.stdout, self.expected(client_http2), "{} {:?}", ended.stderr, self.proxy);
    }
}

const SIDES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn curl_with_http2_on_either_side() {
    let Some(program) = external("curl") else { return };
    for (client_http2, server_http2) in SIDES {
        let Some(site) = Site::start(server_http2, "regular") else { return };
        let version = if client_http2 { "--http2" } else { "--http1.1" };
        let curl = |words: &[&str]| {
            let mut command = site.home.command(&program);
            command.args(["-sS", version, "--max-time", "50", "--noproxy", ""]);
            command.args(["-x", &site.proxy.url(), "--cacert", &site.home.ca()]).args(words);
            let ended = run(&mut command);
            assert_eq!(ended.code, Some(0), "{ended:?} {:?}", site.proxy);
            ended.stdout
        };
        let mut said = String::new();
        for size in SIZES {
            let got = curl(&["-D", "head", &format!("{}/bytes/{size}", site.url())]);
            let is_right = got.len() == size && got.bytes().all(|byte| byte == b'x');
            writeln!(said, "get {size} {is_right}").unwrap();
            let head = std::fs::read_to_string(site.home.path("head")).unwrap();
            assert!(head.contains(&format!("x-sum: {size}")), "the trailer is missing: {head}");
            assert_eq!(head.contains("HTTP/2 200"), client_http2, "{head}");
            site.home.write("body", "x".repeat(size));
            let got = curl(&["--data-binary", "@body", &format!("{}/", site.url())]);
            writeln!(said, "post {got}").unwrap();
        }
        assert_eq!(said, site.expected(client_http2), "{:?}", site.proxy);
    }
}

#[test]
fn httpx_with_http2_on_either_side() {
    const SCRIPT: &str = "
import sys, ssl, httpx
proxy, ca, url, http2, *sizes = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
with httpx.Client(proxy=proxy, http2=http2 == 'true', verify=context, timeout=50, trust_env=False) as client:
    for size in map(int, sizes):
        got = client.get(f'{url}/bytes/{size}')
        print('get', size, str(got.content == b'x' * size).lower())
        print('post', client.post(url, content=b'x' * size).text)
        assert got.http_version == ('HTTP/2' if http2 == 'true' else 'HTTP/1.1'), got.http_version
";
    let Some(python) = peer_python() else { return };
    // Where the server does not decide, it has HTTP/1.1: it names that first.
    for (client_http2, server_http2) in SIDES.into_iter().filter(|sides| *sides != (true, false)) {
        let Some(site) = Site::start(server_http2, "regular") else { return };
        let mut client = site.home.command(&python);
        client.args(["-c", SCRIPT, &site.proxy.url(), &site.home.ca(), &site.url()]);
        client.arg(client_http2.to_string()).args(SIZES.map(|size| size.to_string()));
        site.expect(&mut client, client_http2);
    }
}

#[test]
fn node_with_http2_in_a_tunnel() {
    const SCRIPT: &str = "
const http2 = require('http2'), http = require('http'), tls = require('tls'), { readFileSync } = require('fs');
const [proxy, ca, url, ...sizes] = process.argv.slice(1);
const { hostname, port } = new URL(proxy), { host } = new URL(url);
http.request({ hostname, port, method: 'CONNECT', path: host }).on('connect', (_, socket) => {
  const secured = tls.connect({ socket, servername: 'localhost', ALPNProtocols: ['h2'], ca: readFileSync(ca) });
  const session = http2.connect(url, { createConnection: () => secured });
  const ask = (headers, body) => new Promise((resolve, reject) => {
    const sends = body !== undefined;
    const stream = session.request(headers, { endStream: !sends, waitForTrailers: sends });
    const pieces = [];
    let sum;
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': `${body.length}` }));
    if (sends) stream.on('response', (head) => { sum = head['x-request-sum']; });
    stream.on('data', (piece) => pieces.push(piece)).on('trailers', (trailers) => { sum = trailers['x-sum']; });
    stream.on('end', () => resolve([Buffer.concat(pieces).toString(), sum])).on('error', reject);
    if (body !== undefined) stream.end(body);
  });
  (async () => {
    for (const size of sizes.map(Number)) {
      const [got, sum] = await ask({ ':path': `/bytes/${size}` });
      if (sum !== `${size}`) throw new Error(`trailer ${sum}`);
      console.log(`get ${size} ${got === 'x'.repeat(size)}`);
      const [said, theirs] = await ask({ ':method': 'POST', ':path': '/' }, 'x'.repeat(size));
      if (theirs !== `${size}`) throw new Error(`trailer of the request ${theirs}`);
      console.log(`post ${said}`);
    }
    session.close();
  })().catch((error) => { console.error(error); process.exit(1); });
}).end();
";
    let Some(node) = external("node") else { return };
    for server_http2 in [true, false] {
        let Some(site) = Site::start(server_http2, "regular") else { return };
        let mut client = site.home.command(&node);
        client.args(["-e", SCRIPT, &site.proxy.url(), &site.home.ca(), &site.url()]);
        client.args(SIZES.map(|size| size.to_string()));
        site.expect(&mut client, true);
    }
}

#[test]
fn java_with_http2_on_either_side() {
    const PROGRAM: &str = r#"
import java.net.*;
import java.net.http.*;
import java.time.Duration;

public class Load {
    public static void main(String[] words) throws Exception {
        var proxy = URI.create(words[0]);
        var client = HttpClient.newBuilder()
            .proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())))
            .version(HttpClient.Version.valueOf(words[1]))
            .connectTimeout(Duration.ofSeconds(50))
            .build();
        for (int i = 3; i < words.length; i++) {
            int size = Integer.parseInt(words[i]);
            var text = HttpResponse.BodyHandlers.ofString();
            var get = HttpRequest.newBuilder(URI.create(words[2] + "/bytes/" + size)).build();
            var got = client.send(get, text);
            System.out.println("get " + size + " " + got.body().equals("x".repeat(size)));
            var post = HttpRequest.newBuilder(URI.create(words[2] + "/"))
                .POST(HttpRequest.BodyPublishers.ofString("x".repeat(size))).build();
            System.out.println("post " + client.send(post, text).body());
        }
    }
}
"#;
    let (Some(java), Some(keytool)) = (external("java"), external("keytool")) else { return };
    for (client_http2, server_http2) in SIDES {
        let Some(site) = Site::start(server_http2, "regular") else { return };
        let imported = run(site
            .home
            .command(&keytool)
            .args(["-importcert", "-noprompt", "-alias", "mitm", "-storepass", "changeit"])
            .args(["-keystore", "trust.p12", "-storetype", "PKCS12", "-file", &site.home.ca()]));
        assert_eq!(imported.code, Some(0), "{imported:?}");
        let mut client = site.home.command(&java);
        client.arg(format!("-Djavax.net.ssl.trustStore={}", text(&site.home.path("trust.p12"))));
        client.arg("-Djavax.net.ssl.trustStorePassword=changeit");
        let version = if client_http2 { "HTTP_2" } else { "HTTP_1_1" };
        client.args([&site.home.write("Load.java", PROGRAM), &site.proxy.url()]);
        client.args([version, &site.url()]).args(SIZES.map(|size| size.to_string()));
        site.expect(&mut client, client_http2);
    }
}

#[test]
fn nghttp_and_h2load_in_front_of_a_server() {
    let (Some(nghttp), Some(h2load)) = (external("nghttp"), external("h2load")) else { return };
    for server_http2 in [true, false] {
        let Some(site) = Site::start(server_http2, "reverse:https://localhost:{}") else { return };
        let url = site.proxy.url().replace("http://", "https://");
        for size in SIZES {
            let ended = run(site.home.command(&nghttp).arg(format!("{url}/bytes/{size}")));
            let is_right =
                ended.stdout.len() == size && ended.stdout.bytes().all(|byte| byte == b'x');
            assert!(ended.code == Some(0) && is_right, "{size}: {} {:?}", ended.stderr, site.proxy);
            let body = site.home.write("body", "x".repeat(size));
            let ended = run(site.home.command(&nghttp).args(["-d", &body, &format!("{url}/")]));
            let version = if server_http2 { "2.0" } else { "1.1" };
            assert_eq!(ended.stdout, format!("{size} true over {version}"), "{}", ended.stderr);
            // In HTTP/1 nothing follows a body whose length is known, and nothing is waited for after none.
            if server_http2 && size > 0 {
                let trailer = format!("x-sum: {size}");
                let words = ["-nv", "-d", &body, "--trailer", &trailer, &format!("{url}/")];
                let ended = run(site.home.command(&nghttp).args(words));
                let said = format!("x-request-sum: {size}");
                assert!(ended.stdout.contains(&said), "{ended:?} {:?}", site.proxy);
            }
        }
        let ended = run(site.home.command(&h2load).args([
            "-n",
            "400",
            "-c",
            "4",
            "-m",
            "20",
            &format!("{url}/bytes/1000"),
        ]));
        assert!(ended.stdout.contains("400 succeeded, 0 failed"), "{ended:?}");
    }
}

#[test]
fn chromium_with_http2_on_either_side() {
    if external("chromium").is_none() {
        return;
    }
    for (client_http2, server_http2) in SIDES {
        let Some(site) = Site::start(server_http2, "regular") else { return };
        let Some(mut chromium) = Chromium::trusting(&site.home) else { return };
        let sizes = SIZES.map(|size| size.to_string()).join(",");
        let url = format!("{}/page?{sizes}", site.url());
        let mut client = chromium.load(&site.home, &site.proxy.url(), &url);
        if !client_http2 {
            client.arg("--disable-http2");
        }
        let ended = run(&mut client);
        let version = if client_http2 { "h2" } else { "http/1.1" };
        let expected =
            format!("<pre id=\"out\">{}in {version}\n</pre>", site.expected(client_http2));
        assert!(ended.stdout.contains(&expected), "{ended:?} {:?}", site.proxy);
    }
}

/// A server that people use, which sends files and takes no uploads.
#[test]
fn nginx_with_http2_on_either_side() {
    let Some(curl) = external("curl") else { return };
    for (client_http2, server_http2) in SIDES {
        let nginx = if server_http2 { Nginx::start_http2() } else { Nginx::start() };
        let Some(nginx) = nginx else { return };
        let home = Home::new();
        let proxy =
            home.start(&["-w", "flows", "--upstream-trusted-ca", &text(&nginx.trust_file())]);
        for size in SIZES {
            std::fs::write(nginx.root().join(size.to_string()), "x".repeat(size)).unwrap();
        }
        let version = if client_http2 { "--http2" } else { "--http1.1" };
        // One process, and several streams of one connection where there are any.
        let mut client = home.command(&curl);
        client.args(["-sS", version, "--max-time", "50", "--noproxy", "", "--parallel"]);
        client.args(["-x", &proxy.url(), "--cacert", &home.ca()]);
        for (number, size) in SIZES.iter().enumerate() {
            client.args(["-o", &format!("got-{number}"), &nginx.https_url(&format!("/{size}"))]);
        }
        let ended = run(&mut client);
        assert_eq!(ended.code, Some(0), "{ended:?} {proxy:?}");
        for (number, size) in SIZES.iter().enumerate() {
            let got = std::fs::read(home.path(&format!("got-{number}"))).unwrap();
            assert!(
                got.len() == *size && got.iter().all(|byte| *byte == b'x'),
                "{size}: {proxy:?}"
            );
        }
        // It refuses what is posted to a file before it has seen all of it.
        home.write("body", "x".repeat(SIZES[3]));
        let mut client = home.command(&curl);
        client.args(["-sS", version, "--max-time", "50", "--noproxy", "", "-o", "refusal"]);
        client.args(["-x", &proxy.url(), "--cacert", &home.ca(), "-w", "%{http_code} "]);
        client.args(["--data-binary", "@body", &nginx.https_url("/"), "--next", "-sS", version]);
        client.args(["--max-time", "50", "--noproxy", "", "-x", &proxy.url()]);
        client.args(["--cacert", &home.ca(), &nginx.https_url("/")]);
        let ended = run(&mut client);
        assert_eq!(ended.code, Some(0), "{ended:?} {proxy:?}");
        assert_eq!(ended.stdout, format!("405 {HELLO}"), "{proxy:?}");
    }
}
