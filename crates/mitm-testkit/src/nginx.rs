//! A real nginx for a test: plain and TLS on loopback, files and state in a directory of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::external::external;
use crate::net::free_port;
use crate::tls::Authority;

/// The body of `/`.
pub const HELLO: &str = "hello from nginx\n";

/// The name that the certificate is issued for, beside `127.0.0.1` and `nginx.test`.
pub const NAME: &str = "localhost";

/// A running nginx; it ends when dropped.
///
/// Serves `/` ([`HELLO`]), `/large` (1 MiB), `/status/204` and `/status/404`, `/moved` (302 to `/`),
/// `/gzip` (compressed for those who ask), and whatever the test writes to [`Nginx::root`].
pub struct Nginx {
    http: u16,
    https: u16,
    trust_pem: String,
    child: Child,
    directory: TempDir,
}

impl Nginx {
    /// Starts nginx, or returns `None` when the test should return early for want of it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// The same, with more directives for both `server` blocks.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(directives: &str) -> Option<Self> {
        Self::begin(directives, "ssl")
    }

    /// The same as [`Nginx::start`], with HTTP/2 for those who ask for it over TLS.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_http2() -> Option<Self> {
        Self::begin("", "ssl http2")
    }

    fn begin(directives: &str, secured: &str) -> Option<Self> {
        let program = external("nginx")?;
        // between choosing a port and listening on it another test may take it
        let mut nginx = (0..3).find_map(|_| Self::try_start(&program, directives, secured));
        assert!(nginx.is_some(), "nginx does not start");
        nginx.take()
    }

    /// Returns where plain HTTP is served.
    pub fn http(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http).into()
    }

    /// Returns where HTTPS is served.
    pub fn https(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.https).into()
    }

    /// Returns the plain URL of a path that begins with a slash.
    pub fn http_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    /// Returns the TLS URL of a path that begins with a slash.
    pub fn https_url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.https)
    }

    /// Returns the certificate of the authority behind the server certificate.
    pub fn trust_pem(&self) -> &str {
        &self.trust_pem
    }

    /// Returns the file with that certificate, to name in an option.
    pub fn trust_file(&self) -> std::path::PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Returns the directory whose files are served.
    pub fn root(&self) -> std::path::PathBuf {
        self.directory.path().join("www")
    }

    /// Returns the lines of the access log so far: method, path and status of each request.
    pub fn access_log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("access.log"));
        text.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn try_start(program: &Path, directives: &str, secured: &str) -> Option<Self> {
        let directory = TempDir::with_prefix("nginx-").expect("a temporary directory");
        let root = directory.path().join("www");
        fs::create_dir(&root).expect("the directory is ours");
        // nginx drops root's rights for some users; a test's files are no secret
        fs::write(root.join("index.html"), HELLO).expect("the directory is ours");
        fs::write(root.join("large"), vec![b'm'; 1 << 20]).expect("the directory is ours");
        fs::write(root.join("gzip"), "compress me ".repeat(400)).expect("the directory is ours");

        let authority = Authority::new("nginx test authority");
        let identity = authority.issue(&[NAME, "nginx.test", "127.0.0.1"]);
        identity.write(directory.path());

        let (http, https) = (free_port(), free_port());
        let config = configuration(directory.path(), http, https, directives, secured);
        let config_file = directory.path().join("nginx.conf");
        fs::write(&config_file, config).expect("the directory is ours");
        let log = fs::File::create(directory.path().join("stderr.log")).expect("ours");
        let child = Command::new(program)
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&config_file)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program that was found can be run");
        let mut nginx = Self { http, https, trust_pem: identity.trust_pem, child, directory };
        nginx.listens().then_some(nginx)
    }

    fn listens(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                let log = fs::read_to_string(self.directory.path().join("stderr.log"));
                eprintln!("nginx ended: {}", log.unwrap_or_default());
                return false;
            }
            if TcpStream::connect(self.http()).is_ok() && TcpStream::connect(self.https()).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // one process (no master), so this ends all of it
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn configuration(
    directory: &Path,
    http: u16,
    https: u16,
    directives: &str,
    secured: &str,
) -> String {
    let at = directory.display();
    let site = format!(
        "root {at}/www;
        default_type text/html;
        client_max_body_size 0;
        location = /status/204 {{ return 204; }}
        location = /status/404 {{ return 404 'no such page\\n'; }}
        location = /moved {{ return 302 /; }}
        location = /gzip {{ gzip on; gzip_types *; gzip_min_length 1; }}
        {directives}"
    );
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {at}/nginx.pid;
error_log stderr;
events {{ worker_connections 16384; }}
http {{
    log_format short '$request_method $request_uri $status';
    access_log {at}/access.log short;
    client_body_temp_path {at}/body;
    proxy_temp_path {at}/proxy;
    fastcgi_temp_path {at}/fastcgi;
    uwsgi_temp_path {at}/uwsgi;
    scgi_temp_path {at}/scgi;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{http};
        {site}
    }}
    server {{
        listen 127.0.0.1:{https} {secured};
        ssl_certificate {at}/cert.pem;
        ssl_certificate_key {at}/key.pem;
        {site}
    }}
}}
"
    )
}
