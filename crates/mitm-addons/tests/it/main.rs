//! The addons of `mitmdump` together: from a flow file to a flow file, and to what is printed.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod ldap;
mod listeners;
mod peer_filters;

#[path = "../../../mitm-filter/tests/it/expressions.rs"]
mod expressions;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use mitm_addon::{Master, log::EventLog, testing};
use mitm_addons::{DumpAddons, Output};
use mitm_flow::{FlowRef, test_util};
use mitm_flowfile::{FlowReader, FlowWriter};
use tempfile::TempDir;

/// Where output goes.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A run of `mitmdump` without listeners.
struct Run {
    dir: TempDir,
}

impl Run {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, flows: &[FlowRef]) -> PathBuf {
        let path = self.path(name);
        let mut writer = FlowWriter::new(std::fs::File::create(&path).unwrap());
        for flow in flows {
            writer.write(flow).unwrap();
        }
        writer.flush().unwrap();
        path
    }

    /// Runs until the program ends by itself; returns its exit code and what it printed.
    async fn dump(&self, specs: &[String]) -> (i32, String) {
        let screen = Screen::default();
        let output = Output::new(screen.clone(), false);
        let master = Master::new(EventLog::default());
        let DumpAddons { addons, error_check } = mitm_addons::dump_addons(master.log(), &output);
        for addon in addons {
            master.add(addon).unwrap();
        }
        let confdir = format!("confdir={}", self.dir.path().display());
        testing::set(&master, &[&confdir, "server=false"]).unwrap();
        let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
        testing::set(&master, &specs).unwrap();
        let run = master.run(|| error_check.check());
        let code = tokio::time::timeout(Duration::from_mins(1), run).await.unwrap();
        let printed = std::mem::take(&mut *screen.0.lock().unwrap());
        (code, String::from_utf8(printed).unwrap())
    }
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn count(path: &Path) -> usize {
    FlowReader::open(path)
        .unwrap()
        .filter(|record| record.as_ref().unwrap().check().is_ok())
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_filtered_printed_and_saved() {
    let run = Run::new();
    let post = test_util::http_flow_with_response();
    post.request().unwrap().update(|request| request.method = "POST".into());
    let mut flows = test_util::flows();
    flows.insert(1, post.clone());
    flows.push(post.clone());
    let input = run.write("in", &flows);
    let expected = std::fs::read(run.write("expected", &[post.clone(), post])).unwrap();
    let output = run.path("out");
    let mut specs = vec![option("rfile", &input), option("save_stream_file", &output)];
    let filters = ["readfile_filter", "dumper_filter", "save_stream_filter"];
    specs.extend(filters.map(|name| format!("{name}=~m post")));
    let (code, printed) = run.dump(&specs).await;
    let line = "127.0.0.1:22: POST http://address:22/path\n           << 200 OK 7b\n";
    assert_eq!((code, printed), (0, line.repeat(2)));
    assert_eq!(
        std::fs::read(output).unwrap(),
        expected,
        "untouched flows are written as they were"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_copied() {
    let run = Run::new();
    let flows: Vec<FlowRef> = (0..300).flat_map(|_| test_util::flows()).collect();
    let input = run.write("in", &flows);
    let output = run.path("out");
    let specs = [option("rfile", &input), option("save_stream_file", &output)];
    let (code, printed) = run.dump(&specs).await;
    // Flows that were not looked at, and those whose messages were played one by one.
    assert_eq!((code, count(&output)), (0, flows.len()));
    assert!(printed.contains("127.0.0.1:22 <- tcp <- address:22\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_version_are_read_and_printed() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mitm-flowfile/tests/fixtures");
    let (run, mut seen) = (Run::new(), 0);
    for entry in std::fs::read_dir(fixtures).unwrap() {
        let input = entry.unwrap().path();
        if input.extension().is_none_or(|extension| extension != "mitm") {
            continue;
        }
        let output = run.path("out");
        let specs = [
            option("rfile", &input),
            option("save_stream_file", &output),
            "flow_detail=4".to_owned(),
        ];
        let (code, printed) = run.dump(&specs).await;
        assert_eq!((code, count(&output)), (0, count(&input)), "{}", input.display());
        assert!(!printed.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')));
        seen += 1;
    }
    assert!(seen > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_none_ends_the_start() {
    let run = Run::new();
    std::fs::write(run.path("in"), "hello").unwrap();
    let (code, _) = run.dump(&[option("rfile", &run.path("in"))]).await;
    assert_eq!(code, 1);
    let (code, _) = run.dump(&[option("rfile", &run.path("missing"))]).await;
    assert_eq!(code, 1);
}
