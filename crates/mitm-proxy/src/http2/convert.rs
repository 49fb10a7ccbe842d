//! Heads of HTTP/2 and of HTTP/1, one as the other. Pure.
//!
//! Flows keep a message as it came: names in lower case, cookies in crumbs, a host in `:authority`. What must be
//! different on the other side is changed here, on the way out (RFC 9113 §8.2, §8.3), and checked: what HTTP/2 carries as
//! values of their own becomes lines in HTTP/1, where a stray line end would be another request.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, uri};
use mitm_codec::http1::{self, Framing, Rules, is_token, parse_host_port};
use mitm_flow::{Body, Headers, Request, Response, status, url};
use uuid::Uuid;

/// How versions are named in flows.
pub(crate) const HTTP2: &[u8] = b"HTTP/2.0";
const HTTP11: Bytes = Bytes::from_static(b"HTTP/1.1");

/// Headers that are about one HTTP/1 connection (RFC 9113 §8.2.2).
const OF_CONNECTION: [&str; 6] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Makes the request of a flow from what HTTP/2 carried, without a destination; the error is the text of a 400.
pub(crate) fn request_of(parts: &http::request::Parts, rules: &Rules) -> Result<Request, String> {
    let headers = headers_of(&parts.headers, rules)?;
    // The library forgets the scheme of a request without authority; where the connection leads, it is known.
    let scheme = parts.uri.scheme_str().unwrap_or("http");
    if !matches!(scheme, "http" | "https") {
        return Err(format!("Invalid request scheme: {scheme}"));
    }
    let authority = parts.uri.authority().map(uri::Authority::as_str).unwrap_or_default();
    let path = parts.uri.path_and_query().map(uri::PathAndQuery::as_str).unwrap_or_default();
    let is_of_server = path == "*" && parts.method == Method::OPTIONS;
    if !path.starts_with('/') && !is_of_server {
        return Err(format!("Invalid path of an HTTP/2 request: {path:?}"));
    }
    if headers.get_all("host").nth(1).is_some() {
        return Err("HTTP/2 request with several host headers.".into());
    }
    let host = headers.get("host").map(|host| &host[..]);
    match (host, authority.as_bytes()) {
        (None, b"") => {}
        (Some(name), b"") | (None, name) if parse_host_port(name).is_none() => {
            let name = String::from_utf8_lossy(name);
            return Err(format!("Invalid :authority of an HTTP/2 request: {name:?}"));
        }
        // Two names for one server: somebody would believe the other one (RFC 9113 §8.3.1).
        (Some(host), authority)
            if !authority.is_empty() && !host.eq_ignore_ascii_case(authority) =>
        {
            return Err("HTTP/2 request whose host header is not its :authority.".into());
        }
        _ => {}
    }
    Ok(Request {
        method: match parts.method {
            Method::GET => Bytes::from_static(b"GET"),
            Method::POST => Bytes::from_static(b"POST"),
            ref method => Bytes::copy_from_slice(method.as_str().as_bytes()),
        },
        scheme: Bytes::from_static(if scheme == "https" { b"https" } else { b"http" }),
        authority: Bytes::copy_from_slice(authority.as_bytes()),
        path: Bytes::copy_from_slice(path.as_bytes()),
        http_version: Bytes::from_static(HTTP2),
        headers,
        ..Request::default()
    })
}

/// Makes the request of a flow from a CONNECT; the error is the text of a 400.
pub(crate) fn connect_of(parts: &http::request::Parts, rules: &Rules) -> Result<Request, String> {
    let authority = parts.uri.authority().map(uri::Authority::as_str).unwrap_or_default();
    let Some((host, Some(port))) = parse_host_port(authority.as_bytes()) else {
        return Err("Bad HTTP request line.".into());
    };
    Ok(Request {
        method: "CONNECT".into(),
        authority: Bytes::copy_from_slice(authority.as_bytes()),
        host,
        port,
        http_version: Bytes::from_static(HTTP2),
        headers: headers_of(&parts.headers, rules)?,
        body: Body::empty(),
        ..Request::default()
    })
}

/// Makes an extended CONNECT (RFC 8441 §5) what it is in HTTP/1, and in flows: a GET that asks to switch to WebSocket.
pub(crate) fn upgrade_of(request: &mut Request) {
    request.method = Bytes::from_static(b"GET");
    request.headers.add("connection", "Upgrade");
    request.headers.add("upgrade", "websocket");
    // The version the proxy speaks to the server in needs a key, if only to be answered (RFC 6455 §4.1).
    let key = data_encoding::BASE64.encode(Uuid::new_v4().as_bytes());
    request.headers.set("sec-websocket-key", key);
}

