//! Bodies that are larger than the memory they may take.
//!
//! `MITM_BIG_MB` is their size in MiB. Each needs about four times as much room for temporary files.

use std::{
    env,
    fs::File,
    io::{BufReader, BufWriter, Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mitm_flow::{Body, FlowRef, body::Chunks};
use mitm_flowfile::FlowReader;
use mitm_testkit::{Nginx, external};
use nix::sys::signal::Signal;

use crate::support::{Home, Proxy, curl, lines_with, note, text, wait_for};

const MIB: u64 = 1 << 20;

/// What the process may have taken at most.
const LIMIT: u64 = 100 * MIB;

fn size() -> u64 {
    let mib = env::var("MITM_BIG_MB").ok().map(|mib| mib.parse().expect("MITM_BIG_MB: a number"));
    mib.unwrap_or(64) * MIB
}

/// Writes a file without repetitions.
fn make(path: &Path) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = BufWriter::with_capacity(1 << 16, File::create(path).unwrap());
    for _ in 0..size() / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes()).unwrap();
    }
    out.flush().unwrap();
}

/// Compares to the end, without reading either into memory.
fn assert_same(what: &str, a: impl Read, b: impl Read) {
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut offset = 0;
    loop {
        let count = fill(&mut a, &mut left);
        assert_eq!(fill(&mut b, &mut right), count, "{what}: lengths differ after {offset}");
        assert!(left == right, "{what}: bytes differ within 64 KiB after {offset}");
        offset += count as u64;
        if count < left.len() {
            assert_eq!(offset, size(), "{what}: both have another length");
            return;
        }
    }
}

/// Reads until the buffer is full or nothing more comes; clears the rest.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> usize {
    let mut count = 0;
    while count < buffer.len() {
        match from.read(&mut buffer[count..]).unwrap() {
            0 => break,
            read => count += read,
        }
    }
    buffer[count..].fill(0);
    count
}

/// A body as a stream.
struct Pieces {
    chunks: Chunks,
    piece: std::io::Cursor<bytes::Bytes>,
}

impl Pieces {
    fn of(body: &Body) -> Self {
        Self { chunks: body.chunks(1 << 16), piece: std::io::Cursor::default() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            match self.chunks.next() {
                None => return Ok(0),
                Some(piece) => self.piece = std::io::Cursor::new(piece?),
            }
        }
    }
}

struct Site {
    nginx: Nginx,
    home: Home,
    proxy: Proxy,
    source: PathBuf,
}

impl Site {
    fn start() -> Option<Self> {
        external("curl")?;
        let nginx =
            Nginx::start_with("location /put/ { dav_methods PUT; create_full_put_path on; }")?;
        let source = nginx.root().join("big.bin");
        make(&source);
        let home = Home::new();
        let proxy =
            home.start(&["-w", "flows", "--upstream-trusted-ca", &text(&nginx.trust_file())]);
        Some(Self { nginx, home, proxy, source })
    }

    fn curl(&self) -> Command {
        let mut command = curl(&self.home, &self.proxy).unwrap();
        command.args(["--cacert", &self.home.ca(), "--max-time", "600"]);
        command
    }

    fn download(&self, url: &str) {
        let begin = Instant::now();
        let mut client = self.curl().arg(url).stdout(Stdio::piped()).spawn().unwrap();
        let got = client.stdout.take().unwrap();
        assert_same("what curl got", got, File::open(&self.source).unwrap());
        assert!(client.wait().unwrap().success(), "{:?}", self.proxy);
        note(&format!("{url}: {} MiB in {:?}", size() / MIB, begin.elapsed()));
    }

    fn upload(&self, url: &str) {
        let begin = Instant::now();
        let mut client = self.curl();
        let status = client.arg("-T").arg(&self.source).arg(url).status().unwrap();
        assert!(status.success(), "{:?}", self.proxy);
        note(&format!("{url}: {} MiB in {:?}", size() / MIB, begin.elapsed()));
        let stored = File::open(self.nginx.root().join("put/big.bin")).unwrap();
        assert_same("what nginx got", stored, File::open(&self.source).unwrap());
    }

    /// Ends the proxy, and compares the one flow of its file.
    fn end(self, body: impl Fn(&FlowRef) -> Body) {
        let Self { home, proxy, source, nginx: _nginx } = self;
        let file = home.path("flows");
        // the client has it all, the file may not yet
        wait_for("the flow is written", || {
            (file.metadata().is_ok_and(|file| file.len() > size())).then_some(())
        });
        let peak = proxy.memory("VmHWM");
        note(&format!("peak memory {} MiB", peak / MIB));
        assert!(peak < LIMIT, "the peak of memory was {} MiB", peak / MIB);
        let output = proxy.finish();
        assert_eq!(lines_with(&output, "<< 20"), 1, "{output}");
        assert_recorded(&file, &source, &body);

        // reading and writing it again takes no more
        let words = ["-r", "flows", "-w", "copy", "--keepserving"];
        let again = home.start(&words);
        let copy = home.path("copy");
        let length = file.metadata().unwrap().len();
        wait_for("the copy is written", || {
            (copy.metadata().is_ok_and(|file| file.len() >= length)).then_some(())
        });
        let peak = again.memory("VmHWM");
        assert!(peak < LIMIT, "to copy the file took {} MiB", peak / MIB);
        let ended = again.stop(Signal::SIGTERM);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
        assert_recorded(&copy, &source, &body);
    }
}

/// The file has one flow, with this body.
fn assert_recorded(file: &Path, source: &Path, body: &impl Fn(&FlowRef) -> Body) {
    let mut reader = FlowReader::open(file).unwrap();
    let flow = reader.next_record().unwrap().expect("a flow").into_flow().unwrap();
    let source = File::open(source).unwrap();
    assert_same("the flow file", Pieces::of(&body(&flow)), source);
    assert!(reader.next_record().unwrap().is_none());
}

fn response(flow: &FlowRef) -> Body {
    flow.response().expect("it has one").with(|response| response.body.clone())
}

fn request(flow: &FlowRef) -> Body {
    flow.request().expect("it has one").with(|request| request.body.clone())
}

#[test]
fn a_download_over_http() {
    let Some(site) = Site::start() else { return };
    site.download(&site.nginx.http_url("/big.bin"));
    site.end(response);
}

#[test]
fn a_download_over_https() {
    let Some(site) = Site::start() else { return };
    site.download(&site.nginx.https_url("/big.bin"));
    site.end(response);
}

#[test]
fn an_upload_over_http() {
    let Some(site) = Site::start() else { return };
    site.upload(&site.nginx.http_url("/put/big.bin"));
    site.end(request);
}

#[test]
fn an_upload_over_https() {
    let Some(site) = Site::start() else { return };
    site.upload(&site.nginx.https_url("/put/big.bin"));
    site.end(request);
}

/// A client that reads slowly holds up the server, not the memory of the proxy.
#[test]
fn a_slow_reader_is_waited_for() {
    let Some(site) = Site::start() else { return };
    let mut client = site.curl();
    client.args([&site.nginx.https_url("/big.bin")]).stdout(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let got = client.stdout.take().unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_same("what curl got", got, File::open(&site.source).unwrap());
    assert!(client.wait().unwrap().success());
    site.end(response);
}
