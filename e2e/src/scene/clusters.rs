//! Two Kubernetes clusters in the scene: their nodes are sites like the others, each with a LAN of its own and the same
//! isp; a management link a cluster joins them with their control plane.
//!
//! ```text
//!  lan-east-hub ── east-hub ──┐            ┌── west-1 ── lan-west-1
//!  10.50.0.0/24  198.18.10.2  ├─── isp ────┤   198.18.20.2  10.70.0.0/24
//!  lan-east-1 ──── east-1 ────┘            └── boxes, router
//!  10.60.0.0/24  198.18.11.2
//! ```

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{Plan, plan};

/// The node of cluster east that is the hub.
pub const EAST_HUB: &str = "east-hub";
/// A branch of cluster east.
pub const EAST_1: &str = "east-1";
/// The branch of cluster west.
pub const WEST_1: &str = "west-1";
/// Tunnel addresses, as in `examples/kubernetes`.
pub const EAST_1_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 21);
/// Of `west-1`.
pub const WEST_1_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 31);

/// Names of the clusters and of their nodes.
pub const CLUSTERS: [(&str, &[&str]); 2] = [("east", &[EAST_HUB, EAST_1]), ("west", &[WEST_1])];

/// The sites of the nodes.
///
/// # Errors
/// Never in practice: the texts are constants.
pub fn plans() -> Result<Vec<Plan>> {
    Ok(vec![
        plan(EAST_HUB, "198.18.10.2/24", "2001:db8:10::2/64", "10.50.0.0/24", "fd00:50::/64")?,
        plan(EAST_1, "198.18.11.2/24", "2001:db8:11::2/64", "10.60.0.0/24", "fd00:60::/64")?,
        plan(WEST_1, "198.18.20.2/24", "2001:db8:20::2/64", "10.70.0.0/24", "fd00:70::/64")?,
    ])
}
