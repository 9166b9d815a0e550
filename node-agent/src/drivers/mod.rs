//! The doors to the outside: each driver turns one kind of I/O into messages for the agent's task.
//!
//! Drivers know nothing of each other and decide nothing.

pub mod api_server;
pub mod capture;
pub mod icmp;
pub mod ipsec;
pub mod keepalive;
pub mod multicast;
pub mod nhrp;
pub mod path_mtu;
pub mod probe;
pub mod proof;
pub mod resolver;