/// Returns a list of headers as flows have it. Of several fields with one name the later ones stand behind the first.
pub(crate) fn headers_of(map: &HeaderMap, rules: &Rules) -> Result<Headers, String> {
    let max = rules.limits.header_count;
    if map.len() > max {
        return Err(format!("message with more than {max} headers"));
    }
    // In lines such blanks would be gone (RFC 9113 §8.2.1).
    let is_padded = |value: &HeaderValue| {
        let value = value.as_bytes();
        let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        is_blank(value.first()) || is_blank(value.last())
    };
    if rules.validate
        && let Some((name, _)) = map.iter().find(|(_, value)| is_padded(value))
    {
        return Err(format!("header with blanks around its value: {name}"));
    }
    // One block for all of them, of which each takes its part.
    let len = map.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let mut block = BytesMut::with_capacity(len);
    for (name, value) in map {
        block.extend_from_slice(name.as_str().as_bytes());
        block.extend_from_slice(value.as_bytes());
    }
    let mut block = block.freeze();
    let fields = map.iter().map(|(name, value)| {
        let name = block.split_to(name.as_str().len());
        (name, block.split_to(value.len()))
    });
    Ok(Headers::from_fields(fields.collect()))
}

/// Returns what follows a body.
pub(crate) fn trailers_of(map: &HeaderMap, rules: &Rules) -> Result<Headers, String> {
    let trailers = headers_of(map, rules)?;
    match http1::check_trailers(&trailers) {
        Ok(()) => Ok(trailers),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns the length of a body whose head says it, or that it will be seen. `ended`: there is none.
pub(crate) fn framing(headers: &Headers, ended: bool) -> Result<Framing, String> {
    let mut lengths = headers.get_all("content-length");
    let length = match lengths.next() {
        None => None,
        Some(value) if lengths.all(|other| other == value) => {
            // Zeros in front make it octal to some.
            let is_plain = matches!(&value[..], b"0" | [b'1'..=b'9', ..]);
            let digits = is_plain && value.iter().all(u8::is_ascii_digit);
            let length = digits.then(|| std::str::from_utf8(value).ok()?.parse::<u64>().ok());
            let invalid =
                || format!("invalid content-length header: {:?}", String::from_utf8_lossy(value));
            Some(length.flatten().ok_or_else(invalid)?)
        }
        Some(_) => return Err("multiple content-length headers".into()),
    };
    Ok(match (ended, length) {
        (true, _) => Framing::Length(0),
        (false, Some(length)) => Framing::Length(length),
        // Delimited, but not by a length.
        (false, None) => Framing::Chunked,
    })
}

/// Makes a request from HTTP/2 one of HTTP/1.1.
///
/// # Errors
/// It cannot be written as lines.
pub(crate) fn request_to_http1(request: &mut Request) -> Result<(), String> {
    request.http_version = HTTP11;
    if !request.headers.contains("host") {
        let authority = if request.authority.is_empty() {
            url::authority(&request.scheme, &request.host, request.port).into()
        } else {
            request.authority.clone()
        };
        request.headers.insert(0, "Host", authority);
    }
    if request.headers.get_all("cookie").nth(1).is_some() {
        let crumbs: Vec<&[u8]> =
            request.headers.get_all("cookie").map(|crumb| &crumb[..]).collect();
        let cookie = crumbs.join(&b"; "[..]);
        request.headers.set("cookie", cookie);
    }
    request.authority = Bytes::new();
    let target_is_plain =
        !request.path.is_empty() && request.path.iter().all(|&b| b > b' ' && b != 0x7f);
    if !target_is_plain || !is_token(&request.method) {
        return Err("request line with blanks or control characters".into());
    }
    http1::check_fields(&request.headers).map_err(|error| error.to_string())
}

/// Makes a response from HTTP/2 one of HTTP/1.1.
pub(crate) fn response_to_http1(response: &mut Response) {
    response.http_version = HTTP11;
    if response.reason.is_empty() {
        response.reason = status::reason(response.status_code).unwrap_or_default().into();
    }
}

/// Makes a request of HTTP/2 from that of a flow.
///
/// # Errors
/// It cannot be sent in HTTP/2.
pub(crate) fn request_to_http2(request: &Request) -> Result<http::Request<()>, String> {
    let mut headers = map_of(&request.headers)?;
    let host = headers.get("host").map(|host| Bytes::copy_from_slice(host.as_bytes()));
    let authority = match host {
        Some(host) if request.authority.is_empty() => {
            headers.remove("host");
            host
        }
        _ if request.authority.is_empty() => {
            url::authority(&request.scheme, &request.host, request.port).into()
        }
        _ => request.authority.clone(),
    };
    if authority.contains(&b'@') {
        return Err("user information in the name of the host".into());
    }
    let method = Method::from_bytes(&request.method).map_err(|_| "invalid method".to_owned())?;
    let mut uri = uri::Parts::default();
    uri.scheme = Some(match &request.scheme[..] {
        b"https" => uri::Scheme::HTTPS,
        b"http" => uri::Scheme::HTTP,
        _ => return Err("invalid scheme".into()),
    });
    let uri = uri::Authority::from_maybe_shared(authority)
        .and_then(|authority| {
            uri.authority = Some(authority);
            uri.path_and_query = Some(uri::PathAndQuery::from_maybe_shared(request.path.clone())?);
            Ok(uri)
        })
        .map_err(|error| error.to_string())
        .and_then(|parts| Uri::from_parts(parts).map_err(|error| error.to_string()))
        .map_err(|error| format!("{error} in {}", String::from_utf8_lossy(&request.path)))?;
    let mut out = http::Request::new(());
    *out.method_mut() = method;
    *out.uri_mut() = uri;
    *out.version_mut() = http::Version::HTTP_2;
    *out.headers_mut() = headers;
    Ok(out)
}

/// Makes the head of a response of HTTP/2.
///
/// # Errors
/// It cannot be sent in HTTP/2.
pub(crate) fn response_to_http2(
    status: u16,
    headers: &Headers,
) -> Result<http::Response<()>, String> {
    let mut out = http::Response::new(());
    *out.status_mut() =
        StatusCode::from_u16(status).map_err(|_| format!("invalid status {status}"))?;
    *out.version_mut() = http::Version::HTTP_2;
    *out.headers_mut() = map_of(headers)?;
    Ok(out)
}

/// Returns headers as HTTP/2 sends them: in lower case, without those about an HTTP/1 connection.
///
/// # Errors
/// A name or a value is none.
pub(crate) fn map_of(headers: &Headers) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::with_capacity(headers.len());
    let nominated: Vec<&[u8]> = headers.tokens("connection").collect();
    for (name, value) in headers.fields() {
        let name = name.trim_ascii();
        let is_of_connection =
            OF_CONNECTION.iter().any(|of| name.eq_ignore_ascii_case(of.as_bytes()))
                || nominated.iter().any(|of| name.eq_ignore_ascii_case(of))
                || name.eq_ignore_ascii_case(b"te")
                    && !value.trim_ascii().eq_ignore_ascii_case(b"trailers");
        if is_of_connection {
            continue;
        }
        let shown = || String::from_utf8_lossy(name).into_owned();
        let name = HeaderName::from_bytes(name)
            .map_err(|_| format!("invalid header name {:?}", shown()))?;
        let value = if name == http::header::TE {
            // The one value that HTTP/2 knows, and only like this.
            Bytes::from_static(b"trailers")
        } else {
            value.slice_ref(value.trim_ascii())
        };
        let mut value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| format!("invalid value of the header {:?}", shown()))?;
        // Such values must not be found out by watching how well they compress (RFC 7541 §7.1.3).
        let is_short_cookie = name == http::header::COOKIE && value.len() < 20;
        if is_short_cookie
            || name == http::header::AUTHORIZATION
            || name == http::header::PROXY_AUTHORIZATION
        {
            value.set_sensitive(true);
        }
        map.try_append(name, value).map_err(|_| "too many headers".to_owned())?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use mitm_codec::http1::Limits;
    use proptest::prelude::*;

    use super::*;
    use crate::framing::{settle_live_request, settle_whole_request};

    fn parts(uri: &str, headers: &[(&str, &str)]) -> http::request::Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_becomes_lines_and_back() {
        let headers = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")];
        let mut request =
            request_of(&parts("https://example.com/p?q", &headers), &Rules::default()).unwrap();
        assert_eq!(
            (&request.authority[..], &request.path[..]),
            (&b"example.com"[..], &b"/p?q"[..])
        );
        assert_eq!(request.headers.get_all("cookie").count(), 2);
        request_to_http1(&mut request).unwrap();
        assert_eq!(request.headers.fields()[0], ("Host".into(), "example.com".into()));
        assert_eq!(request.headers.get("cookie").unwrap(), "a=1; b=2");
        request.host = "example.com".into();
        request.headers.add("Connection", "close, X");
        request.headers.add("TE", "gzip");
        let again = request_to_http2(&request).unwrap();
        assert_eq!(again.uri(), "https://example.com/p?q");
        let names: Vec<&str> = again.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["cookie"]);
    }

    #[test]
    fn two_names_for_one_server_are_refused() {
        for headers in [&[("host", "other")][..], &[("host", "a"), ("host", "a")]] {
            assert!(request_of(&parts("http://a/", headers), &Rules::default()).is_err());
        }
        assert!(request_of(&parts("http://A/", &[("host", "a")]), &Rules::default()).is_ok());
        assert!(request_of(&parts("http://u@a/", &[]), &Rules::default()).is_err());
        assert!(request_of(&parts("/", &[("host", "a")]), &Rules::default()).is_ok());
        assert!(request_of(&parts("/", &[("host", "u@a")]), &Rules::default()).is_err());
    }

    #[test]
    fn headers_have_limits_and_no_blanks_around() {
        let strict = Rules::default();
        let few = Rules { limits: Limits { header_count: 1, ..strict.limits }, ..strict };
        let lenient = Rules { validate: false, ..strict };
        assert!(request_of(&parts("http://a/", &[("x", "1"), ("y", "2")]), &few).is_err());
        for value in [" 1", "1\t"] {
            assert!(request_of(&parts("http://a/", &[("x", value)]), &strict).is_err());
            assert!(request_of(&parts("http://a/", &[("x", value)]), &lenient).is_ok());
        }
        let map = parts("/", &[("x-sum", "1")]).headers;
        assert_eq!(trailers_of(&map, &strict).unwrap().len(), 1);
        for name in ["content-length", "transfer-encoding", "host", "te"] {
            assert!(trailers_of(&parts("/", &[(name, "1")]).headers, &lenient).is_err(), "{name}");
        }
    }

    #[test]
    fn what_would_be_another_line_is_refused() {
        let plain = request_of(&parts("http://a/", &[]), &Rules::default()).unwrap();
        for (name, value) in [("x", "1\r\ny: 2"), ("x y", "1"), ("x:", "1"), ("x", "\0")] {
            let mut request = plain.clone();
            request.headers.add(name, value);
            assert!(request_to_http1(&mut request.clone()).is_err(), "{name}: {value}");
            assert!(request_to_http2(&request).is_err(), "{name}: {value}");
        }
        for path in ["/ HTTP/1.1\r\nx: y", "", "/\x7f"] {
            let mut request = Request { path: path.into(), ..plain.clone() };
            assert!(request_to_http1(&mut request).is_err(), "{path:?}");
        }
    }

    #[test]
    fn lengths_are_one_number() {
        let of = |values: &[&'static str], ended| {
            framing(&values.iter().map(|value| ("content-length", *value)).collect(), ended)
        };
        assert_eq!(of(&[], true), Ok(Framing::Length(0)));
        assert_eq!(of(&[], false), Ok(Framing::Chunked));
        assert_eq!(of(&["5", "5"], false), Ok(Framing::Length(5)));
        for wrong in [&["5", "6"][..], &["+5"], &[""], &["05"], &["99999999999999999999"]] {
            assert!(of(wrong, false).is_err(), "{wrong:?}");
        }
    }

    /// Mostly what is fit for a head, with what is not in between.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let odd: Vec<&[u8]> = vec![
            b"\r\n",
            b"\n",
            b"\r",
            b"\0",
            b" ",
            b"\t",
            b":",
            b"@",
            b"#",
            b"\x7f",
            b"\xff",
            b"\r\n\r\nGET / HTTP/1.1\r\n",
        ];
        let odd = proptest::sample::select(odd);
        let plain = "[a-zA-Z0-9/?=._-]{0,8}".prop_map(String::into_bytes);
        let part = prop_oneof![6 => plain, 1 => odd.prop_map(<[u8]>::to_vec)];
        proptest::collection::vec(part, 0..3).prop_map(|parts| parts.concat())
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let known = prop_oneof![
            Just("content-length"),
            Just("Transfer-Encoding"),
            Just("transfer-encoding"),
            Just("host"),
            Just("cookie"),
            Just("connection"),
            Just("te"),
        ];
        prop_oneof![2 => known.prop_map(|name| name.as_bytes().to_vec()), 3 => text()]
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            1 => Just(b"chunked".to_vec()),
            1 => Just(b"trailers".to_vec()),
            2 => "[0-9]{1,3}".prop_map(String::into_bytes),
            5 => text(),
        ]
    }

    prop_compose! {
        fn request()(
            method in prop_oneof![3 => Just(b"POST".to_vec()), 1 => text()],
            path in text(),
            is_slashed in any::<bool>(),
            authority in prop_oneof![Just(Vec::new()), Just(b"example.com".to_vec()), text()],
            scheme in prop_oneof![Just("http"), Just("https")],
            headers in proptest::collection::vec((name(), value()), 0..6),
        ) -> Request {
            let path = if is_slashed { [b"/", &path[..]].concat() } else { path };
            let fields = headers.into_iter().map(|(name, value)| (name.into(), value.into()));
            Request {
                method: method.into(),
                path: path.into(),
                authority: authority.into(),
                scheme: scheme.into(),
                host: "example.com".into(),
                port: 80,
                http_version: Bytes::from_static(HTTP2),
                headers: Headers::from_fields(fields.collect()),
                ..Request::default()
            }
        }
    }

    fn framing_lines(head: &[u8]) -> usize {
        let text = String::from_utf8_lossy(head).to_ascii_lowercase();
        let is_framing = |line: &&str| {
            ["content-length", "transfer-encoding"].iter().any(|name| line.starts_with(name))
        };
        text.split("\r\n").filter(is_framing).count()
    }

    proptest! {
        #[test]
        fn what_is_written_as_lines_is_one_head(request in request(), len in 0_u64..2000, kind in 0..4) {
            let mut request = request;
            if request_to_http1(&mut request).is_err() {
                return Ok(());
            }
            match kind {
                0 => settle_whole_request(&mut request, &Body::empty()),
                1 => settle_whole_request(&mut request, &Bytes::from_static(b"hello").into()),
                2 => settle_live_request(&mut request, Framing::Length(len), false),
                _ => settle_live_request(&mut request, Framing::Chunked, len > 1000),
            };
            let Request { method, path, http_version, headers, .. } = &request;
            let mut head = BytesMut::new();
            http1::write_request_head(&mut head, method, path, http_version, headers);
            let text = head.strip_suffix(b"\r\n\r\n").unwrap();
            let is_stray = |line: &[u8]| line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0));
            let lines: Vec<&[u8]> = split_lines(text);
            prop_assert_eq!(lines.len(), 1 + headers.len(), "{}", head.escape_ascii());
            prop_assert!(!lines.iter().any(|line| is_stray(line)), "{}", head.escape_ascii());
            prop_assert_eq!(lines[0].split(|&b| b == b' ').count(), 3, "{}", head.escape_ascii());
            let framings = framing_lines(&head);
            prop_assert!(framings <= 1, "{}", head.escape_ascii());
            prop_assert!(kind == 0 || framings == 1, "{}", head.escape_ascii());
        }

        #[test]
        fn what_is_sent_in_http2_is_one_message(request in request(), len in 0_u64..2000) {
            let mut request = request;
            settle_live_request(&mut request, Framing::Length(len), false);
            let Ok(out) = request_to_http2(&request) else { return Ok(()) };
            let uri = out.uri().to_string();
            prop_assert!(!uri.bytes().any(|b| b <= b' '), "{uri:?}");
            prop_assert!(!out.uri().authority().unwrap().as_str().contains('@'), "{uri:?}");
            let headers = out.headers();
            let is_fit = |b: &u8| *b == b'\t' || *b >= b' ' && *b != 0x7f;
            prop_assert!(headers.values().all(|value| value.as_bytes().iter().all(is_fit)));
            prop_assert!(OF_CONNECTION.iter().all(|name| !headers.contains_key(*name)));
            prop_assert!(headers.get("te").is_none_or(|te| te == "trailers"));
            prop_assert!(headers.get_all("content-length").iter().count() <= 1);
        }
    }

    fn split_lines(text: &[u8]) -> Vec<&[u8]> {
        let mut lines = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
            lines.push(&rest[..at]);
            rest = &rest[at + 2..];
        }
        lines.push(rest);
        lines
    }
}
