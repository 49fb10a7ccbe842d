#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mitm_flowfile::fuzz::fuzz_flowfile(data));
