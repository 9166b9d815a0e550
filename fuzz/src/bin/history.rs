//! libFuzzer's loop around [`fuzz::history`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::Target::History.write_seeds(), |bytes: &[u8]| fuzz::history(bytes));
