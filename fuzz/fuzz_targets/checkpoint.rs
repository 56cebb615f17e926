//! `snapc_tests::fuzz::checkpoint` on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    snapc_tests::fuzz::checkpoint(bytes);
});
