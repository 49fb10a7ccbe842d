//! Every file of `tests/fixtures`, written by released versions, holds what its `.json` says.

use std::{fs, path::PathBuf};

use mitm_flow::{Body, Cert, FlowData, FlowRef, Replay, Value};
use mitm_flowfile::{FlowReader, FormatVersion, RawRecord};
use serde_json::{Value as Json, json};

use crate::support;

fn files() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "mitm"))
        .collect();
    files.sort();
    files
}

/// The number of bytes of a body, null if it is missing.
fn length(body: Option<&Body>) -> Json {
    body.filter(|body| !body.is_missing()).map_or(Json::Null, |body| json!(body.len()))
}

/// The beginning of a body's SHA-256, which a certificate's fingerprint is.
fn digest(body: Option<&Body>) -> Json {
    let Some(bytes) = body.and_then(|body| body.bytes().unwrap()) else { return Json::Null };
    let hash = Cert::from_der(bytes).fingerprint();
    let first = hash.first_chunk().copied().map(u64::from_be_bytes).unwrap();
    json!(format!("{first:016x}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the file says about a flow.
fn describe(version: FormatVersion, flow: &FlowRef) -> Json {
    let (client, server) = (flow.client().get(), flow.server().get());
    let mut metadata: Vec<String> = flow
        .metadata()
        .iter()
        .map(|(key, _)| match key {
            Value::Str(key) => key.clone(),
            other => format!("{other:?}"),
        })
        .collect();
    metadata.sort();
    let mut entry = json!({
        "version": version.to_string(),
        "id": &*flow.id(),
        "type": flow.kind().as_str(),
        "error": flow.error().map(|error| error.msg.to_string()),
        "client": client.peername.map(|address| json!([&*address.host, address.port])),
        "server": server.address.map(|address| json!([&*address.host, address.port])),
        "tls": [client.tls_facts.timestamp_setup.is_some(), server.tls_facts.timestamp_setup.is_some()],
        "sni": client.tls_facts.sni.as_deref(),
        "certificates": server.tls_facts.certificate_list.len(),
        "marked": &*flow.marked(),
        "comment": &*flow.comment(),
        "is_replay": flow.is_replay().map(Replay::as_str),
        "intercepted": flow.is_intercepted(),
        "metadata": metadata,
        "modified": flow.has_backup(),
        "messages": messages(flow),
        "close_code": flow.websocket().and_then(|websocket| websocket.get().close_code),
    });
    let request = flow.request().map(|request| request.get());
    let response = flow.response().map(|response| response.get());
    let (request_body, response_body) =
        (request.as_ref().map(|r| &r.body), response.as_ref().map(|r| &r.body));
    let more = json!({
        "method": request.as_ref().map(|request| text(&request.method)),
        "url": request.as_ref().map(mitm_flow::Request::url),
        "http_version": request.as_ref().map(|request| text(&request.http_version)),
        "request_headers": request.as_ref().map(|request| request.headers.len()),
        "request_len": length(request_body),
        "request_sha256": digest(request_body),
        "status": response.as_ref().map(|response| response.status_code),
        // Reasons were Latin-1 before they were anything else.
        "reason": response.as_ref().map(|response| text(&response.reason)),
        "response_headers": response.as_ref().map(|response| response.headers.len()),
        "response_len": length(response_body),
        "response_sha256": digest(response_body),
    });
    let entries = entry.as_object_mut().unwrap();
    entries.extend(more.as_object().unwrap().clone());
    if let FlowData::Dns { request, response } = flow.data() {
        let names: Vec<String> = request.get().questions.into_iter().map(|q| q.name).collect();
        entries.insert("questions".into(), json!(names));
        let answers = response.map(|response| response.get().answers.len());
        entries.insert("answers".into(), json!(answers));
    }
    entry
}

fn messages(flow: &FlowRef) -> Vec<Json> {
    mitm_flow::Facts::messages(flow)
        .iter()
        .map(|message| json!({"from_client": message.from_client, "len": message.content.len()}))
        .collect()
}

/// Brings the version of an expectation to the form in which versions are shown.
fn normalised(mut expected: Json) -> Json {
    let version = match &expected["version"] {
        Json::Array(parts) => format!("({}, {})", parts[0], parts[1]),
        number => number.to_string(),
    };
    expected["version"] = json!(version);
    expected
}

#[test]
fn files_of_every_version_hold_what_is_expected() {
    let files = files();
    assert!(!files.is_empty());
    let mut failures = Vec::new();
    println!("{:<24}{:>10}{:>7}", "file", "version", "flows");
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected = fs::read_to_string(path.with_extension("json")).unwrap();
        let expected: Vec<Json> = serde_json::from_str(&expected).unwrap();
        let records: Vec<RawRecord> = match FlowReader::open(&path).unwrap().collect() {
            Ok(records) => records,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let version = records.first().map(RawRecord::version);
        println!("{name:<24}{:>10}{:>7}", version.unwrap().to_string(), records.len());
        if records.len() != expected.len() {
            failures.push(format!("{name}: {} flows of {}", records.len(), expected.len()));
        }
        for (i, (record, expected)) in records.into_iter().zip(expected).enumerate() {
            let version = record.version();
            let found = match record.into_flow() {
                Ok(flow) => describe(version, &flow),
                Err(error) => {
                    failures.push(format!("{name} flow {i}: {error}"));
                    continue;
                }
            };
            for (key, value) in normalised(expected).as_object().unwrap() {
                if found[key] != *value {
                    failures.push(format!("{name} flow {i}: {key} is {}, not {value}", found[key]));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn facts_of_records_are_those_of_flows() {
    for path in files() {
        for record in FlowReader::open(&path).unwrap() {
            let record = record.unwrap();
            let flow = FlowRef::from_snapshot(record.snapshot().unwrap());
            assert_eq!(facts(&record), facts(&flow), "{} {}", path.display(), record.offset());
        }
    }
}

fn facts(source: &dyn mitm_flow::Facts) -> String {
    let http = (
        source.method(),
        source.host(),
        source.pretty_host(),
        source.pretty_url(),
        source.request_headers(),
        source.request_body(),
    );
    let response = (
        source.has_response(),
        source.status_code(),
        source.response_headers(),
        source.response_body(),
        source.is_websocket(),
        source.messages(),
    );
    let dns = (source.dns_request(), source.dns_response());
    let rest = (source.has_error(), source.marked(), source.comment(), source.metadata());
    let more = (source.replay(), source.client_address(), source.server_address(), source.kind());
    format!("{http:?} {response:?} {dns:?} {rest:?} {more:?}")
}

#[test]
fn migrated_flows_survive_being_written() {
    for path in files() {
        let records: Vec<RawRecord> =
            FlowReader::open(&path).unwrap().collect::<Result<_, _>>().unwrap();
        let flows: Vec<FlowRef> = records.into_iter().map(|r| r.into_flow().unwrap()).collect();
        let file = support::written(&flows);
        for (flow, record) in flows.iter().zip(support::records(&file)) {
            assert_eq!(record.version(), FormatVersion::Number(21));
            let again = record.snapshot().unwrap();
            assert_eq!(support::shown(&again), support::shown(&flow.snapshot()));
        }
    }
}
