//! libFuzzer's loop around [`fuzz::engine`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::Target::Engine.write_seeds(), |bytes: &[u8]| fuzz::engine(bytes));
