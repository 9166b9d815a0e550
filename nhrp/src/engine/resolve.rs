//! Resolution of others (RFC 2332 §5.2.1, §5.2.2): answered for what is ours, passed on along the bindings else.

use std::net::IpAddr;

use ipnet::IpNet;

use super::across::BESIDE;
use super::bindings::Binding;
use super::config::Phase;
use super::hierarchy::NextHop;
use super::io::Across;
use super::requesters::Requester;
use super::snapshot::Source;
use super::{DropReason, Engine, Received, Rule, Time};
use crate::wire::{Builder, Cie, CieCode, ErrorCode, Extension, Header, MAX_HOPS, PacketType, ext, flags};

/// A binding that we answer with for its holder.
struct Known {
    unique: bool,
    cie: Cie,
}

impl Engine {
    pub(crate) fn resolution_request(&mut self, now: Time, received: &Received<'_>) {
        let header = *received.header();
        if self.withdrawing {
            return self.drop(now, DropReason::Withdrawing, Some(received.from));
        }
        if !self.may_be_member(header.src_proto) {
            return self.drop(now, DropReason::Forbidden, Some(received.from));
        }
        if self.is_local(header.src_proto) && self.enforced(Rule::Loop) {
            // A request of our own that came back, or one in our name.
            return self.drop(now, DropReason::Loop, Some(received.from));
        }
        if self.config.phase == Phase::One && !self.answers_in_phase_one(received) {
            self.drop(now, DropReason::Phase, Some(received.from));
            return self.answer_refusal(now, received, CieCode::AdministrativelyProhibited);
        }
        if self.recorded(received, ext::FORWARD_RECORD) && self.enforced(Rule::Loop) {
            self.drop(now, DropReason::Loop, Some(received.from));
            return self.send_error(now, received.from, received.packet, ErrorCode::Loop);
        }
        if self.lies_across(header.dst_proto) {
            return self.request_across(now, received);
        }
        if self.is_ours(header.dst_proto) {
            return self.answer(now, received);
        }
        if !self.config.server {
            return self.answer_nothing(now, received);
        }
        self.pass_request(now, received);
    }

    /// In Phase 1 nobody is told a way round the hub: a spoke's link takes in what its hub sends and nothing else. The
    /// hub may ask the spoke itself (whether it still holds its address), and everybody the hub.
    fn answers_in_phase_one(&self, received: &Received<'_>) -> bool {
        let header = received.header();
        let asks_itself = |it: &Binding| it.source == Source::Nhs && it.nbma == received.from;
        let from_nhs = self.bindings.get(&header.src_proto).is_some_and(asks_itself);
        self.is_ours(header.dst_proto) && (self.config.server || from_nhs)
    }

    /// We are the egress: the answer goes straight to the requester.
    pub(crate) fn answer(&mut self, now: Time, received: &Received<'_>) {
        let header = *received.header();
        if self.has_unknown_compulsory(received) {
            self.drop(now, DropReason::UnknownExtension, Some(received.from));
            return self.send_error(now, received.from, received.packet, ErrorCode::UnrecognisedExtension);
        }
        let dst = header.dst_proto;
        let local = if self.is_local(dst) { Some(dst) } else { self.local_like(dst) };
        let Some(local) = local.filter(|_| self.config.nbma.is_some()) else {
            return self.drop(now, DropReason::NoAddress, Some(received.from));
        };
        let prefix = match self.is_local(dst) {
            true => IpNet::from(dst),
            false => {
                let behind = self.config.subnets.iter().chain(&self.config.beside);
                let covering = behind.filter(|net| net.contains(&dst));
                covering.min_by_key(|net| net.prefix_len()).map_or_else(|| IpNet::from(dst), IpNet::trunc)
            }
        };
        let cie = Cie { prefix_len: prefix.prefix_len(), ..self.own_cie(local) };
        let nbma = self.requester_nbma(received);
        // Behind NAT an answer that went straight would open the NAT for the requester, as long as the NAT pleases.
        let back = self.public_nbma(local).is_some() || received.packet.extension(ext::BACK).is_some();
        let by_nhs = back && self.is_nhs(received.from);
        self.send_reply(received, if by_nhs { received.from } else { nbma }, local, &cie);
        let requester = Requester {
            overlay: header.src_proto,
            asked: dst,
            nbma,
            request_id: header.request_id,
            prefix,
            until: now.after(u64::from(self.config.holding_time) * 1000),
        };
        self.remember(now, local, requester);
    }

