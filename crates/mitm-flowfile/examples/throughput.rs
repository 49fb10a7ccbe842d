//! Measures reading alone, without a pipeline around it.
//!
//! `throughput make FILE [COUNT]` writes a file of flows of mixed sizes up to 5 KB, `throughput read FILE` prints how many
//! records per second are read, asked for their method, checked, decoded and copied.

use std::{fs::File, io, time::Instant};

use mitm_flow::{Address, Client, Facts as _, FlowRef, Headers, Request, Response, Server};
use mitm_flowfile::{FlowReader, FlowWriter, RawRecord};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[expect(clippy::print_stdout, reason = "it is a program")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["make", path] => make(path, 200_000),
        ["make", path, count] => make(path, count.parse()?),
        ["read", path] => {
            for (name, pass) in PASSES {
                let (start, cpu) = (Instant::now(), cpu_seconds());
                let (mut count, mut bytes) = (0u64, 0u64);
                let mut reader = FlowReader::open(path)?;
                while let Some(record) = reader.next_record()? {
                    count += 1;
                    bytes = reader.position();
                    pass(record)?;
                }
                let seconds = start.elapsed().as_secs_f64();
                let micros = (cpu_seconds() - cpu) * 1e6 / count as f64;
                let (rate, speed) = (count as f64 / seconds, bytes as f64 / seconds / 1e6);
                println!(
                    "{name:>8}: {count} records, {rate:9.0} records/s, {speed:6.0} MB/s, \
                     {micros:.2} µs of CPU each"
                );
            }
            Ok(())
        }
        _ => Err("usage: throughput make FILE [COUNT] | throughput read FILE".into()),
    }
}

/// What this thread used of a processor; on a busy machine the figure to trust. Zero where it is not known.
fn cpu_seconds() -> f64 {
    let schedule = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = schedule.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok());
    nanos.unwrap_or(0.0) / 1e9
}

type Pass = fn(RawRecord) -> Result<()>;

const PASSES: [(&str, Pass); 6] = [
    ("read", |record| {
        std::hint::black_box(record);
        Ok(())
    }),
    ("method", |record| {
        std::hint::black_box(record.method().is_some_and(|method| *method == *b"POST"));
        Ok(())
    }),
    ("url", |record| {
        std::hint::black_box(record.pretty_url());
        Ok(())
    }),
    ("check", |record| Ok(record.check()?)),
    ("lazy", |record| {
        std::hint::black_box(record.into_flow()?);
        Ok(())
    }),
    ("rewrite", |record| {
        thread_local! {
            static WRITER: std::cell::RefCell<FlowWriter<io::Sink>> =
                std::cell::RefCell::new(FlowWriter::new(io::sink()));
        }
        let snapshot = record.snapshot()?;
        Ok(WRITER.with_borrow_mut(|writer| writer.write_snapshot(&snapshot))?)
    }),
];

fn make(path: &str, count: usize) -> Result<()> {
    let mut writer = FlowWriter::new(File::create(path)?);
    for i in 0..count {
        writer.write(&flow(i))?;
    }
    writer.flush()?;
    Ok(())
}

/// A flow whose record has between 2 and 5 KB.
fn flow(i: usize) -> FlowRef {
    let mut client =
        Client::new(Address::new("127.0.0.1", 50000), Address::new("127.0.0.1", 8080), 1.7e9);
    client.timestamp_end = Some(1_700_000_001.25);
    let mut server = Server::new(Some(Address::new("example.com", 443)));
    server.peername = Some(Address::new("192.0.2.1", 443));
    server.timestamp_start = Some(1_700_000_000.123_456);
    let headers: Headers = (0..10).map(|n| (format!("x-header-{n}"), "some value of it")).collect();
    let mut request = Request {
        host: "example.com".into(),
        port: 443,
        method: if i.is_multiple_of(5) { "POST" } else { "GET" }.into(),
        scheme: "https".into(),
        path: format!("/path/{i}?query=value").into(),
        http_version: "HTTP/1.1".into(),
        headers: headers.clone(),
        timestamp_start: 1_700_000_000.5 + i as f64,
        timestamp_end: Some(1_700_000_000.512_3 + i as f64),
        ..Request::default()
    };
    request.headers.insert(0, "Host", "example.com");
    request.body = bytes::Bytes::new().into();
    let flow = FlowRef::http(client.into(), server.into(), request);
    let response = Response::make(200, vec![b'x'; i * 37 % 3000], headers);
    flow.set_response(Some(response.into()));
    flow
}
