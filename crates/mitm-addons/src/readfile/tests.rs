use std::{io::Write, path::PathBuf, time::Duration};

use mitm_addon::testing;
use mitm_flow::{FlowRef, test_util};
use mitm_flowfile::FlowWriter;
use mitm_proxy::{Hook, HookSet};

use super::*;

/// Remembers what it is told.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn note(&self, what: &str, flow: &FlowRef) -> Outcome {
        let id = flow.comment();
        self.0.lock().push(format!("{what} {id}").trim_end().to_owned());
        Outcome::Done
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Addon for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }
    fn hooks(&self) -> HookSet {
        HookSet::of(&[Hook::Request, Hook::Response, Hook::Error, Hook::TcpMessage])
    }
    fn request(&self, flow: &FlowRef) -> Outcome {
        self.note("request", flow)
    }
    fn response(&self, flow: &FlowRef) -> Outcome {
        self.note("response", flow)
    }
    fn error(&self, flow: &FlowRef) -> Outcome {
        self.note("error", flow)
    }
    fn tcp_message(&self, flow: &FlowRef) -> Outcome {
        self.note("tcp_message", flow)
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    addon: ReadFile,
    recorder: Arc<Recorder>,
    master: Master,
}

impl Fixture {
    fn new() -> Self {
        let recorder = Arc::new(Recorder::default());
        let master = testing::master_with(recorder.clone()).unwrap();
        let addon = ReadFile::new();
        master.add(Arc::new(addon.clone())).unwrap();
        testing::set(&master, &["server=false"]).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), addon, recorder, master }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("flows")
    }

    fn write(&self, flows: &[FlowRef]) {
        let mut writer = FlowWriter::new(std::fs::File::create(self.path()).unwrap());
        for flow in flows {
            writer.write(flow).unwrap();
        }
        writer.flush().unwrap();
    }

    fn append(&self, bytes: &[u8]) {
        let mut file = std::fs::File::options().append(true).open(self.path()).unwrap();
        file.write_all(bytes).unwrap();
    }

    /// Runs until the file is read; returns the exit code.
    async fn read(&self) -> i32 {
        testing::set(&self.master, &[&format!("rfile={}", self.path().display())]).unwrap();
        let mut progress = self.addon.progress();
        let run = self.master.run(|| None);
        let stop = async {
            progress.wait_for(|progress| *progress == Progress::Finished).await.unwrap();
            self.master.shutdown();
        };
        let both = async { tokio::join!(run, stop).0 };
        tokio::time::timeout(Duration::from_secs(20), both).await.unwrap()
    }
}

fn commented(flow: FlowRef, comment: &str) -> FlowRef {
    flow.set_comment(comment);
    flow
}

fn three() -> [FlowRef; 3] {
    [
        commented(test_util::http_flow_with_response(), "a"),
        commented(test_util::error_flow(), "b"),
        commented(test_util::tcp_flow(), "c"),
    ]
}

#[tokio::test]
async fn flows_are_played_in_order() {
    let fixture = Fixture::new();
    fixture.write(&three());
    assert_eq!(fixture.read().await, 0);
    assert_eq!(
        fixture.recorder.take(),
        ["request a", "response a", "request b", "error b", "tcp_message c", "tcp_message c"]
    );
}

#[tokio::test]
async fn the_filter_chooses() {
    let fixture = Fixture::new();
    fixture.write(&three());
    testing::set(&fixture.master, &["readfile_filter=~e | ~tcp"]).unwrap();
    assert_eq!(fixture.read().await, 0);
    assert_eq!(fixture.recorder.take(), ["request b", "error b", "tcp_message c", "tcp_message c"]);
    let error = testing::set(&fixture.master, &["readfile_filter=~bad("]).unwrap_err();
    assert!(error.to_string().contains("Invalid filter expression: '~bad('"));
}

#[tokio::test]
async fn more_than_fits_into_the_channel() {
    let fixture = Fixture::new();
    let flow = test_util::http_flow_with_response();
    fixture.write(&vec![flow; 5000]);
    assert_eq!(fixture.read().await, 0);
    assert_eq!(fixture.recorder.take().len(), 10_000);
}

