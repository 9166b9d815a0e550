//! Error Indications (RFC 2332 §5.2.7): ours about what we could not handle, those of others about what we asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::client::Reason;
use super::{Builder, DropReason, Embedded, Engine, ErrorCode, Received, Rule, Time};
use crate::wire::{Packet, PacketType};

/// One error a peer in this time.
pub(crate) const ERROR_INTERVAL_MS: u64 = 500;
/// Bytes of the packet in error that go back.
const PAYLOAD: usize = 256;

impl Engine {
    /// Tells the sender of `packet` what is wrong with it.
    pub(crate) fn send_error(&mut self, now: Time, to: IpAddr, packet: &Packet<'_>, code: ErrorCode) {
        let about = packet.header();
        if about.packet_type == PacketType::ErrorIndication || !self.errors_sent.allow(now, to) {
            return;
        }
        let observer = self.local_like(about.src_proto).unwrap_or(match about.src_proto {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        });
        let word = u32::from(u16::from(code)) << 16;
        let Some(header) = self.header(PacketType::ErrorIndication, word, observer, about.src_proto) else {
            return;
        };
        let bytes = packet.as_bytes();
        let even = bytes.len().min(PAYLOAD) & !1;
        let error = Builder::new(&header).payload(bytes.get(..even).unwrap_or(bytes)).finish();
        self.send(PacketType::ErrorIndication, to, error);
    }

    /// Counts only if it is about a request of ours that is outstanding; one for somebody else is passed on.
    pub(crate) fn error_indication(&mut self, now: Time, received: &Received<'_>) {
        let header = *received.header();
        let (code, _) = header.error();
        let Ok(embedded) = Embedded::parse(received.packet.payload()) else {
            return self.drop(now, DropReason::Malformed, Some(received.from));
        };
        let about = embedded.header;
        if !self.is_local(about.src_proto) {
            return self.pass_error(now, received);
        }
        match about.packet_type {
            PacketType::RegistrationRequest => {
                let found = self.hubs.iter().find_map(|hub| {
                    let waiting = |it: &&super::client::Registration| {
                        it.is_waiting_for(about.request_id) && it.local == about.src_proto
                    };
                    let registration = hub.registrations.iter().find(waiting)?;
                    let asked = hub.nbma() == Some(received.from) || !self.enforced(Rule::ErrorSource);
                    Some((asked, registration.uid))
                });
                match found {
                    Some((true, uid)) => self.registration_refused(now, uid, Reason::Error(code)),
                    Some((false, _)) => self.drop(now, DropReason::WrongSender, Some(received.from)),
                    None => self.drop(now, DropReason::Unsolicited, Some(received.from)),
                }
            }
            PacketType::ResolutionRequest => self.ask_failed(now, received.from, &about, code),
            _ => self.drop(now, DropReason::Unsolicited, Some(received.from)),
        }
    }

    fn pass_error(&mut self, now: Time, received: &Received<'_>) {
        let header = received.header();
        let about_us = self.is_local(header.src_proto);
        // An error of our own that comes back must not go round.
        if about_us || Some(header.src_nbma) == self.config.nbma {
            return self.drop(now, DropReason::Loop, Some(received.from));
        }
        let to = self.bindings.get(&header.dst_proto).map(|binding| binding.nbma);
        let Some(to) = to.filter(|to| self.config.server && *to != received.from) else {
            return self.drop(now, DropReason::Unsolicited, Some(received.from));
        };
        if header.hop_count <= 1 && self.enforced(Rule::HopCount) {
            return self.drop(now, DropReason::HopCount, Some(received.from));
        }
        let bytes = Builder::forward(received.packet, header.hop_count.saturating_sub(1)).finish();
        self.pass_on(PacketType::ErrorIndication, to, bytes);
    }
}
