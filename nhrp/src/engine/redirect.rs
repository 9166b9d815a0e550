//! Hairpins at a hub: traffic between two spokes gets a Traffic Indication, so that they talk directly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::config::Phase;
use super::{DropReason, Engine, Time};
use crate::wire::{Builder, Cie, PacketType, ext};

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
        let (Some((src_via, source)), Some((dst_via, egress))) = (self.owner(src), self.owner(dst)) else {
            return self.drop(now, DropReason::NoSpoke, None);
        };
        let to = source.nbma;
        // Who knows our extensions may look for the way to the egress while it asks for it.
        let hint = Cie { nbma: Some(egress.nbma), proto: Some(dst_via), ..Cie::default() };
        let hint = source.extended.then_some(hint);
        if src_via == dst_via {
            return self.drop(now, DropReason::Loop, Some(to));
        }
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
        let builder = self.authenticated(builder, None);
        let builder = match hint {
            Some(hint) => builder.extension_cies(false, ext::EGRESS, &[hint]),
            None => builder,
        };
        self.send(PacketType::TrafficIndication, to, builder.finish());
    }
}

/// Source and destination of an IP packet of which the start is there.
pub(crate) fn inner_addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
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
