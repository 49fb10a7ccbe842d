#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mitm_codec::fuzz::fuzz_websocket(data));
