//! The lab: everything that scenarios and the demo stand on. Nothing imports this crate.
//!
//! From the outside in:
//!
//! * [`guest`] boots a kernel that has GRE, ESP and nft over this machine's own root file system (or uses
//!   fresh namespaces where the running kernel has them), runs one command there and returns its status;
//! * [`ring3`] puts a test into such a guest: the test runs its own binary again inside;
//! * [`apart`] runs a test again in fresh namespaces of this machine, where [`cluster`] boots Kubernetes control
//!   planes; [`ring2`] puts a test beside one of them, [`ring4`] into a guest with nodes of several;
//! * [`images`] makes the container images that nodes run, from files that are here;
//! * [`lab`] makes hosts (network namespaces), links, FRR peers, captures, pings and kernel dumps;
//! * [`node`] makes a host a Kubernetes node: containerd and kubelet in namespaces of their own;
//! * [`scene`] is the fixed set of sites that the demo and most scenarios share;
//! * [`story`] tells the demo: chapters and steps with expected, seen and time; [`chapters`] are its text;
//! * [`bench`] measures our programs beside FRR's;
//! * [`enter`] opens a shell in a host of a scene that was left running.
//!
//! There are no sleeps outside [`wait`]: everything waits for a condition with a deadline.

pub mod apart;
pub mod bench;
pub mod chapters;
pub mod cluster;
pub mod demo;
pub mod enter;
pub mod guest;
pub mod images;
pub mod lab;
pub mod node;
pub mod paths;
mod rerun;
pub mod ring2;
pub mod ring3;
pub mod ring4;
pub mod scene;
pub mod story;
pub mod wait;

pub use cluster::Cluster;
pub use lab::Lab;
pub use node::Node;
pub use ring2::{ring2, ring2_with};
pub use ring3::{ring3, ring3_waiting, ring3_with, ring3_without};
pub use ring4::ring4;
