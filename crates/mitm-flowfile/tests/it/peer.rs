//! Files against mitmproxy 11.0.2: ours are read there, theirs are read, edited and written here.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use mitm_flow::{FlowRef, Value};
use mitm_flowfile::{FlowReader, FlowWriter, state, tnetstring};

use crate::support;

/// Returns the Python that has mitmproxy, or says why there is none.
fn python() -> Option<String> {
    let python = std::env::var("MITM_PEER_PYTHON").unwrap_or_default();
    if !python.is_empty() && Path::new(&python).exists() {
        return Some(python);
    }
    let required = std::env::var("MITM_REQUIRE_EXTERNAL").is_ok_and(|value| value == "1");
    assert!(!required, "MITM_PEER_PYTHON must name a Python that has mitmproxy 11.0.2");
    println!("skipped: MITM_PEER_PYTHON does not name a Python that has mitmproxy 11.0.2");
    None
}

fn run(python: &str, script: &str, arguments: &[&Path]) -> Vec<u8> {
    let output = Command::new(python)
        .arg("-c")
        .arg(script)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output.stdout
}

/// Prints the states of the flows in a file, as mitmproxy loads them.
const DUMP: &str = r"
import sys
from mitmproxy.io import FlowReader, tnetstring
with open(sys.argv[1], 'rb') as source:
    for flow in FlowReader(source).stream():
        tnetstring.dump(flow.get_state(), sys.stdout.buffer)
";

/// The states of a dump, in an order that does not depend on who wrote it.
fn states(dump: Vec<u8>) -> Vec<Value> {
    let mut rest = bytes::Bytes::from(dump);
    let mut states = Vec::new();
    while !rest.is_empty() {
        let (state, end) = tnetstring::decode_first(&rest).unwrap();
        states.push(sorted(state));
        rest = rest.slice(end..);
    }
    states
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Map(mut entries) => {
            entries.sort_by_key(|(key, _)| format!("{key:?}"));
            Value::Map(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::List(items) => Value::List(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn written_to(path: &Path, flows: &[FlowRef]) {
    std::fs::write(path, support::written(flows)).unwrap();
}

#[test]
fn mitmproxy_reads_what_we_write() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.mitm");
    let mut flows = support::flows();
    let tls = mitm_flow::test_util::http_flow_with_response();
    let cert = include_bytes!("../fixtures/certificate.pem");
    tls.server().update(|server| {
        server.tls = true;
        server.tls_facts.certificate_list = [mitm_flow::Cert::from_pem(cert).unwrap()].into();
        server.via = Some(mitm_flow::Via {
            scheme: "https".into(),
            address: mitm_flow::Address::new("proxy", 8080),
        });
        server.peername =
            Some(mitm_flow::Address { scope: Some((0, 2)), ..mitm_flow::Address::new("::1", 1) });
    });
    flows.push(tls);
    written_to(&path, &flows);
    let theirs = states(run(&python, DUMP, &[&path]));
    assert_eq!(theirs.len(), flows.len());
    for (theirs, flow) in theirs.iter().zip(&flows) {
        let ours = sorted(state::to_value(&flow.snapshot()).unwrap());
        assert_eq!(theirs, &ours);
    }
}

/// Writes one flow of each kind, and prints their states.
const RECORD: &str = r"
import sys
from mitmproxy.io import FlowWriter, tnetstring
from mitmproxy.test import tflow
flows = [
    tflow.tflow(resp=True), tflow.tflow(err=True), tflow.twebsocketflow(),
    tflow.ttcpflow(), tflow.ttcpflow(err=True), tflow.tudpflow(), tflow.tudpflow(err=True),
    tflow.tdnsflow(resp=True), tflow.tdnsflow(), tflow.tdnsflow(err=True),
]
flows[0].metadata['key'] = {'inner': [1, 2.5, None, True, b'x', 'é', float('inf'), 1e-7, 1e22]}
flows[0].backup()
flows[0].request.path = '/changed'
with open(sys.argv[1], 'wb') as out:
    writer = FlowWriter(out)
    for flow in flows:
        writer.add(flow)
";

/// What a body is edited to.
const BODY: &[u8] = b"another body, \xff\x00\r\n";

#[test]
fn what_mitmproxy_writes_is_edited_here_and_right_there() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = (folder.path().join("theirs.mitm"), folder.path().join("ours.mitm"));
    run(&python, RECORD, &[&theirs]);
    let before = states(run(&python, DUMP, &[&theirs]));
    let records: Vec<_> = FlowReader::open(&theirs).unwrap().collect::<Result<_, _>>().unwrap();

    // Untouched, byte for byte.
    let untouched: Vec<FlowRef> =
        records.iter().map(|record| record.clone().into_flow().unwrap()).collect();
    written_to(&ours, &untouched);
    assert_eq!(std::fs::read(&ours).unwrap(), std::fs::read(&theirs).unwrap());

    // Edited: what was edited differs, nothing else.
    let edited: Vec<FlowRef> =
        records.into_iter().map(|record| record.into_flow().unwrap()).collect();
    for flow in &edited {
        flow.set_comment("edited");
        if let Some(response) = flow.response() {
            response.update(|response| {
                response.headers.set("x-edited", "yes");
                response.body = BODY.to_vec().into();
            });
        }
    }
    written_to(&ours, &edited);
    let after = states(run(&python, DUMP, &[&ours]));
    assert_eq!(after.len(), before.len());
    for (mut expected, found) in before.into_iter().zip(after) {
        expected.set("comment", "edited".into());
        if let Some(Value::Map(response)) = expected.get("response").cloned() {
            let mut response = Value::Map(response);
            if let Some(Value::List(mut headers)) = response.get("headers").cloned() {
                let field = ["x-edited", "yes"].map(|text| Value::Bytes(text.into()));
                headers.push(Value::List(field.into()));
                response.set("headers", Value::List(headers));
                response.set("content", Value::Bytes(BODY.into()));
                expected.set("response", response);
            }
        }
        assert_eq!(as_floats(found), as_floats(expected));
    }
}

/// Timestamps are written as floats here, and as they come there.
fn as_floats(value: Value) -> Value {
    match value {
        Value::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let is_time = matches!(&key, Value::Str(key) if key.starts_with("timestamp"));
                    let value = match value {
                        Value::Int(time) if is_time => Value::Float(time as f64),
                        other => as_floats(other),
                    };
                    (key, value)
                })
                .collect(),
        ),
        Value::List(items) => Value::List(
            items
                .into_iter()
                .map(|item| match item {
                    // The timestamps of messages.
                    Value::Int(time) if time > 900_000_000 => Value::Float(time as f64),
                    other => as_floats(other),
                })
                .collect(),
        ),
        other => other,
    }
}

#[test]
fn every_fixture_rewritten_here_is_read_by_mitmproxy() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("ours.mitm");
    let mut writer = FlowWriter::new(std::fs::File::create(&ours).unwrap());
    let mut expected = Vec::new();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let mut paths: Vec<_> =
        std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "mitm")) {
        for record in FlowReader::open(path).unwrap() {
            let snapshot = record.unwrap().snapshot().unwrap();
            writer.write_snapshot(&snapshot).unwrap();
            expected.push(sorted(state::to_value(&snapshot).unwrap()));
        }
    }
    writer.flush().unwrap();
    let found = states(run(&python, DUMP, &[&ours]));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}
