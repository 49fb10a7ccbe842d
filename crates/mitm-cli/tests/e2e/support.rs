//! Homes, running proxies, and commands that end in time.

use std::{
    fs,
    io::{Read, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use mitm_testkit::{external, tls::Identity};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// How long anything may take. Machines that run tests may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A home directory, which is also the working directory.
pub(crate) struct Home(TempDir);

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self(TempDir::with_prefix("mitmdump-").expect("a temporary directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and returns its path as text, to be put on a command line.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("ours");
        fs::write(&path, content).expect("ours");
        text(&path)
    }

    /// Writes certificate and key into one file, as mitmproxy wants them.
    pub(crate) fn write_identity(&self, name: &str, identity: &Identity) -> String {
        self.write(name, format!("{}{}", identity.key_pem, identity.certificate_pem))
    }

    /// The certificate that clients have to trust. It is made while the proxy listens already.
    pub(crate) fn ca(&self) -> String {
        let path = self.path(".mitmproxy/mitmproxy-ca-cert.pem");
        wait_for("the authority is made", || {
            fs::read_to_string(&path).is_ok_and(|pem| pem.contains("-----END")).then_some(())
        });
        text(&path)
    }

    /// A command in this home, with nothing of the environment but the path.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("HOME", self.0.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .env("LANG", "C.UTF-8")
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn mitmdump(&self, words: &[&str]) -> Command {
        let program = std::env::var_os("MITM_MITMDUMP")
            .map_or_else(|| env!("CARGO_BIN_EXE_mitmdump").into(), PathBuf::from);
        let mut command = self.command(program);
        command.args(words);
        command
    }

    /// Runs mitmdump to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        run(&mut self.mitmdump(words))
    }

    /// Starts mitmdump on a free port and waits until it listens.
    pub(crate) fn start(&self, words: &[&str]) -> Proxy {
        Proxy::spawn(&mut self.proxy(words))
    }

    /// A command that listens on a free port.
    pub(crate) fn proxy(&self, words: &[&str]) -> Command {
        self.mitmdump(&[&["--listen-host", "127.0.0.1", "-p", "0"], words].concat())
    }
}

fn address_in(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening at ")?;
    let (line, _) = rest.split_once('\n')?;
    Some(line.trim().trim_end_matches('.').parse().expect("an address"))
}

/// A child process whose output is collected; it is killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        let stdout = Collected::from(child.stdout.take().expect("it is piped"));
        let stderr = Collected::from(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr }
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end.
    pub(crate) fn end(mut self, patience: Duration) -> Ended {
        let deadline = Instant::now() + patience;
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status.code();
            }
            assert!(Instant::now() < deadline, "it does not end: {self:?}");
            thread::sleep(Duration::from_millis(5));
        };
        Ended { code, stdout: self.stdout.all(), stderr: self.stderr.all() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr.text())
    }
}

/// What a pipe has brought so far.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Collected {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let read = buffer.get(..count).unwrap_or_default();
                shared.lock().expect("nobody panics with it").extend_from_slice(read);
            }
        });
        Self { bytes, thread: Some(thread) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("nobody panics with it")).into_owned()
    }

    /// All of it; for processes that have ended. A grandchild that keeps the pipe is not waited for.
    fn all(&mut self) -> String {
        let thread = self.thread.take().expect("it is asked once");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.text()
    }
}

/// A listening mitmdump.
#[derive(Debug)]
pub(crate) struct Proxy {
    running: Running,
    pub(crate) address: SocketAddr,
}

impl Proxy {
    /// Runs a command that [listens](Home::proxy). The address is found in what it prints.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut running = Running::spawn(command);
        let address = wait_for("the proxy listens", || {
            assert!(running.is_running(), "it ended: {running:?}");
            address_in(&running.stdout())
        });
        Self { running, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn log(&self) -> String {
        self.running.stdout()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in the log: {self:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.running.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it is our child");
    }

    pub(crate) fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.running.end(PATIENCE)
    }

    /// Ends it as a user would, and expects that nothing went wrong.
    pub(crate) fn finish(self) -> String {
        let ended = self.stop(Signal::SIGINT);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
        ended.stdout
    }

    /// A figure of `/proc/PID/status`, in bytes: `VmRSS` now, `VmHWM` at most so far.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("it is running");
        let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel says so");
        let kib: u64 =
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB");
        kib * 1024
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).expect("it is running").count()
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.running.pid())
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    Running::spawn(command).end(PATIENCE)
}

/// curl through the proxy, silent but for errors.
pub(crate) fn curl(home: &Home, proxy: &Proxy) -> Option<Command> {
    let mut command = home.command(external("curl")?);
    command.args(["-sS", "--max-time", "50", "--noproxy", "", "-x", &proxy.url()]);
    Some(command)
}

/// Runs curl with these arguments and expects it to end well. Returns the body.
pub(crate) fn fetch(home: &Home, proxy: &Proxy, words: &[&str]) -> String {
    let mut command = curl(home, proxy).expect("the caller knows that curl is there");
    let ended = run(command.args(["--cacert", &home.ca()]).args(words));
    assert_eq!(ended.code, Some(0), "curl {words:?}: {ended:?} {proxy:?}");
    ended.stdout
}

/// Runs curl with these arguments. Returns the status code and the body.
pub(crate) fn status(home: &Home, proxy: &Proxy, words: &[&str]) -> (u16, String) {
    let words = [&["-w", "\n%{http_code}"], words].concat();
    let output = fetch(home, proxy, &words);
    let (body, code) = output.rsplit_once('\n').expect("the code is written");
    (code.parse().expect("a number"), body.to_owned())
}

/// Waits until a question is answered.
pub(crate) fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("paths of tests are text").to_owned()
}

/// Says something about a run that passes.
pub(crate) fn note(text: &str) {
    // `eprintln` would be swallowed with the output of the test
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Counts the lines that contain a text.
pub(crate) fn lines_with(output: &str, text: &str) -> usize {
    output.lines().filter(|line| line.contains(text)).count()
}
