//! The committed corpus of the fuzz targets obeys the laws.

use std::{fs, path::Path};

use mitm_codec::fuzz::{fuzz_client_hello, fuzz_h1, fuzz_socks5, fuzz_websocket};

fn replay(target: &str, law: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(dir).unwrap() {
        law(&fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "no corpus for {target}");
}

#[test]
fn corpus_of_h1() {
    replay("h1", fuzz_h1);
}

#[test]
fn corpus_of_client_hello() {
    replay("client_hello", fuzz_client_hello);
}

#[test]
fn corpus_of_websocket() {
    replay("websocket", fuzz_websocket);
}

#[test]
fn corpus_of_socks5() {
    replay("socks5", fuzz_socks5);
}
