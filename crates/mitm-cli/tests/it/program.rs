//! The binary: what it prints, how it ends, and traffic through it.
//!
//! Each run has a home directory and an environment of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mitm_testkit::{RawClient, RawServer, Step};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// How long a run may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A home directory, which is also the working directory.
struct Home(TempDir);

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn spawn(&self, words: &[&str]) -> Program {
        let child = Command::new(env!("CARGO_BIN_EXE_mitmdump"))
            .args(words)
            .env_clear()
            .env("HOME", self.0.path())
            .env("TZ", "UTC")
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Program(child.unwrap())
    }

    /// Runs to the end.
    fn run(&self, words: &[&str]) -> Ended {
        let mut child = self.spawn(words);
        let stdout = child.0.stdout.take().unwrap();
        finish(child, BufReader::new(stdout))
    }

    /// Starts a proxy on a free port and waits until it listens.
    fn listen(&self, words: &[&str]) -> Proxy {
        let words: Vec<_> = ["--listen-host", "127.0.0.1", "-p", "0"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        let mut child = self.spawn(&words);
        let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "it ended: {seen}");
            seen.push_str(&line);
            if let Some((_, address)) = line.split_once("listening at ") {
                let address: SocketAddr = address.trim().trim_end_matches('.').parse().unwrap();
                return Proxy { child, stdout, address };
            }
        }
    }
}

/// A process that does not outlive its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Proxy {
    child: Program,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Proxy {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.0.id()).unwrap()), signal).unwrap();
    }

    fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        finish(self.child, self.stdout)
    }
}

