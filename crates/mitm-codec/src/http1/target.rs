//! Request targets (RFC 9112 §3.2) and the authorities in them.

use std::{net::Ipv6Addr, sync::Arc};

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

use super::has_control;

/// What a request target means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`: the destination is known from elsewhere.
    Origin,
    /// `*`: the server as a whole.
    Asterisk,
    /// `host:port`, the target of CONNECT.
    Authority {
        /// A name or an IP address, without brackets.
        host: Arc<str>,
        port: u16,
    },
    /// `scheme://authority/path`, as proxies are asked.
    Absolute {
        /// In lower case; any scheme, if there was an explicit port.
        scheme: Bytes,
        /// As sent.
        authority: Bytes,
        /// A name or an IP address, without brackets.
        host: Arc<str>,
        port: u16,
        /// Path and query, beginning with `/`.
        path: Bytes,
    },
}

/// Reads a request target; `None` if it has none of the four forms. The bytes must be free of spaces and
/// control characters already.
pub fn parse_target(method: &[u8], target: &Bytes) -> Option<Target> {
    if has_control(target) || memchr2(b' ', b'\t', target).is_some() {
        return None;
    }
    if method == b"CONNECT" {
        let (host, port) = parse_host_port(target)?;
        return Some(Target::Authority { host, port: port? });
    }
    match &target[..] {
        b"*" => Some(Target::Asterisk),
        [b'/', ..] => Some(Target::Origin),
        _ => parse_absolute(target),
    }
}

/// Reads `host` or `host:port`; IPv6 addresses are in brackets, and come back without. `None` if the host isn't
/// [valid](is_valid_host), or the port isn't a number up to 65535.
pub fn parse_host_port(authority: &[u8]) -> Option<(Arc<str>, Option<u16>)> {
    let text = std::str::from_utf8(authority).ok()?;
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        let port = match rest {
            "" => None,
            _ => Some(rest.strip_prefix(':')?),
        };
        (host, port)
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if !is_valid_host(host.as_bytes()) {
            return None;
        }
        (host, port)
    };
    let port = match port {
        Some(port) => Some(parse_port(port)?),
        None => None,
    };
    Some((host.into(), port))
}

/// True for an IP address without brackets, and for names of at most 255 bytes whose labels are 1 to 63
/// letters, digits, hyphens and underscores; one dot may follow.
pub fn is_valid_host(host: &[u8]) -> bool {
    let labels = host.strip_suffix(b".").unwrap_or(host);
    let is_name = host.len() <= 255
        && labels.split(|&b| b == b'.').all(|label| {
            (1..=63).contains(&label.len())
                && label.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
    is_name || std::str::from_utf8(host).is_ok_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

fn parse_absolute(target: &Bytes) -> Option<Target> {
    let end = target.iter().position(|&b| b == b':')?;
    if !target.get(end..)?.starts_with(b"://") {
        return None;
    }
    let scheme = target.slice(..end);
    if !scheme.first()?.is_ascii_alphabetic()
        || !scheme.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    {
        return None;
    }
    let scheme = if scheme.iter().any(u8::is_ascii_uppercase) {
        scheme.to_ascii_lowercase().into()
    } else {
        scheme
    };
    let rest = target.slice(end + 3..);
    let authority_len =
        rest.iter().position(|&b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let authority = rest.slice(..authority_len);
    let (host, port) = parse_host_port(&authority)?;
    let port = port.or_else(|| default_port(&scheme))?;
    let path = match rest.slice(authority_len..) {
        path if path.starts_with(b"/") => path,
        path if path.is_empty() => Bytes::from_static(b"/"),
        path => {
            let mut with_slash = BytesMut::with_capacity(path.len() + 1);
            with_slash.extend_from_slice(b"/");
            with_slash.extend_from_slice(&path);
            with_slash.freeze()
        }
    };
    Some(Target::Absolute { scheme, authority, host, port, path })
}

fn default_port(scheme: &[u8]) -> Option<u16> {
    match scheme {
        b"http" | b"ws" => Some(80),
        b"https" | b"wss" => Some(443),
        b"ftp" => Some(21),
        _ => None,
    }
}

fn parse_port(port: &str) -> Option<u16> {
    // `parse` alone would take a sign; leading zeros are harmless but unbounded.
    if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, target: &'static str, expected: &Target) {
        let parsed = parse_target(method.as_bytes(), &Bytes::from(target));
        assert_eq!(parsed.as_ref(), Some(expected), "{target}");
    }

    fn absolute(
        scheme: &'static str,
        authority: &'static str,
        host: &str,
        port: u16,
        path: &'static str,
    ) -> Target {
        Target::Absolute {
            scheme: scheme.into(),
            authority: authority.into(),
            host: host.into(),
            port,
            path: path.into(),
        }
    }

    #[test]
    fn the_four_forms() {
        check("GET", "/", &Target::Origin);
        check("GET", "//double", &Target::Origin);
        check("GET", "/100%?q=%zz&\u{e4}", &Target::Origin);
        check("OPTIONS", "*", &Target::Asterisk);
        check("GET", "http://a", &absolute("http", "a", "a", 80, "/"));
        check("GET", "HTTPS://A.b:8/x?y", &absolute("https", "A.b:8", "A.b", 8, "/x?y"));
        check("GET", "http://a?q", &absolute("http", "a", "a", 80, "/?q"));
        check("GET", "http://[::1]/", &absolute("http", "[::1]", "::1", 80, "/"));
        check("GET", "foo://a:1/", &absolute("foo", "a:1", "a", 1, "/"));
        let authority = |host: &str, port| Target::Authority { host: host.into(), port };
        check("CONNECT", "a.example.:443", &authority("a.example.", 443));
        check("CONNECT", "[2001:db8::1]:443", &authority("2001:db8::1", 443));
    }

    #[test]
    fn other_targets_are_refused() {
        #[track_caller]
        fn refused(method: &str, target: &'static str) {
            assert_eq!(parse_target(method.as_bytes(), &Bytes::from(target)), None, "{target}");
        }
        for target in [
            "",
            "a",
            "**",
            "a:80",
            "foo://a/",
            "http:/a",
            "http://",
            "http:///x",
            "://a/",
            "1x://a:1/",
            "http://a:/",
            "http://a:99999/",
            "http://a:+80/",
            "http://a:1:2/",
            "http://u@a/",
            "http://a b/",
            "http://a%00b/",
            "http://a..b/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[a]/",
            "http://::1/",
            "http://a,b/",
            "http://a\\b/",
            "/a b",
            "/a\tb",
            "/a\u{7f}",
        ] {
            refused("GET", target);
        }
        for target in
            ["a", "/", "*", "http://a:80", "a:", ":80", "a:80/", "[::1]", "[::1]:", "::1:80"]
        {
            refused("CONNECT", target);
        }
    }

    #[test]
    fn hosts() {
        for host in ["a", "a-b.c_d", "1.2.3.4", "::1", "xn--mller-kva.example.", "-"] {
            assert!(is_valid_host(host.as_bytes()), "{host}");
        }
        let long = "a".repeat(64);
        for host in ["", ".", "a..b", "a.b..", "ä", "a b", "[::1]", "a:80", "a/b", &long] {
            assert!(!is_valid_host(host.as_bytes()), "{host}");
        }
    }
}
