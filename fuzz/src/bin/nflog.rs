//! libFuzzer's loop around [`fuzz::nflog`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::Target::Nflog.write_seeds(), |bytes: &[u8]| fuzz::nflog(bytes));
