//! [`Offer`]: what OpenSSL can do under given options.
//!
//! The library is asked rather than its rules repeated: it writes the hello it would send as a client,
//! and that names versions, suites, groups and signature algorithms with every rule applied, of the
//! security level and of how the library was built.

use std::sync::{Arc, OnceLock};

use openssl::ssl::{Ssl, SslCipherRef, SslContext, SslStream};
use quick_cache::sync::Cache;

use super::{context, error::words, stream::Wire};
use crate::options::{TlsOptions, VersionLimit};

/// How a suite agrees on a secret, as far as it matters to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// With the key of the certificate: nothing is signed.
    Rsa,
    Dhe,
    Ecdhe,
    /// Decided apart from the suite, as in TLS 1.3.
    Any,
}

/// Which key a suite wants the certificate to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    Rsa,
    Ecdsa,
    Any,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    pub(crate) number: u16,
    pub(crate) exchange: Exchange,
    pub(crate) auth: Auth,
    /// The version it came with.
    pub(crate) since: VersionLimit,
}

/// What the library can do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    /// In the order of preference.
    pub(crate) suites: Vec<Suite>,
    pub(crate) groups: Vec<u16>,
    pub(crate) signature_schemes: Vec<u16>,
    /// Whether signatures with SHA-1 are still made, for peers that do not say what they take.
    pub(crate) sha1: bool,
}

/// How many sets of options are remembered: there are two at a time.
const REMEMBERED: usize = 16;

/// Returns what the library can do under these options, or why nothing.
pub(crate) fn offer(options: &TlsOptions) -> Result<Arc<Offer>, String> {
    type Known = Cache<TlsOptions, Result<Arc<Offer>, String>>;
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let known = KNOWN.get_or_init(|| Cache::new(REMEMBERED));
    let make = || Ok::<_, std::convert::Infallible>(ask(options).map(Arc::new));
    match known.get_or_insert_with(options, make) {
        Ok(offer) => offer,
        Err(never) => match never {},
    }
}

fn ask(options: &TlsOptions) -> Result<Offer, String> {
    let context = context(options)?.build();
    let level = context.security_level();
    let hello = hello(&context).ok_or_else(|| nothing_left(options))?;
    let session = Ssl::new(&context).map_err(|error| words(&error))?;
    let lists =
        session.bytes_to_cipher_list(&hello.suites, false).map_err(|error| words(&error))?;
    let suites: Vec<Suite> = lists.suites.iter().filter_map(suite).collect();
    if suites.is_empty() {
        return Err(nothing_left(options));
    }
    Ok(Offer {
        suites,
        groups: hello.groups,
        signature_schemes: hello.signature_schemes,
        sha1: level == 0,
    })
}

fn nothing_left(options: &TlsOptions) -> String {
    let side = options.side.as_str();
    format!(
        "tls_version_{side}_min {}, tls_version_{side}_max {} and ciphers_{side} leave nothing to speak",
        options.min, options.max
    )
}

fn suite(cipher: &SslCipherRef) -> Option<Suite> {
    let description = cipher.description();
    let value =
        |key: &str| description.split_ascii_whitespace().find_map(|word| word.strip_prefix(key));
    let exchange = match value("Kx=")? {
        "RSA" => Exchange::Rsa,
        "DH" => Exchange::Dhe,
        "ECDH" => Exchange::Ecdhe,
        "any" => Exchange::Any,
        _ => return None,
    };
    let auth = match value("Au=")? {
        "RSA" => Auth::Rsa,
        "ECDSA" => Auth::Ecdsa,
        "any" => Auth::Any,
        _ => return None,
    };
    let since = match cipher.version() {
        "TLSv1.3" => VersionLimit::Tls1_3,
        "TLSv1.2" => VersionLimit::Tls1_2,
        "TLSv1.0" | "TLSv1" => VersionLimit::Tls1,
        _ => VersionLimit::Ssl3,
    };
    Some(Suite { number: u16::from_be_bytes(cipher.protocol_id()), exchange, auth, since })
}

/// The parts of a client's hello that say what it can do.
#[derive(Default)]
struct OwnHello {
    suites: Vec<u8>,
    groups: Vec<u16>,
    signature_schemes: Vec<u16>,
}

/// Has the library write a hello. `None` if it has nothing to write.
fn hello(context: &SslContext) -> Option<OwnHello> {
    let session = Ssl::new(context).ok()?;
    let mut session = SslStream::new(session, Wire::default()).ok()?;
    // It wants to read the answer, which will not come.
    let _ = session.connect();
    read_hello(&session.get_ref().outgoing)
}

fn read_hello(record: &[u8]) -> Option<OwnHello> {
    let mut rest = record;
    let _header = take(&mut rest, 5 + 4 + 2 + 32)?;
    let _session = list8(&mut rest)?;
    let mut hello = OwnHello { suites: list16(&mut rest)?.to_vec(), ..OwnHello::default() };
    let _compression = list8(&mut rest)?;
    let mut extensions = list16(&mut rest).unwrap_or_default();
    while let Some(kind) = take(&mut extensions, 2) {
        let mut body = list16(&mut extensions)?;
        match *kind {
            [0, 10] => hello.groups = numbers(list16(&mut body)?),
            [0, 13] => hello.signature_schemes = numbers(list16(&mut body)?),
            _ => {}
        }
    }
    Some(hello)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn list8<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = *take(rest, 1)?.first()?;
    take(rest, usize::from(length))
}

fn list16<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = *take(rest, 2)?.first_chunk::<2>()?;
    take(rest, usize::from(u16::from_be_bytes(length)))
}

fn numbers(list: &[u8]) -> Vec<u16> {
    list.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Side;

    fn offer_of(options: &TlsOptions) -> Vec<u16> {
        offer(options).unwrap().suites.iter().map(|suite| suite.number).collect()
    }

    #[test]
    fn defaults_hold_old_suites_but_nothing_broken() {
        let suites = offer_of(&TlsOptions::new(Side::Server));
        for number in [0x1301, 0xc02b, 0x009e, 0x002f, 0x000a] {
            assert!(suites.contains(&number), "{number:04x}");
        }
        assert!(!suites.contains(&0x0005));
    }

    #[test]
    fn security_levels_count() {
        let with = |ciphers| TlsOptions::new(Side::Server).with_ciphers(Some(ciphers));
        assert!(offer_of(&with("RC4-SHA:AES128-SHA:@SECLEVEL=0")).contains(&0x0005));
        assert!(!offer_of(&with("RC4-SHA:AES128-SHA")).contains(&0x0005));
        let error = offer(&with("NO-SUCH-CIPHER")).unwrap_err();
        assert!(error.contains("ciphers_server 'NO-SUCH-CIPHER'"), "{error}");
    }

    #[test]
    fn old_versions_bring_their_level() {
        let options = TlsOptions::new(Side::Client)
            .with_versions(VersionLimit::Ssl3, VersionLimit::Ssl3)
            .with_ciphers(Some("RC4-SHA:AES128-GCM-SHA256"));
        let offer = offer(&options).unwrap();
        assert_eq!(offer.suites.len(), 1);
        assert_eq!(offer.suites[0].number, 0x0005);
        assert_eq!(offer.suites[0].since, VersionLimit::Ssl3);
        assert_eq!(offer.suites[0].exchange, Exchange::Rsa);
    }
}
