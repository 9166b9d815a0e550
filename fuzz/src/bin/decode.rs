//! libFuzzer's loop around [`fuzz::decode`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::Target::Decode.write_seeds(), |bytes: &[u8]| fuzz::decode(bytes));
