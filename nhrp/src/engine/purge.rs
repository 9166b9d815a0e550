//! Purge (RFC 2332 §5.2.5): taking back what others were told, and believing only those who may.

use std::net::IpAddr;

use ipnet::IpNet;

use super::prefix_map::overlaps;
use super::requesters::Requester;
use super::snapshot::Source;
use super::timers::TimerKey;
use super::{DropReason, Engine, Event, Output, Received, Rule, Time};
use crate::wire::{Builder, Cie, Header, MAX_HOPS, PacketType, ext, flags};

/// A request goes out after 1, 2, 4 … 64 s again, until it is answered or what it is about is over anyway.
const MAX_BACKOFF: u32 = 6;
/// Purges that wait for an answer; more are sent once.
const PURGE_BOUND: usize = 1 << 14;
/// Prefixes that one request takes back.
const ENTRIES: usize = 32;
/// After this long a withdrawal is over, whoever has not answered.
const WITHDRAW_MS: u64 = 2000;

/// A purge of ours that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Who is told, and where it was when last looked.
    dst: IpAddr,
    to: IpAddr,
    bytes: Vec<u8>,
    tries: u32,
    next: Time,
    until: Time,
}

/// What is taken back, and where.
struct Purge<'a> {
    id: u32,
    /// Our overlay address, and that of who is told.
    local: IpAddr,
    dst: IpAddr,
    to: IpAddr,
    prefixes: &'a [IpNet],
    /// When whoever was told has forgotten it by itself.
    until: Time,
    /// Of a registration: the NHS's entry in the NAT extension.
    nhs: Option<Cie>,
}

impl Engine {
    /// Tells those who were told of `overlay` that it, and what they were told about behind it, no longer holds.
    pub(crate) fn purge_requesters(&mut self, now: Time, overlay: IpAddr, requesters: &[Requester]) {
        self.purge_told(now, requesters, |it| {
            (it.overlay != overlay).then_some([IpNet::from(overlay), it.prefix])
        });
    }

    /// Tells those who were told of a prefix that it is no longer behind its egress.
    pub(crate) fn purge_prefixes(&mut self, now: Time, requesters: &[Requester]) {
        self.purge_told(now, requesters, |it| Some([it.prefix]));
    }

    /// `requesters` ordered by address: one request each, that takes back all that `gone` says.
    fn purge_told<const N: usize>(
        &mut self,
        now: Time,
        requesters: &[Requester],
        gone: impl Fn(&Requester) -> Option<[IpNet; N]>,
    ) {
        if !self.enforced(Rule::PurgeSending) {
            return;
        }
        for told in requesters.chunk_by(|a, b| a.overlay == b.overlay && a.nbma == b.nbma) {
            let Some(first) = told.first() else { continue };
            let until = told.iter().map(|it| it.until).max().unwrap_or(now);
            if until <= now || self.is_local(first.overlay) {
                continue;
            }
            let mut prefixes = Vec::new();
            for prefix in told.iter().filter_map(&gone).flatten() {
                if !prefixes.contains(&prefix) {
                    prefixes.push(prefix);
                }
            }
            // Who is registered here may have moved since; others are told by the way that they asked.
            let bound = self.bindings.get(&first.overlay).filter(|it| it.source <= Source::Registered);
            let to = bound.map_or(first.nbma, |binding| binding.nbma);
            let Some(local) = self.local_like(first.overlay) else { continue };
            for prefixes in prefixes.chunks(ENTRIES) {
                let id = self.new_id();
                let purge = Purge { id, local, dst: first.overlay, to, prefixes, until, nhs: None };
                self.purge(now, &purge);
            }
        }
    }

    /// Takes our registration with an NHS back.
    pub(crate) fn purge_registration(
        &mut self,
        now: Time,
        id: u32,
        local: IpAddr,
        nhs: IpAddr,
        nbma: IpAddr,
    ) {
        let entry = Cie {
            prefix_len: if nhs.is_ipv4() { 32 } else { 128 },
            mtu: self.config.mtu,
            nbma: Some(nbma),
            proto: Some(nhs),
            ..Cie::default()
        };
        let until = now.after(u64::from(self.config.holding_time) * 1000);
        let prefixes = &[IpNet::from(local)];
        // Cisco wants the id of the registration.
        self.purge(now, &Purge { id, local, dst: nhs, to: nbma, prefixes, until, nhs: Some(entry) });
    }

