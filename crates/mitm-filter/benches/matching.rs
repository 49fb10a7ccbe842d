//! Matching filters on a request, as the engine does for each flow, and parsing them.

use std::{borrow::Cow, hint::black_box};

use divan::{Bencher, counter::BytesCount};
use mitm_filter::{Case, Filter, Horizon, Known, parse_with};
use mitm_flow::{
    Body, Facts, FlowKind, Headers, Replay, Value, dns::DnsMessage, facts::MessageFacts,
};

fn main() {
    divan::main();
}

/// A POST with a body, its facts at hand.
struct Flow {
    headers: Headers,
    body: Body,
}

impl Flow {
    fn new(body_len: usize) -> Self {
        let headers = [
            ("Host", "example.com"),
            ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"),
            ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            ("Accept-Encoding", "gzip, deflate, br, zstd"),
            ("Content-Type", "application/json"),
            ("Cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
        ];
        let text = b"the quick brown fox jumps over the lazy dog; ";
        let body: Vec<u8> = text.iter().copied().cycle().take(body_len).collect();
        Self { headers: headers.into_iter().collect(), body: body.into() }
    }
}

impl Facts for Flow {
    fn kind(&self) -> FlowKind {
        FlowKind::Http
    }
    fn method(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(b"POST"))
    }
    fn host(&self) -> Option<Cow<'_, str>> {
        Some("example.com".into())
    }
    fn pretty_host(&self) -> Option<Cow<'_, str>> {
        Some("example.com".into())
    }
    fn pretty_url(&self) -> Option<Cow<'_, str>> {
        Some("https://example.com/api/v1/items?page=2&sort=name&filter=active".into())
    }
    fn request_headers(&self) -> Option<Headers> {
        Some(self.headers.clone())
    }
    fn request_body(&self) -> Option<Body> {
        Some(self.body.clone())
    }
    fn has_response(&self) -> bool {
        false
    }
    fn status_code(&self) -> Option<i64> {
        None
    }
    fn response_headers(&self) -> Option<Headers> {
        None
    }
    fn response_body(&self) -> Option<Body> {
        None
    }
    fn is_websocket(&self) -> bool {
        false
    }
    fn messages(&self) -> Vec<MessageFacts> {
        Vec::new()
    }
    fn dns_request(&self) -> Option<DnsMessage> {
        None
    }
    fn dns_response(&self) -> Option<DnsMessage> {
        None
    }
    fn has_error(&self) -> bool {
        false
    }
    fn marked(&self) -> Cow<'_, str> {
        "".into()
    }
    fn comment(&self) -> Cow<'_, str> {
        "".into()
    }
    fn metadata(&self) -> Vec<(Value, Value)> {
        Vec::new()
    }
    fn replay(&self) -> Option<Replay> {
        None
    }
    fn client_address(&self) -> Option<String> {
        Some("127.0.0.1:50000".to_owned())
    }
    fn server_address(&self) -> Option<String> {
        Some("example.com:443".to_owned())
    }
}

fn filter(text: &str) -> Filter {
    parse_with(text, Case::Insensitive).expect("a filter")
}

const FILTERS: &[&str] = &[
    "~all",
    "~m post",
    "~m get",
    "~d example.com",
    "~u /items",
    "~u nowhere",
    r"~u \.(png|jpe?g|gif)$",
    "~hq \"^content-type: application/json$\"",
    "~tq json",
    "~m get | ~d other.org | ~u /v2/",
    "!(~m post & ~u /v1/)",
    r#"~u "v1(?!/users)""#,
];

#[divan::bench(args = FILTERS)]
fn matches(bencher: Bencher<'_, '_>, text: &str) {
    let (filter, flow) = (filter(text), Flow::new(0));
    bencher.bench(|| black_box(&filter).matches(black_box(&flow)));
}

#[divan::bench(args = ["~m post", "~m post & ~b x"])]
fn foresees(bencher: Bencher<'_, '_>, text: &str) {
    let (filter, flow) = (filter(text), Flow::new(0));
    bencher.bench(|| {
        black_box(&filter).foresee(black_box(&flow), Known::REQUEST_HEAD, Horizon::Message)
    });
}

#[divan::bench(args = ["~bq missing", r"~bq fox\s+sits", r#"~bq "(dog|cat)s(?=;)""#])]
fn searches_a_body(bencher: Bencher<'_, '_>, text: &str) {
    let (filter, flow) = (filter(text), Flow::new(1 << 20));
    bencher.counter(BytesCount::new(1usize << 20)).bench(|| black_box(&filter).matches(&flow));
}

#[divan::bench(args = ["~m post", r"~m post & !(~d example\.com | ~s)", r#"~u "v1(?!/users)""#])]
fn parses(text: &str) -> Filter {
    filter(black_box(text))
}

/// With the locks and copies of a flow that others may use meanwhile.
#[divan::bench(args = ["~m get", "~u /items", "~d example.com"])]
fn matches_a_live_flow(bencher: Bencher<'_, '_>, text: &str) {
    let (filter, flow) = (filter(text), mitm_flow::test_util::http_flow());
    bencher.bench(|| black_box(&filter).matches(black_box(&flow)));
}
