//! The server's side of registration (RFC 2332 §5.2.3): who may have an overlay address, and the answer.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bindings::Binding;
use super::config::Uniqueness;
use super::hub_list::FRAME;
use super::learn::Assembly;
use super::prefix_map::overlaps;
use super::snapshot::Source;
use super::{Budget, DropReason, Engine, Event, Received, Rule, Time};
use crate::wire::{
    Builder, Cie, CieCode, ErrorCode, Header, PacketType, PrefixChunk, Software, ext, flags, list_flags,
};

/// Bindings in all: what an overlay of IPv6 could hold is without end.
const BINDING_BOUND: usize = 1 << 20;

/// Addresses that may be registered from one underlay address: spokes behind one NAT share it.
const HELD_BOUND: u32 = 1024;

/// Prefixes that a client is told are not taken, in one reply.
const DENIED: usize = 8;

/// What becomes of a claim.
enum Verdict {
    /// Of an address that is bound already.
    Accept,
    /// Of one that is free.
    Admit,
    Refuse(CieCode, String),
    /// The answer has to wait until the old holder was asked.
    Probe,
}

impl Engine {
    /// A Registration Request, or an NHS's list in the form of one.
    pub(crate) fn registration_request(&mut self, now: Time, received: &Received<'_>) {
        if self.push_received(now, received) {
            return;
        }
        let header = *received.header();
        let from = received.from;
        if !self.config.server {
            return self.drop(now, DropReason::NotServer, Some(from));
        }
        if self.withdrawing {
            return self.drop(now, DropReason::Withdrawing, Some(from));
        }
        // An address of its own as destination: "I do not know yours".
        if !self.is_local(header.dst_proto) && header.dst_proto != header.src_proto {
            return self.drop(now, DropReason::NotForUs, Some(from));
        }
        let Some(local) = self.local_like(header.src_proto) else {
            return self.drop(now, DropReason::NoAddress, Some(from));
        };
        if self.has_unknown_compulsory(received) {
            self.drop(now, DropReason::UnknownExtension, Some(from));
            return self.send_error(now, from, received.packet, ErrorCode::UnrecognisedExtension);
        }
        if self.address_requested(now, received) {
            return;
        }
        // A client that does not know our address learns it from the destination of the reply.
        let dst_proto = if self.is_local(header.dst_proto) { header.dst_proto } else { local };
        let mut reply = self.builder(&Header {
            packet_type: PacketType::RegistrationReply,
            hop_count: crate::wire::MAX_HOPS,
            dst_proto,
            ..header
        });
        let mut accepted = false;
        for cie in received.packet.cies() {
            let claim = claimed(&cie, &header);
            match self.judge(now, claim, &cie, &header, from) {
                // All at once are more than can be put into the kernel: the client comes again in a second.
                Verdict::Admit if !self.budgets.take_claim(now) => {
                    self.recycle(reply.discard());
                    return self.drop(now, DropReason::RateLimited, Some(from));
                }
                Verdict::Accept | Verdict::Admit => {
                    self.accept(now, claim, &cie, &header, from);
                    accepted |= cie.code == 0 && claim == header.src_proto;
                    reply = reply.cie(&cie);
                }
                Verdict::Refuse(code, reason) => {
                    self.dispossess(now, claim, from);
                    // Counted only: the event below says more than one about a drop would.
                    *self.counters.drops.entry(DropReason::Refused).or_insert(0) += 1;
                    if self.refusals_told.allow(now, (claim, from)) {
                        let holder = self.bindings.get(&claim).map(|it| it.nbma).filter(|it| *it != from);
                        if let Some(holder) = holder.filter(|_| code == CieCode::AlreadyRegistered) {
                            self.event(Event::AddressConflict { overlay: claim, holder, claimant: from });
                        }
                        self.event(Event::RegistrationRefused { overlay: claim, nbma: from, code, reason });
                    }
                    reply = reply.cie(&Cie { code: code.into(), holding_time: 0, ..cie });
                }
                Verdict::Probe => {
                    self.recycle(reply.discard());
                    self.probe(now, claim, received);
                    return self.drop(now, DropReason::ProbePending, Some(from));
                }
            }
        }
        // What else the packet says is about its sender: who claims one address must not speak for another.
        let mut list = None;
        if accepted && let Some(binding) = self.bindings.get_mut(&header.src_proto) {
            binding.software = received.software();
            let known = binding.extended;
            self.group_claimed(now, received);
            self.lease_claimed(now, received);
            list = self.client_list(now, received, known);
        }
        self.answer_registration(received, reply, dst_proto, list);
    }

