//! libFuzzer's loop around [`fuzz::nflog`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::nflog(bytes));
