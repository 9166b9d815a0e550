//! Purge (RFC 2332 §5.2.5): taking back what others were told, and believing only those who may.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bindings::Requester;
use super::snapshot::Source;
use super::timers::TimerKey;
use super::{DropReason, Engine, Event, Output, Received, Rule, TABLE_BOUND, Time};
use crate::wire::{Builder, Cie, Header, MAX_HOPS, PacketType, ext, flags};

/// A request goes out this often, after 1, 2 and 4 s again (FRR never answers).
const TRIES: u32 = 4;
/// After this long a withdrawal is over, whoever has not answered.
const WITHDRAW_MS: u64 = 2000;

/// A purge of ours that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    to: IpAddr,
    bytes: Vec<u8>,
    tries: u32,
    next: Time,
}

impl Engine {
    /// Tells those who were told of `overlay` (or of a prefix behind it) that it no longer holds.
    pub(crate) fn purge_requesters(&mut self, now: Time, overlay: IpAddr, requesters: &[Requester]) {
        if !self.enforced(Rule::PurgeSending) {
            return;
        }
        let Some(local) = self.local_like(overlay) else { return };
        for requester in requesters {
            if requester.until <= now || requester.overlay == overlay || self.is_local(requester.overlay) {
                continue;
            }
            let host = IpNet::from(overlay);
            let mut purged = vec![host];
            if requester.prefix != host {
                purged.push(requester.prefix);
            }
            let to = self.bindings.get(&requester.overlay).map_or(requester.nbma, |binding| binding.nbma);
            let id = self.new_id();
            self.purge(now, id, local, requester.overlay, to, &purged, None);
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
        // Cisco wants the id of the registration.
        let nat = Cie {
            prefix_len: if nhs.is_ipv4() { 32 } else { 128 },
            mtu: self.config.mtu,
            nbma: Some(nbma),
            proto: Some(nhs),
            ..Cie::default()
        };
        self.purge(now, id, local, nhs, nbma, &[IpNet::from(local)], Some(nat));
    }

    #[allow(clippy::too_many_arguments)]
    fn purge(
        &mut self,
        now: Time,
        id: u32,
        local: IpAddr,
        dst: IpAddr,
        to: IpAddr,
        purged: &[IpNet],
        nat: Option<Cie>,
    ) {
        let Some(header) = self.header(PacketType::PurgeRequest, id, local, dst) else { return };
        let mut builder = Builder::new(&header);
        for prefix in purged {
            // Of a registration, this one; of what others were told, all that leads there.
            let nbma = self.config.nbma.filter(|_| nat.is_some());
            let proto = Some(prefix.network());
            builder = builder.cie(&Cie { prefix_len: prefix.prefix_len(), nbma, proto, ..Cie::default() });
        }
        let mut builder = self.request_extensions(builder);
        if let Some(nat) = nat {
            builder = builder.extension_cies(false, ext::NAT, &[nat]);
        }
        let bytes = builder.finish();
        if self.purges.len() < TABLE_BOUND {
            let job = Job { to, bytes: bytes.clone(), tries: 1, next: now.after(1000) };
            self.purges.insert(id, job);
            self.timers.arm(TimerKey::Purge(id), now.after(1000));
        }
        self.send(PacketType::PurgeRequest, to, bytes);
    }

    pub(crate) fn purge_due(&mut self, now: Time, id: u32) {
        let Some(job) = self.purges.get_mut(&id) else { return };
        if job.next > now {
            let next = job.next;
            return self.timers.arm(TimerKey::Purge(id), next);
        }
        if job.tries == TRIES {
            self.purges.remove(&id);
            return self.withdrawn_if_idle();
        }
        job.next = now.after(1000 << job.tries);
        job.tries += 1;
        let (next, to, bytes) = (job.next, job.to, job.bytes.clone());
        self.timers.arm(TimerKey::Purge(id), next);
        self.send(PacketType::PurgeRequest, to, bytes);
    }

    /// Honoured from the owner (the outer source is where the binding is) and, about what we resolved, from an NHS
    /// of ours. Always acknowledged.
    pub(crate) fn purge_request(&mut self, now: Time, received: &Received<'_>) {
        let header = *received.header();
        for cie in received.packet.cies() {
            let proto = cie.proto.filter(|proto| !proto.is_unspecified()).unwrap_or(header.src_proto);
            self.purge_received(now, cie.prefix_of(proto), received.from);
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
        let mut look = |overlay: IpAddr, nbma: IpAddr| match nbma == from || anybody {
            true => gone.push(overlay),
            false => foreign = true,
        };
        let host = if prefix.addr().is_ipv4() { 32 } else { 128 };
        if prefix.prefix_len() == host {
            if let Some(binding) =
                self.bindings.get(&prefix.addr()).filter(|it| it.source == Source::Registered)
            {
                look(prefix.addr(), binding.nbma);
            }
        } else {
            // Nobody but the owner can take more than one host back, so whoever purges a range loses their own.
            let registered =
                |it: &&super::bindings::Binding| it.source == Source::Registered && it.nbma == from;
            let inside =
                self.bindings.iter().filter(|(overlay, it)| prefix.contains(*overlay) && registered(it));
            inside.for_each(|(overlay, it)| look(*overlay, it.nbma));
            gone.sort_unstable();
        }
        let nhs = self.is_nhs(from) || !self.enforced(Rule::PurgeFromNhs);
        let mut shortcuts = Vec::new();
        for (net, shortcut) in self.shortcuts.iter() {
            let Some(via) = shortcut.via.or_else(|| shortcut.pending.map(|it| it.via)) else { continue };
            if !prefix.contains(&net) && !prefix.contains(&via) {
                continue;
            }
            let pending = shortcut.pending.is_some_and(|answer| answer.nbma == from);
            match nhs || pending || self.bindings.get(&via).is_some_and(|it| it.nbma == from) {
                true => shortcuts.push(net),
                false => foreign = true,
            }
        }
        for overlay in gone {
            self.event(Event::Purged { prefix: IpNet::from(overlay), by: from });
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
            let told = self.bindings.get_mut(&local).map(|it| std::mem::take(&mut it.requesters));
            self.purge_requesters(now, local, &told.unwrap_or_default());
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