    fn judge(&self, now: Time, claim: IpAddr, cie: &Cie, header: &Header, from: IpAddr) -> Verdict {
        let prohibited = |reason: String| Verdict::Refuse(CieCode::AdministrativelyProhibited, reason);
        if claim.is_ipv4() != header.src_proto.is_ipv4() || claim.is_multicast() || claim.is_loopback() {
            return prohibited("not an overlay host address".into());
        }
        let inside = self.config.overlay.iter().any(|net| net.contains(&claim));
        if !inside && self.enforced(Rule::OverlayOnly) {
            return prohibited("the address is outside of the overlay".into());
        }
        if !cie.is_for_host(claim) {
            return prohibited("a registration is for one host".into());
        }
        if cie.holding_time == 0 {
            return prohibited("the holding time is zero".into());
        }
        if from.is_unspecified() || from.is_multicast() {
            return prohibited("no usable underlay address".into());
        }
        if let Some(first) = self.shares_nat(claim, cie.nbma.unwrap_or(header.src_nbma), from) {
            return prohibited(format!(
                "{first} is registered from behind the same NAT address, and without IPsec nothing tells them apart"
            ));
        }
        let taken = |whose: &str| {
            Verdict::Refuse(CieCode::AlreadyRegistered, format!("the address belongs to {whose}"))
        };
        if self.is_local(claim) {
            return taken("this hub");
        }
        if let Some(hub) = self.hub_elsewhere(claim, from).filter(|_| self.enforced(Rule::HubAddress)) {
            return taken(&format!("hub {hub}, which is elsewhere"));
        }
        if let Some((code, reason)) = self.claim_refusal(now, claim, from) {
            return Verdict::Refuse(code, reason);
        }
        let exhausted = |what: &str| Verdict::Refuse(CieCode::InsufficientResources, what.into());
        let Some(old) = self.bindings.get(&claim) else {
            if self.drains() {
                return prohibited("this hub hands its spokes on to others".into());
            }
            if self.bindings.len() >= BINDING_BOUND {
                return exhausted("the table of bindings is full");
            }
            if self.registered_at(from) >= HELD_BOUND {
                return exhausted("too many addresses are registered from there");
            }
            return Verdict::Admit;
        };
        let holder = old.nbma;
        if holder == from || old.source > Source::Registered || !self.enforced(Rule::Identity) {
            return Verdict::Accept;
        }
        if old.source < Source::Registered {
            return taken(if old.source == Source::Nhs { "another hub" } else { "a static mapping" });
        }
        match self.is_same_member(claim, from) {
            // Its credential says who it is, wherever it is.
            Some(true) => return Verdict::Accept,
            Some(false) => return taken("another member"),
            None => {}
        }
        match self.config.uniqueness {
            Uniqueness::None => Verdict::Accept,
            Uniqueness::Nbma if !old.unique => Verdict::Accept,
            Uniqueness::Nbma => taken("another registered spoke"),
            Uniqueness::Identity => match self.probed(now, claim, holder, from) {
                Some(true) => taken("a spoke that still answers"),
                Some(false) => Verdict::Accept,
                None => Verdict::Probe,
            },
        }
    }

    /// A registration that is refused to the very one who has it ends: it may not have it any more.
    fn dispossess(&mut self, now: Time, claim: IpAddr, from: IpAddr) {
        let own =
            self.bindings.get(&claim).is_some_and(|it| it.source == Source::Registered && it.nbma == from);
        if own && self.claim_refusal(now, claim, from).is_some() {
            self.unbind(now, claim);
        }
    }

