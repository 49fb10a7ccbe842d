//! URLs, authorities and host names, as the proxy meets them.
//!
//! This is not the WHATWG URL standard: what is not understood is passed on as it is, a path is never normalised. Where text
//! is made for display or for filters, IPv6 addresses have no brackets, as mitmproxy's users know it; where it is made for
//! the wire ([`authority`]), they have.

use std::{borrow::Cow, net::IpAddr, net::Ipv6Addr};

use idna::AsciiDenyList;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use thiserror::Error;

/// A URL in the parts that a request has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Lower-cased; empty if the URL had none.
    pub scheme: String,
    /// Lower-cased, IDNA-encoded, without brackets.
    pub host: String,
    pub port: u16,
    /// Path, query and fragment; begins with a slash.
    pub path: String,
}

/// Why a text is not a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("no hostname given")]
    NoHost,
    #[error("invalid host")]
    InvalidHost,
    #[error("invalid port")]
    InvalidPort,
}

/// What cannot stand in a request target: it would end the request line, or a part of it.
const NOT_IN_TARGET: &AsciiSet = &CONTROLS.add(b' ');

/// Takes a URL apart. User information is dropped, a missing port is that of the scheme, or 80.
///
/// # Errors
/// There is no valid host, or the port is not a number up to 65535.
pub fn parse(url: &str) -> Result<Url, UrlError> {
    let url = url.trim_matches(|c: char| c <= ' ');
    let (scheme, rest) = match url.split_once("//") {
        Some(("", rest)) => ("", rest),
        Some((scheme, rest)) => (scheme.strip_suffix(':').ok_or(UrlError::NoHost)?, rest),
        None => return Err(UrlError::NoHost),
    };
    let starts_well = scheme.is_empty() || scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    if !starts_well || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        return Err(UrlError::NoHost);
    }
    let scheme = scheme.to_ascii_lowercase();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (place, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let (host, port) = split_place(place)?;
    let port = match port.unwrap_or("") {
        "" => 0,
        port if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().map_err(|_| UrlError::InvalidPort)?
        }
        _ => return Err(UrlError::InvalidPort),
    };
    let port = if port == 0 { default_port(scheme.as_bytes()).unwrap_or(80) } else { port };
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    let host = to_ascii(&host.to_lowercase()).ok_or(UrlError::InvalidHost)?.into_owned();
    if !is_valid_host(&host) {
        return Err(UrlError::InvalidHost);
    }
    Ok(Url { scheme, host, port, path: target(path) })
}

/// Splits `host:port`, with brackets around an IPv6 address.
fn split_place(place: &str) -> Result<(&str, Option<&str>), UrlError> {
    if let Some(inner) = place.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or(UrlError::InvalidHost)?;
        if parse_ip(host).is_none() {
            return Err(UrlError::InvalidHost);
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(UrlError::InvalidHost),
        };
    }
    Ok(match place.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (place, None),
    })
}

/// Returns the request target of what follows the host. An empty query or fragment leaves no trace.
fn target(text: &str) -> String {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut out = String::with_capacity(text.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for (mark, part) in [("", path), ("?", query), ("#", fragment)] {
        if !part.is_empty() {
            out.push_str(mark);
            out.extend(percent_encode(part.as_bytes(), NOT_IN_TARGET));
        }
    }
    out
}

/// Joins the parts of a URL. The port is left out if it is that of the scheme, `*` as a path too.
pub fn unparse(scheme: &[u8], host: &str, port: u16, path: &[u8]) -> Vec<u8> {
    let mut url = Vec::with_capacity(scheme.len() + host.len() + path.len() + 10);
    write_url(&mut url, scheme, host, Some(port), path);
    url
}

pub(crate) fn write_url(
    out: &mut Vec<u8>,
    scheme: &[u8],
    host: &str,
    port: Option<u16>,
    path: &[u8],
) {
    out.extend_from_slice(scheme);
    out.extend_from_slice(b"://");
    out.extend_from_slice(host.as_bytes());
    if let Some(port) = port.filter(|port| default_port(scheme) != Some(*port)) {
        write_port(out, port);
    }
    if path != b"*" {
        out.extend_from_slice(path);
    }
}

pub(crate) fn write_port(out: &mut Vec<u8>, port: u16) {
    use std::io::Write;
    write!(out, ":{port}").expect("writing to a vector succeeds");
}

/// Returns `host`, or `host:port` if the port is not that of the scheme. IPv6 addresses stand without brackets.
pub fn hostport(scheme: &[u8], host: &str, port: u16) -> String {
    if default_port(scheme) == Some(port) { host.to_owned() } else { format!("{host}:{port}") }
}

/// Like [`hostport`] for the wire: IPv6 addresses in brackets.
pub fn authority(scheme: &[u8], host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        hostport(scheme, &format!("[{host}]"), port)
    } else {
        hostport(scheme, host, port)
    }
}