    /// Nothing leads there. Of an overlay address "no binding exists": one entry with code 12 and nothing else in it.
    /// What is behind somebody, we do not know whom, is unreachable (RFC 2332 §5.2.7).
    fn answer_nothing(&mut self, now: Time, received: &Received<'_>) {
        let header = received.header();
        self.drop(now, DropReason::NoRoute, Some(received.from));
        if !self.config.overlay.iter().any(|net| net.contains(&header.dst_proto)) {
            let code = ErrorCode::ProtocolAddressUnreachable;
            return self.send_error(now, received.from, received.packet, code);
        }
        self.answer_refusal(now, received, CieCode::NoBinding);
    }

    fn answer_refusal(&mut self, now: Time, received: &Received<'_>, code: CieCode) {
        let Some(local) = self.local_like(received.header().src_proto) else {
            return self.drop(now, DropReason::NoAddress, Some(received.from));
        };
        // By the way that the request came: a refusal counts from the NHS that was asked, and from nobody else.
        let to = if self.is_hub(received.from) { received.from } else { self.requester_nbma(received) };
        self.send_reply(received, to, local, &Cie { code: code.into(), ..Cie::default() });
    }

    /// The requester takes what an NHS knows, and the address is registered here: it gets the binding, for the time
    /// that is left of it (RFC 2332 §5.2.2).
    fn answer_for(&mut self, now: Time, received: &Received<'_>, known: &Known) {
        let header = received.header();
        if self.has_unknown_compulsory(received) {
            self.drop(now, DropReason::UnknownExtension, Some(received.from));
            return self.send_error(now, received.from, received.packet, ErrorCode::UnrecognisedExtension);
        }
        if header.flags & flags::RESOLUTION_UNIQUE != 0 && !known.unique {
            return self.answer_refusal(now, received, CieCode::NotUnique);
        }
        let host = header.dst_proto;
        let Some(local) = self.local_like(host) else {
            return self.drop(now, DropReason::NoAddress, Some(received.from));
        };
        let to = self.requester_nbma(received);
        self.send_reply(received, to, local, &known.cie);
        let requester = Requester {
            overlay: header.src_proto,
            asked: host,
            nbma: received.from,
            request_id: header.request_id,
            prefix: IpNet::from(host),
            until: now.after(u64::from(known.cie.holding_time) * 1000),
        };
        self.remember(now, host, requester);
    }

    /// What we may answer ourselves: a host that is registered here, in the open, and an answer that need not be the
    /// egress's own. (Routers in a DMVPN ask for that: the egress opens the way back and says how far it goes.)
    fn known_host(&self, now: Time, header: &Header) -> Option<Known> {
        if header.flags & flags::AUTHORITATIVE != 0 {
            return None;
        }
        let binding = self.bindings.get(&header.dst_proto)?;
        if binding.source != Source::Registered || binding.claimed().is_some() {
            return None;
        }
        let left = binding.expires()?.since(now) / 1000;
        let cie = Cie {
            prefix_len: if header.dst_proto.is_ipv4() { 32 } else { 128 },
            mtu: binding.mtu,
            holding_time: u16::try_from(left).unwrap_or(u16::MAX),
            nbma: Some(binding.nbma),
            proto: Some(header.dst_proto),
            ..Cie::default()
        };
        (left > 0).then_some(Known { unique: binding.unique, cie })
    }

    fn send_reply(&mut self, received: &Received<'_>, to: IpAddr, local: IpAddr, cie: &Cie) {
        let header = received.header();
        let kept = flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT;
        let reply = Header {
            packet_type: PacketType::ResolutionReply,
            hop_count: MAX_HOPS,
            flags: header.flags & kept | if cie.code == 0 { flags::DESTINATION_STABLE } else { 0 },
            ..*header
        };
        let public = self.public_nbma(local);
        let mut builder = Builder::new(&reply).cie(cie);
        for extension in received.packet.extensions() {
            builder = match extension.kind {
                ext::RESPONDER => builder.extension_cies(true, ext::RESPONDER, &[self.responder_cie(local)]),
                ext::AUTHENTICATION => self.authenticated(builder, received.secret),
                ext::NAT if extension.is_nat() => match public {
                    Some(nbma) => {
                        builder.extension_cies(extension.compulsory, ext::NAT, &[nat_cie(nbma, local)])
                    }
                    None => builder.extension(extension.compulsory, ext::NAT, &[]),
                },
                _ => builder.extension(extension.compulsory, extension.kind, extension.value),
            };
        }
        let builder = if received.packet.has_extensions() { builder.with_extensions() } else { builder };
        self.send(PacketType::ResolutionReply, to, builder.finish());
    }

    /// Where the requester is reached: as another hub says, or as it claims, or where the packet came from.
    fn requester_nbma(&self, received: &Received<'_>) -> IpAddr {
        let header = received.header();
        let bound = self.bindings.get(&header.src_proto);
        if let Some(binding) = bound.filter(|it| it.source < Source::Resolved && it.source != Source::Local) {
            return binding.nbma;
        }
        if self.is_hub(received.from) || !self.enforced(Rule::NatTrust) {
            let nat = received.packet.extension(ext::NAT).and_then(|extension| extension.cies().ok());
            let public = nat.into_iter().flatten().find(|cie| cie.proto == Some(header.src_proto));
            return public.and_then(|cie| cie.nbma).unwrap_or(header.src_nbma);
        }
        received.from
    }

