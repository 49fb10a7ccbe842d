use std::path::Path;

use mitm_addon::{Master, testing};
use mitm_flow::{Replay, test_util};
use mitm_flowfile::FlowReader;
use mitm_options::ArgValue;

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    addon: Save,
    master: Master,
}

impl Fixture {
    fn new() -> Self {
        let addon = Save::default();
        let master = testing::master_with(Arc::new(addon.clone())).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), addon, master }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Sets the path, with `+` in front if asked for.
    fn stream_to(&self, prefix: &str, name: &str) {
        let spec = format!("save_stream_file={prefix}{}", self.path(name));
        testing::set(&self.master, &[&spec]).unwrap();
    }

    async fn done(&self) {
        if let Outcome::Wait(rest) = self.addon.done() {
            rest.await.unwrap();
        }
    }
}

/// Returns the flows of a file, each as its kind and what it ended with.
fn saved(path: impl AsRef<Path>) -> Vec<FlowRef> {
    let records = FlowReader::open(path).unwrap();
    records.map(|record| record.unwrap().into_flow().unwrap()).collect()
}

fn kinds(path: &str) -> Vec<&'static str> {
    saved(path).iter().map(|flow| flow.kind().as_str()).collect()
}

#[tokio::test]
async fn every_kind_of_flow_is_saved_once() {
    let fixture = Fixture::new();
    fixture.stream_to("", "a/b/flows");
    for flow in test_util::flows() {
        testing::cycle(&fixture.master, &flow).await;
    }
    fixture.done().await;
    let path = fixture.path("a/b/flows");
    // The one that never ended comes last.
    assert_eq!(kinds(&path), ["http", "http", "http", "tcp", "udp", "dns", "http"]);
    let flows = saved(&path);
    assert_eq!(flows[2].websocket().unwrap().with(|data| data.messages.len()), 3);
    assert!(flows[1].error().is_some() && flows[6].response().is_none());
    assert_eq!(&*flows[0].request().unwrap().get().url(), "http://address:22/path");
}

#[tokio::test]
async fn flows_are_saved_as_they_were_and_are_there_at_once() {
    let fixture = Fixture::new();
    fixture.stream_to("", "flows");
    let flow = test_util::http_flow_with_response();
    testing::cycle(&fixture.master, &flow).await;
    flow.set_comment("later");
    let path = fixture.path("flows");
    // Live flows are written without anybody asking, if not in the same moment.
    for _ in 0..500 {
        if std::fs::metadata(&path).unwrap().len() > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(&*saved(&path)[0].comment(), "");
    fixture.done().await;
}

#[tokio::test]
async fn files_are_replaced_or_appended_to() {
    for (prefix, count) in [("", 1), ("+", 2)] {
        let mut total = 0;
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let fixture = Fixture { dir: tempfile::tempdir_in(&dir).unwrap(), ..Fixture::new() };
            let path = dir.path().join("flows");
            let spec = format!("save_stream_file={prefix}{}", path.display());
            testing::set(&fixture.master, &[&spec]).unwrap();
            testing::cycle(&fixture.master, &test_util::http_flow_with_response()).await;
            fixture.done().await;
            total = saved(&path).len();
        }
        assert_eq!(total, count);
    }
}

#[tokio::test]
async fn a_run_without_flows_leaves_an_empty_file() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("flows"), "old").unwrap();
    fixture.stream_to("", "flows");
    assert_eq!(std::fs::read(fixture.path("flows")).unwrap(), b"old");
    drop(fixture.addon.running());
    fixture.done().await;
    assert_eq!(std::fs::read(fixture.path("flows")).unwrap(), b"");
}

#[tokio::test]
async fn the_filter_is_checked_when_a_flow_is_written() {
    let fixture = Fixture::new();
    fixture.stream_to("", "flows");
    testing::set(&fixture.master, &["save_stream_filter=~comment keep"]).unwrap();
    let flow = test_util::http_flow_with_response();
    testing::cycle(&fixture.master, &flow).await;
    flow.set_comment("keep");
    testing::cycle(&fixture.master, &flow).await;
    testing::set(&fixture.master, &["save_stream_filter=~m post"]).unwrap();
    testing::cycle(&fixture.master, &flow).await;
    let error = testing::set(&fixture.master, &["save_stream_filter=~bad("]).unwrap_err();
    assert!(error.to_string().contains("Invalid filter expression: '~bad('"));
    fixture.done().await;
    assert_eq!(saved(fixture.path("flows")).len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_there_before_the_request_is_saved_once() {
    let fixture = Fixture::new();
    fixture.stream_to("", "flows");
    let answered = test_util::http_flow_with_response();
    drop(fixture.addon.response(&answered));
    drop(fixture.addon.request(&answered));
    let failed = test_util::error_flow();
    drop(fixture.addon.error(&failed));
    drop(fixture.addon.request(&failed));
    assert!(answered.is_live() && failed.is_live() && fixture.addon.0.open.lock().is_empty());
    // One that is still being answered.
    let begun = test_util::http_flow_with_response();
    begun.response().unwrap().update(|response| response.timestamp_end = None);
    drop(fixture.addon.request(&begun));
    assert_eq!(fixture.addon.0.open.lock().len(), 1);
    fixture.done().await;
    assert_eq!(saved(fixture.path("flows")).len(), 3);
}

#[tokio::test]
async fn what_is_running_is_saved_when_the_option_is_cleared() {
    let fixture = Fixture::new();
    fixture.stream_to("", "one");
    let flow = test_util::http_flow();
    drop(fixture.addon.request(&flow));
    testing::set(&fixture.master, &["save_stream_file"]).unwrap();
    assert_eq!(fixture.addon.hooks(), HookSet::NONE);
    flow.set_response(Some(test_util::response().into()));
    fixture.stream_to("", "two");
    drop(fixture.addon.response(&flow));
    fixture.done().await;
    assert!(!saved(fixture.path("one"))[0].has_response());
    assert!(saved(fixture.path("two"))[0].has_response());
}

#[tokio::test]
async fn an_option_that_is_set_back_loses_nothing() {
    let fixture = Fixture::new();
    let flow = test_util::http_flow_with_response();
    fixture.stream_to("", "one");
    testing::cycle(&fixture.master, &flow).await;
    let bad = fixture.path("one/x");
    let error = testing::set(&fixture.master, &[&format!("save_stream_file={bad}")]).unwrap_err();
    assert!(error.to_string().starts_with("save_stream_file: "), "{error}");
    testing::cycle(&fixture.master, &flow).await;
    // Another addon may refuse a change that this one accepted.
    testing::set(&fixture.master, &["save_stream_file"]).unwrap();
    fixture.stream_to("", "one");
    testing::cycle(&fixture.master, &flow).await;
    fixture.done().await;
    assert_eq!(saved(fixture.path("one")).len(), 3);
}

#[tokio::test]
async fn a_new_name_begins_a_new_file() {
    let fixture = Fixture::new();
    fixture.stream_to("", "%Y-%m-%d/%H%M%S");
    let flow = test_util::http_flow_with_response();
    testing::cycle(&fixture.master, &flow).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    testing::cycle(&fixture.master, &flow).await;
    fixture.done().await;
    let day = std::fs::read_dir(fixture.dir.path()).unwrap().next().unwrap().unwrap();
    let mut counts: Vec<_> = std::fs::read_dir(day.path())
        .unwrap()
        .map(|file| saved(file.unwrap().path()).len())
        .filter(|&count| count > 0)
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1]);
}