    fn accept(&mut self, now: Time, claim: IpAddr, cie: &Cie, header: &Header, from: IpAddr) {
        self.claimed_by(now, claim, from);
        let claimed = cie.nbma.unwrap_or(header.src_nbma);
        let claimed = (claimed != from).then_some(claimed);
        let unique = header.flags & flags::REGISTRATION_UNIQUE != 0;
        let expires = now.after(u64::from(cie.holding_time) * 1000);
        if let Some(old) = self.bindings.get_mut(&claim) {
            if old.source < Source::Registered {
                // Configured, and it is where the configuration says: only what it announces has a time.
                old.holding_time = cie.holding_time;
                return old.expire_at(now, expires, claim, &mut self.timers);
            }
            // The ordinary refresh touches one entry and no timer.
            if old.source == Source::Registered && old.nbma == from {
                old.set_claimed(claimed);
                old.unique = unique;
                old.holding_time = cie.holding_time;
                old.mtu = cie.mtu;
                return old.expire_at(now, expires, claim, &mut self.timers);
            }
        }
        let old = self.bindings.get(&claim).filter(|old| old.source == Source::Registered);
        let moved_from = old.map(|old| old.nbma);
        if moved_from.is_some() {
            let told = self.take_requesters(claim, |_| true);
            self.purge_requesters(now, claim, &told);
        }
        let leads_to = if self.enforced(Rule::RegistrationSource) { from } else { header.src_nbma };
        let binding = Binding {
            unique,
            holding_time: cie.holding_time,
            mtu: cie.mtu,
            ..Binding::new(leads_to, Source::Registered, now).for_host(claimed, expires)
        };
        self.bind(now, claim, binding);
        self.probes.remove(&claim);
        match moved_from {
            Some(old) => self.event(Event::Moved { overlay: claim, from: old, to: from }),
            None => self.event(Event::Registered { overlay: claim, nbma: from, claimed_nbma: claimed }),
        }
    }

    /// Takes the client's own list and says what to answer it; `None` if the client does not know the extension.
    /// `known`: it used to.
    fn client_list(&mut self, now: Time, received: &Received<'_>, known: bool) -> Option<PrefixChunk> {
        let client = received.header().src_proto;
        let Some(extension) = received.packet.extension(ext::PREFIXES) else {
            if known {
                self.set_prefixes(now, client, &[]);
                self.forget_push(client);
                if let Some(binding) = self.bindings.get_mut(&client) {
                    binding.extended = false;
                }
            }
            return None;
        };
        let Ok(chunk) = PrefixChunk::decode(extension.value) else {
            self.drop(now, DropReason::BadPrefixList, Some(received.from));
            return None;
        };
        let binding = self.bindings.get_mut(&client)?;
        let first = chunk.has(list_flags::FIRST);
        // Without the beginning it says nothing of its prefixes: whoever has not heard them asks.
        let lacks = !first && !binding.extended;
        binding.extended |= first;
        let asked = chunk.flags;
        let only = first && !chunk.has(list_flags::MORE);
        let fixed = binding.source == Source::Static
            && self.config.statics.iter().any(|it| it.overlay == client && !it.prefixes.is_empty());
        if first && self.is_late(client, &chunk) {
            // What it told after that is here already.
        } else if fixed {
            // The configuration says what is behind it.
        } else if only {
            self.list_announced(now, client, &chunk.prefixes, received.from);
        } else {
            let mut slot = self.announcer.assemblies.remove(&client);
            if let Some(list) = Assembly::add(&mut slot, chunk) {
                self.list_announced(now, client, &list.prefixes, received.from);
            }
            if let Some(assembly) = slot.filter(|_| self.announcer.assemblies.len() < super::TABLE_BOUND) {
                self.announcer.assemblies.insert(client, assembly);
            }
        }
        let mut list = self.list_for_reply(now, client, asked, received.header().request_id);
        if lacks {
            list.flags |= list_flags::WANT;
        }
        Some(list)
    }

    /// A client's own list, complete. One that changes without end is left as it is for a while: the client repeats it.
    fn list_announced(&mut self, now: Time, client: IpAddr, list: &[IpNet], from: IpAddr) {
        let Some(binding) = self.bindings.get(&client) else { return };
        let (known, refused) = (binding.prefixes(), binding.refused());
        let changed = || {
            known != list
                && (list.iter().any(|net| !known.contains(net) && !refused.contains(net))
                    || known.iter().any(|net| !list.contains(net)))
        };
        // A hub's list changes with all that are behind it.
        if !self.is_hub(from) && changed() && !self.budgets.take(now, from, Budget::List, 1) {
            return self.drop(now, DropReason::RateLimited, Some(from));
        }
        self.set_prefixes(now, client, list);
    }