/// Returns the port that a scheme implies.
pub fn default_port(scheme: &[u8]) -> Option<u16> {
    match scheme {
        b"http" => Some(80),
        b"https" => Some(443),
        _ => None,
    }
}

/// Takes `host[:port]` apart, brackets removed; `None` unless it is valid. The port may be any number up to
/// 65535.
pub fn parse_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = split_authority(text)?;
    is_valid_host(host).then_some((host, port))
}

/// Like [`parse_authority`], but what is invalid is taken for a host as a whole.
pub fn parse_authority_lenient(text: &str) -> (&str, Option<u16>) {
    parse_authority(text).unwrap_or((text, None))
}

fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.rsplit_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    match port {
        None => Some((host, None)),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok()?)))
        }
        Some(_) => None,
    }
}

/// True for IP addresses and for names of labels of letters, digits, `-` and `_`, at most 255 bytes
/// long, a dot at the end allowed. Other scripts are judged by their IDNA form.
pub fn is_valid_host(host: &str) -> bool {
    if is_plain(host) {
        return is_valid_name(host) || parse_ip(host).is_some();
    }
    match to_ascii(host) {
        Some(ascii) if is_valid_name(&ascii) => true,
        _ => parse_ip(host).is_some(),
    }
}

/// True if IDNA has nothing to say about `host`.
fn is_plain(host: &str) -> bool {
    let mut labels = host.as_bytes().split(|&b| b == b'.');
    host.is_ascii() && !labels.any(is_encoded_label)
}

fn is_encoded_label(label: &[u8]) -> bool {
    label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"xn--"))
}

fn is_valid_name(name: &str) -> bool {
    if name.len() > 255 {
        return false;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    name.as_bytes().split(|&b| b == b'.').all(|label| {
        (1..=63).contains(&label.len())
            && label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    })
}

/// Reads an IP address; an IPv6 address may have a zone, which is not kept.
pub fn parse_ip(host: &str) -> Option<IpAddr> {
    if let Some((address, zone)) = host.split_once('%') {
        let good = !zone.is_empty() && !zone.contains('%');
        return address.parse().ok().filter(|_| good).map(IpAddr::V6);
    }
    host.parse().ok()
}

/// Encodes a name by IDNA; `None` if that is not possible. Plain ASCII stays as it is.
pub fn to_ascii(host: &str) -> Option<Cow<'_, str>> {
    // The cost of IDNA is that of the length, and no name is longer.
    if is_plain(host) {
        return Some(host.into());
    }
    if host.len() > 1024 {
        return None;
    }
    idna::domain_to_ascii_cow(host.as_bytes(), AsciiDenyList::EMPTY).ok()
}

