//! What a new name costs: minting its certificate, and the configuration of a connection.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mitm_tls::{
    CertStore, CertificateAuthority, Downstream, KeyKind, LeafName, LeafRequest, Side, TlsOptions,
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
