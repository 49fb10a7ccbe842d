//! Records that do not fit into memory.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    sync::Arc,
};

use bytes::Bytes;
use mitm_flow::{Body, Extent, Facts as _, FlowRef, test_util};
use mitm_flowfile::{FlowReader, FlowWriter, ReadErrorKind};

use crate::support;

const GIB: u64 = 1 << 30;

/// A body that is nowhere: the byte at each offset follows from the offset.
struct Pattern(u64);

/// Bytes in a row that are the same.
const RUN: u64 = 1021;

fn pattern(offset: u64) -> u8 {
    (offset / RUN % 251) as u8
}

impl Extent for Pattern {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let run = usize::try_from(RUN - offset % RUN).unwrap().min(buf.len());
            let (now, later) = buf.split_at_mut(run);
            now.fill(pattern(offset));
            offset += run as u64;
            buf = later;
        }
        Ok(())
    }
}

/// An output that only compares what is written with what is in a file.
struct Same(File);

impl io::Write for Same {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut expected = vec![0; buf.len()];
        self.0.read_exact(&mut expected)?;
        if expected == buf { Ok(buf.len()) } else { Err(io::Error::other("it differs")) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn flow_with_body(body: Body) -> FlowRef {
    let flow = test_util::http_flow_with_response();
    flow.response().unwrap().update(|response| response.body = body);
    flow
}

fn response_body(flow: &FlowRef) -> Body {
    flow.response().unwrap().get().body
}

/// The most memory this process had, in bytes; `None` where it is not known.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// In a process of its own, since memory is counted by process.
#[test]
fn a_body_of_a_gibibyte_is_written_read_and_copied_in_little_memory() {
    const CHILD: &str = "MITM_FLOWFILE_TEST_CHILD";
    const NAME: &str = "large::a_body_of_a_gibibyte_is_written_read_and_copied_in_little_memory";
    if std::env::var_os(CHILD).is_some() {
        return write_read_and_copy_a_gibibyte();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

fn write_read_and_copy_a_gibibyte() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = folder.path().join("large.mitm");
    let mut writer = FlowWriter::new(File::create(&path).unwrap());
    writer.write(&test_util::http_flow()).unwrap();
    writer.write(&flow_with_body(Body::stored(Arc::new(Pattern(GIB))))).unwrap();
    writer.write(&test_util::tcp_flow()).unwrap();
    writer.flush().unwrap();
    drop(writer);

    // The record is copied as it is, the flow is encoded anew: both give the same file.
    let mut copy = FlowWriter::new(Same(File::open(&path).unwrap()));
    let mut rewritten = FlowWriter::new(Same(File::open(&path).unwrap()));
    let mut count = 0;
    for record in FlowReader::open(&path).unwrap() {
        let record = record.unwrap();
        copy.write_record(&record).unwrap();
        let flow = record.clone().into_flow().unwrap();
        rewritten.write(&flow).unwrap();
        count += 1;
        if count != 2 {
            continue;
        }
        assert_eq!(record.response_body().unwrap().len(), Some(GIB));
        let body = response_body(&flow);
        assert!(body.in_memory().is_none());
        let mut offset = 0;
        for chunk in body.chunks(1 << 20) {
            let chunk = chunk.unwrap();
            assert_eq!(chunk[0], pattern(offset));
            offset += chunk.len() as u64;
            assert_eq!(chunk[chunk.len() - 1], pattern(offset - 1));
        }
        assert_eq!(offset, GIB);
    }
    assert_eq!(count, 3);
    for mut writer in [copy, rewritten] {
        writer.flush().unwrap();
        assert_eq!(writer.committed(), std::fs::metadata(&path).unwrap().len());
    }
    if let Some(peak) = peak_memory() {
        assert!(peak < 100_000_000, "{peak} bytes");
        println!("peak memory: {} MB", peak / 1_000_000);
    }
}

/// A flow of each kind of body that may be left in the file.
fn large_flows() -> Vec<FlowRef> {
    let body = |len: u64| {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        Pattern(len).read_exact_at(&mut bytes, 0).unwrap();
        Bytes::from(bytes)
    };
    let http = flow_with_body(body(3_000_000).into());
    http.set_metadata(vec![("large".into(), mitm_flow::Value::Bytes(body(10_000)))]);
    let long_header = body(5000);
    http.request().unwrap().update(|request| request.headers.add("long", long_header));
    http.backup();
    http.set_comment("changed");
    let tcp = test_util::tcp_flow();
    tcp.push_message(mitm_flow::websocket::StreamMessage::new(true, body(2_000_000), 1.0).into());
    let websocket = test_util::websocket_flow();
    websocket.websocket().unwrap().update(|data| {
        data.messages.push(
            mitm_flow::WebSocketMessage {
                opcode: mitm_flow::Opcode::Binary,
                from_client: false,
                content: body(1_500_000).into(),
                timestamp: 2.5,
                dropped: false,
                injected: false,
            }
            .into(),
        );
    });
    vec![http, test_util::http_flow(), tcp, websocket, test_util::udp_flow()]
}

#[test]
fn large_records_are_what_they_were() {
    let flows = large_flows();
    let written = support::written(&flows);
    let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
    file.write_all(&written).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let in_file = FlowReader::from_file(file).unwrap();
    let spooled = FlowReader::new(written.as_slice())
        .spool_with(|| tempfile::tempfile_in("/var/tmp"))
        .map(|record| (record, true));
    let in_memory = FlowReader::new(written.as_slice()).map(|record| (record, false));
    let sources: [Box<dyn Iterator<Item = _>>; 3] =
        [Box::new(in_file.map(|record| (record, true))), Box::new(spooled), Box::new(in_memory)];
    for source in sources {
        let mut copy = FlowWriter::new(Vec::new());
        let mut rewritten = FlowWriter::new(Vec::new());
        let mut stored = 0;
        for ((record, may_be_stored), flow) in source.zip(&flows) {
            let record = record.unwrap();
            stored += usize::from(record.bytes().is_none());
            assert!(may_be_stored || record.bytes().is_some());
            copy.write_record(&record).unwrap();
            let again = record.into_flow().unwrap();
            rewritten.write(&again).unwrap();
            assert_eq!(support::shown(&again.snapshot()), support::shown(&flow.snapshot()));
        }
        assert!(stored == 0 || stored == 3);
        assert!(copy.into_inner().unwrap() == written);
        assert!(rewritten.into_inner().unwrap() == written);
    }
}

#[test]
fn large_records_of_old_versions_are_migrated() {
    // A flow of version 20 is one of version 21 with another number.
    let flows = large_flows();
    let mut written = support::written(&flows[..1]);
    let from = b"7:version;2:21#";
    for at in 0..written.len() - from.len() {
        if written[at..].starts_with(from) {
            written[at + from.len() - 2] = b'0';
        }
    }
    let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
    file.write_all(&written).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let record = FlowReader::from_file(file).unwrap().next_record().unwrap().unwrap();
    assert_eq!(record.version().to_string(), "20");
    let flow = record.clone().into_flow().unwrap();
    assert!(response_body(&flow).in_memory().is_none());
    assert_eq!(support::shown(&flow.snapshot()), support::shown(&flows[0].snapshot()));
    let mut copy = FlowWriter::new(Vec::new());
    copy.write_record(&record).unwrap();
    let again = copy.into_inner().unwrap();
    assert_eq!(
        support::shown(&support::records(&again)[0].snapshot().unwrap()),
        support::shown(&flows[0].snapshot())
    );
}

#[test]
fn a_pipe_without_a_spool_refuses_what_it_cannot_hold() {
    let head = b"99999999:".to_vec();
    let error = FlowReader::new(head.as_slice().chain(io::repeat(b'x'))).next_record().unwrap_err();
    assert!(matches!(error.kind, ReadErrorKind::TooLarge { len: 100_000_009 }), "{error}");
}

#[test]
fn a_length_that_the_file_does_not_have_costs_nothing() {
    for head in [&b"999999999999:"[..], b"60000000:", b"1000000:"] {
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.write_all(head).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let error = FlowReader::from_file(file).unwrap().next_record().unwrap_err();
        assert!(error.to_string().contains("ends in the middle"), "{error}");
    }
}

#[test]
fn large_records_are_checked_like_others() {
    // Inside: an element with the tag that stands for bytes left in the file, which no file may use.
    let body = "x".repeat(2_000_000);
    let inner = format!("7:version;2:21#4:type;4:http;7:content;{}:{body},1:a;3:0:5@", body.len());
    let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
    write!(file, "{}:{inner}}}", inner.len()).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let error = FlowReader::from_file(file).unwrap().next_record().unwrap_err();
    assert!(error.to_string().contains("unknown type tag 0x40"), "{error}");
}