    /// Our address as an NHS sees it, if that differs from the one that we claim.
    pub(crate) fn public_nbma(&self, local: IpAddr) -> Option<IpAddr> {
        let registrations = self.hubs.iter().flat_map(|hub| hub.registrations.iter());
        registrations.filter(|it| it.local == local).find_map(|it| it.public)
    }

    /// Whether the requester may ask by us: a client, or one whose request a hub passed on. The inner answer is where a
    /// client is, as we see it.
    pub(crate) fn admits_requester(&mut self, now: Time, received: &Received<'_>) -> Option<Option<IpAddr>> {
        let header = *received.header();
        let from = received.from;
        let requester_bound =
            self.bindings.get(&header.src_proto).filter(|it| it.source <= Source::Registered);
        let known = requester_bound.is_some_and(|it| it.nbma == from) || self.is_hub(from) || {
            let last = records(received, ext::FORWARD_RECORD).last().and_then(|cie| cie.proto);
            last.and_then(|hub| self.bindings.get(&hub)).is_some_and(|it| it.nbma == from)
        };
        if !known && self.enforced(Rule::RequesterKnown) {
            self.drop(now, DropReason::Forbidden, Some(from));
            return None;
        }
        // The answer goes where the header says, or the NAT extension: of one who is registered here we know better,
        // whoever passed the request on.
        let bound = requester_bound.map(|it| (it.nbma, it.claimed()));
        let client = bound.map(|(nbma, _)| nbma).filter(|nbma| *nbma == from);
        let honest = |(nbma, claimed)| header.src_nbma == nbma || Some(header.src_nbma) == claimed;
        if bound.is_some_and(|bound| !honest(bound)) && self.enforced(Rule::RequesterKnown) {
            self.drop(now, DropReason::Forbidden, Some(from));
            return None;
        }
        Some(client)
    }

    fn pass_request(&mut self, now: Time, received: &Received<'_>) {
        let Some(client) = self.admits_requester(now, received) else { return };
        let header = *received.header();
        let from = received.from;
        if let Some(binding) = self.known_host(now, &header) {
            return self.answer_for(now, received, &binding);
        }
        let elsewhere = |next: &NextHop| next.nbma != from && next.via != header.src_proto;
        let Some(next) = self.next_hop(header.dst_proto).filter(elsewhere) else {
            return self.answer_nothing(now, received);
        };
        if header.hop_count <= 1 && self.enforced(Rule::HopCount) {
            self.drop(now, DropReason::HopCount, Some(from));
            return self.send_error(now, from, received.packet, ErrorCode::HopCountExceeded);
        }
        let seen = client.map(|nbma| nat_cie(nbma, header.src_proto));
        let bytes = self.passed(received, ext::FORWARD_RECORD, seen, Some(header.src_nbma));
        let bounded = self.enforced(Rule::TableBounds);
        self.forwarded.insert(now, (header.src_proto, header.request_id), next.nbma, from, bounded);
        self.sweep_soon(now);
        if !self.has_unknown_compulsory(received) {
            // A hub answers for others, who may have longer holding times than it has itself.
            let own = self.config.holding_time;
            let seconds = if self.is_hub(next.nbma) { own.max(next.holding_time) } else { next.holding_time };
            let seconds = if seconds == 0 { own } else { seconds };
            let requester = Requester {
                overlay: header.src_proto,
                asked: header.dst_proto,
                nbma: from,
                request_id: header.request_id,
                // By default or by the overlay as a whole, nothing is known but the destination.
                prefix: if self.is_gathering(next.prefix) { header.dst_proto.into() } else { next.prefix },
                until: now.after(u64::from(seconds) * 1000),
            };
            self.remember(now, next.via, requester);
        }
        self.pass_on(PacketType::ResolutionRequest, next.nbma, bytes);
    }

