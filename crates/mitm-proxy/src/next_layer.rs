//! What a connection speaks: decided once per layer, from where it leads and what came first.
//!
//! [`decide`] is a pure function; who asks reads more bytes, or tells it that there will be none.

use mitm_codec::{
    client_hello::{self, ClientHello},
    sniff::{self, RequestHost},
};
use mitm_flow::Address;

use crate::{
    hooks::LayerKind, hosts::Names, mode::ModeKind, settings::Settings, upstream::Destination,
};

/// What is known when the protocol must be decided.
pub(crate) struct Known<'a> {
    /// What the client sent so far.
    pub(crate) data: &'a [u8],
    /// The client will send no more, or takes too long to.
    pub(crate) complete: bool,
    /// The server spoke first.
    pub(crate) server_spoke: bool,
    pub(crate) mode: &'a ModeKind,
    /// The server that the stream leads to; `None`: to the proxy itself.
    pub(crate) target: Option<&'a Destination>,
    /// The address of the connection to it, if it was made already.
    pub(crate) peer: Option<&'a Address>,
    /// The TLS session that was ended on the way to it.
    pub(crate) ended: Option<Ended<'a>>,
    /// The stream was raw TCP before that session began in it.
    pub(crate) was_raw: bool,
    pub(crate) settings: &'a Settings,
}

/// What the client said in a TLS handshake.
#[derive(Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) sni: Option<&'a str>,
    /// The protocol that was chosen.
    pub(crate) alpn: Option<&'a [u8]>,
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Layer(LayerKind),
    /// Not before more bytes came. Never said of a stream that is complete and has any.
    NeedMore,
}

/// Methods as long as this are known: `VERSION-CONTROL` and its kin have 15 bytes.
const LONGEST_METHOD: usize = 16;
/// Request lines beyond this length are not waited for.
const LONGEST_LINE: usize = 8 << 10;

/// Decides by the first rule that applies.
///
/// 1. The lists of hosts exclude it: pass it. Its names are those of [`names`]; while one of them is incomplete, wait.
/// 2. It is to be raw TCP, because TLS began within raw TCP, by the scheme of reverse mode or by `tcp_hosts`. If
///    TLS was ended, raw TCP: whoever speaks first may do so. So too if the client closed at once in reverse mode.
/// 3. Nobody said anything: wait.
/// 4. The beginning of a TLS record, and TLS was not ended before: TLS, and another decision about what is inside. One or
///    two bytes of one: wait.
/// 5. It is to be raw TCP (2): raw TCP.
/// 6. Reverse mode for HTTP, or on the way to the proxy itself: HTTP.
/// 7. TLS inside of TLS: raw TCP. It is between the client and the server.
/// 8. The client agreed to some version of HTTP in its TLS handshake: HTTP.
/// 9. What may be the beginning of a method: wait.
/// 10. Certainly not HTTP: raw TCP, if `rawtcp` allows it.
/// 11. HTTP. Which version, the first bytes tell that layer.
pub(crate) fn decide(known: &Known<'_>) -> Decision {
    use Decision::{Layer, NeedMore};
    let Known { data, complete, server_spoke, mode, target, ended, was_raw, settings, .. } = *known;
    if !settings.ignore_hosts.is_empty() || !settings.allow_hosts.is_empty() {
        match is_ignored(known) {
            Some(true) => return Layer(LayerKind::Ignore),
            Some(false) => {}
            None => return NeedMore,
        }
    }
    let scheme = match mode {
        ModeKind::Reverse(target) => Some(target.scheme),
        _ => None,
    };
    let is_listed =
        || !settings.tcp_hosts.is_empty() && settings.tcp_hosts.matches(&known_names(known));
    let is_raw = was_raw || scheme.map_or_else(is_listed, |scheme| !scheme.is_http());
    let closed_at_once = data.is_empty() && complete && scheme.is_some();
    if is_raw && (ended.is_some() || closed_at_once) {
        return Layer(LayerKind::Tcp);
    }
    if data.is_empty() && !server_spoke {
        return NeedMore;
    }
    let tls = client_hello::sniff(data);
    match (tls, ended) {
        (client_hello::Sniff::Tls, None) => return Layer(LayerKind::Tls),
        (client_hello::Sniff::NeedMore, None) if !complete && !data.is_empty() => return NeedMore,
        _ => {}
    }
    if is_raw {
        return Layer(LayerKind::Tcp);
    }
    if scheme.is_some() || target.is_none() {
        return Layer(LayerKind::Http);
    }
    if tls == client_hello::Sniff::Tls {
        return Layer(LayerKind::Tcp);
    }
    let alpn = ended.and_then(|ended| ended.alpn);
    if matches!(alpn, Some(b"h2" | b"http/1.1" | b"http/1.0" | b"http/0.9")) {
        return Layer(LayerKind::Http);
    }
    if !complete && !server_spoke && may_be_method(data) {
        return NeedMore;
    }
    if settings.rawtcp && sniff::is_probably_not_http(data, server_spoke) {
        return Layer(LayerKind::Tcp);
    }
    Layer(LayerKind::Http)
}

