//! Which application protocol to agree on with the client, and which to offer the server.

use bytes::Bytes;

/// What is known when the client's protocol is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlpnChoice<'a> {
    /// What the client offers, in its order.
    pub offers: &'a [Bytes],
    /// TLS directly to a listener that expects a proxy client: always HTTP/1.1.
    pub secure_web_proxy: bool,
    /// What an addon decided: this protocol, or none if empty.
    pub preset: Option<&'a [u8]>,
    /// What the server agreed on; `Some(b"")` if it is connected and agreed on nothing.
    pub server: Option<&'a [u8]>,
    /// Whether HTTP/2 and HTTP/3 are possible.
    pub http2: bool,
}

const HTTP: [&[u8]; 5] = [b"h3", b"h2", b"http/1.1", b"http/1.0", b"http/0.9"];

/// Returns the protocol to agree on with the client, one it offers; `None` for no ALPN at all.
pub fn choose_alpn(choice: &AlpnChoice<'_>) -> Option<Bytes> {
    let offered = |wanted: &[u8]| choice.offers.iter().find(|offer| **offer == wanted).cloned();
    if choice.secure_web_proxy {
        return offered(b"http/1.1");
    }
    if let Some(preset) = choice.preset {
        return offered(preset);
    }
    match choice.server {
        // A server that speaks no ALPN speaks what it always spoke: nothing is promised for it.
        Some(b"") => return None,
        Some(server) => {
            if let Some(offer) = offered(server) {
                return Some(offer);
            }
        }
        None => {}
    }
    choice.offers.iter().find(|offer| possible(offer, choice.http2)).cloned()
}

/// Returns what to offer the server: what the client offers, without what cannot be spoken. For a client of HTTP/2 alone
/// HTTP/1.1 will do as well, since one is translated into the other.
pub fn offers_for_server(client: &[Bytes], http2: bool) -> Vec<Bytes> {
    let can = |offer: &&Bytes| http2 || !matches!(&offer[..], b"h2" | b"h3");
    let mut offers: Vec<Bytes> = client.iter().filter(can).cloned().collect();
    let has = |name: &[u8]| offers.iter().any(|offer| &offer[..] == name);
    if has(b"h2") && !has(b"http/1.1") {
        offers.push(Bytes::from_static(b"http/1.1"));
    }
    offers
}

/// What to offer an upstream proxy that is spoken to over TLS.
pub fn offers_for_proxy() -> Vec<Bytes> {
    HTTP.into_iter().filter(|name| possible(name, false)).map(Bytes::from_static).collect()
}

fn possible(offer: &[u8], http2: bool) -> bool {
    HTTP.contains(&offer) && (http2 || !matches!(offer, b"h2" | b"h3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_in_order() {
        let both = ["h2", "http/1.1"].map(Bytes::from);
        let all = AlpnChoice { offers: &both, http2: true, ..AlpnChoice::default() };
        let old = AlpnChoice { http2: false, ..all };
        let foreign = ["acme-tls/1"].map(Bytes::from);
        for (choice, expected) in [
            (all, Some("h2")),
            (old, Some("http/1.1")),
            (AlpnChoice { secure_web_proxy: true, ..all }, Some("http/1.1")),
            (AlpnChoice { preset: Some(b"http/1.1"), ..all }, Some("http/1.1")),
            (AlpnChoice { preset: Some(b""), ..all }, None),
            (AlpnChoice { preset: Some(b"spdy/3"), ..all }, None),
            (AlpnChoice { server: Some(b"http/1.1"), ..all }, Some("http/1.1")),
            (AlpnChoice { server: Some(b""), ..all }, None),
            (AlpnChoice { server: Some(b"http/1.0"), ..all }, Some("h2")),
            (AlpnChoice { offers: &[], ..all }, None),
            (AlpnChoice { offers: &foreign, ..all }, None),
            (
                AlpnChoice { offers: &foreign, server: Some(b"acme-tls/1"), ..all },
                Some("acme-tls/1"),
            ),
        ] {
            assert_eq!(choose_alpn(&choice).as_deref(), expected.map(str::as_bytes), "{choice:?}");
        }
    }

    #[test]
    fn servers_are_offered_what_the_client_offers() {
        let offers = ["h2", "foo", "http/1.1"].map(Bytes::from);
        assert_eq!(offers_for_server(&offers, true), offers);
        assert_eq!(offers_for_server(&offers, false), ["foo", "http/1.1"].map(Bytes::from));
        assert!(offers_for_server(&[], false).is_empty());
        assert_eq!(offers_for_server(&["h2"].map(Bytes::from), true), ["h2", "http/1.1"]);
        assert_eq!(offers_for_proxy().len(), 3);
    }
}
