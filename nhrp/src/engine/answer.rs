//! Answers to our own requests: who may give one, and what of it is believed.

use std::net::IpAddr;

use ipnet::IpNet;

use super::path::Answer;
use super::prefix_map::overlaps;
use super::snapshot::Source;
use super::{DropReason, Engine, Received, Rule, Time};
use crate::wire::{CieCode, ErrorCode, Header, ext};

/// No answer is believed about more of the address space than this (prefix length IPv4, IPv6).
const SHORTEST: (u8, u8) = (8, 16);
/// Requests remembered after their answer.
const ANSWERED: usize = 64;

impl Engine {
    /// A reply to a request of our own.
    pub(crate) fn ask_answered(&mut self, now: Time, received: &Received<'_>) {
        let header = *received.header();
        let from = received.from;
        let mut key = self.asks.get(&header.request_id).copied();
        if key.is_none() && !self.enforced(Rule::ReplyId) {
            key = Some(IpNet::from(header.dst_proto));
        }
        let any = !self.enforced(Rule::ReplyAddresses);
        let asked = key.and_then(|key| Some((key, self.shortcuts.get(key)?))).filter(|(_, shortcut)| {
            let asked = shortcut.asked;
            header.dst_proto == asked && self.local_like(asked) == Some(header.src_proto) || any
        });
        let Some((key, shortcut)) = asked else {
            self.drop(now, DropReason::Unsolicited, Some(from));
            // A request that was repeated may well be answered twice.
            if !self.answered.contains(&header.request_id) {
                self.send_error(now, from, received.packet, ErrorCode::InvalidReply);
            }
            return;
        };
        let asked = shortcut.asked;
        let (nhs, limit) = (shortcut.nhs, shortcut.limit);
        let named = (shortcut.named, shortcut.via);
        let Some(cie) = received.packet.cies().next() else {
            return self.drop(now, DropReason::Malformed, Some(from));
        };
        let nat = received.packet.extension(ext::NAT).and_then(|extension| extension.cies().ok());
        let public = nat.into_iter().flatten().find(|nat| nat.proto == cie.proto).and_then(|nat| nat.nbma);
        let on_path = from == nhs || Some(from) == cie.nbma || Some(from) == public;
        if !on_path && self.enforced(Rule::ReplyPath) {
            // A refusal names nobody; only the NHS that was asked, or an egress that it vouches for, may refuse.
            return self.drop(now, DropReason::WrongSender, Some(from));
        }
        if cie.code != 0 {
            let code = CieCode::from(cie.code);
            if code == CieCode::NoBinding && self.outlasts_refusal(now, key, from) {
                return;
            }
            return self.negative(now, key, format!("refused: {code}"));
        }
        let (Some(via), Some(nbma)) = (cie.proto, cie.nbma) else {
            return self.negative(now, key, "the answer names no egress".into());
        };
        // One of another overlay is believed to be it if the NHS named it, with its redirect.
        let in_overlay = self.config.overlay.iter().any(|net| net.contains(&via))
            || self.may_be_member(via) && (named.0 == Some(via) || named.1 == Some(via));
        let natted = public.filter(|public| *public != nbma && self.enforced(Rule::NattedEgress));
        // Without IPsec nothing opens the egress's NAT for us. An answer that came straight has opened it, but only
        // for as long as the NAT remembers; one by way of the NHS has not, so that a trial shows what anybody meets.
        if natted.is_some() && from != nhs {
            return self.negative(now, key, format!("the egress {via} is behind NAT"));
        }
        let nbma = natted.unwrap_or(nbma);
        if !in_overlay
            || via.is_ipv4() != asked.is_ipv4()
            || self.is_local(via)
            || Some(nbma) == self.config.nbma
        {
            return self.negative(now, key, format!("{via} at {nbma} cannot be the egress"));
        }
        // Else whoever is asked for its own address could take another one's.
        let tunnel = self.config.overlay.iter().any(|net| net.contains(&asked));
        if tunnel && via != asked && self.enforced(Rule::OverlayEgress) {
            return self.negative(now, key, format!("{via} cannot be the egress of {asked}"));
        }
        if cie.holding_time == 0 {
            return self.negative(now, key, "the answer holds for no time".into());
        }
        let bound = self.bindings.get(&via).filter(|it| it.source == Source::Resolved);
        if bound.is_some_and(|it| it.nbma != nbma) && from != nhs && self.enforced(Rule::OneEgress) {
            // Another answer said that this egress is elsewhere; which of the two lies cannot be told.
            self.unbind(now, via);
            return self.negative(now, key, format!("{via} is said to be at several addresses"));
        }
        if let Some(prefix) = self.tunnelled(nbma).filter(|_| self.enforced(Rule::PrefixUnderlay)) {
            return self.negative(now, key, format!("{nbma} lies in {prefix}, which the tunnel leads to"));
        }
        let Some((prefix, covering)) = self.believable(asked, cie.prefix_of(asked), limit, nbma) else {
            return self.negative(now, key, "the destination is a tunnel's underlay address".into());
        };
        self.asks.remove(&header.request_id);
        self.answer_taken(header.request_id);
        let (holding_time, mtu) = (cie.holding_time, cie.mtu);
        let natted = natted.is_some();
        self.prove(now, key, Answer { prefix, covering, via, nbma, holding_time, mtu, natted });
    }

