//! Multicast: what the kernel captured goes to each peer that should have it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::{Logged, nflog};
use tracing::{debug, warn};

use super::Agent;
use crate::drivers::capture;
use crate::drivers::multicast::{Copier, seal_udp};
use crate::plan::wanted::MULTICAST_GROUP;

impl Agent {
    /// A captured packet: from this node into a tunnel, or out of one and meant for others too.
    pub(super) fn multicast(&mut self, logged: Logged) {
        let Logged { link_in, link_out, nbma, mut packet } = logged;
        let Some(link) = link_out.or(link_in) else { return };
        let Some(tunnel) = self.tunnels.values_mut().find(|t| t.link != 0 && t.link == link) else { return };
        let Some(mode) = tunnel.wanted.as_ref().and_then(|wanted| wanted.multicast) else { return };
        let Some(engine) = &tunnel.engine else { return };
        let from = match link_out {
            Some(_) => {
                seal_udp(&mut packet);
                None
            }
            // Without a sender it is the copy that the kernel hands back to this node.
            None if nbma.is_none() => return,
            None => nbma.map(IpAddr::V4),
        };
        let like = match packet.first().map(|first| first >> 4) {
            Some(4) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(6) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return,
        };
        let peers = engine.multicast_peers(mode, like, from);
        let network = &tunnel.spec.network;
        let Some(gre) = tunnel.wanted.as_ref().map(|wanted| &wanted.link) else { return };
        if tunnel.copier.as_ref().is_none_or(|copier| !copier.serves(link, gre)) {
            match Copier::open(network, link, gre) {
                Ok(copier) => tunnel.copier = Some(copier),
                Err(error) => return warn!(network, %error, "multicast is not sent"),
            }
        }
        if tunnel.copier.as_ref().is_some_and(|copier| !copier.copy(packet, peers)) {
            debug!(network, "more multicast than can be sent");
        }
    }

    /// Starts or stops the capture of multicast, as some tunnel wants it.
    pub(super) fn capture_multicast(&mut self) {
        let wanted =
            self.tunnels.values().any(|t| t.wanted.as_ref().is_some_and(|w| w.nft.multicast.is_some()));
        if !wanted {
            if let Some(task) = self.multicast.take() {
                task.abort();
            }
            return;
        }
        if self.multicast.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        match capture::start(MULTICAST_GROUP, nflog::WHOLE, self.to_multicast.clone()) {
            Ok(task) => self.multicast = Some(task),
            Err(error) => warn!(%error, "multicast capture not started: no multicast enters the tunnels"),
        }
    }
}
