//! Heads and bodies of typical sizes.

#![expect(clippy::unwrap_used, reason = "the inputs are fixed")]

use bytes::BytesMut;
use divan::{Bencher, black_box, counter::BytesCount};
use mitm_codec::http1::{
    BodyDecoder, Decoded, Framing, Rules, parse_request, parse_response, request_framing,
    response_framing, write_chunk, write_last_chunk, write_request_head,
};

fn main() {
    divan::main();
}

const REQUEST: &str = "GET http://example.com/assets/app.js?v=12 HTTP/1.1\r\n\
Host: example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
Accept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Connection: keep-alive\r\n\
Referer: http://example.com/index.html\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
Cache-Control: no-cache\r\n\
\r\n";

const RESPONSE: &str = "HTTP/1.1 200 OK\r\n\
Server: nginx/1.26.0\r\n\
Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
Content-Type: application/javascript\r\n\
Content-Length: 10240\r\n\
Connection: keep-alive\r\n\
ETag: \"65921a80-2800\"\r\n\
Accept-Ranges: bytes\r\n\
\r\n";

/// As on a connection: the bytes go into a buffer that is used again once the head is dropped.
#[divan::bench]
fn request_head(bencher: Bencher<'_, '_>) {
    let rules = Rules::default();
    let mut buf = BytesMut::with_capacity(4096);
    bencher.counter(BytesCount::of_str(REQUEST)).bench_local(|| {
        buf.reserve(REQUEST.len());
        buf.extend_from_slice(REQUEST.as_bytes());
        let head = parse_request(&mut buf, &rules).unwrap().unwrap();
        let framing = request_framing(&head.method, head.version, &head.headers, true);
        let _ = black_box((&head, framing));
    });
}

#[divan::bench]
fn response_head(bencher: Bencher<'_, '_>) {
    let rules = Rules::default();
    let mut buf = BytesMut::with_capacity(4096);
    bencher.counter(BytesCount::of_str(RESPONSE)).bench_local(|| {
        buf.reserve(RESPONSE.len());
        buf.extend_from_slice(RESPONSE.as_bytes());
        let head = parse_response(&mut buf, &rules).unwrap().unwrap();
        let framing = response_framing(b"GET", head.version, head.status, &head.headers, true);
        let _ = black_box((&head, framing));
    });
}

/// `changed`: a field was added, so that the list is written anew.
#[divan::bench(args = [false, true])]
fn write_head(bencher: Bencher<'_, '_>, changed: bool) {
    let mut head = parse_request(&mut BytesMut::from(REQUEST), &Rules::default()).unwrap().unwrap();
    if changed {
        head.headers.add("X-Added", "1");
    }
    let mut out = BytesMut::with_capacity(4096);
    bencher.counter(BytesCount::of_str(REQUEST)).bench_local(|| {
        out.clear();
        write_request_head(&mut out, &head.method, &head.target, b"HTTP/1.1", &head.headers);
        black_box(out.len())
    });
}

/// 64 KiB in chunks of the given size, in one buffer.
#[divan::bench(args = [16, 1024, 16384])]
fn chunked_body(bencher: Bencher<'_, '_>, chunk: usize) {
    let mut wire = BytesMut::new();
    for part in vec![b'x'; 65536].chunks(chunk) {
        write_chunk(&mut wire, part);
    }
    write_last_chunk(&mut wire, None);
    bencher.counter(BytesCount::new(wire.len())).with_inputs(|| wire.clone()).bench_local_values(
        |mut buf| {
            let mut decoder = BodyDecoder::new(Framing::Chunked);
            let mut len = 0;
            while let Ok(Decoded::Piece(piece)) = decoder.decode(&mut buf) {
                len += piece.data_len();
            }
            black_box(len)
        },
    );
}

/// A head of 8 KiB that arrives in parts of the given size.
#[divan::bench(args = [1, 100, 8192])]
fn trickling_head(bencher: Bencher<'_, '_>, step: usize) {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "x".repeat(8192));
    let rules = Rules::default();
    bencher.counter(BytesCount::of_str(&head)).bench_local(|| {
        let mut reader = mitm_codec::http1::HeadReader::new();
        let mut buf = BytesMut::with_capacity(head.len());
        let mut found = None;
        for part in head.as_bytes().chunks(step) {
            buf.extend_from_slice(part);
            found = reader.request(&mut buf, &rules).unwrap();
        }
        black_box(found.unwrap())
    });
}