    /// The reply is the request with outcome (already in `builder`), sent straight to where the request came from.
    fn answer_registration(
        &mut self,
        received: &Received<'_>,
        mut builder: Builder,
        dst_proto: IpAddr,
        list: Option<PrefixChunk>,
    ) {
        let header = received.header();
        let natted = received.from != header.src_nbma;
        let mut hubs = None;
        for extension in received.packet.extensions() {
            match extension.kind {
                ext::RESPONDER => {
                    let us = self.responder_cie(dst_proto);
                    builder.append_by(true, ext::RESPONDER, |out| us.write(out));
                }
                ext::AUTHENTICATION => builder = self.authenticated(builder, received.secret),
                ext::NAT if natted && extension.is_nat() => {
                    let given = extension.cies().ok().filter(|list| !list.as_bytes().is_empty());
                    let prefix_len = if header.src_proto.is_ipv4() { 32 } else { 128 };
                    // FRR sends none, and looks for itself in the second place.
                    let first = Cie { prefix_len, holding_time: 0, ..self.own_cie(dst_proto) };
                    let first = given.is_none().then_some(first);
                    let client = Cie {
                        prefix_len,
                        mtu: self.config.mtu,
                        nbma: Some(received.from),
                        proto: Some(header.src_proto),
                        ..Cie::default()
                    };
                    let list = given.into_iter().flatten().chain(first).chain([client]);
                    builder.append_by(extension.compulsory, ext::NAT, |out| {
                        list.for_each(|cie| cie.write(out));
                    });
                }
                ext::HUBS => hubs = Some(extension),
                ext::REFUSED => {}
                ext::SOFTWARE => builder.append(false, ext::SOFTWARE, &Software::OURS.encode()),
                ext::PREFIXES if list.is_some() => {
                    builder.append_by(false, ext::PREFIXES, |out| list.iter().for_each(|it| it.write(out)));
                }
                _ => builder.append(extension.compulsory, extension.kind, extension.value),
            }
        }
        if let Some(denied) = list.as_ref().and_then(|_| self.denied_to(header.src_proto)) {
            let denied = denied.encode();
            if builder.len() + FRAME + denied.len() <= usize::from(self.config.mtu.max(576)) {
                builder.append(false, ext::REFUSED, &denied);
            }
        }
        // Last: it takes what room is left.
        if let Some(asked) = hubs {
            match self.hub_list_reply(asked.value, builder.len()) {
                Some(hubs) => builder.append(false, ext::HUBS, &hubs.encode()),
                None => builder.append(asked.compulsory, asked.kind, asked.value),
            }
        }
        let builder = if received.packet.has_extensions() { builder.with_extensions() } else { builder };
        self.send(PacketType::RegistrationReply, received.from, builder.finish());
    }

    /// What of a client's list is not taken, and whose prefixes stand against it.
    fn denied_to(&self, client: IpAddr) -> Option<PrefixChunk> {
        let refused = self.bindings.get(&client)?.refused();
        let prefixes: Vec<_> = refused.iter().copied().take(DENIED).collect();
        let holder = |prefix: &IpNet| {
            let mut others = self.prefixes.all_covering(*prefix).chain(self.prefixes.inside(*prefix));
            let other = others.find(|(_, owner)| owner.via != client).map(|(_, owner)| owner.via);
            let own = || {
                let ours = self.config.subnets.iter().any(|own| overlaps(*own, *prefix));
                let local = self.config.local.iter().copied();
                local.into_iter().find(|it| ours && it.is_ipv4() == prefix.addr().is_ipv4())
            };
            other.or_else(own).filter(|it| it.is_ipv4() == prefix.addr().is_ipv4())
        };
        let next_hops = prefixes.iter().filter_map(|prefix| Some((*prefix, holder(prefix)?))).collect();
        let chunk = PrefixChunk { flags: list_flags::FIRST, prefixes, next_hops, ..PrefixChunk::default() };
        (!chunk.prefixes.is_empty()).then_some(chunk)
    }

    /// Whether the packet has a compulsory extension that we do not know (RFC 2332 §5.3).
    pub(crate) fn has_unknown_compulsory(&self, received: &Received<'_>) -> bool {
        received.packet.has_compulsory_besides(&[
            ext::RESPONDER,
            ext::FORWARD_RECORD,
            ext::REVERSE_RECORD,
            ext::AUTHENTICATION,
            ext::VENDOR,
            ext::NAT,
            ext::PREFIXES,
            ext::HUBS,
        ])
    }
}

/// The overlay address that an entry is about: its own, or the one of the header.
fn claimed(cie: &Cie, header: &Header) -> IpAddr {
    cie.proto.filter(|proto| !proto.is_unspecified()).unwrap_or(header.src_proto)
}
