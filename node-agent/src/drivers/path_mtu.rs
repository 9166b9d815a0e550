//! How long packets may be on the way through a tunnel: pings that must not be cut, ever closer to the longest that is
//! answered.

use std::net::IpAddr;
use std::time::Duration;

use dataplane::{Heard, Ping, echo};
use tokio::sync::mpsc;
use tracing::debug;

use crate::path_mtu::Found;
use crate::tunnel::Probe;

/// For so long each answer is waited for.
const WITHIN: Duration = Duration::from_millis(1_500);
/// What any path carries (RFC 791, RFC 8200 §5): shorter ones are not looked for.
const LEAST: u16 = 576;
const LEAST6: u16 = 1280;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Network.
    pub network: String,
    /// The hub's underlay address.
    pub nbma: IpAddr,
    /// MTU of the tunnel that it was measured with.
    pub tunnel: u16,
    /// What was found; `None`: not even short pings are answered.
    pub found: Option<Found>,
}

/// Measures the way to a hub by the tunnel whose MTU this is.
pub fn start(network: String, probe: Probe, mtu: u16, to: mpsc::Sender<Measured>) {
    tokio::spawn(async move {
        let found = measure(&probe, mtu).await;
        debug!(network, nbma = %probe.nbma, mtu, ?found, "path MTU");
        let _ = to.send(Measured { network, nbma: probe.nbma, tunnel: mtu, found }).await;
    });
}

async fn measure(probe: &Probe, mtu: u16) -> Option<Found> {
    let ask = async |length| {
        // By its route, not by the link: our own kernel's errors come from elsewhere.
        let ping = Ping { from: probe.own, to: probe.overlay, by: probe.overlay_vrf.as_deref(), length };
        echo(&ping, WITHIN).await.unwrap_or(Heard::Nothing)
    };
    if ask(None).await != Heard::Answer {
        return None;
    }
    let mut said = match ask(Some(mtu)).await {
        Heard::Answer => return Some(Found { mtu: mtu.into(), said: true }),
        Heard::TooLong => true,
        Heard::Nothing => false,
    };
    let mut passes = if probe.overlay.is_ipv4() { LEAST } else { LEAST6 }.min(mtu);
    let mut vanishes = mtu;
    while passes + 1 < vanishes {
        let length = passes.midpoint(vanishes);
        match ask(Some(length)).await {
            Heard::Answer => passes = length,
            Heard::TooLong => (vanishes, said) = (length, true),
            Heard::Nothing => vanishes = length,
        }
    }
    // Whatever was lost once is no hole, and who has gone meanwhile none at all.
    match ask(Some(mtu)).await {
        Heard::Answer => return Some(Found { mtu: mtu.into(), said: true }),
        Heard::TooLong => said = true,
        Heard::Nothing => {}
    }
    if !said && ask(None).await != Heard::Answer {
        return None;
    }
    Some(Found { mtu: passes.into(), said })
}
