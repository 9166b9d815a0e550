//! Registration Requests: when they go out, and what they say.
//!
//! Where traffic could go by another NHS (or another address of this one) it is asked every second whether it is
//! there, again after half a second without an answer, and found silent after three misses: within 3 s. Such a request
//! is an ordinary registration, so that any NHS answers it; it only leaves the prefixes out. Where there is no other
//! way, one registration in a third of the holding time is enough, and an NHS is silent after three of its
//! retransmissions (1, 2, 4 s). A silent NHS is asked after 1, 2, 4, 8 s, then every 8 s; after ten minutes of
//! silence, and with another one serving, less and less often up to 64 s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::snapshot::NhsPhase;
use super::super::timers::TimerKey;
use super::super::{Engine, Time};
use super::Reason;
use crate::wire::{Builder, Cie, PacketType, PrefixChunk, Software, ext, flags, list_flags};

/// Misses after which an NHS counts as down.
const MISSES: u32 = 3;
/// An NHS that could be replaced is asked this often.
const PULSE_MS: u64 = 1000;
/// And again after this long without an answer, until it is down.
const PULSE_RETRY_MS: u64 = 500;
/// A silent NHS is asked after 1 s, doubled up to 2^3 s, or up to 2^6 s when that costs nothing.
const PATIENT_BACKOFF: u32 = 3;
pub(super) const MAX_BACKOFF: u32 = 6;
/// Behind NAT registrations go at least this often: they keep the NAT's entry alive, and tell the NHS when the NAT
/// gave us another address.
const NAT_INTERVAL_MS: u64 = 10_000;
/// For so long a silent NHS is expected back soon.
const PATIENCE_MS: u64 = 600_000;

impl Engine {
    /// Time to register, or to register again since no answer came.
    pub(crate) fn registration_due(&mut self, now: Time, uid: u32) {
        let Some((hub_at, _)) = self.find_registration(uid) else { return };
        let has_nbma = self.config.nbma.is_some();
        let withdrawing = self.withdrawing;
        let Some(hub) = self.hubs.get(hub_at).filter(|hub| hub.scheduled) else { return };
        let reachable = hub.nbma().is_some();
        let several = hub.config.nbma.len() > 1;
        let Some(registration) = self.registration_mut(uid) else { return };
        if registration.due > now {
            let due = registration.due;
            return self.timers.arm(TimerKey::Registration(uid), due);
        }
        if withdrawing {
            return;
        }
        if !has_nbma || !reachable {
            let reason = if has_nbma { Reason::NoNhsAddress } else { Reason::NoUnderlayAddress };
            return self.registration_down(now, uid, NhsPhase::Down, reason);
        }
        let mut missed = false;
        if registration.outstanding {
            registration.failed += 1;
            registration.misses += 1;
            missed = registration.misses >= MISSES;
        }
        if missed {
            let reason = if registration.unproven { Reason::Unproven } else { Reason::NoAnswer };
            self.registration_silent(now, uid, reason);
            if several {
                self.next_nbma(now, hub_at);
            }
        }
        // A hub that was left because of this silence is not asked.
        if self.hubs.get(hub_at).is_some_and(|hub| hub.scheduled) {
            self.send_registration(now, uid);
        }
    }

    /// Another NBMA address of the same NHS, in turn. Traffic follows when that one answers: the NHS's kernel may well
    /// be forwarding while nobody answers there.
    fn next_nbma(&mut self, now: Time, hub_at: usize) {
        let Some(hub) = self.hubs.get_mut(hub_at) else { return };
        // An address at which another family's registration still gets answers stays.
        if hub.registrations.iter().any(|registration| registration.phase == NhsPhase::Responding) {
            return;
        }
        hub.asked_at = (hub.asked_at + 1) % hub.config.nbma.len().max(1);
        if hub.registrations.iter().all(|registration| registration.last_reply.is_none()) {
            hub.nbma_at = hub.asked_at;
            self.bind_hub(now, hub_at);
        }
    }

    /// How long to wait for an answer after `misses` misses.
    fn patience(&self, now: Time, hub_at: usize, misses: u32, since: Time, down: bool) -> u64 {
        let replaceable = self.has_alternative(hub_at);
        if replaceable && misses < MISSES && !down {
            return PULSE_RETRY_MS;
        }
        let doublings = if replaceable { misses.saturating_sub(MISSES) } else { misses };
        let long = down && now.since(since) >= PATIENCE_MS && self.another_serves(hub_at);
        1000 << doublings.min(if long { MAX_BACKOFF } else { PATIENT_BACKOFF })
    }