#[tokio::test]
async fn flows_from_files_are_complete_when_they_begin() {
    let fixture = Fixture::new();
    fixture.stream_to("", "flows");
    let answered = test_util::error_flow();
    answered.set_response(Some(test_util::response().into()));
    for flow in [test_util::http_flow(), test_util::tcp_flow(), test_util::error_flow(), answered] {
        let copy = flow.copy();
        testing::cycle(&fixture.master, &copy).await;
        assert!(fixture.addon.0.open.lock().is_empty());
    }
    fixture.done().await;
    assert_eq!(kinds(&fixture.path("flows")), ["http", "tcp", "http", "http"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_does_not_stop_the_run() {
    let fixture = Fixture::new();
    testing::set(&fixture.master, &["save_stream_file=/dev/full", "server=false"]).unwrap();
    let master = fixture.master.clone();
    let run = async {
        for _ in 0..3 {
            testing::cycle(&master, &test_util::http_flow_with_response()).await;
        }
        assert!(master.is_running());
        master.shutdown();
    };
    let (code, ()) = tokio::join!(fixture.master.run(|| None), async {
        while !master.is_running() {
            tokio::task::yield_now().await;
        }
        run.await;
    });
    assert_eq!(code, 1);
}

#[test]
fn paths_that_cannot_be_written_are_refused() {
    let fixture = Fixture::new();
    for path in ["/dev/null/x", "/"] {
        let spec = format!("save_stream_file={path}");
        let error = testing::set(&fixture.master, &[&spec]).unwrap_err().to_string();
        assert!(error.starts_with("save_stream_file: ") && error.contains(path), "{error}");
    }
    assert_eq!(fixture.addon.hooks(), HookSet::NONE);
}

#[test]
fn the_file_that_is_read_is_not_written() {
    let fixture = Fixture::new();
    fixture.master.options().register_all(&[&RFILE]);
    std::fs::write(fixture.path("flows"), "kept").unwrap();
    let rfile = format!("rfile={}", fixture.path("flows"));
    for prefix in ["", "+"] {
        let spec = format!("save_stream_file={prefix}{}", fixture.path("flows"));
        let error = testing::set(&fixture.master, &[&rfile, &spec]).unwrap_err().to_string();
        assert!(error.contains("rfile"), "{error}");
    }
    assert_eq!(std::fs::read(fixture.path("flows")).unwrap(), b"kept");
}

#[test]
fn bodies_are_recorded_unless_the_filter_excludes_them() {
    let fixture = Fixture::new();
    let flow = test_util::http_flow();
    let need = || fixture.addon.need(&flow, Direction::Response);
    assert_eq!(need(), Need::Nothing);
    fixture.stream_to("", "flows");
    assert_eq!(need(), Need::Tee);
    testing::set(&fixture.master, &["save_stream_filter=~m post"]).unwrap();
    assert_eq!(need(), Need::Nothing);
    testing::set(&fixture.master, &["save_stream_filter=~b x"]).unwrap();
    assert_eq!(need(), Need::Tee);
}

#[tokio::test]
async fn flows_are_saved_on_command() {
    let fixture = Fixture::new();
    let path = fixture.path("flows");
    let flow = test_util::http_flow_with_response();
    flow.set_is_replay(Some(Replay::Request));
    let save = |path: String| {
        let args = vec![ArgValue::Flows(vec![flow.clone(), flow.clone()]), path.into()];
        fixture.master.commands().call("save.file", args)
    };
    save(path.clone()).unwrap();
    assert_eq!(saved(&path).len(), 2);
    save(format!("+{path}")).unwrap();
    assert_eq!(saved(&path).len(), 4);
    save(path.clone()).unwrap();
    assert_eq!(saved(&path).len(), 2);
    assert!(save("/dev/null/x".to_owned()).is_err());
}
