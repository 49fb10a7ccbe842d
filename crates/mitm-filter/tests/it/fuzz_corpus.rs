//! Replays what the fuzzer starts from and what it found.

use std::{fs, path::Path};

#[test]
fn the_corpus_keeps_the_laws() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/filter");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        mitm_filter::fuzz_filter(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn any_bytes_keep_the_laws() {
    mitm_filter::fuzz_filter(b"");
    mitm_filter::fuzz_filter(b"\xff~q\x00(");
    mitm_filter::fuzz_filter("~u \"\u{1b}[31m\" | é\n~nope".as_bytes());
}