/// Decodes the IDNA labels of a name as it was on the wire, for display; what cannot be decoded stays.
pub fn to_unicode(host: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(host);
    if host.len() > 1024 || is_plain(&text) {
        return text;
    }
    match idna::domain_to_unicode(&text) {
        (unicode, Ok(())) => unicode.into(),
        (_, Err(_)) => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let check = |url: &str, expected: Result<&str, UrlError>| {
            let found =
                parse(url).map(|u| format!("{} {} {} {}", u.scheme, u.host, u.port, u.path));
            assert_eq!(found, expected.map(str::to_owned), "{url}");
        };
        check("http://foo", Ok("http foo 80 /"));
        check("//foo", Ok(" foo 80 /"));
        check(" HTTP://user:p@w@FOO:81/ \n", Ok("http foo 81 /"));
        check("https://[::1]/x", Ok("https ::1 443 /x"));
        check("http://[::1]:8080/x", Ok("http ::1 8080 /x"));
        check("http://foo:0/", Ok("http foo 80 /"));
        check("https://foo:/", Ok("https foo 443 /"));
        check("http://foo?x=http://y#f", Ok("http foo 80 /?x=http://y#f"));
        check("https://foo/a;b?c#d", Ok("https foo 443 /a;b?c#d"));
        check("http://foo#x/y", Ok("http foo 80 /#x/y"));
        check("http://foo/x?", Ok("http foo 80 /x"));
        check("http://foo/x??#", Ok("http foo 80 /x??"));
        check("http://foo/x?#f#", Ok("http foo 80 /x#f#"));
        check("http://foo//x", Ok("http foo 80 //x"));
        check("ftp://foo/x", Ok("ftp foo 80 /x"));
        check("http://bücher.de/ü", Ok("http xn--bcher-kva.de 80 /%C3%BC"));
        check("http://foo/a b\r\nX: y%20", Ok("http foo 80 /a%20b%0D%0AX:%20y%20"));
        check("http://1.2.3.4", Ok("http 1.2.3.4 80 /"));
        check("http://foo./", Ok("http foo. 80 /"));
        for none in ["", "foo", "http:foo", "http://", "http:///x", "fo o://x", "1a://x", "http//x"]
        {
            check(none, Err(UrlError::NoHost));
        }
        for invalid in
            ["http://foo /x", "http://a..b", "http://[foo]/", "http://[::1", "http://[::1]x/"]
        {
            check(invalid, Err(UrlError::InvalidHost));
        }
        for port in ["http://foo:99999/", "http://foo:abc/", "http://foo:80:80/", "http://a:+1/"] {
            check(port, Err(UrlError::InvalidPort));
        }
    }

    #[test]
    fn parts_are_joined() {
        let check = |parts: (&str, &str, u16, &str), url: &str| {
            let made = unparse(parts.0.as_bytes(), parts.1, parts.2, parts.3.as_bytes());
            assert_eq!(String::from_utf8(made).unwrap(), url);
        };
        check(("http", "foo", 80, "/x"), "http://foo/x");
        check(("https", "foo", 80, "/x"), "https://foo:80/x");
        check(("https", "foo", 443, "*"), "https://foo");
        check(("http", "::1", 8080, "/"), "http://::1:8080/");
        assert_eq!(authority(b"http", "::1", 8080), "[::1]:8080");
        assert_eq!(authority(b"https", "::1", 443), "[::1]");
        assert_eq!(hostport(b"foo", "x", 80), "x:80");
    }

    #[test]
    fn authorities() {
        for (text, parsed) in [
            ("foo:80", Some(("foo", Some(80)))),
            ("foo", Some(("foo", None))),
            ("foo:0", Some(("foo", Some(0)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("[foo]:80", Some(("foo", Some(80)))),
            ("bücher.de", Some(("bücher.de", None))),
            ("::1", None),
            ("foo:", None),
            ("foo:99999", None),
            ("foo:-1", None),
            ("", None),
            (":80", None),
            ("foo:80:80", None),
            ("user@foo:80", None),
            ("foo bar", None),
            ("[::1", None),
            ("fo\nx", None),
        ] {
            assert_eq!(parse_authority(text), parsed, "{text}");
            assert_eq!(parse_authority_lenient(text), parsed.unwrap_or((text, None)));
        }
        assert_eq!(to_unicode(b"xn--bcher-kva.de"), "bücher.de");
        assert_eq!(to_unicode(b"FOO.de"), "FOO.de");
        assert_eq!(to_unicode(b"xn--a"), "xn--a");
        assert_eq!(to_unicode(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn hosts() {
        let long = "a.".repeat(127) + "a";
        let label = "a".repeat(63);
        for valid in [
            "foo",
            "foo.",
            "-foo",
            "fo_o",
            "1.2.3.4",
            "::1",
            "bücher.de",
            "xn--bcher-kva.de",
            "fe80::1%eth0",
            "☃.net",
            "256.1.1.1",
            "Ä.de",
            &long,
            &label,
        ] {
            assert!(is_valid_host(valid), "{valid}");
        }
        let too_long = long.clone() + ".aa";
        let too_long_label = label.clone() + "a";
        for invalid in [
            "",
            ".",
            "..",
            " ",
            "foo..",
            "foo bar",
            "*.foo",
            "foo:80",
            "[::1]",
            "xn--a",
            ".foo",
            "a..b",
            "fe80::1%",
            "foo\n",
            "\u{fffd}",
            &too_long,
            &too_long_label,
        ] {
            assert!(!is_valid_host(invalid), "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_url_parses_to_the_same(url in "https?://[a-zß.-]{1,10}(:[0-9]{1,5})?[/?#]?.{0,20}") {
            if let Ok(parsed) = parse(&url) {
                let again = unparse(parsed.scheme.as_bytes(), &parsed.host, parsed.port, parsed.path.as_bytes());
                // A port of 0 is replaced, so that none is left out here.
                prop_assert_eq!(parse(&String::from_utf8(again).unwrap()).unwrap(), parsed);
            }
        }

        #[test]
        fn junk_does_no_harm(text: String) {
            drop(parse(&text));
            parse_authority_lenient(&text);
            is_valid_host(&text);
            to_unicode(text.as_bytes());
        }
    }
}