    /// A request of ours is answered: another answer to it is late, not forged.
    pub(crate) fn answer_taken(&mut self, id: u32) {
        if self.answered.len() >= ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(id);
    }

    /// What of the answered prefix is believed: never more than the route by the hub that covers it, nor than the
    /// prefix by which the hub itself routes it (`limit`: our route may be a summary, or a default route), never what
    /// is ours, never a tunnel end.
    fn believable(
        &self,
        asked: IpAddr,
        told: IpNet,
        limit: Option<IpNet>,
        nbma: IpAddr,
    ) -> Option<(IpNet, Option<IpNet>)> {
        let host = IpNet::from(asked);
        if !self.enforced(Rule::ClampToCovering) {
            return Some((told, None));
        }
        if self.underlay_inside(host).is_some() || asked == nbma {
            return None;
        }
        let announced = self.announced.longest(asked).map(|(prefix, _)| prefix);
        let registered = self.prefixes.longest(asked).map(|(prefix, _)| prefix);
        let covering = announced.into_iter().chain(registered).max_by_key(IpNet::prefix_len);
        if self.config.overlay.iter().any(|net| net.contains(&asked)) {
            return Some((host, covering));
        }
        let shortest = if asked.is_ipv4() { SHORTEST.0 } else { SHORTEST.1 };
        let bounds = covering.into_iter().chain(limit).filter(|bound| bound.prefix_len() > 0);
        // Where nothing says how far an answer may go (a hub without our extension), it goes for the host alone.
        let bound = bounds.max_by_key(IpNet::prefix_len).unwrap_or(host);
        let prefix = if told.prefix_len() < bound.prefix_len() { bound } else { told };
        let fits = prefix.prefix_len() >= shortest && self.is_harmless(prefix, nbma);
        Some((if fits { prefix } else { host }, covering))
    }

    fn is_harmless(&self, prefix: IpNet, nbma: IpAddr) -> bool {
        let own = self.config.subnets.iter().chain(&self.config.beside).any(|net| overlaps(*net, prefix));
        let overlay = self.config.overlay.iter().any(|net| overlaps(*net, prefix));
        !own && !overlay && !prefix.contains(&nbma) && self.underlay_inside(prefix).is_none()
    }

    /// An Error Indication about a request of ours: back to the hub's path, never a black hole.
    /// Only the NHS that was asked says so, or (of a renewal) the egress.
    pub(crate) fn ask_failed(&mut self, now: Time, from: IpAddr, about: &Header, code: ErrorCode) {
        let mut key = self.asks.get(&about.request_id).copied();
        let strict = self.enforced(Rule::ErrorOutstanding);
        if key.is_none() && !strict {
            key = Some(IpNet::from(about.dst_proto));
        }
        let asked = key.and_then(|key| Some((key, self.shortcuts.get(key)?)));
        let Some((key, shortcut)) = asked.filter(|(_, shortcut)| shortcut.asked == about.dst_proto) else {
            return self.drop(now, DropReason::Unsolicited, Some(from));
        };
        let egress = shortcut.via.and_then(|via| self.bindings.get(&via)).map(|binding| binding.nbma);
        if from != shortcut.nhs && Some(from) != egress && strict {
            return self.drop(now, DropReason::WrongSender, Some(from));
        }
        if code == ErrorCode::ProtocolAddressUnreachable && self.outlasts_refusal(now, key, from) {
            return;
        }
        self.negative(now, key, format!("error: {code}"));
    }
}