fn finish(mut child: Program, mut stdout: BufReader<ChildStdout>) -> Ended {
    let mut stderr = child.0.stderr.take().unwrap();
    let out = thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let err = thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let code = wait(&mut child.0);
    Ended { code, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_is_printed_without_a_run() {
    let home = Home::new();
    // A broken configuration is no hindrance.
    home.write(".mitmproxy/config.yaml", "[");
    for (words, start) in [
        (&["--help"][..], "Intercept, record, filter"),
        (&["-h"], "Intercept, record, filter"),
        (&["--version"], "mitm-rs:  0.1.0 "),
        (&["--sysinfo"], "mitm-rs:  0.1.0 "),
        (&["--shortversion"], "0.1.0\n"),
    ] {
        let ended = home.run(words);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{words:?}");
        assert!(ended.stdout.starts_with(start), "{words:?}: {}", ended.stdout);
        assert!(!ended.stdout.contains('\x1b'), "{words:?}");
    }
}

#[test]
fn registries_are_printed() {
    let home = Home::new();
    let ended = home.run(&["--options"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    for line in ["\nflow_detail: 1\n", "\nmode:\n- regular\n", "\nrfile:\n"] {
        assert!(ended.stdout.contains(line), "{line}");
    }
    // What is printed is a configuration.
    home.write("options.yaml", &ended.stdout);
    assert_eq!(home.run(&["--conf", "options.yaml", "--options"]).code, Some(0));
    let ended = home.run(&["--commands"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert!(ended.stdout.contains("\nset "), "{}", ended.stdout);
}

#[test]
fn usage_errors_end_with_2() {
    let home = Home::new();
    for words in [&["--nope"][..], &["-p", "x"], &["-T", "-R", "http://h"], &["--anti"], &["-r"]] {
        let ended = home.run(words);
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{words:?}");
        assert!(ended.stderr.starts_with("error: "), "{words:?}: {}", ended.stderr);
    }
    assert!(!home.path(".mitmproxy").exists());
}

#[test]
fn refused_options_end_with_1() {
    let home = Home::new();
    home.write("file", "x").write("bad.yaml", "listen_port: x\n");
    let rows: &[(&[&str], &str)] = &[
        (&["--set", "flow_detail=x"], "Failed to parse option flow_detail: not an integer: x"),
        (&["--set", "flow_detail=1", "--set", "flow_detail=2"], "Received multiple values"),
        (&["--set", "connection_strategy=x"], "valid values are 'eager', 'lazy'"),
        (&["-m", "bogus"], "Invalid proxy mode specification: bogus (unknown mode)"),
        (&["-Z", "5x"], "Invalid body_size_limit specification: 5x"),
        (&["--stream", "x"], "Invalid stream_large_bodies specification: x"),
        (&["--upstream-bind-address", "x"], "connect_addr"),
        (&["--certs", "missing.pem"], "Certificate file does not exist: missing.pem"),
        (&["--client-certs", "missing"], "Client certificate path does not exist: missing"),
        (&["--set", "anticache=true"], "anticache: not supported yet by mitm-rs 0.1"),
        (&["--set", "udp_hosts=x"], "udp_hosts: not supported yet by mitm-rs 0.1"),
        (&["--conf", "nope"], "cannot read nope: No such file or directory"),
        (&["--conf", "bad.yaml"], "bad.yaml: line 1: Expected optional int for listen_port"),
        (&["~bad("], "Invalid filter expression: '~bad('"),
        (&["--set", "dumper_filter=~bad"], "Invalid filter expression: '~bad'"),
        (&["-w", "file/x"], "file/x"),
        (&["-r", "file", "-w", "file"], "rfile"),
        (&["-r", "file", "-a", "./file"], "rfile"),
    ];
    for (words, text) in rows {
        let ended = home.run(&[&["-n"], *words].concat());
        assert_eq!(ended.code, Some(1), "{words:?}: {} {}", ended.stdout, ended.stderr);
        assert!(ended.stderr.starts_with("mitmdump: "), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(text), "{words:?}: {}", ended.stderr);
    }
    assert_eq!(fs::read(home.path("file")).unwrap(), b"x");
    let ended = home.run(&["~m", "post", "&", ")"]);
    assert!(ended.stderr.ends_with("\n~m post & )\n          ^\n"), "{}", ended.stderr);
}

#[test]
fn the_file_that_is_read_is_never_written() {
    let home = Home::new();
    home.write("file", "x").write("save.yaml", "save_stream_file: file\n");
    let ended = home.run(&["--conf", "save.yaml", "-nr", "file"]);
    assert_eq!(ended.code, Some(1), "{} {}", ended.stdout, ended.stderr);
    assert_eq!(fs::read(home.path("file")).unwrap(), b"x");
}

#[test]
fn files_that_cannot_be_read_end_with_1() {
    let home = Home::new();
    home.write("foreign", "GET / HTTP/1.1\r\n").write("empty", "");
    for name in ["missing", "foreign"] {
        let ended = home.run(&["-nr", name]);
        assert_eq!(ended.code, Some(1), "{name}: {}", ended.stdout);
        assert!(ended.stdout.contains(name), "{name}: {}", ended.stdout);
        assert!(ended.stderr.contains("logged during startup"), "{name}: {}", ended.stderr);
    }
    for name in ["empty", "/dev/null"] {
        let ended = home.run(&["-nr", name]);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{name}: {}", ended.stdout);
    }
}

#[test]
fn what_has_no_effect_is_said() {
    let home = Home::new();
    home.write(".mitmproxy/config.yaml", "cadir: ~/ca\nanticache: true\nweb_port: 8081\nnope: 1\n");
    let ended = home.run(&["-nr", "/dev/null", "--set", "what=ever", "~q"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
    for line in [
        "config.yaml: line 1: option cadir is now called confdir",
        "config.yaml line 2: anticache: not supported yet by mitm-rs 0.1",
        "config.yaml line 4: unknown option nope has no effect",
        "unknown option what has no effect",
        "Only processing flows that match \"~q\"",
    ] {
        assert_eq!(ended.stdout.matches(line).count(), 1, "{line}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains("web_port"), "{}", ended.stdout);
    let ended = home.run(&["-qnr", "/dev/null", "--set", "what=ever", "~q"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(0), ""), "{}", ended.stderr);
}

#[test]
fn a_port_in_use_ends_the_start() {
    let home = Home::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = home.run(&["--listen-host", "127.0.0.1", "-p", &port]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stdout.contains(&format!("127.0.0.1:{port}")), "{}", ended.stdout);
    assert_eq!(ended.stderr, "Error logged during startup, exiting...\n");
}

#[test]
fn signals_end_the_run_in_order() {
    let home = Home::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let ended = home.listen(&[]).stop(signal);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{signal}: {}", ended.stdout);
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let home = Home::new();
    let mut proxy = home.listen(&["--set", "connection_strategy=lazy"]);
    // Something that an orderly end would wait for.
    let origin = RawServer::start(|_| vec![Step::Request, Step::End]).await;
    let mut client = RawClient::connect(proxy.address).await;
    let url = format!("http://{}/", origin.address());
    client.send(format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address())).await;
    origin.wait_for_requests(1).await;
    let deadline = Instant::now() + PATIENCE;
    let code = loop {
        proxy.signal(Signal::SIGINT);
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Some(status) = proxy.child.0.try_wait().unwrap() {
            break status.code();
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!(code, Some(130));
}

#[tokio::test]
async fn traffic_is_printed_recorded_and_read_again() {
    let home = Home::new();
    let origin = RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let out = home.path("out");
    let proxy = home.listen(&["-w", text(&out)]);
    let mut client = RawClient::connect(proxy.address).await;
    for method in ["GET", "POST"] {
        let request = format!(
            "{method} http://{0}/{method} HTTP/1.1\r\nHost: {0}\r\nContent-Length: 0\r\n\r\n",
            origin.address()
        );
        let answer = client.request(request).await;
        assert_eq!((answer.status(), &*answer.body), (200, &b"hello"[..]));
    }
    drop(client);
    let ended = tokio::task::spawn_blocking(|| proxy.stop(Signal::SIGTERM)).await.unwrap();
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
    let url = format!("http://{}", origin.address());
    for method in ["GET", "POST"] {
        assert!(ended.stdout.contains(&format!("{method} {url}/{method}")), "{}", ended.stdout);
    }
    assert!(ended.stdout.contains("<< 200 OK 5b"), "{}", ended.stdout);
    assert_eq!(origin.requests().len(), 2);

    // The same once more from the file, as the documentation of 2.0 has it.
    let posts = home.path("posts");
    let ended = home.run(&["-nr", "out", "-w", text(&posts), "~m post"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
    assert!(ended.stdout.contains("/POST") && !ended.stdout.contains("/GET"), "{}", ended.stdout);
    let ended = home.run(&["-dddnr", "posts"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
    for line in ["/POST", "Content-Length: 5", "hello"] {
        assert!(ended.stdout.contains(line), "{line}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains("/GET"), "{}", ended.stdout);
    // Appended to what is there.
    let ended = home.run(&["-qnr", "out", "-a", "posts"]);
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(0), "", ""));
    let ended = home.run(&["-nr", "posts"]);
    assert_eq!(ended.stdout.matches("<< 200 OK 5b").count(), 3, "{}", ended.stdout);
}
