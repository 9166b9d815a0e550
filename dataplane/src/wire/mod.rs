//! The model as netlink messages and back. No sockets here: what is written and what is read can be compared
//! in tests.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod frame;
pub(crate) mod tc;

#[cfg(test)]
mod tests;
