//! The committed corpus of the fuzz targets obeys the laws.

use std::{fs, path::Path};

use mitm_flowfile::fuzz::{fuzz_flowfile, fuzz_tnetstring};

fn replay(target: &str, law: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "no corpus for {target}");
    for input in inputs {
        law(&fs::read(input).unwrap());
    }
}

#[test]
fn corpus_of_flowfile() {
    replay("flowfile", fuzz_flowfile);
}

#[test]
fn corpus_of_tnetstring() {
    replay("tnetstring", fuzz_tnetstring);
}
