//! Error Indications (RFC 2332 §5.2.7): ours about what we could not handle, those of others about what we asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::client::Reason;
use super::{Budget, Builder, DropReason, Embedded, Engine, ErrorCode, Received, Rule, Time};
use crate::wire::{Header, Packet, PacketType, ext};

/// Bytes of the packet in error that go back.
const PAYLOAD: usize = 256;

impl Engine {
    /// Tells the sender of `packet` what is wrong with it.
    pub(crate) fn send_error(&mut self, now: Time, to: IpAddr, packet: &Packet<'_>, code: ErrorCode) {
        let about = packet.header();
        if about.packet_type == PacketType::ErrorIndication || !self.budgets.take(now, to, Budget::Error, 1) {
            return;
        }
        self.sweep_soon(now);
        // A reply's source is the requester: who sent it is in the responder extension, or what was asked for.
        let responder = || packet.extension(ext::RESPONDER)?.cies().ok()?.next()?.proto;
        let sender = match about.packet_type.is_reply() {
            true => {
                responder().filter(|it| it.is_ipv4() == about.src_proto.is_ipv4()).unwrap_or(about.dst_proto)
            }
            false => about.src_proto,
        };
        let observer = self.local_like(about.src_proto).unwrap_or(match about.src_proto {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        });
        let word = u32::from(u16::from(code)) << 16;
        let Some(header) = self.header(PacketType::ErrorIndication, word, observer, sender) else {
            return;
        };
        // Not longer than what it is about, but with its addresses at least.
        let bytes = packet.as_bytes();
        let builder = Builder::new(&header);
        let even =
            bytes.len().saturating_sub(builder.len()).clamp(builder.len(), PAYLOAD).min(bytes.len()) & !1;
        let error = builder.payload(bytes.get(..even).unwrap_or(bytes)).finish();
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
        if self.address_error(now, about.request_id, about.src_proto, received.from, code) {
            return;
        }
        if !self.is_local(about.src_proto) {
            return self.pass_error(now, received, &about);
        }
        match about.packet_type {
            PacketType::RegistrationRequest => {
                let found = self.hubs.iter().find_map(|hub| {
                    let waiting = |it: &&super::client::Registration| {
                        it.is_waiting_for(about.request_id) && it.local == about.src_proto
                    };
                    let registration = hub.registrations.iter().find(waiting)?;
                    let asked = hub.asked() == Some(received.from) || !self.enforced(Rule::ErrorSource);
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

    /// About a request that we passed on, and from where we passed it to.
    fn pass_error(&mut self, now: Time, received: &Received<'_>, about: &Header) {
        let header = received.header();
        let from = received.from;
        // An error of our own that comes back must not go round.
        if self.is_local(header.src_proto) || Some(header.src_nbma) == self.config.nbma {
            return self.drop(now, DropReason::Loop, Some(from));
        }
        let asked = about.packet_type == PacketType::ResolutionRequest && about.src_proto == header.dst_proto;
        let passage = self.forwarded.get(now, (about.src_proto, about.request_id)).filter(|_| asked);
        let Some(passage) = passage else {
            return self.drop(now, DropReason::Unsolicited, Some(from));
        };
        if passage.to != from {
            return self.drop(now, DropReason::WrongSender, Some(from));
        }
        if header.hop_count <= 1 && self.enforced(Rule::HopCount) {
            return self.drop(now, DropReason::HopCount, Some(from));
        }
        let bytes = Builder::forward(received.packet, header.hop_count.saturating_sub(1)).finish();
        self.pass_on(PacketType::ErrorIndication, passage.back, bytes);
    }
}
