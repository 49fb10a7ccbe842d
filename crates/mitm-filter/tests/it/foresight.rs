//! Asking early: what is answered before everything has arrived.

use mitm_filter::{
    Case, Horizon, Known,
    Tri::{self, No, Unknown, Yes},
    parse_with,
};

use crate::{
    expressions::Random,
    facts::{TestFlow, body, headers, message},
};

fn foresee(text: &str, flow: &TestFlow, known: Known, horizon: Horizon) -> Tri {
    parse_with(text, Case::Insensitive).unwrap().foresee(flow, known, horizon)
}

/// Checks the answers for the complete message and for the finished flow.
#[track_caller]
fn check(flow: &TestFlow, known: Known, cases: &[(&str, Tri, Tri)]) {
    for &(text, message, end) in cases {
        assert_eq!(foresee(text, flow, known, Horizon::Message), message, "{text}, message");
        assert_eq!(foresee(text, flow, known, Horizon::Flow), end, "{text}, flow");
    }
}

#[test]
fn with_the_head_of_a_request() {
    let mut flow = TestFlow::get();
    flow.request_body = mitm_flow::Body::missing();
    check(
        &flow,
        Known::REQUEST_HEAD,
        &[
            ("~all", Yes, Yes),
            ("~m get", Yes, Yes),
            ("~m post", No, No),
            ("~u nowhere", No, No),
            ("~hq qvalue", Yes, Yes),
            ("~h qvalue", Yes, Yes),
            ("~h other", No, Unknown),
            ("~t json", No, Unknown),
            ("~q", Yes, Unknown),
            ("~s", No, Unknown),
            ("~c 200", No, Unknown),
            ("~a", No, Unknown),
            ("~e", No, Unknown),
            ("~marked", No, Unknown),
            ("~comment \"\"", Yes, Unknown),
            ("~replay", No, Unknown),
            ("~websocket", No, No),
            ("~b x", Unknown, Unknown),
            ("~bq x", Unknown, Unknown),
            ("~bs x", No, Unknown),
            ("~m post & ~b x", No, No),
            ("~b x & ~m post", No, No),
            ("~m get | ~b x", Yes, Yes),
            ("~b x | ~m get", Yes, Yes),
            ("!~b x", Unknown, Unknown),
            ("~m get & ~bq x", Unknown, Unknown),
            ("~s & ~bs x", No, Unknown),
            ("~tcp", No, No),
            ("~dst address", Yes, Yes),
        ],
    );
    flow.server = None;
    check(&flow, Known::REQUEST_HEAD, &[("~dst address", No, Unknown)]);
}

#[test]
fn with_the_whole_request() {
    check(
        &TestFlow::get(),
        Known::REQUEST_BODY,
        &[
            ("~bq content", Yes, Yes),
            ("~b content", Yes, Yes),
            ("~bq other", No, No),
            ("~b other", No, Unknown),
            ("!~b other", Yes, Unknown),
            ("~q & ~b content", Yes, Unknown),
        ],
    );
}

#[test]
fn with_the_head_of_a_response() {
    let mut flow = TestFlow::answered();
    flow.response_mut().body = mitm_flow::Body::missing();
    let known = Known::REQUEST_BODY | Known::RESPONSE_HEAD;
    check(
        &flow,
        known,
        &[
            ("~s", Yes, Yes),
            ("~q", No, No),
            ("~c 200", Yes, Yes),
            ("~c 404", No, No),
            ("~hs svalue", Yes, Yes),
            ("~ts x", No, No),
            ("~a", No, No),
            ("~bs x", Unknown, Unknown),
            ("~b content", Yes, Yes),
            ("~b x", Unknown, Unknown),
            ("~bq x", No, No),
            ("~replay", No, No),
            ("~e", No, Unknown),
            ("~c 404 & ~bs x", No, No),
        ],
    );
    // The answer may begin while the request still arrives.
    check(&flow, Known::RESPONSE_HEAD, &[("~bq x", Unknown, Unknown), ("~bs x", Unknown, Unknown)]);
}

#[test]
fn with_both_messages_and_at_the_end() {
    let flow = TestFlow::answered();
    let known = Known::REQUEST_BODY | Known::RESPONSE_HEAD | Known::RESPONSE_BODY;
    check(
        &flow,
        known,
        &[
            ("~b x", No, No),
            ("~bs message", Yes, Yes),
            ("~e", No, Unknown),
            ("~marked", No, Unknown),
        ],
    );
    for known in [Known::END, Known::EVERYTHING] {
        check(&flow, known, &[("~e", No, No), ("~marked", No, No), ("~b x", No, No)]);
    }
    check(&TestFlow::get(), Known::END, &[("~q", Yes, Yes), ("~s", No, No), ("~bs x", No, No)]);
}

