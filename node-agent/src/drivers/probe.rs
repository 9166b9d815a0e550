//! Whether the way to a silent hub is one that takes ping, and no GRE.

use std::net::IpAddr;
use std::time::Duration;

use dataplane::{Heard, Ping, echo};
use tokio::sync::mpsc;
use tracing::debug;

use crate::tunnel::Probe;

/// For so long an answer is waited for.
const WITHIN: Duration = Duration::from_secs(2);

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Network.
    pub network: String,
    /// The hub's underlay address.
    pub nbma: IpAddr,
    /// It answers ping by the underlay, and not through the tunnel.
    pub walled: bool,
}

/// Sends pings to the hub by the underlay and, if it answers these, through the tunnel: a hub whose agent alone is silent
/// answers those too, since its kernel does, if it has not forgotten this node.
pub fn start(network: String, probe: Probe, to: mpsc::Sender<Probed>) {
    tokio::spawn(async move {
        let Probe { local, nbma, own, overlay, link, vrf, .. } = probe;
        let outside = Ping { from: local, to: nbma, by: vrf.as_deref(), length: None };
        let inside = Ping { from: own, to: overlay, by: Some(&link), length: None };
        let outside = echo(&outside, WITHIN).await;
        let walled =
            matches!(outside, Ok(Heard::Answer)) && matches!(echo(&inside, WITHIN).await, Ok(Heard::Nothing));
        debug!(network, %nbma, ?outside, walled, "probed a silent hub");
        let _ = to.send(Probed { network, nbma, walled }).await;
    });
}
