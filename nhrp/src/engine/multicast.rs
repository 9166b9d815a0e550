//! Who gets multicast: the tunnel has no broadcast, so each packet goes to each of these as a packet of its own.

use std::net::IpAddr;

use super::Engine;
use super::snapshot::{NhsPhase, Source};

/// Who gets multicast that enters the tunnel here (`ip nhrp map multicast`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// Whoever is registered: a hub sends to the spokes that registered with it, a spoke to its NHSs.
    Dynamic,
    /// The NHSs that answer our registrations.
    Nhs,
    /// The peers of the configured bindings.
    Static,
}

impl Engine {
    /// NBMA addresses that a multicast packet goes to, each once, in order. `like` is an address of the packet's
    /// family: a peer has an overlay address of that family.
    ///
    /// `from` is where the packet came from if a peer sent it, and never among the result. What an NHS sent goes down
    /// only, not to other NHSs: so it does not go round among hubs.
    pub fn multicast_peers(&self, mode: Multicast, like: IpAddr, from: Option<IpAddr>) -> Vec<IpAddr> {
        let family = |overlay: &IpAddr| overlay.is_ipv4() == like.is_ipv4();
        let down = from.is_some_and(|from| self.is_nhs(from));
        let mut peers = Vec::new();
        if mode != Multicast::Nhs {
            // A configured peer that has registered besides has a time.
            let registered = |source: Source, expires: bool| {
                source == Source::Registered || source == Source::Static && expires
            };
            let wanted = self.bindings.iter().filter(|(overlay, binding)| {
                family(overlay)
                    && match mode {
                        Multicast::Static => binding.source == Source::Static,
                        _ => registered(binding.source, binding.expires().is_some()),
                    }
            });
            peers
                .extend(wanted.map(|(_, binding)| binding.nbma).filter(|nbma| !(down && self.is_nhs(*nbma))));
        }
        if mode != Multicast::Static && !down {
            let in_use = self.hubs.iter().filter(|hub| {
                let answers = |it: &super::client::Registration| it.phase == NhsPhase::Responding;
                hub.registrations.iter().any(|it| answers(it) && family(&it.local))
            });
            peers.extend(in_use.filter_map(super::client::Hub::nbma));
        }
        peers.sort_unstable();
        peers.dedup();
        peers.retain(|nbma| Some(*nbma) != from && Some(*nbma) != self.config.nbma);
        peers
    }
}
