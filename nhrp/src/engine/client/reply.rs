//! What answers to registrations do, and what silence does.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::snapshot::NhsPhase;
use super::super::timers::TimerKey;
use super::super::{DropReason, Engine, Event, Received, Rule, Time};
use super::Reason;
use super::request::MAX_BACKOFF;
use crate::wire::{CieCode, PrefixChunk, ext, list_flags};

impl Engine {
    /// A Registration Reply: to a registration of ours, or to a list that we pushed as NHS.
    pub(crate) fn registration_reply(&mut self, now: Time, received: &Received<'_>) {
        if self.push_answered(now, received) || self.address_answered(now, received) {
            return;
        }
        let header = *received.header();
        let mut matching = self.hubs.iter().flat_map(|hub| hub.registrations.iter().map(move |it| (hub, it)));
        let found = matching.find(|(_, it)| {
            it.outstanding && it.request_id == header.request_id && it.local == header.src_proto
        });
        let Some((hub, registration)) = found else {
            return self.drop(now, DropReason::Unsolicited, Some(received.from));
        };
        if hub.asked() != Some(received.from) && self.enforced(Rule::RegistrationReplySource) {
            return self.drop(now, DropReason::WrongSender, Some(received.from));
        }
        if registration.nhs.is_some_and(|nhs| nhs != header.dst_proto) {
            return self.drop(now, DropReason::Unsolicited, Some(received.from));
        }
        let uid = registration.uid;
        let refusal =
            received.packet.cies().map(|cie| CieCode::from(cie.code)).find(|code| *code != CieCode::Success);
        let Some(registration) = self.registration_mut(uid) else { return };
        registration.outstanding = false;
        registration.misses = 0;
        registration.replies += 1;
        registration.last_reply = Some(now);
        match refusal {
            Some(code) => {
                self.registration_refused(now, uid, Reason::Refused(code));
                // One that hands its clients on says to whom.
                self.hubs_heard(now, uid, received);
            }
            None => self.registration_accepted(now, uid, received),
        }
    }

    /// A reply that failed the check of its password: it does nothing, but silence has another reason then.
    pub(crate) fn reply_unproven(&mut self, from: IpAddr, id: u32) {
        let hubs = self.hubs.iter_mut().filter(|hub| hub.asked() == Some(from));
        let mut all = hubs.flat_map(|hub| hub.registrations.iter_mut());
        if let Some(registration) = all.find(|it| it.is_waiting_for(id)) {
            registration.unproven = true;
        }
    }

    /// NAK or error: tried again later, with a new id.
    pub(crate) fn registration_refused(&mut self, now: Time, uid: u32, reason: Reason) {
        let local = self.registration_mut(uid).map(|registration| registration.local);
        if reason == Reason::Refused(CieCode::AlreadyRegistered)
            && local.is_some_and(|local| self.address_lost(now, local))
        {
            return;
        }
        let Some(registration) = self.registration_mut(uid) else { return };
        registration.outstanding = false;
        registration.resumed = false;
        registration.failed += 1;
        registration.told = 0;
        registration.full_at = now;
        let backoff = registration.refusals.min(MAX_BACKOFF);
        registration.refusals = registration.refusals.saturating_add(1);
        let delay = self.rng.jitter(1000 << backoff);
        self.ask_again_at(uid, now.after(delay));
        self.registration_down(now, uid, NhsPhase::Expecting, reason);
    }

