//! Heads of HTTP/2 and of HTTP/1, one as the other. Pure.
//!
//! Flows keep a message as it came: names in lower case, cookies in crumbs, a host in `:authority`. What must be
//! different on the other side is changed here, on the way out (RFC 9113 §8.2, §8.3), and checked: what HTTP/2 carries as
//! values of their own becomes lines in HTTP/1, where a stray line end would be another request.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, uri};
use mitm_codec::http1::{self, Framing, is_token, parse_host_port};
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
pub(crate) fn request_of(
    parts: &http::request::Parts,
    max_headers: usize,
) -> Result<Request, String> {
    let headers = headers_of(&parts.headers, max_headers)?;
    let scheme = parts.uri.scheme_str().unwrap_or_default();
    if !matches!(scheme, "http" | "https") {
        return Err(format!("Invalid request scheme: {scheme}"));
    }
    let authority = parts.uri.authority().map(uri::Authority::as_str).unwrap_or_default();
    let path = parts.uri.path_and_query().map(uri::PathAndQuery::as_str).unwrap_or_default();
    if !path.starts_with('/') && !(path == "*" && parts.method == Method::OPTIONS) {
        return Err(format!("Invalid path of an HTTP/2 request: {path:?}"));
    }
    if headers.get_all("host").nth(1).is_some() {
        return Err("HTTP/2 request with several host headers.".into());
    }
    // Two names for one server: somebody would believe the other one (RFC 9113 §8.3.1).
    if let Some(host) = headers.get("host")
        && !authority.is_empty()
        && !host.eq_ignore_ascii_case(authority.as_bytes())
    {
        return Err("HTTP/2 request whose host header is not its :authority.".into());
    }
    if !authority.is_empty() && parse_host_port(authority.as_bytes()).is_none() {
        return Err(format!("Invalid :authority of an HTTP/2 request: {authority:?}"));
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
pub(crate) fn connect_of(
    parts: &http::request::Parts,
    max_headers: usize,
) -> Result<Request, String> {
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
        headers: headers_of(&parts.headers, max_headers)?,
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
    request.headers.add("sec-websocket-key", key);
}

/// Returns a list of headers as flows have it. Of several fields with one name the later ones stand behind the first.
pub(crate) fn headers_of(map: &HeaderMap, max: usize) -> Result<Headers, String> {
    if map.len() > max {
        return Err(format!("message with more than {max} headers"));
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

/// Returns the length of a body whose head says it, or that it will be seen. `ended`: there is none.
pub(crate) fn framing(headers: &Headers, ended: bool) -> Result<Framing, String> {
    let mut lengths = headers.get_all("content-length");
    let length = match lengths.next() {
        None => None,
        Some(value) if lengths.all(|other| other == value) => {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
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
    if !request.headers.contains("host") && !request.authority.is_empty() {
        request.headers.insert(0, "Host", request.authority.clone());
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
    use super::*;

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
        let mut request = request_of(&parts("https://example.com/p?q", &headers), 100).unwrap();
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
            assert!(request_of(&parts("http://a/", headers), 100).is_err());
        }
        assert!(request_of(&parts("http://A/", &[("host", "a")]), 100).is_ok());
        assert!(request_of(&parts("http://u@a/", &[]), 100).is_err());
        assert!(request_of(&parts("http://a/", &[("x", "1"), ("y", "2")]), 1).is_err());
    }

    #[test]
    fn what_would_be_another_line_is_refused() {
        let plain = request_of(&parts("http://a/", &[]), 100).unwrap();
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
        for wrong in [&["5", "6"][..], &["+5"], &[""], &["99999999999999999999"]] {
            assert!(of(wrong, false).is_err(), "{wrong:?}");
        }
    }
}
