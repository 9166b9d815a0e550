//! Other tunnels of the same networkId on this hub, each with an engine of its own: one NHRP network over several links
//! (Cisco: several tunnel interfaces with the same `ip nhrp network-id`).
//!
//! ```text
//!  spoke A ── tunnel 1 ── hub ── tunnel 2 ── spoke B       data: in by one, out by the other (Crossing)
//!     ◄── Traffic Indication ──┤                           B's address: from tunnel 2 (onward)
//!     ── Resolution Request ──►┤══ Across ══►┤── Request ──►
//!     ◄──────────────── Resolution Reply, straight ─────────
//! ```
//! Each engine checks what comes from its own members, writes its own record and password, and remembers that the other
//! side is [`BESIDE`]: answers that come back by the hubs cross in the same way. Nobody has to be told when B goes: with
//! it goes what the hub tells A of it, and with that A's shortcut.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::config::Phase;
use super::hierarchy::NextHop;
use super::io::{Across, Onward};
use super::redirect::inner_addresses;
use super::resolve::nat_cie;
use super::snapshot::Source;
use super::{DropReason, Engine, Output, Received, Rule, Time};
use crate::wire::{Builder, Embedded, ErrorCode, Packet, PacketType, ext};

/// In the place of an underlay address: another tunnel of this hub.
pub(crate) const BESIDE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Engine {
    /// The client of ours that a packet to `address` goes to. Hubs are none: they redirect their own.
    pub fn onward(&self, address: IpAddr) -> Option<Onward> {
        let serves = self.config.server && self.config.phase == Phase::Three && !self.withdrawing;
        let next = self.next_hop(address).filter(|next| serves && !self.is_gathering(next.prefix))?;
        let binding = self.bindings.get(&next.via)?;
        let client = matches!(binding.source, Source::Registered | Source::Static) && !self.is_hub(next.nbma);
        client.then_some(Onward { overlay: next.via, nbma: next.nbma, prefix: next.prefix })
    }

    /// A packet came in by our tunnel and left by another one: its sender is told that there is a shorter way.
    pub(crate) fn crossing(&mut self, now: Time, packet: &[u8], onward: Onward) {
        if !self.config.server || self.withdrawing {
            return self.drop(now, DropReason::NotServer, None);
        }
        if self.config.phase != Phase::Three {
            return self.drop(now, DropReason::Phase, None);
        }
        let Some((src, dst)) = inner_addresses(packet) else {
            return self.drop(now, DropReason::HairpinMalformed, None);
        };
        let Some(back) = self.next_hop(src) else {
            return self.drop(now, DropReason::NoSpoke, None);
        };
        if self.is_nhs_overlay(back.via) {
            return;
        }
        // One who is on both links is asked on the requester's own.
        let onward = self.onward(dst).unwrap_or(onward);
        if onward.overlay == back.via {
            return self.drop(now, DropReason::Loop, Some(back.nbma));
        }
        let Onward { overlay, nbma, prefix } = onward;
        let onward = NextHop { via: overlay, nbma, prefix, holding_time: 0 };
        self.indicate(now, packet, (src, dst), back, onward);
    }

    /// Whether requests for this address are handed over: it lies beside, and a spoke there may be its egress.
    pub(crate) fn lies_across(&self, address: IpAddr) -> bool {
        if self.config.across.is_empty() || self.is_local(address) || !self.is_ours(address) {
            return false;
        }
        let longest =
            |nets: &[IpNet]| nets.iter().filter(|net| net.contains(&address)).map(IpNet::prefix_len).max();
        let across = longest(&self.config.across);
        across.is_some() && across > longest(&self.config.subnets) && across >= longest(&self.config.beside)
    }

    /// A request of a client of ours for somebody on another tunnel.
    pub(crate) fn request_across(&mut self, now: Time, received: &Received<'_>) {
        let Some(client) = self.admits_requester(now, received) else { return };
        let header = *received.header();
        if header.hop_count <= 1 && self.enforced(Rule::HopCount) {
            self.drop(now, DropReason::HopCount, Some(received.from));
            return self.send_error(now, received.from, received.packet, ErrorCode::HopCountExceeded);
        }
        let seen = client.map(|nbma| nat_cie(nbma, header.src_proto));
        let bytes = self.passed(received, ext::FORWARD_RECORD, seen, Some(header.src_nbma));
        let bounded = self.enforced(Rule::TableBounds);
        self.forwarded.insert(now, (header.src_proto, header.request_id), BESIDE, received.from, bounded);
        self.sweep_soon(now);
        self.counters.forwarded.count(PacketType::ResolutionRequest);
        let received = Some((received.from, received.packet.as_bytes().to_vec()));
        self.outputs.push_back(Output::Across(Across { bytes, received }));
    }

    /// No other tunnel has a client that the request is for: we are the egress, as of all that lies beside.
    pub(crate) fn stranded(&mut self, now: Time, across: &Across) {
        let Some((from, bytes)) = &across.received else { return };
        let Ok(packet) = Packet::parse(bytes) else { return };
        self.answer(now, &Received { packet: &packet, from: *from, secret: None });
    }

    /// Takes what another tunnel of the same networkId hands over: a request for a client of ours, or the answer to one
    /// of ours that went there. Says whether it was meant for this one.
    pub fn take_across(&mut self, now: Time, bytes: &[u8]) -> bool {
        let Ok(packet) = Packet::parse(bytes) else { return false };
        let header = *packet.header();
        let received = Received { packet: &packet, from: BESIDE, secret: None };
        if header.hop_count <= 1 && self.enforced(Rule::HopCount) {
            self.drop(now, DropReason::HopCount, None);
            return false;
        }
        match header.packet_type {
            PacketType::ResolutionRequest => {
                let Some(next) = self.onward(header.dst_proto) else { return false };
                if self.recorded(&received, ext::FORWARD_RECORD) && self.enforced(Rule::Loop) {
                    self.drop(now, DropReason::Loop, None);
                    return false;
                }
                let bytes = self.passed(&received, ext::FORWARD_RECORD, None, None);
                let key = (header.src_proto, header.request_id);
                let bounded = self.enforced(Rule::TableBounds);
                self.forwarded.insert(now, key, next.nbma, BESIDE, bounded);
                self.sweep_soon(now);
                self.pass_on(header.packet_type, next.nbma, bytes);
                true
            }
            PacketType::ResolutionReply => {
                let Some(back) = self.asked_across(now, (header.src_proto, header.request_id)) else {
                    return false;
                };
                let bytes = self.passed(&received, ext::REVERSE_RECORD, None, None);
                self.pass_on(header.packet_type, back, bytes);
                true
            }
            PacketType::ErrorIndication => {
                let Ok(embedded) = Embedded::parse(packet.payload()) else { return false };
                let about = embedded.header;
                let Some(back) = self.asked_across(now, (about.src_proto, about.request_id)) else {
                    return false;
                };
                let bytes = Builder::forward(&packet, header.hop_count.saturating_sub(1)).finish();
                self.pass_on(header.packet_type, back, bytes);
                true
            }
            _ => false,
        }
    }

    /// Where a request came from that went across.
    fn asked_across(&self, now: Time, key: (IpAddr, u32)) -> Option<IpAddr> {
        self.forwarded.get(now, key).filter(|passage| passage.to == BESIDE).map(|passage| passage.back)
    }
}
