//! Hairpins at a hub: traffic between two spokes gets a Traffic Indication, so that they talk directly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::config::Phase;
use super::hierarchy::NextHop;
use super::{DropReason, Engine, Time};
use crate::wire::{Builder, Cie, PacketType, PrefixChunk, ext, list_flags};

/// One indication a source and destination in this time.
pub(crate) const PAIR_INTERVAL_MS: u64 = 2000;
/// Indications a second in all.
pub(crate) const PER_SECOND: u64 = 1000;
/// Bytes of the data packet that an indication carries, as Cisco's do.
const PAYLOAD: usize = 84;

impl Engine {
    pub(crate) fn hairpin(&mut self, now: Time, packet: &[u8]) {
        if !self.config.server || self.withdrawing {
            return self.drop(now, DropReason::NotServer, None);
        }
        if self.config.phase != Phase::Three {
            return self.drop(now, DropReason::Phase, None);
        }
        let Some((src, dst)) = inner_addresses(packet) else {
            return self.drop(now, DropReason::HairpinMalformed, None);
        };
        let (Some(back), Some(onward)) = (self.next_hop(src), self.next_hop(dst)) else {
            return self.drop(now, DropReason::NoSpoke, None);
        };
        if back.via == onward.via {
            return self.drop(now, DropReason::Loop, Some(back.nbma));
        }
        // From above: the hubs there redirect their own. By a default route: whoever has that is the way out, and
        // each destination out there would be asked for in vain.
        if self.is_nhs_overlay(back.via) || onward.prefix.prefix_len() == 0 {
            return;
        }
        self.indicate(now, packet, (src, dst), back, onward);
    }

    /// Tells the client by which `packet` came (of `src` and `dst`) that there is a shorter way. A hub passes it on.
    pub(crate) fn indicate(
        &mut self,
        now: Time,
        packet: &[u8],
        (src, dst): (IpAddr, IpAddr),
        client: NextHop,
        onward: NextHop,
    ) {
        let to = client.nbma;
        let Some(local) = self.local_like(src) else {
            return self.drop(now, DropReason::NoAddress, None);
        };
        let Some(header) = self.header(PacketType::TrafficIndication, 0, local, src) else {
            return self.drop(now, DropReason::NoAddress, None);
        };
        if !self.redirects.allow(now, (src, dst)) || !self.redirect_budget.take(now) {
            return self.drop(now, DropReason::RateLimited, None);
        }
        let even = packet.len().min(PAYLOAD) & !1;
        let builder = Builder::new(&header).payload(packet.get(..even).unwrap_or(packet));
        let mut builder = self.authenticated(builder, None);
        if self.bindings.get(&client.via).is_some_and(|binding| binding.extended) {
            let flags = list_flags::REACHABLE;
            let chunk = PrefixChunk { flags, prefixes: vec![onward.prefix], ..PrefixChunk::default() };
            builder = builder.extension(false, ext::PREFIXES, &chunk.encode());
            // It may look for the way to the egress while it asks for it; another hub is none.
            if !self.is_hub(onward.nbma) {
                let hint = Cie { nbma: Some(onward.nbma), proto: Some(onward.via), ..Cie::default() };
                builder = builder.extension_cies(false, ext::EGRESS, &[hint]);
            }
        }
        self.send(PacketType::TrafficIndication, to, builder.finish());
    }

    /// An indication from above about traffic of a client of ours: it hears it from us, unless it has heard it
    /// already, since we turned the packet too. Says whether it was one.
    pub(crate) fn pass_indication(&mut self, now: Time, packet: &[u8], src: IpAddr, dst: IpAddr) -> bool {
        if !self.config.server || self.is_ours(src) {
            return false;
        }
        let (Some(client), Some(onward)) = (self.next_hop(src), self.next_hop(dst)) else { return false };
        if self.is_nhs_overlay(client.via) || !self.is_nhs_overlay(onward.via) {
            return false;
        }
        if !self.redirects.is_recent(now, &(src, dst)) {
            self.indicate(now, packet, (src, dst), client, onward);
        }
        true
    }
}

/// Source and destination of an IP packet of which the start is there.
pub fn inner_addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let src: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let dst: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some((Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into()))
        }
        6 => {
            let src: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let dst: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some((Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into()))
        }
        _ => None,
    }
}
