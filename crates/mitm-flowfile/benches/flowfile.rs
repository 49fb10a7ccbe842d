//! The hot paths of flow files: reading, asking, checking, decoding and writing a flow.

use std::io;

use divan::{Bencher, counter::BytesCount};
use mitm_flow::{Facts as _, FlowRef, test_util};
use mitm_flowfile::{FlowReader, FlowWriter, RawRecord};

fn main() {
    divan::main();
}

/// Flows of a small file, as `test_util` makes them, and of one with bodies up to 5 KB.
const BODIES: [usize; 3] = [0, 1000, 5000];

fn flow(body: usize) -> FlowRef {
    let flow = test_util::http_flow_with_response();
    flow.request().expect("it is HTTP").update(|request| {
        request.method = "POST".into();
        for i in 0..8 {
            request.headers.add(format!("x-header-{i}"), "some value of it");
        }
    });
    flow.response().expect("it has one").update(|response| response.body = vec![b'x'; body].into());
    flow
}

fn file(body: usize, count: usize) -> Vec<u8> {
    let mut writer = FlowWriter::new(Vec::new());
    for _ in 0..count {
        writer.write(&flow(body)).expect("a vector takes everything");
    }
    writer.into_inner().expect("a vector takes everything")
}

fn record(body: usize) -> RawRecord {
    let file = file(body, 1);
    FlowReader::new(file.as_slice()).next_record().expect("it was just written").expect("one flow")
}

/// A file of 1,000 flows, selecting those with `~m post`.
#[divan::bench(args = BODIES)]
fn read_and_select(bencher: Bencher<'_, '_>, body: usize) {
    let file = file(body, 1000);
    bencher
        .counter(BytesCount::of_slice(&file))
        .counter(divan::counter::ItemsCount::new(1000usize))
        .bench(|| {
            FlowReader::new(file.as_slice())
                .map(|record| record.expect("it was just written"))
                .filter(|record| record.method().is_some_and(|m| m.eq_ignore_ascii_case(b"post")))
                .count()
        });
}

#[divan::bench(args = BODIES)]
fn check(bencher: Bencher<'_, '_>, body: usize) {
    let record = record(body);
    bencher.bench(|| record.check());
}

#[divan::bench(args = BODIES)]
fn pretty_url(bencher: Bencher<'_, '_>, body: usize) {
    let record = record(body);
    bencher.bench(|| record.pretty_url().map(|url| url.len()));
}

#[divan::bench(args = BODIES)]
fn into_flow(bencher: Bencher<'_, '_>, body: usize) {
    let record = record(body);
    bencher.with_inputs(|| record.clone()).bench_values(RawRecord::into_flow);
}

#[divan::bench(args = BODIES)]
fn decode(bencher: Bencher<'_, '_>, body: usize) {
    let record = record(body);
    bencher.bench(|| record.snapshot());
}

#[divan::bench(args = BODIES)]
fn write(bencher: Bencher<'_, '_>, body: usize) {
    let snapshot = flow(body).snapshot();
    let mut writer = FlowWriter::new(io::sink());
    bencher.bench_local(|| writer.write_snapshot(&snapshot));
}