    fn purge(&mut self, now: Time, purge: &Purge<'_>) {
        let Some(header) = self.header(PacketType::PurgeRequest, purge.id, purge.local, purge.dst) else {
            return;
        };
        let mut builder = Builder::new(&header);
        for prefix in purge.prefixes {
            // Of a registration, this one; of what others were told, all that leads there.
            let nbma = self.config.nbma.filter(|_| purge.nhs.is_some());
            let proto = Some(prefix.network());
            builder = builder.cie(&Cie { prefix_len: prefix.prefix_len(), nbma, proto, ..Cie::default() });
        }
        let mut builder = self.request_extensions(builder);
        if let Some(nhs) = purge.nhs {
            builder = builder.extension_cies(false, ext::NAT, &[nhs]);
        }
        let bytes = builder.finish();
        if self.purges.len() < PURGE_BOUND {
            let next = now.after(1000);
            let job = Job {
                dst: purge.dst,
                to: purge.to,
                bytes: bytes.clone(),
                tries: 1,
                next,
                until: purge.until,
            };
            self.purges.insert(purge.id, job);
            self.timers.arm(TimerKey::Purge(purge.id), next);
        }
        self.send(PacketType::PurgeRequest, purge.to, bytes);
    }

    pub(crate) fn purge_due(&mut self, now: Time, id: u32) {
        let Some(job) = self.purges.get_mut(&id) else { return };
        if job.next > now {
            let next = job.next;
            return self.timers.arm(TimerKey::Purge(id), next);
        }
        if job.until <= now {
            self.purges.remove(&id);
            return self.withdrawn_if_idle();
        }
        // It may have moved since.
        let known = self.bindings.get(&job.dst).filter(|it| it.source == Source::Registered);
        job.to = known.map_or(job.to, |binding| binding.nbma);
        job.next = now.after(1000 << job.tries.min(MAX_BACKOFF));
        job.tries += 1;
        let (next, to, bytes) = (job.next.min(job.until), job.to, job.bytes.clone());
        job.next = next;
        self.timers.arm(TimerKey::Purge(id), next);
        self.send(PacketType::PurgeRequest, to, bytes);
    }

    /// Honoured from the owner (the outer source is where the binding is) and, about what we resolved, from the NHS
    /// that was asked. What others learned by way of us is told on. Always acknowledged.
    pub(crate) fn purge_request(&mut self, now: Time, received: &Received<'_>) {
        let header = *received.header();
        for cie in received.packet.cies() {
            let proto = cie.proto.filter(|proto| !proto.is_unspecified()).unwrap_or(header.src_proto);
            let prefix = cie.prefix_of(proto);
            self.purge_received(now, prefix, received.from);
            self.pass_purge(now, prefix, header.src_proto, received.from);
        }
        if header.flags & flags::NO_REPLY != 0 {
            return;
        }
        let reply = Header { packet_type: PacketType::PurgeReply, hop_count: MAX_HOPS, ..header };
        let mut builder = Builder::new(&reply);
        for cie in received.packet.cies() {
            builder = builder.cie(&cie);
        }
        for extension in received.packet.extensions() {
            builder = match extension.kind {
                ext::AUTHENTICATION => self.authenticated(builder, received.secret),
                _ => builder.extension(extension.compulsory, extension.kind, extension.value),
            };
        }
        let builder = if received.packet.has_extensions() { builder.with_extensions() } else { builder };
        self.send(PacketType::PurgeReply, received.from, builder.finish());
    }