    fn registration_accepted(&mut self, now: Time, uid: u32, received: &Received<'_>) {
        let header = *received.header();
        let own_nbma = self.config.nbma;
        let Some((hub_at, _)) = self.find_registration(uid) else { return };
        let local_overlay = self.is_local(header.dst_proto);
        let responder =
            received.packet.extension(ext::RESPONDER).and_then(|it| it.cies().ok()?.next()?.proto);
        let Some(registration) = self.registration_mut(uid) else { return };
        let learned = match registration.nhs {
            Some(_) => None,
            None if !local_overlay => Some(header.dst_proto),
            None => responder,
        };
        if let Some(overlay) = learned.filter(|overlay| !overlay.is_unspecified()) {
            registration.nhs = Some(overlay);
        }
        let nat = received.packet.extension(ext::NAT).and_then(|it| it.cies().ok());
        let seen = nat.into_iter().flatten().skip(1).find(|cie| cie.proto == Some(registration.local));
        registration.public = seen.and_then(|cie| cie.nbma).filter(|seen| Some(*seen) != own_nbma);
        registration.software = received.software();
        registration.refusals = 0;
        registration.told = registration.telling;
        registration.serving = true;
        let newly_up = registration.phase != NhsPhase::Responding;
        if newly_up {
            registration.phase = NhsPhase::Responding;
            registration.reason = Reason::None;
            registration.since = now;
        }
        let (overlay, light) = (registration.nhs, registration.light);
        self.answered_at(now, hub_at, learned.is_some());
        if newly_up {
            self.came_up(now, hub_at, overlay, received.from);
        }
        let mut wanted = false;
        if let Some(extension) = received.packet.extension(ext::PREFIXES) {
            match PrefixChunk::decode(extension.value) {
                Ok(chunk) => {
                    wanted = chunk.has(list_flags::REACHABLE) && chunk.has(list_flags::WANT);
                    self.list_heard(now, uid, chunk);
                }
                Err(_) => self.drop(now, DropReason::BadPrefixList, Some(received.from)),
            }
        }
        if !light {
            self.denials_heard(hub_at, uid, received);
        }
        let more = self.hubs_heard(now, uid, received);
        let Some(registration) = self.registration_mut(uid) else { return };
        if light && wanted {
            // It asks for what a light request leaves out: it started anew.
            registration.full_at = now;
            return self.ask_again_at(uid, now);
        }
        let (local, primary) = (registration.local, registration.primary);
        let total = if primary && !light { self.told_by_registration(local).len() } else { 0 };
        let current = self.announcer.below_generation;
        let Some(registration) = self.registration_mut(uid) else { return };
        if primary && registration.list != current {
            // It changed on the way, or since a full one was sent.
            registration.tell_anew(now);
            return self.ask_again_at(uid, now);
        }
        if registration.told < total {
            // The next chunk of our list.
            return self.ask_again_at(uid, now);
        }
        registration.told = 0;
        self.answered_well(now, uid, !light);
        if more {
            self.ask_again_at(uid, now);
        }
    }

    /// What of our own list the NHS does not take. A peer of another make says nothing.
    fn denials_heard(&mut self, hub_at: usize, uid: u32, received: &Received<'_>) {
        let chunk = received.packet.extension(ext::REFUSED).and_then(|it| PrefixChunk::decode(it.value).ok());
        let chunk = chunk.unwrap_or_default();
        // It can only speak of what we announce.
        let own = chunk.prefixes.iter().filter(|prefix| self.is_own_prefix(**prefix));
        let denied: Vec<_> = own.map(|prefix| (*prefix, chunk.next_hops.get(prefix).copied())).collect();
        let Some(hub) = self.hubs.get(hub_at).map(|hub| hub.config.name.clone()) else { return };
        let Some(registration) = self.registration_mut(uid) else { return };
        if registration.denied == denied {
            return;
        }
        let before = std::mem::replace(&mut registration.denied, denied.clone());
        for (prefix, _) in before.iter().filter(|(prefix, _)| !denied.iter().any(|(it, _)| it == prefix)) {
            self.event(Event::PrefixTaken { prefix: *prefix, hub: hub.clone() });
        }
        for (prefix, holder) in denied.into_iter().filter(|it| !before.contains(it)) {
            self.event(Event::PrefixDenied { prefix, hub: hub.clone(), holder });
        }
    }

