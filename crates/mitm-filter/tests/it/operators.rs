//! What each operator matches, and what it does on content that is packed, stored, missing or hostile.

use std::{io, sync::Arc};

use mitm_filter::{Case, Filter, MatchError, Needs, parse_with};
use mitm_flow::{Body, Extent, Replay, Value};

use crate::facts::{TestFlow, body, gzip, headers, message};

fn filter(text: &str) -> Filter {
    match parse_with(text, Case::Insensitive) {
        Ok(filter) => filter,
        Err(error) => panic!("{error}\n{}", error.caret()),
    }
}

#[track_caller]
fn check(flow: &TestFlow, hits: &[&str], misses: &[&str]) {
    for text in hits {
        assert!(filter(text).try_matches(flow).unwrap(), "{text} misses {flow:?}");
    }
    for text in misses {
        assert!(!filter(text).try_matches(flow).unwrap(), "{text} hits {flow:?}");
    }
}

#[test]
fn an_http_request() {
    check(
        &TestFlow::get(),
        &[
            "~q",
            "~http",
            "~all",
            "~m get",
            "~m ^G",
            "~d address",
            "~u /path$",
            "path",
            "~hq qvalue",
            "~h ^header:",
            "~b content",
            "~bq ^content$",
            "~src 127.0.0.1:22",
            "~dst address:22",
            "~u HTTP://",
            "!~s",
            "~q & !~e",
        ],
        &[
            "~s",
            "~a",
            "~c 200",
            "~e",
            "~marked",
            "~tcp",
            "~udp",
            "~dns",
            "~websocket",
            "~replay",
            "~replayq",
            "~replays",
            "~hs .",
            "~bs content",
            "~t .",
            "~tq .",
            "~ts .",
            "~m gett",
            "~meta x",
            "~comment x",
            "~marker x",
        ],
    );
}

#[test]
fn an_http_response() {
    let mut flow = TestFlow::answered();
    flow.response_mut().headers.add("Content-Type", "Image/PNG; q=image/x");
    flow.error = true;
    flow.replay = Some(Replay::Response);
    check(
        &flow,
        &[
            "~s",
            "~c 200",
            "~bs message",
            "~b content",
            "~b MESSAGE",
            "~hs svalue",
            "~h header-RESPONSE",
            "~ts png",
            "~t png",
            "~a",
            "~e",
            "~replay",
            "~replays",
        ],
        &["~q", "~c 201", "~bs content", "~bq message", "~hs qvalue", "~tq png", "~replayq"],
    );
    // Asset types mind case.
    flow.response_mut().headers = headers([("content-type", "Text/CSS")]);
    check(&flow, &["~ts text/css"], &["~a"]);
    flow.response_mut().headers = headers([("content-type", "x"), ("Content-Type", "font/woff")]);
    check(&flow, &["~a", "~t ^font"], &[]);
}

#[test]
fn the_dollar_in_header_filters_ignores_the_carriage_return() {
    check(
        &TestFlow::answered(),
        &[
            "~hq qvalue$",
            "~hq \"^header: qvalue$\"",
            "~h svalue$",
            r"~hq qvalue\r$",
            r"~hq qvalue\r\ncontent",
        ],
        &["~hq qvalu$", "~hq ^qvalue"],
    );
}

#[test]
fn conversations() {
    let tcp = TestFlow::tcp();
    check(
        &tcp,
        &["~tcp", "~b hello", "~bq hello", "~bs me$", "~src 127", "~all", "!~u x", "!~q", "!~s"],
        &["~http", "~bs hello", "~bq me", "~u .", "~d .", "~m .", "~h .", "~c 200", "~q", "~s"],
    );
    check(
        &TestFlow::websocket(),
        &["~websocket", "~http", "~c 101", "~b binary", "~bq text", "~bs it.s", "~s"],
        &["~tcp", "~bs hello", "~bq me"],
    );
    check(
        &TestFlow::dns_answered(),
        &["~dns", "~s", "~u ^dns.google$", "~b 8.8.4.4", "~bs 8.8.8.8", "~bq google"],
        &["~q", "~http", "~bq 8.8", "~d google", "~c 200"],
    );
    check(&TestFlow::dns(), &["~q", "~bq google"], &["~s", "~bs google"]);
}

#[test]
fn notes() {
    let flow = TestFlow {
        marked: ":grapes:".into(),
        comment: "one\nTwo".into(),
        metadata: vec![("key".into(), Value::Bool(true)), ("other".into(), "value".into())],
        ..TestFlow::get()
    };
    check(
        &flow,
        &[
            "~marked",
            "~marker ^:grapes:$",
            "~comment ^two$",
            "~meta \"^key: True$\"",
            "~meta \"^other: value\"",
        ],
        &["~marker apple", "~comment ^wo", "~meta ^value"],
    );
}

#[test]
fn case_matters_when_asked_for() {
    let flow = TestFlow::get();
    for text in ["~m get", "~u PATH", "~d ADDRESS", "~hq QVALUE", "~b CONTENT"] {
        assert!(!parse_with(text, Case::Sensitive).unwrap().matches(&flow), "{text}");
        assert!(parse_with(text, Case::Insensitive).unwrap().matches(&flow), "{text}");
    }
}