    /// To a probe, to a request of our own, or to one that we passed on.
    pub(crate) fn resolution_reply(&mut self, now: Time, received: &Received<'_>) {
        let header = *received.header();
        if self.is_local(header.src_proto) {
            if !self.probe_answered(now, received) && !self.path_answered(now, received) {
                self.ask_answered(now, received);
            }
            return;
        }
        let from = received.from;
        let Some(passage) = self.forwarded.get(now, (header.src_proto, header.request_id)) else {
            return self.drop(now, DropReason::Unsolicited, Some(from));
        };
        if passage.to != from && self.enforced(Rule::ForwardedReplyPath) {
            return self.drop(now, DropReason::WrongSender, Some(from));
        }
        let round = self.recorded(received, ext::REVERSE_RECORD) || self.recorded(received, ext::RESPONDER);
        if round && self.enforced(Rule::Loop) {
            self.drop(now, DropReason::Loop, Some(from));
            return self.send_error(now, from, received.packet, ErrorCode::Loop);
        }
        if header.hop_count <= 1 && self.enforced(Rule::HopCount) {
            self.drop(now, DropReason::HopCount, Some(from));
            return self.send_error(now, from, received.packet, ErrorCode::HopCountExceeded);
        }
        let egress = received.packet.cies().next().and_then(|cie| cie.proto);
        let known = egress.and_then(|proto| Some((proto, self.bindings.get(&proto)?)));
        let told = received.packet.cies().next().and_then(|cie| cie.nbma);
        let elsewhere =
            |(_, it): &(IpAddr, &Binding)| told.is_some_and(|told| told != it.nbma) && told != it.claimed();
        // Nor from one who is no client or hub of ours any more.
        let stranger = known.is_none() && !self.ends.contains_key(&from);
        if (stranger || known.as_ref().is_some_and(elsewhere)) && self.enforced(Rule::ForwardedReplyPath) {
            return self.drop(now, DropReason::Forbidden, Some(from));
        }
        let seen = known.map(|(proto, it)| nat_cie(it.nbma, proto));
        let bytes = self.passed(received, ext::REVERSE_RECORD, seen, told);
        self.pass_on(PacketType::ResolutionReply, passage.back, bytes);
    }

    /// The packet as we pass it on: one hop less, ourselves in the record, the password ours. The NAT extension says
    /// where the client is `seen`, if that is not where it is `claimed` to be or the extension says something else.
    pub(crate) fn passed(
        &self,
        received: &Received<'_>,
        record: u16,
        seen: Option<Cie>,
        claimed: Option<IpAddr>,
    ) -> Vec<u8> {
        let proto = seen.map(|cie| cie.proto);
        let mut told = false;
        let header = received.header();
        let hops = header.hop_count.saturating_sub(1);
        let mut builder = Builder::forward(received.packet, hops);
        // Who does not understand all of it leaves no trace (RFC 2332 §5.3).
        let record_us = !self.has_unknown_compulsory(received);
        let local = self.local_like(header.src_proto);
        for extension in received.packet.extensions() {
            let Extension { compulsory, kind, value } = extension;
            builder = match kind {
                ext::AUTHENTICATION => self.authenticated(builder, None),
                ext::NAT => {
                    told = true;
                    let said = extension.cies().into_iter().flatten().find(|cie| Some(cie.proto) == proto);
                    match seen.filter(|cie| cie.nbma != said.map_or(claimed, |said| said.nbma)) {
                        Some(cie) => builder.extension_cies(compulsory, kind, &[cie]),
                        None => builder.extension(compulsory, kind, value),
                    }
                }
                _ if kind == record && record_us => {
                    let mut list: Vec<_> = extension.cies().map(Iterator::collect).unwrap_or_default();
                    list.extend(local.map(|local| self.own_cie(local)));
                    builder.extension_cies(compulsory, kind, &list)
                }
                _ => builder.extension(compulsory, kind, value),
            };
        }
        if let Some(cie) = seen.filter(|cie| !told && cie.nbma != claimed) {
            builder = builder.extension_cies(false, ext::NAT, &[cie]);
        }
        let builder = if received.packet.has_extensions() { builder.with_extensions() } else { builder };
        builder.finish()
    }

    /// Sends a packet of somebody else.
    pub(crate) fn pass_on(&mut self, packet_type: PacketType, to: IpAddr, bytes: Vec<u8>) {
        self.counters.forwarded.count(packet_type);
        if to == BESIDE {
            return self.outputs.push_back(super::Output::Across(Across { bytes, received: None }));
        }
        self.outputs.push_back(super::Output::Send { link: self.config.link, to, bytes });
    }

    /// Whether one of our own addresses stands in a record.
    pub(crate) fn recorded(&self, received: &Received<'_>, record: u16) -> bool {
        records(received, record).any(|cie| cie.proto.is_some_and(|proto| self.is_local(proto)))
    }
}

/// Entries of a record extension; none if it is missing or malformed.
fn records<'a>(received: &Received<'a>, record: u16) -> impl Iterator<Item = Cie> + use<'a> {
    let extension = received.packet.extension(record);
    extension.and_then(|extension| extension.cies().ok()).into_iter().flatten()
}

pub(crate) fn nat_cie(nbma: IpAddr, proto: IpAddr) -> Cie {
    let prefix_len = if proto.is_ipv4() { 32 } else { 128 };
    Cie { prefix_len, nbma: Some(nbma), proto: Some(proto), ..Cie::default() }
}