    fn send_registration(&mut self, now: Time, uid: u32) {
        let id = self.next_id;
        let list = self.announcer.below_generation;
        let Some((hub_at, _)) = self.find_registration(uid) else { return };
        let Some(registration) = self.registration_mut(uid) else { return };
        let fresh = !registration.outstanding;
        if fresh {
            registration.outstanding = true;
            registration.unproven = false;
            registration.request_id = id;
            registration.misses = 0;
            registration.light = registration.told == 0 && now < registration.full_at;
            if registration.told == 0 {
                registration.round = id;
                if !registration.light {
                    registration.list = list;
                }
            }
        }
        registration.sent += 1;
        let (misses, since) = (registration.misses, registration.since);
        let down = registration.phase == NhsPhase::Expecting && registration.reason != Reason::Starting;
        if fresh {
            self.new_id();
        }
        let delay = self.patience(now, hub_at, misses, since, down);
        let delay = self.rng.jitter(delay);
        self.ask_again_at(uid, now.after(delay));
        let Some((nbma, bytes, telling)) = self.registration_packet(uid) else { return };
        if let Some(registration) = self.registration_mut(uid) {
            registration.telling = telling;
        }
        self.send(PacketType::RegistrationRequest, nbma, bytes);
    }

    pub(super) fn ask_again_at(&mut self, uid: u32, at: Time) {
        if let Some(registration) = self.registration_mut(uid) {
            registration.due = at;
        }
        self.timers.cancel(TimerKey::Registration(uid));
        self.timers.arm(TimerKey::Registration(uid), at);
    }

    /// There are other ways than before: an NHS that could now be replaced is asked from now on, and not only after its
    /// next answer.
    pub(crate) fn watch_anew(&mut self, now: Time) {
        let watched = (0..self.hubs.len()).filter(|at| self.has_alternative(*at));
        let watched: Vec<_> = watched.filter_map(|at| self.hubs.get(at)?.pulse()).collect();
        for uid in watched {
            let pulse = now.after(self.rng.jitter(PULSE_MS));
            if self.registration_mut(uid).is_some_and(|it| it.due > pulse) {
                self.ask_again_at(uid, pulse);
            }
        }
    }

    /// After an answer: when the next request goes out.
    pub(super) fn answered_well(&mut self, now: Time, uid: u32, full: bool) {
        let third = (self.config.holding_time / 3).max(1);
        let interval = u64::from(self.config.registration_interval.unwrap_or(third).max(1)) * 1000;
        let natted = self.registration_mut(uid).is_some_and(|it| it.public.is_some());
        let interval = self.rng.jitter(if natted { interval.min(NAT_INTERVAL_MS) } else { interval });
        let pulse = self.rng.jitter(PULSE_MS);
        let Some((hub_at, _)) = self.find_registration(uid) else { return };
        let watched =
            self.has_alternative(hub_at) && self.hubs.get(hub_at).and_then(super::Hub::pulse) == Some(uid);
        let Some(registration) = self.registration_mut(uid) else { return };
        if full {
            registration.full_at = now.after(interval);
        }
        let due = registration.full_at.min(if watched { now.after(pulse) } else { registration.full_at });
        self.ask_again_at(uid, due.max(now));
    }

    /// The request, where it goes, and up to where it tells our list. A light one tells nothing of it.
    fn registration_packet(&self, uid: u32) -> Option<(IpAddr, Vec<u8>, usize)> {
        let (hub_at, at) = self.find_registration(uid)?;
        let hub = self.hubs.get(hub_at)?;
        let registration = hub.registrations.get(at)?;
        let nbma = hub.asked()?;
        let local = registration.local;
        let dst = registration.nhs.unwrap_or(local);
        let mut header = self.header(PacketType::RegistrationRequest, registration.request_id, local, dst)?;
        header.flags = flags::NAT;
        if self.config.unique {
            header.flags |= flags::REGISTRATION_UNIQUE;
        }
        let own = Cie {
            prefix_len: 0xff,
            mtu: self.config.mtu,
            holding_time: self.config.holding_time,
            ..Cie::default()
        };
        let any = match local {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let host = if local.is_ipv4() { 32 } else { 128 };
        let nat = Cie {
            prefix_len: host,
            mtu: self.config.mtu,
            nbma: Some(nbma),
            proto: Some(registration.nhs.unwrap_or(any)),
            ..Cie::default()
        };
        let builder = self.request_extensions(Builder::new(&header).cie(&own));
        let builder = builder.extension_cies(false, ext::NAT, &[nat]);
        let builder = builder.extension(false, ext::SOFTWARE, &Software::OURS.encode());
        let builder = match self.lease_claim(local) {
            Some(claim) => builder.extension(false, ext::ADDRESS, &claim.encode()),
            None => builder,
        };
        let builder = match self.own_groups(local) {
            Some(groups) => builder.extension(false, ext::GROUPS, &groups.encode()),
            None => builder,
        };
        let builder = match self.hubs_held(hub_at) {
            Some(held) => builder.extension(false, ext::HUBS, &held.encode()),
            None => builder,
        };
        let (chunk, telling) = if registration.light {
            (PrefixChunk::default(), 0)
        } else {
            let list = if registration.primary { self.told_by_registration(local) } else { Vec::new() };
            self.list_chunk(&builder, &list, registration.told)
        };
        let chunk = PrefixChunk {
            flags: chunk.flags
                | list_flags::NEXT_HOPS
                | if registration.has_list { 0 } else { list_flags::WANT },
            generation: registration.round,
            ..chunk
        };
        Some((nbma, builder.extension(false, ext::PREFIXES, &chunk.encode()).finish(), telling))
    }
}