/// True if nothing but a part of a method came.
fn may_be_method(data: &[u8]) -> bool {
    data.len() <= LONGEST_METHOD && data.iter().all(|&byte| is_of_method(byte))
}

fn is_of_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || b"-_".contains(&byte)
}

/// True if connections to this server are ignored, whatever clients say.
pub(crate) fn is_surely_ignored(settings: &Settings, target: &Destination) -> bool {
    if settings.ignore_hosts.is_empty() {
        return false;
    }
    let mut names = Names::default();
    names.add(&*target.host, target.port);
    settings.ignore_hosts.surely_matches(&names)
}

/// Whether the lists say to pass the connection; `None` if more bytes must come first.
fn is_ignored(known: &Known<'_>) -> Option<bool> {
    let Settings { ignore_hosts, allow_hosts, .. } = known.settings;
    if ignore_hosts.surely_matches(&known_names(known)) {
        return Some(true);
    }
    let names = names(known)?;
    if names.is_empty() {
        return Some(false);
    }
    let is_disallowed = !allow_hosts.is_empty() && !allow_hosts.matches(&names);
    Some(is_disallowed || ignore_hosts.matches(&names))
}

/// Collects the names of the server that the stream leads to: those of [`known_names`], and what the client's first
/// bytes say: the name in a `ClientHello`, or the `Host` of a request. `None` if that is not complete.
fn names(known: &Known<'_>) -> Option<Names> {
    let mut names = known_names(known);
    let Some(target) = known.target else { return Some(names) };
    let (data, complete) = (known.data, known.complete);
    match client_hello::sniff(data) {
        client_hello::Sniff::Tls => match client_hello::parse(data) {
            Ok(Some(ClientHello { sni: Some(sni), .. })) => names.add(sni, target.port),
            Ok(None) if !complete => return None,
            // It has no name, or none that can be read.
            Ok(_) | Err(_) => {}
        },
        client_hello::Sniff::NeedMore if !complete && !known.server_spoke => return None,
        client_hello::Sniff::NotTls if !known.server_spoke => match sniff::request_host(data) {
            RequestHost::Found(Some(host)) => names.add_authority(&host, target.port),
            RequestHost::NeedMore if !complete => return None,
            RequestHost::NotHttp if !complete && may_be_request_line(data) => return None,
            _ => {}
        },
        client_hello::Sniff::NeedMore | client_hello::Sniff::NotTls => {}
    }
    Some(names)
}

/// True if what came may be the beginning of a request, in its first line.
fn may_be_request_line(data: &[u8]) -> bool {
    let method = data.iter().take_while(|&&byte| is_of_method(byte)).count();
    method <= LONGEST_METHOD
        && data.len() <= LONGEST_LINE
        && data.get(method).is_none_or(|&byte| method > 0 && byte == b' ')
        && !data.contains(&b'\n')
}

/// Collects the names of the server that are known without looking at what the client sent.
pub(crate) fn known_names(known: &Known<'_>) -> Names {
    let mut names = Names::default();
    let Some(target) = known.target else { return names };
    if let Some(peer) = known.peer {
        names.add(&*peer.host, peer.port);
    }
    names.add(&*target.host, target.port);
    if let Some(sni) = known.ended.and_then(|ended| ended.sni) {
        names.add(sni, target.port);
    }
    names
}

#[cfg(test)]
mod tests;
