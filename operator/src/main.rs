//! `dmvpn-operator`.

#![forbid(unsafe_code)]

fn main() {}
