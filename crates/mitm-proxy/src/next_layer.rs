//! What a connection speaks: decided once per layer from where it leads and what came first.

use mitm_codec::{client_hello, sniff};

use crate::hooks::LayerKind;

/// What is known when the protocol must be decided.
pub(crate) struct Known<'a> {
    /// What the client sent so far.
    pub(crate) data: &'a [u8],
    /// The connection leads to a server of the client's choice; else to the proxy itself.
    pub(crate) in_tunnel: bool,
    /// The client will send no more.
    pub(crate) eof: bool,
    /// The option `rawtcp`.
    pub(crate) rawtcp: bool,
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Layer(LayerKind),
    /// Not before more bytes came.
    NeedMore,
}

/// Methods as long as this are known: `VERSION-CONTROL` and its kin have 15 bytes.
const LONGEST_METHOD: usize = 16;

/// Decides by the first rule that applies:
///
/// 1. The beginning of a TLS record: TLS, and another decision about what is inside.
/// 2. Not enough bytes to tell, such as the beginning of a method.
/// 3. On the way to the proxy itself: HTTP.
/// 4. In a tunnel, and certainly not HTTP: raw TCP, if `rawtcp` allows it.
/// 5. HTTP.
pub(crate) fn decide(known: &Known<'_>) -> Decision {
    match client_hello::sniff(known.data) {
        client_hello::Sniff::Tls => return Decision::Layer(LayerKind::Tls),
        client_hello::Sniff::NeedMore if !known.eof => return Decision::NeedMore,
        client_hello::Sniff::NeedMore | client_hello::Sniff::NotTls => {}
    }
    if !known.in_tunnel {
        return Decision::Layer(LayerKind::Http);
    }
    let may_be_method = known.data.len() <= LONGEST_METHOD
        && known.data.iter().all(|byte| byte.is_ascii_uppercase() || b"-_".contains(byte));
    if may_be_method && !known.eof {
        return Decision::NeedMore;
    }
    if known.rawtcp && sniff::is_probably_not_http(known.data, false) {
        return Decision::Layer(LayerKind::Tcp);
    }
    Decision::Layer(LayerKind::Http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules() {
        use Decision::{Layer, NeedMore};
        let table: &[(&[u8], bool, Decision)] = &[
            (b"", false, NeedMore),
            (b"\x16\x03\x01\x02\x00\x01", true, Layer(LayerKind::Tls)),
            (b"\x16\x03\x01\x02\x00\x01", false, Layer(LayerKind::Tls)),
            (b"GET / HTTP/1.1\r\n", true, Layer(LayerKind::Http)),
            (b"CONNECT a:1 HTTP/1.1\r\n", false, Layer(LayerKind::Http)),
            (b"GET", true, NeedMore),
            (b"SSH-2.0-x\r\n", true, Layer(LayerKind::Tcp)),
            (b"\x00\x01\x02\x03", true, Layer(LayerKind::Tcp)),
            (b"\x00\x01\x02\x03", false, Layer(LayerKind::Http)),
        ];
        for (data, in_tunnel, expected) in table {
            let known = Known { data, in_tunnel: *in_tunnel, eof: false, rawtcp: true };
            assert_eq!(decide(&known), *expected, "{data:?}");
        }
    }
}