    /// Prefixes of ours that a hub does not take: its name, the prefix, and who announced what that overlaps with.
    pub fn denied(&self) -> impl Iterator<Item = (&str, IpNet, Option<IpAddr>)> + '_ {
        self.hubs.iter().flat_map(|hub| {
            let all = hub.registrations.iter().flat_map(|it| &it.denied);
            all.map(|(prefix, holder)| (hub.config.name.as_str(), *prefix, *holder))
        })
    }

    /// It answered where it was asked: traffic goes there.
    fn answered_at(&mut self, now: Time, hub_at: usize, learned: bool) {
        let Some(hub) = self.hubs.get_mut(hub_at) else { return };
        let moved = hub.nbma_at != hub.asked_at;
        hub.nbma_at = hub.asked_at;
        if moved || learned {
            self.bind_hub(now, hub_at);
        }
    }

    fn came_up(&mut self, now: Time, hub_at: usize, overlay: Option<IpAddr>, nbma: IpAddr) {
        let fallback_ms = u64::from(self.config.fallback_seconds) * 1000;
        let Some(hub) = self.hubs.get_mut(hub_at) else { return };
        let name = hub.config.name.clone();
        hub.answered(now, fallback_ms);
        // Its other registrations need not wait for the next turn of their back-off.
        let mut silent = Vec::new();
        for registration in hub.registrations.iter_mut().filter(|it| it.reason == Reason::NoAnswer) {
            registration.start_over(now);
            silent.push(registration.uid);
        }
        silent.into_iter().for_each(|uid| self.ask_again_at(uid, now));
        self.event(Event::NhsUp { name, overlay, nbma });
        self.choose_hubs(now);
    }

    /// The NHS refused us, or cannot be asked: its list no longer counts. Its binding stays.
    pub(crate) fn registration_down(&mut self, now: Time, uid: u32, phase: NhsPhase, reason: Reason) {
        if self.mark_down(now, uid, phase, reason) {
            self.forget_list(uid);
            self.choose_hubs(now);
        }
    }

    /// The NHS is silent, and so is all of it if this was the registration that it is watched by. What it told us goes
    /// to another that tells the same; what nobody else tells stays until the holding time is over, for its kernel may
    /// well be forwarding while its agent is away.
    pub(super) fn registration_silent(&mut self, now: Time, uid: u32, reason: Reason) {
        let Some(hub) = self.hub_of(uid) else { return };
        let mut silent = vec![uid];
        if hub.pulse() == Some(uid) {
            let others =
                hub.registrations.iter_mut().filter(|it| it.uid != uid && it.phase == NhsPhase::Responding);
            for other in others {
                other.start_over(now);
                silent.push(other.uid);
            }
        }
        let mut changed = false;
        for uid in silent.iter().copied() {
            changed |= self.mark_down(now, uid, NhsPhase::Expecting, reason);
        }
        if !changed {
            return;
        }
        for uid in silent {
            if let Some(registration) = self.registration_mut(uid) {
                registration.has_list = false;
                registration.assembly = None;
                registration.full_at = now;
                self.timers.arm(TimerKey::Registration(uid), now);
            }
            self.silence_due(now, uid);
        }
        self.choose_hubs(now);
    }

    /// What a silent NHS told us may be over.
    pub(crate) fn silence_due(&mut self, now: Time, uid: u32) {
        let holding_ms = u64::from(self.config.holding_time) * 1000;
        let Some(registration) = self.registration_mut(uid).filter(|it| !it.serving) else { return };
        let until = registration.last_reply.unwrap_or(Time(0)).after(holding_ms);
        if until > now {
            return self.timers.arm(TimerKey::Silence(uid), until);
        }
        self.forget_list(uid);
        self.forget_told_by(now, uid);
    }

    fn mark_down(&mut self, now: Time, uid: u32, phase: NhsPhase, reason: Reason) -> bool {
        let Some(registration) = self.registration_mut(uid) else { return false };
        if registration.phase == phase && registration.reason == reason {
            return false;
        }
        registration.phase = phase;
        registration.reason = reason;
        registration.since = now;
        registration.serving = false;
        let overlay = registration.nhs;
        let Some(hub) = self.hub_of(uid) else { return false };
        hub.failing(reason);
        let name = hub.config.name.clone();
        self.event(Event::NhsDown { name, overlay, reason: reason.code().into() });
        true
    }
}
