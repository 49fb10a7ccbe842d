//! The laws of `mitm_codec::fuzz` over generated messages, damaged messages and noise; and agreement with httparse.

use bytes::{Bytes, BytesMut};
use mitm_codec::{
    fuzz::{fuzz_client_hello, fuzz_h1, fuzz_socks5},
    http1::{
        BodyDecoder, Decoded, Framing, Rules, parse_request, parse_response, request_framing,
        write_chunk, write_last_chunk, write_request_head,
    },
};
use mitm_flow::Headers;
use proptest::{collection::vec, prelude::*, sample::select};

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}"
}

fn header_lines() -> impl Strategy<Value = String> {
    let odd = select(vec![
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "content-length: 12\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "Host: example.com\r\n",
        "A: b\r\n c\r\n",
        "A: b\n",
        "A : b\r\n",
        "A:\r\n",
        "Connection: close\r\n",
    ]);
    let usual = (token(), "[ \t]{0,2}[ -~\u{a0}-\u{ff}]{0,20}[ \t]{0,2}")
        .prop_map(|(name, value)| format!("{name}:{value}\r\n"));
    vec(prop_oneof![3 => usual, 2 => odd.prop_map(str::to_owned)], 0..8).prop_map(|v| v.concat())
}

fn chunked_body() -> impl Strategy<Value = String> {
    let chunk = ("[a-z]{1,40}", select(vec!["", ";x", ";x=\"y\"", " ", "; "]))
        .prop_map(|(data, extension)| format!("{:X}{extension}\r\n{data}\r\n", data.len()));
    let end = select(vec!["0\r\n\r\n", "0\r\nA: b\r\n\r\n", "0\r\nHost: b\r\n\r\n", "0\r\n", ""]);
    (vec(chunk, 0..5), end).prop_map(|(chunks, end)| chunks.concat() + end)
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        select(vec![
            "GET / HTTP/1.1\r\n",
            "\r\nPOST http://a/b?c HTTP/1.1\r\n",
            "CONNECT [::1]:443 HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.0\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 204\r\n",
            "HTTP/1.0 302 \r\n",
        ])
        .prop_map(str::to_owned),
        (token(), "[!-~]{0,20}")
            .prop_map(|(method, path)| format!("{method} /{path} HTTP/1.1\r\n")),
    ];
    let body = prop_oneof![chunked_body(), "[ -~\r\n]{0,60}"];
    (any::<u8>(), line, header_lines(), body).prop_map(|(choice, line, headers, body)| {
        let mut message = vec![choice];
        message.extend_from_slice(format!("{line}{headers}\r\n{body}").as_bytes());
        message
    })
}

/// A message with some bytes replaced by such that mean something.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![select(b"\r\n\0 \t:;,0+x".to_vec()), any::<u8>()];
    (message(), vec((any::<prop::sample::Index>(), byte), 1..4)).prop_map(
        |(mut message, damages)| {
            for (at, byte) in damages {
                let at = at.index(message.len());
                message[at] = byte;
            }
            message
        },
    )
}