    fn purge_received(&mut self, now: Time, prefix: IpNet, from: IpAddr) {
        let mut foreign = false;
        let mut gone = Vec::new();
        let anybody = !self.enforced(Rule::PurgeFromOwner);
        let any_nhs = !self.enforced(Rule::PurgeFromNhs);
        let host = if prefix.addr().is_ipv4() { 32 } else { 128 };
        if prefix.prefix_len() == host {
            let overlay = prefix.addr();
            match self.bindings.get(&overlay).filter(|it| it.source == Source::Registered) {
                Some(binding) if binding.nbma == from || anybody => gone.push(overlay),
                Some(_) => foreign = true,
                None => {}
            }
        } else if self.registered_at(from) > 0 {
            // Nobody but the owner can take more than one host back, so whoever purges a range loses their own.
            let own = self.bindings.iter().filter(|(overlay, it)| {
                prefix.contains(*overlay) && it.source == Source::Registered && it.nbma == from
            });
            gone.extend(own.map(|(overlay, _)| *overlay));
            gone.sort_unstable();
        }
        let mut shortcuts = Vec::new();
        for (net, shortcut) in self.shortcuts.iter() {
            let Some(via) = shortcut.via.or_else(|| shortcut.pending.map(|it| it.via)) else { continue };
            if !overlaps(prefix, net) && !prefix.contains(&via) {
                continue;
            }
            let pending = shortcut.pending.is_some_and(|answer| answer.nbma == from);
            let asked = shortcut.nhs == from || any_nhs;
            match asked || pending || self.bindings.get(&via).is_some_and(|it| it.nbma == from) {
                true => shortcuts.push(net),
                false => foreign = true,
            }
        }
        for overlay in gone {
            self.event(Event::Purged { prefix: IpNet::from(overlay), by: from });
            self.claim_released(overlay);
            self.unbind(now, overlay);
        }
        for net in shortcuts {
            self.event(Event::Purged { prefix: net, by: from });
            self.shortcut_down(now, net, "purged");
        }
        if foreign {
            self.drop(now, DropReason::NotOwner, Some(from));
        }
    }

    /// Those whose requests we passed on to `sender` hear it from us, for as much of it as they asked about: they
    /// believe only the NHS that they asked. Nobody is told twice, so that a purge cannot go round.
    fn pass_purge(&mut self, now: Time, prefix: IpNet, sender: IpAddr, from: IpAddr) {
        if !self.config.server || self.bindings.get(&sender).is_none_or(|it| it.nbma != from) {
            return;
        }
        let mut told = self.take_requesters(sender, |it| {
            it.nbma != from && (prefix.contains(&it.asked) || prefix == IpNet::from(sender))
        });
        for requester in &mut told {
            if requester.prefix.contains(&prefix) {
                requester.prefix = prefix;
            }
        }
        self.purge_prefixes(now, &told);
    }

    pub(crate) fn purge_reply(&mut self, now: Time, received: &Received<'_>) {
        let id = received.header().request_id;
        match self.purges.get(&id).map(|job| job.to == received.from) {
            Some(true) => {
                self.purges.remove(&id);
                self.timers.cancel(TimerKey::Purge(id));
                self.withdrawn_if_idle();
            }
            Some(false) => self.drop(now, DropReason::WrongSender, Some(received.from)),
            None => self.drop(now, DropReason::Unsolicited, Some(received.from)),
        }
    }

    /// Takes back all that we told: registrations at our NHSs, answers as egress.
    pub(crate) fn withdraw(&mut self, now: Time) {
        if self.withdrawing {
            return;
        }
        self.withdrawing = true;
        self.withdrawn = false;
        let mut registered = Vec::new();
        for hub in &self.hubs {
            for registration in &hub.registrations {
                if let (true, Some(nhs), Some(nbma)) =
                    (registration.may_be_known(), registration.nhs, hub.nbma())
                {
                    registered.push((registration.request_id, registration.local, nhs, nbma));
                }
            }
        }
        for (id, local, nhs, nbma) in registered {
            self.purge_registration(now, id, local, nhs, nbma);
        }
        for local in self.config.local.clone() {
            let told = self.take_requesters(local, |_| true);
            self.purge_requesters(now, local, &told);
        }
        self.timers.arm(TimerKey::Withdraw, now.after(WITHDRAW_MS));
        self.withdrawn_if_idle();
    }

    fn withdrawn_if_idle(&mut self) {
        if self.withdrawing && self.purges.is_empty() {
            self.withdraw_done();
        }
    }

    pub(crate) fn withdraw_done(&mut self) {
        if self.withdrawing && !self.withdrawn {
            self.withdrawn = true;
            self.timers.cancel(TimerKey::Withdraw);
            self.outputs.push_back(Output::Withdrawn);
        }
    }
}
