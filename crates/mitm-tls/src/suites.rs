//! Cipher suites, groups and their names in OpenSSL's language, which users and flow files speak.

use std::sync::Arc;

use rustls::{
    CipherSuite, NamedGroup, SupportedCipherSuite,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
};

/// What rustls can do, cheapest first: AES-128 needs fewer rounds, and it is what mitmproxy prefers.
pub(crate) const SUITES: [SupportedCipherSuite; 9] = [
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The names `tls_ecdh_curve_*` takes, and the group of those rustls has.
pub(crate) const CURVES: [(&str, Option<NamedGroup>); 9] = [
    ("secp192r1", None),
    ("secp224r1", None),
    ("secp256k1", None),
    ("secp256r1", Some(NamedGroup::secp256r1)),
    ("secp384r1", Some(NamedGroup::secp384r1)),
    ("secp521r1", None),
    ("brainpoolP256r1", None),
    ("brainpoolP384r1", None),
    ("brainpoolP512r1", None),
];

/// Those of them that TLS 1.3 has kept under their numbers.
pub(crate) const CURVES_OF_TLS13: [&str; 3] = ["secp256r1", "secp384r1", "secp521r1"];

/// OpenSSL's names by the number on the wire.
const NAMES: [(u16, &str); 64] = [
    (0x0004, "RC4-MD5"),
    (0x0005, "RC4-SHA"),
    (0x000a, "DES-CBC3-SHA"),
    (0x0016, "DHE-RSA-DES-CBC3-SHA"),
    (0x002f, "AES128-SHA"),
    (0x0032, "DHE-DSS-AES128-SHA"),
    (0x0033, "DHE-RSA-AES128-SHA"),
    (0x0035, "AES256-SHA"),
    (0x0038, "DHE-DSS-AES256-SHA"),
    (0x0039, "DHE-RSA-AES256-SHA"),
    (0x003c, "AES128-SHA256"),
    (0x003d, "AES256-SHA256"),
    (0x0041, "CAMELLIA128-SHA"),
    (0x0045, "DHE-RSA-CAMELLIA128-SHA"),
    (0x0067, "DHE-RSA-AES128-SHA256"),
    (0x006b, "DHE-RSA-AES256-SHA256"),
    (0x0084, "CAMELLIA256-SHA"),
    (0x0088, "DHE-RSA-CAMELLIA256-SHA"),
    (0x008c, "PSK-AES128-CBC-SHA"),
    (0x008d, "PSK-AES256-CBC-SHA"),
    (0x0096, "SEED-SHA"),
    (0x009c, "AES128-GCM-SHA256"),
    (0x009d, "AES256-GCM-SHA384"),
    (0x009e, "DHE-RSA-AES128-GCM-SHA256"),
    (0x009f, "DHE-RSA-AES256-GCM-SHA384"),
    (0x00a2, "DHE-DSS-AES128-GCM-SHA256"),
    (0x00a3, "DHE-DSS-AES256-GCM-SHA384"),
    (0x00a8, "PSK-AES128-GCM-SHA256"),
    (0x00a9, "PSK-AES256-GCM-SHA384"),
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0x1304, "TLS_AES_128_CCM_SHA256"),
    (0x1305, "TLS_AES_128_CCM_8_SHA256"),
    (0xc007, "ECDHE-ECDSA-RC4-SHA"),
    (0xc008, "ECDHE-ECDSA-DES-CBC3-SHA"),
    (0xc009, "ECDHE-ECDSA-AES128-SHA"),
    (0xc00a, "ECDHE-ECDSA-AES256-SHA"),
    (0xc011, "ECDHE-RSA-RC4-SHA"),
    (0xc012, "ECDHE-RSA-DES-CBC3-SHA"),
    (0xc013, "ECDHE-RSA-AES128-SHA"),
    (0xc014, "ECDHE-RSA-AES256-SHA"),
    (0xc023, "ECDHE-ECDSA-AES128-SHA256"),
    (0xc024, "ECDHE-ECDSA-AES256-SHA384"),
    (0xc027, "ECDHE-RSA-AES128-SHA256"),
    (0xc028, "ECDHE-RSA-AES256-SHA384"),
    (0xc02b, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (0xc02c, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (0xc02f, "ECDHE-RSA-AES128-GCM-SHA256"),
    (0xc030, "ECDHE-RSA-AES256-GCM-SHA384"),
    (0xc050, "ARIA128-GCM-SHA256"),
    (0xc051, "ARIA256-GCM-SHA384"),
    (0xc05c, "ECDHE-ECDSA-ARIA128-GCM-SHA256"),
    (0xc05d, "ECDHE-ECDSA-ARIA256-GCM-SHA384"),
    (0xc060, "ECDHE-ARIA128-GCM-SHA256"),
    (0xc061, "ECDHE-ARIA256-GCM-SHA384"),
    (0xc09c, "AES128-CCM"),
    (0xc09d, "AES256-CCM"),
    (0xc0ac, "ECDHE-ECDSA-AES128-CCM"),
    (0xc0ad, "ECDHE-ECDSA-AES256-CCM"),
    (0xcca8, "ECDHE-RSA-CHACHA20-POLY1305"),
    (0xcca9, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (0xccaa, "DHE-RSA-CHACHA20-POLY1305"),
    (0xccab, "PSK-CHACHA20-POLY1305"),
];

/// Returns OpenSSL's name of a cipher suite; for one it has no name for, the number in hex.
pub fn cipher_name(suite: u16) -> Arc<str> {
    match NAMES.binary_search_by_key(&suite, |(number, _)| *number) {
        Ok(index) => NAMES.get(index).map_or("", |(_, name)| name).into(),
        Err(_) => format!("0x{suite:04X}").into(),
    }
}

/// Makes a provider with these TLS 1.2 suites and all of TLS 1.3 (whose suites are not configured),
/// and with one group or all of them.
pub(crate) fn provider(tls12: Option<&[CipherSuite]>, group: Option<NamedGroup>) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = match tls12 {
        None => SUITES.to_vec(),
        Some(wanted) => {
            let tls13 = SUITES.iter().filter(|suite| suite.tls13().is_some());
            let tls12 = wanted.iter().filter_map(|wanted| {
                SUITES.iter().find(|suite| suite.tls13().is_none() && suite.suite() == *wanted)
            });
            tls13.chain(tls12).copied().collect()
        }
    };
    if let Some(group) = group {
        provider.kx_groups.retain(|offered: &&dyn SupportedKxGroup| offered.name() == group);
    }
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_found() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(&*cipher_name(0x1301), "TLS_AES_128_GCM_SHA256");
        assert_eq!(&*cipher_name(0xc02f), "ECDHE-RSA-AES128-GCM-SHA256");
        assert_eq!(&*cipher_name(0x0a0a), "0x0A0A");
        for suite in SUITES {
            assert!(!cipher_name(suite.suite().into()).starts_with("0x"));
        }
    }

    #[test]
    fn no_suite_of_rustls_is_left_out() {
        assert_eq!(SUITES.len(), aws_lc_rs::ALL_CIPHER_SUITES.len());
    }
}
