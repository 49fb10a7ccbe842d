//! The lists of hosts: which connections pass unseen, and which are raw TCP. Options `ignore_hosts`, `allow_hosts`,
//! `tcp_hosts`.
//!
//! An entry is a regular expression in Python's dialect, searched without regard to case in `host:port`, and in the host
//! alone, of each name that a connection is known by.
//!
//! There are two kinds of expressions. Most say what they mean: such a one matches a connection if it matches one of its
//! names. Some list exceptions: `^(?!example\.com)` means everything but that, and an address of `example.com` is not an
//! exception for being written in digits. Such an expression matches a connection only if it matches all of its names.
//! They are told by that they match a text that is nobody's name.

use std::{fmt, sync::Arc};

use mitm_filter::{Case, Pattern};
use tracing::warn;

/// A list of expressions, as in an option.
#[derive(Clone, Default)]
pub struct HostList(Arc<[HostPattern]>);

struct HostPattern {
    pattern: Pattern,
    /// It lists exceptions.
    excepts: bool,
    /// It is tried on hosts without their ports as well. With a negative look-around it would match there what it
    /// excludes by port.
    bare: bool,
}

/// What a list is tried on: names of the server that a connection leads to.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<(String, u16)>);

impl Names {
    pub(crate) fn add(&mut self, host: impl Into<String>, port: u16) {
        self.0.push((host.into(), port));
    }

    /// Adds the value of a `Host` header; `port` is meant if it has none.
    pub(crate) fn add_authority(&mut self, authority: &[u8], port: u16) {
        if let Some((host, own)) = mitm_codec::http1::parse_host_port(authority) {
            self.add(&*host, own.unwrap_or(port));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A text that is nobody's name, and has none of the characters of one.
const NOBODY: &str = "\u{1}";

impl HostList {
    /// Compiles the entries of an option.
    ///
    /// # Errors
    /// Which entry is not valid, and why.
    pub fn new<T: AsRef<str>>(entries: &[T]) -> Result<Self, String> {
        let compile = |entry: &T| {
            let source = entry.as_ref();
            let pattern = Pattern::standalone(source, Case::Insensitive)
                .map_err(|reason| format!("'{source}' is no regular expression: {reason}"))?;
            let excepts = pattern.is_match(NOBODY).unwrap_or(false);
            let bare = !source.contains("(?!") && !source.contains("(?<!");
            Ok(HostPattern { pattern, excepts, bare })
        };
        entries.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if one of the expressions matches the connection, whatever other names it turns out to have.
    pub(crate) fn surely_matches(&self, names: &Names) -> bool {
        self.0.iter().any(|entry| !entry.excepts && entry.matches(names))
    }

    /// True if one of the expressions matches the connection. One without names is matched by none.
    pub(crate) fn matches(&self, names: &Names) -> bool {
        !names.is_empty() && self.0.iter().any(|entry| entry.matches(names))
    }
}

impl HostPattern {
    fn matches(&self, names: &Names) -> bool {
        let mut names = names.0.iter();
        let with_port = |(host, port): &(String, u16)| {
            let is_v6 = host.contains(':');
            let text = if is_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            self.is_match(&text)
        };
        if self.excepts {
            names.all(with_port)
        } else {
            names.any(|name| with_port(name) || self.bare && self.is_match(&name.0))
        }
    }

    fn is_match(&self, text: &str) -> bool {
        self.pattern.is_match(text).unwrap_or_else(|error| {
            warn!("It cannot be told whether {text} is meant: {error}");
            false
        })
    }
}

impl fmt::Debug for HostList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| entry.pattern.source())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, names: &[(&str, u16)]) -> bool {
        let mut known = Names::default();
        for (host, port) in names {
            known.add(*host, *port);
        }
        HostList::new(&[pattern]).unwrap().matches(&known)
    }

    #[test]
    fn the_examples_of_the_documentation() {
        let apple: &[(&str, u16)] = &[("17.178.96.59", 443), ("www.apple.com", 443)];
        assert!(matches("apple.com:443", apple));
        assert!(matches(r"^(.+\.)?apple\.com:443$", apple));
        assert!(!matches(r"^(.+\.)?apple\.com:443$", &[("www.apple.com", 80)]));
        assert!(!matches("^apple.com:", apple));
        assert!(matches(r"17\.178\.96\.59:443", apple));
        assert!(matches(r"17\.178\.\d+\.\d+:443", apple));
        let but = r"^(?!example\.com)(?!mitmproxy\.org)";
        assert!(matches(but, apple));
        assert!(!matches(but, &[("93.184.216.34", 443), ("example.com", 443)]));
        assert!(!matches(but, &[("mitmproxy.org", 80)]));
    }

    #[test]
    fn host_and_port_and_the_host_alone_are_tried() {
        assert!(matches(r"^example\.com$", &[("example.com", 443)]));
        assert!(matches(r"EXAMPLE\.com$", &[("example.com", 443)]));
        assert!(matches(r"^\[::1\]:80$", &[("::1", 80)]) && matches("^::1$", &[("::1", 80)]));
        // By its port this one is an exception; the host alone would not be.
        assert!(!matches(r"^(?!example\.com:443)\w", &[("example.com", 443)]));
        assert!(!matches(".", &[]) && !matches("", &[]));
        assert!(matches("", &[("x", 1)]));
    }

    #[test]
    fn errors_name_the_entry() {
        let error = HostList::new(&["fine", "(oops"]).unwrap_err();
        assert!(error.starts_with("'(oops' is no regular expression: "), "{error}");
    }
}