/// What httparse makes of the fields.
fn httparse_fields(headers: &[httparse::Header<'_>]) -> Headers {
    headers
        .iter()
        .map(|header| {
            (Bytes::copy_from_slice(header.name.as_bytes()), Bytes::copy_from_slice(header.value))
        })
        .collect()
}

proptest! {
    #[test]
    fn laws_hold_for_messages(data in message()) {
        fuzz_h1(&data);
    }

    #[test]
    fn laws_hold_for_damaged_messages(data in damaged()) {
        fuzz_h1(&data);
    }

    #[test]
    fn laws_hold_for_noise(data in vec(any::<u8>(), 0..400)) {
        fuzz_h1(&data);
        fuzz_client_hello(&data);
    }

    #[test]
    fn laws_hold_for_hello_like_noise(data in vec(any::<u8>(), 0..200), choice in any::<u8>()) {
        let len = u8::try_from(data.len()).unwrap();
        let inner = [&[1, 0, 0, len.saturating_sub(choice % 8)], &data[..]].concat();
        let outer_len = u8::try_from(inner.len()).unwrap();
        fuzz_client_hello(&[&[22, 3, 1, 0, outer_len], &inner[..]].concat());
    }

    #[test]
    fn accepted_requests_are_accepted_by_httparse(data in prop_oneof![message(), damaged()]) {
        let mut buf = BytesMut::from(&data[1..]);
        let Ok(Some(head)) = parse_request(&mut buf, &Rules::default()) else { return Ok(()) };
        let framing = request_framing(&head.method, head.version, &head.headers, true);
        // httparse gives the target as text, and so takes UTF-8 only.
        if framing.is_err() || std::str::from_utf8(&head.target).is_err() {
            return Ok(());
        }
        let mut headers = [httparse::EMPTY_HEADER; 256];
        let mut other = httparse::Request::new(&mut headers);
        let parsed = other.parse(&data[1..]);
        let Ok(httparse::Status::Complete(len)) = parsed else {
            return Err(TestCaseError::fail(format!("httparse: {parsed:?}")));
        };
        prop_assert_eq!(len, data.len() - 1 - buf.len());
        prop_assert_eq!(other.method.unwrap().as_bytes(), &head.method[..]);
        prop_assert_eq!(other.path.unwrap().as_bytes(), &head.target[..]);
        prop_assert_eq!(httparse_fields(other.headers), head.headers);
    }

    #[test]
    fn accepted_responses_are_accepted_by_httparse(data in prop_oneof![message(), damaged()]) {
        let mut buf = BytesMut::from(&data[1..]);
        let Ok(Some(head)) = parse_response(&mut buf, &Rules::default()) else { return Ok(()) };
        if mitm_codec::http1::check_fields(&head.headers).is_err() {
            return Ok(());
        }
        let mut headers = [httparse::EMPTY_HEADER; 256];
        let mut other = httparse::Response::new(&mut headers);
        let parsed = other.parse(&data[1..]);
        let Ok(httparse::Status::Complete(len)) = parsed else {
            return Err(TestCaseError::fail(format!("httparse: {parsed:?}")));
        };
        prop_assert_eq!(len, data.len() - 1 - buf.len());
        prop_assert_eq!(other.code.unwrap(), head.status);
        prop_assert_eq!(httparse_fields(other.headers), head.headers);
    }

    #[test]
    fn what_is_written_is_read_back(
        method in token(),
        path in "/[!-~]{0,20}",
        fields in vec((token(), "([!-~]([ -~]{0,10}[!-~])?)?"), 0..10),
    ) {
        let headers: Headers = fields.into_iter().collect();
        let mut out = BytesMut::new();
        write_request_head(&mut out, method.as_bytes(), path.as_bytes(), b"HTTP/1.1", &headers);
        let wire = out.clone();
        prop_assume!(method != "CONNECT");
        let head = parse_request(&mut out, &Rules::default()).unwrap().unwrap();
        prop_assert!(out.is_empty());
        prop_assert_eq!(&head.headers, &headers);
        write_request_head(&mut out, &head.method, &head.target, b"HTTP/1.1", &head.headers);
        prop_assert_eq!(out, wire);
    }

    #[test]
    fn chunks_are_read_back(pieces in vec(vec(any::<u8>(), 0..300), 0..8), step in 1_usize..600) {
        let mut wire = BytesMut::new();
        for piece in &pieces {
            write_chunk(&mut wire, piece);
        }
        write_last_chunk(&mut wire, None);
        let mut decoder = BodyDecoder::new(Framing::Chunked);
        let (mut buf, mut data, mut received) = (BytesMut::new(), Vec::new(), Vec::new());
        for part in wire.chunks(step) {
            buf.extend_from_slice(part);
            loop {
                match decoder.decode(&mut buf).unwrap() {
                    Decoded::NeedMore => break,
                    Decoded::Piece(piece) => {
                        received.extend_from_slice(&piece.wire);
                        piece.data.iter().for_each(|part| data.extend_from_slice(part));
                    }
                    Decoded::End { wire, trailers } => {
                        prop_assert!(trailers.is_none());
                        received.extend_from_slice(&wire);
                        break;
                    }
                }
            }
        }
        prop_assert!(decoder.is_done());
        prop_assert_eq!(data, pieces.concat());
        prop_assert_eq!(received, wire);
    }
}

fn socks5_message() -> impl Strategy<Value = Vec<u8>> {
    let counted =
        || vec(any::<u8>(), 0..20).prop_map(|bytes| [&[bytes.len() as u8], &bytes[..]].concat());
    let place = prop_oneof![
        vec(any::<u8>(), 6).prop_map(|rest| [&[1], &rest[..]].concat()),
        vec(any::<u8>(), 18).prop_map(|rest| [&[4], &rest[..]].concat()),
        (counted(), any::<[u8; 2]>()).prop_map(|(name, port)| [&[3], &name[..], &port].concat()),
    ];
    let message = prop_oneof![
        counted().prop_map(|methods| (0, [&[5], &methods[..]].concat())),
        any::<u8>().prop_map(|method| (1, vec![5, method])),
        (counted(), counted()).prop_map(|(name, secret)| (2, [&[1], &name[..], &secret].concat())),
        place.clone().prop_map(|place| (3, [&[5, 1, 0], &place[..]].concat())),
        any::<u8>().prop_map(|status| (4, vec![1, status])),
        (0..2_u8, place).prop_map(|(code, place)| (5, [&[5, code, 0], &place[..]].concat())),
    ];
    (0..42_u8, message, vec(any::<u8>(), 0..5)).prop_map(|(step, (kind, message), rest)| {
        [&[kind + 6 * step], &message[..], &rest].concat()
    })
}

proptest! {
    #[test]
    fn socks5(data in socks5_message()) {
        fuzz_socks5(&data);
    }

    #[test]
    fn damaged_socks5(mut data in socks5_message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let at = at.index(data.len());
        data[at] = byte;
        fuzz_socks5(&data);
        fuzz_socks5(&data[..at]);
    }

    #[test]
    fn noise_as_socks5(data in vec(any::<u8>(), 0..600)) {
        fuzz_socks5(&data);
    }
}
