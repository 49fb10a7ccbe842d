//! Bytes from outside are survived, whatever they are.

use std::sync::OnceLock;

use bytes::Bytes;
use mitm_flow::Cert;
use mitm_tls::{
    CertificateAuthority, HelloFacts, LeafName, Side, TlsOptions, UpstreamFacts, backend_for,
    is_valid_host, server_name,
};
use proptest::prelude::*;

use crate::support::{request, store};

fn leaf() -> &'static [u8] {
    static LEAF: OnceLock<Vec<u8>> = OnceLock::new();
    LEAF.get_or_init(|| {
        let leaf = store().get(&request(&["a.example", "192.0.2.1"])).unwrap();
        leaf.cert.der().to_vec()
    })
}

proptest! {
    #[test]
    fn damaged_certificates(changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        let mut der = leaf().to_vec();
        for (place, byte) in changes {
            let place = usize::from(place) % der.len();
            der[place] = byte;
        }
        let facts = UpstreamFacts::of(&Cert::from_der(der));
        prop_assert!(facts.names.len() < 100);
    }

    #[test]
    fn odd_extensions(
        kind in prop::sample::select(vec![0_u16, 10, 11, 13, 43, 51, 99]),
        body in prop::collection::vec(any::<u8>(), 0..60),
        suites in prop::collection::vec(any::<u16>(), 0..8),
    ) {
        let extensions = [(kind, Bytes::from(body))];
        let hello = HelloFacts {
            version: 0x0303,
            cipher_suites: &suites,
            compression_methods: &[0],
            extensions: &extensions,
        };
        // No hello with one extension is complete.
        let decision = backend_for(&hello, &TlsOptions::new(Side::Client));
        prop_assert!(matches!(decision, mitm_tls::Backend::Unsupported(_)));
    }

    #[test]
    fn odd_names(name in "\\PC{0,80}") {
        // What is a host is a name to put into certificates and to verify by.
        if is_valid_host(&name) {
            prop_assert!(LeafName::from_host(&name).is_some());
        }
        drop(server_name(&name));
    }

    #[test]
    fn odd_files(text in "(-----BEGIN (RSA |ENCRYPTED )?PRIVATE KEY-----\n)?\
                          (Proc-Type: 4,ENCRYPTED\n)?(DEK-Info: AES-128-CBC,[0-9A-F]{0,40}\n)?\
                          [A-Za-z0-9+/=\n]{0,80}(-----END (RSA |ENCRYPTED )?PRIVATE KEY-----\n)?") {
        prop_assert!(CertificateAuthority::from_pem(text.as_bytes(), Some("x")).is_err());
    }
}