#[test]
fn messages_may_come_until_the_end() {
    let open = Known::REQUEST_HEAD;
    let mut tcp = TestFlow::tcp();
    check(
        &tcp,
        open,
        &[
            ("~b hello", Yes, Yes),
            ("~b other", No, Unknown),
            ("~bs hello", No, Unknown),
            ("~tcp", Yes, Yes),
            ("~q", No, No),
            ("~s", No, No),
        ],
    );
    tcp.messages.push(message(false, b"hello"));
    check(&tcp, open, &[("~bs hello", Yes, Yes)]);
    check(&tcp, Known::END, &[("~b other", No, No)]);
}

#[test]
fn a_connection_may_be_upgraded() {
    let mut flow = TestFlow::websocket();
    let all = Known::REQUEST_BODY | Known::RESPONSE_HEAD | Known::RESPONSE_BODY;
    check(
        &flow,
        all,
        &[("~websocket", Yes, Yes), ("~bq binary", Yes, Yes), ("~b other", No, Unknown)],
    );
    flow.websocket = false;
    flow.messages.clear();
    check(
        &flow,
        all,
        &[("~websocket", No, Unknown), ("~bq other", No, Unknown), ("~b other", No, Unknown)],
    );
    flow.response = None;
    check(&flow, Known::REQUEST_BODY, &[("~websocket", No, Unknown), ("~bq other", No, Unknown)]);
    // Refused: no message will come.
    flow.response = TestFlow::answered().response;
    check(&flow, all, &[("~websocket", No, No), ("~b other", No, No)]);
    // Over HTTP/2 the method is CONNECT.
    flow.method = b"CONNECT".to_vec();
    flow.request_headers = headers([]);
    check(&flow, all, &[("~websocket", No, Unknown)]);
}

#[test]
fn dns() {
    check(
        &TestFlow::dns(),
        Known::REQUEST_BODY,
        &[
            ("~u google", Yes, Yes),
            ("~q", Yes, Unknown),
            ("~s", No, Unknown),
            ("~bs 8", No, Unknown),
            ("~b google", Yes, Yes),
        ],
    );
    let known = Known::REQUEST_BODY | Known::RESPONSE_HEAD;
    check(
        &TestFlow::dns_answered(),
        known,
        &[("~bs 8.8", Yes, Yes), ("~b x", No, No), ("~q", No, No)],
    );
}

/// A law: what is foreseen is what is found, at each moment of a flow's life.
#[test]
fn foresight_is_never_wrong() {
    let atoms = [
        "~q",
        "~s",
        "~e",
        "~c 200",
        "~c 404",
        "~a",
        "~b one",
        "~bq one",
        "~bs one",
        "~b two",
        "~h x",
        "~t html",
        "~websocket",
        "~marked",
        "~replay",
        "~m get",
        "~m post",
        "~comment x",
        "~dst address",
    ];
    let mut random = Random(5);
    for _ in 0..3000 {
        let mut text = String::new();
        for i in 0..=random.below(4) {
            if i > 0 {
                text.push_str(random.pick(&[" & ", " | "]));
            }
            text.push_str(if random.one_in(3) { "!" } else { "" });
            text.push_str(random.pick(&atoms));
        }
        let filter = parse_with(&text, Case::Insensitive).unwrap();
        let contents = [&b"one"[..], b"two", b""];

        let mut flow = TestFlow::get();
        flow.request_body = mitm_flow::Body::missing();
        let mut known = Known::REQUEST_HEAD;
        let mut foreseen = vec![(known, filter.foresee(&flow, known, Horizon::Flow))];
        let message = filter.foresee(&flow, known, Horizon::Message);

        flow.request_body = body(random.pick(&contents));
        known |= Known::REQUEST_BODY;
        agree(&text, message, filter.matches(&flow));
        foreseen.push((known, filter.foresee(&flow, known, Horizon::Flow)));
        if random.one_in(4) {
            flow.error = true;
        } else {
            let mut answered = TestFlow::answered();
            let response = answered.response_mut();
            response.status = random.pick(&[200, 404]);
            response.headers =
                headers([("content-type", random.pick(&["text/html", "image/png"]))]);
            response.body = mitm_flow::Body::missing();
            flow.response = answered.response;
            known |= Known::RESPONSE_HEAD;
            foreseen.push((known, filter.foresee(&flow, known, Horizon::Flow)));
            let message = filter.foresee(&flow, known, Horizon::Message);

            flow.response_mut().body = body(random.pick(&contents));
            known |= Known::RESPONSE_BODY;
            agree(&text, message, filter.matches(&flow));
            foreseen.push((known, filter.foresee(&flow, known, Horizon::Flow)));
        }
        if random.one_in(2) {
            flow.marked = ":x:".into();
            flow.comment = "x".into();
        }
        for (known, foreseen) in foreseen {
            agree(&format!("{text} with {known:?}"), foreseen, filter.matches(&flow));
        }
        let end = filter.foresee(&flow, Known::END, Horizon::Flow);
        assert_eq!(end, Tri::from(filter.matches(&flow)), "{text}");
    }
}

#[track_caller]
fn agree(text: &str, foreseen: Tri, found: bool) {
    assert!(foreseen == Unknown || foreseen == Tri::from(found), "{text}: {foreseen:?}, {found}");
}
