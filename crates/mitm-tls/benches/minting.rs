//! What a new name costs: minting its certificate, and the configuration of a connection.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has no result")]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use mitm_tls::{
    CertStore, CertificateAuthority, Downstream, HelloFacts, KeyKind, LeafName, LeafRequest, Side,
    TlsOptions, backend_for,
};

fn main() {
    divan::main();
}

fn store() -> CertStore {
    CertStore::new(Arc::new(CertificateAuthority::generate(2048).unwrap()), [], None).unwrap()
}

fn request(name: &str, key: KeyKind) -> LeafRequest {
    LeafRequest { names: vec![LeafName::from_host(name).unwrap()], key, ..LeafRequest::default() }
}

#[divan::bench(args = [KeyKind::Ecdsa, KeyKind::Rsa])]
fn mint(bencher: divan::Bencher<'_, '_>, key: KeyKind) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let store = store();
    store.get(&request("warm.example", key)).unwrap();
    bencher
        .with_inputs(|| {
            request(&format!("host-{}.example", NUMBER.fetch_add(1, Ordering::Relaxed)), key)
        })
        .bench_values(|request| store.get(&request).unwrap());
}

#[divan::bench]
fn cached(bencher: divan::Bencher<'_, '_>) {
    let store = store();
    let request = request("a.example", KeyKind::Ecdsa);
    bencher.bench(|| store.get(&request).unwrap());
}

#[divan::bench]
fn configuration(bencher: divan::Bencher<'_, '_>) {
    let downstream = Downstream::new(&TlsOptions::new(Side::Client)).unwrap();
    let leaf = store().get(&request("a.example", KeyKind::Ecdsa)).unwrap();
    bencher.bench(|| downstream.config(&leaf, Some(b"http/1.1")));
}

/// A hello as browsers send it.
#[divan::bench]
fn decision(bencher: divan::Bencher<'_, '_>) {
    let extensions: [(u16, &[u8]); 5] = [
        (0, b"\0\x0c\0\0\x09a.example"),
        (10, b"\0\x04\0\x1d\0\x17"),
        (13, b"\0\x06\x04\x03\x08\x04\x04\x01"),
        (43, b"\x04\x03\x04\x03\x03"),
        (51, b""),
    ];
    let extensions = extensions.map(|(kind, body)| (kind, Bytes::from_static(body)));
    let hello = HelloFacts {
        version: 0x0303,
        cipher_suites: &[0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f],
        compression_methods: &[0],
        extensions: &extensions,
    };
    let options = TlsOptions::new(Side::Client);
    bencher.bench(|| backend_for(&hello, &options));
}