#[tokio::test]
async fn what_is_not_a_flow_file_is_an_error() {
    for content in [&b"hello"[..], b"12:too short", b"{}", b"0:~"] {
        let fixture = Fixture::new();
        std::fs::write(fixture.path(), content).unwrap();
        assert_eq!(fixture.read().await, 1, "{content:?}");
        assert!(fixture.recorder.take().is_empty());
    }
    assert_eq!(Fixture::new().read().await, 1, "there is no such file");
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path()).unwrap();
    assert_eq!(fixture.read().await, 1);
    let fixture = Fixture::new();
    std::fs::write(fixture.path(), "").unwrap();
    assert_eq!(fixture.read().await, 0);
}

#[tokio::test]
async fn what_comes_before_the_defect_is_loaded() {
    let fixture = Fixture::new();
    fixture.write(&three());
    fixture.append(b"99:cut off");
    assert_eq!(fixture.read().await, 1);
    assert_eq!(fixture.recorder.take().len(), 6);
}

#[tokio::test]
async fn a_flow_that_is_not_valid_is_skipped() {
    let fixture = Fixture::new();
    fixture.write(&three());
    fixture.append(b"29:7:version;2:21#4:type;4:carp;}");
    let flow = fixture.dir.path().join("more");
    let mut writer = FlowWriter::new(std::fs::File::create(&flow).unwrap());
    writer.write(&test_util::http_flow()).unwrap();
    writer.flush().unwrap();
    fixture.append(&std::fs::read(flow).unwrap());
    assert_eq!(fixture.read().await, 1);
    assert_eq!(fixture.recorder.take().len(), 7);
}

#[tokio::test]
async fn the_errors_say_what_and_where() {
    use tracing_subscriber::layer::SubscriberExt;
    let lines = async |fixture: &Fixture| {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        fixture.master.log().subscribe(move |entry| sink.lock().push(entry.msg.clone()));
        let subscriber = tracing_subscriber::registry().with(fixture.master.log().clone());
        let guard = tracing::subscriber::set_default(subscriber);
        fixture.read().await;
        drop(guard);
        std::mem::take(&mut *lines.lock())
    };
    let fixture = Fixture::new();
    let path = fixture.path().display().to_string();
    assert_eq!(
        lines(&fixture).await,
        [format!("Cannot load flows: No such file or directory (os error 2): '{path}'")]
    );
    let fixture = Fixture::new();
    std::fs::write(fixture.path(), "hello").unwrap();
    let found = lines(&fixture).await;
    assert_eq!(found[0], "Flow file corrupted.");
    let failed = format!("Failed to read {}: ", fixture.path().display());
    assert!(found[1].starts_with(&failed), "{found:?}");
    assert!(found[1].contains("byte 0"), "{found:?}");
    let fixture = Fixture::new();
    fixture.write(&three());
    let len = std::fs::metadata(fixture.path()).unwrap().len();
    fixture.append(b"99:cut off");
    let found = lines(&fixture).await;
    assert_eq!(found[0], "Flow file corrupted - loaded 3 flows.");
    assert!(found[1].contains(&format!("byte {len}")), "{found:?}");
}

#[tokio::test]
async fn a_command_tells_whether_it_reads() {
    let fixture = Fixture::new();
    let reading = || match fixture.master.commands().execute("readfile.reading") {
        Ok(mitm_options::RetValue::Bool(reading)) => reading,
        other => panic!("{other:?}"),
    };
    assert!(!reading());
    fixture.write(&three());
    fixture.read().await;
    assert!(!reading());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_read_as_it_comes() {
    let fixture = Fixture::new();
    fixture.write(&[test_util::http_flow_with_response()]);
    let flow = std::fs::read(fixture.path()).unwrap();
    std::fs::remove_file(fixture.path()).unwrap();
    let made = std::process::Command::new("mkfifo").arg(fixture.path()).status();
    assert!(made.unwrap().success());
    let (path, recorder) = (fixture.path(), fixture.recorder.clone());
    let feeder = tokio::task::spawn_blocking(move || {
        let mut pipe = std::fs::File::options().write(true).open(path).unwrap();
        for count in 1..=3 {
            pipe.write_all(&flow).unwrap();
            for _ in 0..500 {
                if recorder.0.lock().len() >= 2 * count {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        recorder.0.lock().len()
    });
    assert_eq!(fixture.read().await, 0);
    assert_eq!(feeder.await.unwrap(), 6);
}
