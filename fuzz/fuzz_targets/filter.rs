#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mitm_filter::fuzz_filter(data));