#[test]
fn either_host_is_a_domain() {
    let mut flow = TestFlow::get();
    flow.pretty_host = "example.com".into();
    check(&flow, &["~d address", "~d example"], &["~d other"]);
}

#[test]
fn content_is_decoded_where_it_can_be() {
    let mut flow = TestFlow::answered();
    flow.response_mut().headers = headers([("Content-Encoding", "gzip")]);
    flow.response_mut().body = gzip(b"needle\xff").into();
    check(&flow, &["~bs needle", r"~b \xff$", "~b needle & ~bs ^n"], &[r"~bs \x1f"]);

    // What is not gzip is searched as it is.
    flow.response_mut().body = body(b"needle");
    check(&flow, &["~bs needle"], &[]);
    flow.response_mut().headers = headers([("Content-Encoding", "unknown")]);
    check(&flow, &["~bs needle"], &[]);
    flow.response_mut().headers = headers([("Content-Encoding", "identity")]);
    check(&flow, &["~bs needle"], &[]);

    // Twice.
    flow.response_mut().headers =
        headers([("content-encoding", "gzip"), ("content-encoding", "gzip")]);
    flow.response_mut().body = gzip(&gzip(b"needle")).into();
    check(&flow, &["~bs needle"], &[]);
}

#[test]
fn missing_content_never_matches_and_empty_content_may() {
    let mut flow = TestFlow::answered();
    flow.request_body = Body::missing();
    flow.response_mut().body = body(b"");
    check(&flow, &["~bs \"\"", "~bs ^$", "~b \"\""], &["~bq \"\""]);
}

struct Zeros(u64);

impl Extent for Zeros {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        assert!(buf.len() <= 64 << 20, "read in bounds");
        if offset > 1000 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.fill(b'0');
        Ok(())
    }
}

struct Broken;

impl Extent for Broken {
    fn len(&self) -> u64 {
        5
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::Error::other("the disk is gone"))
    }
}

#[test]
fn stored_content_is_read_in_bounds() {
    let mut flow = TestFlow::get();
    flow.request_body = Body::stored(Arc::new(Zeros(1 << 40)));
    check(&flow, &["~b 00", "~b x | ~q", "!(~b x & ~s)"], &[]);
    let error = filter("~b x").try_matches(&flow).unwrap_err();
    assert!(matches!(error, MatchError::TooLarge { .. }));
    assert!(error.to_string().contains("/x/is"), "{error}");
    assert!(!filter("~b x").matches(&flow));

    flow.request_body = Body::stored(Arc::new(Zeros(100)));
    check(&flow, &["~b 00"], &["~b x"]);

    flow.request_body = Body::stored(Arc::new(Broken));
    let error = filter("~b x").try_matches(&flow).unwrap_err();
    assert!(error.to_string().ends_with("the disk is gone"), "{error}");
}

#[test]
fn a_bomb_is_not_searched_to_its_end() {
    let mut flow = TestFlow::get();
    flow.request_headers = headers([("content-encoding", "gzip")]);
    flow.request_body = gzip(&vec![b'0'; 65 << 20]).into();
    assert!(matches!(filter("~b x").try_matches(&flow), Err(MatchError::TooLarge { .. })));
}

#[test]
fn a_pattern_that_gives_up_is_an_error_unless_it_does_not_matter() {
    let mut flow = TestFlow::get();
    flow.comment = format!("{}b", "a".repeat(60));
    let hard = r#"~comment "^(?:(a|aa)+)\\1$""#;
    let error = filter(hard).try_matches(&flow).unwrap_err();
    assert!(matches!(error, MatchError::GaveUp { .. }), "{error}");
    assert!(!filter(hard).matches(&flow));
    assert!(!filter(&format!("!{hard}")).matches(&flow));
    check(&flow, &[&format!("{hard} | ~q")], &[&format!("~s & {hard}"), &format!("{hard} & ~s")]);
}

#[test]
fn messages_are_searched_in_order_until_one_matches() {
    let mut flow = TestFlow::tcp();
    flow.messages.push(message(true, b"needle"));
    check(&flow, &["~b needle", "~bq needle"], &["~bs needle"]);
    flow.messages.push(mitm_flow::facts::MessageFacts {
        from_client: true,
        content: Body::stored(Arc::new(Broken)),
    });
    check(&flow, &["~b needle"], &[]);
    assert!(filter("~bq other").try_matches(&flow).is_err());
    check(&flow, &[], &["~bs other"]);
}

#[test]
fn what_a_filter_needs() {
    let needs = |text: &str| filter(text).needs();
    assert_eq!(needs("~http | ~all"), Needs::NOTHING);
    assert_eq!(needs("~m x ~u y ~d z"), Needs::REQUEST);
    assert_eq!(needs("!~bq x"), Needs::REQUEST_BODY | Needs::MESSAGES);
    assert!(needs("~q & ~b x").body() && needs("~bs x").body());
    assert!(!needs("~h x ~t y ~c 200 ~e ~marked ~websocket").body());
    assert!(needs("~t x").contains(Needs::REQUEST_HEADERS | Needs::RESPONSE_HEADERS));
    assert!(!needs("~tq x").intersects(Needs::RESPONSE_HEADERS | Needs::RESPONSE));
}
