//! The kernel's side of DMVPN: links, addresses, neighbours, routes, events, NHRP packets, nft.
//!
//! Everything here works on the network namespace that the process runs in. [`Kernel`] reads and writes
//! kernel tables over netlink, [`NhrpSocket`] carries NHRP packets of one tunnel link, [`CopySocket`] sends copies of
//! multicast packets, [`Nflog`] hands out packets that rules log, and [`nft`] makes and loads those rules.
//!
//! | file | what for |
//! |---|---|
//! | `model` | kernel objects as values; wanted and observed have the same types |
//! | `kernel` | [`Kernel`]: observe, apply, look up, count |
//! | `writer` | batches of changes on a netlink socket, one result for each |
//! | `requests` | dumps and single questions |
//! | `monitor` | the task that turns notifications into [`model::KernelEvent`]s |
//! | `wire` | model ↔ netlink messages, both ways, no sockets |
//! | `sys` | system calls; the only file with `unsafe` |
//! | `nhrp_socket`, `copy_socket` | NHRP packets, copies of multicast |
//! | `gre6_socket` | both over an IPv6 underlay |
//! | `nflog`, `nft` | capture, rules |
//! | `keepalive_socket` | GRE keepalives of point-to-point tunnels |
//! | `settings` | sysctls that decide whether packets pass through the host |
//! | `icmp` | hosts that say that they do not take our GRE |

#![deny(unsafe_code)]

mod copy_socket;
mod echo;
mod error;
mod gre6_socket;
mod gre6_strangers;
mod icmp;
mod keepalive_socket;
mod kernel;
pub mod model;
mod monitor;
mod names;
pub mod nflog;
pub mod nft;
mod nhrp_socket;
mod requests;
mod settings;
mod sys;
mod wire;
mod writer;

pub use copy_socket::CopySocket;
pub use echo::{Heard, Ping, echo};
pub use error::Error;
pub use gre6_socket::Gre6Socket;
pub use gre6_strangers::{Gre6Strangers, Stranger};
pub use icmp::{GreRefused, IcmpSocket, refuse};
pub use keepalive_socket::{Keepalive, KeepaliveSocket};
pub use kernel::{Applied, Kernel, describe};
pub use nflog::{Logged, Nflog, packets};
pub use nhrp_socket::{NhrpSocket, Packets};
pub use settings::{Settings, settings};
