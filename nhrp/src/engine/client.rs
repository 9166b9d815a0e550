//! The client's side of registration (RFC 2332 §5.2.3): each local address with each NHS.
//!
//! A registration is `Expecting` from its first request on, `Responding` from an ACK on, `Expecting` again with a
//! reason after three misses, a refusal or an error. Requests repeat after 1, 2, 4 … 64 s with the same id.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::bindings::Binding;
use super::config::Nhs;
use super::learn::Assembly;
use super::snapshot::{NhsPhase, Source};
use super::timers::TimerKey;
use super::{DropReason, Engine, Event, Received, Rule, Time};
use crate::wire::{Builder, Cie, CieCode, ErrorCode, PacketType, PrefixChunk, ext, flags, list_flags};

/// Misses after which an NHS counts as down.
const MISSES: u32 = 3;
/// Requests repeat after 1 s, doubled up to 2^6 s.
const MAX_BACKOFF: u32 = 6;
/// Behind NAT registrations go at least this often: they keep the NAT's entry alive, and tell the NHS when the NAT
/// gave us another address.
const NAT_INTERVAL_MS: u64 = 10_000;

/// An NHS of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    pub(crate) config: Nhs,
    /// Which of its NBMA addresses is in use.
    pub(crate) nbma_at: usize,
    pub(crate) registrations: Vec<Registration>,
}

impl Hub {
    pub(crate) fn nbma(&self) -> Option<IpAddr> {
        self.config.nbma.get(self.nbma_at).copied()
    }
}

/// One local address's registration with one NHS.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) uid: u32,
    pub(crate) local: IpAddr,
    /// The first address of its family: carries the prefix lists.
    pub(crate) primary: bool,
    /// Overlay address of the NHS, configured or learned.
    pub(crate) nhs: Option<IpAddr>,
    pub(crate) phase: NhsPhase,
    pub(crate) reason: Reason,
    pub(crate) since: Time,
    pub(crate) request_id: u32,
    outstanding: bool,
    /// An earlier run of the agent had an answer, or may have had one: the NHS may know us, though nothing was said since.
    pub(crate) resumed: bool,
    /// The request that is outstanding was answered, but without a password that we accept.
    unproven: bool,
    /// Requests of this id that had no answer.
    misses: u32,
    refusals: u32,
    due: Time,
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) replies: u64,
    pub(crate) last_reply: Option<Time>,
    pub(crate) public: Option<IpAddr>,
    /// Entries of our own list that the NHS acknowledged in this round, and the round.
    told: usize,
    telling: usize,
    round: u32,
    /// We hold a complete list of the NHS's.
    pub(crate) has_list: bool,
    pub(crate) assembly: Option<Assembly>,
    /// Generation of the last list that was begun.
    pub(crate) generation: Option<u32>,
}

/// Why a registration is not `Responding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    None,
    Starting,
    NoAnswer,
    Unproven,
    NoUnderlayAddress,
    NoNhsAddress,
    Refused(CieCode),
    Error(ErrorCode),
}

impl Reason {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Starting => "Registering",
            Self::NoAnswer => "NoAnswer",
            Self::Unproven => "AuthenticationFailed",
            Self::NoUnderlayAddress => "NoUnderlayAddress",
            Self::NoNhsAddress => "NoNhsAddress",
            Self::Refused(CieCode::AlreadyRegistered | CieCode::NotUnique) => "AddressTaken",
            Self::Refused(CieCode::AdministrativelyProhibited) => "AdministrativelyProhibited",
            Self::Refused(CieCode::InsufficientResources) => "InsufficientResources",
            Self::Refused(_) => "RegistrationRefused",
            Self::Error(ErrorCode::AuthenticationFailure) => "AuthenticationFailed",
            Self::Error(_) => "ErrorIndication",
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Starting => "registration sent, no answer yet".into(),
            Self::NoAnswer => "no answer to registrations".into(),
            Self::Unproven => "the hub's answers bear no password, or another, and are dropped".into(),
            Self::NoUnderlayAddress => "the tunnel has no underlay address".into(),
            Self::NoNhsAddress => "no underlay address of the hub is known".into(),
            Self::Refused(code) => format!("the hub refused the registration: {code}"),
            Self::Error(code) => format!("the hub answered with an error: {code}"),
        }
    }
}

impl Engine {
    /// Takes up an NHS of the configuration: its bindings are installed at once, registrations go out at once.
    pub(crate) fn add_hub(&mut self, now: Time, config: Nhs) {
        let mut hub = Hub { config, nbma_at: 0, registrations: Vec::new() };
        for (index, local) in self.config.local.clone().into_iter().enumerate() {
            let like = |address: &&IpAddr| address.is_ipv4() == local.is_ipv4();
            let nhs = hub.config.overlay.iter().find(like).copied();
            if nhs.is_none() && !hub.config.overlay.is_empty() {
                continue;
            }
            let primary = !self.config.local.iter().take(index).any(|earlier| like(&earlier));
            let uid = self.next_uid;
            self.next_uid += 1;
            hub.registrations.push(Registration {
                uid,
                local,
                primary,
                nhs,
                phase: NhsPhase::Expecting,
                reason: Reason::Starting,
                since: now,
                request_id: 0,
                outstanding: false,
                resumed: false,
                unproven: false,
                misses: 0,
                refusals: 0,
                due: now,
                sent: 0,
                failed: 0,
                replies: 0,
                last_reply: None,
                public: None,
                told: 0,
                telling: 0,
                round: 0,
                has_list: false,
                assembly: None,
                generation: None,
            });
            self.timers.arm(TimerKey::Registration(uid), now);
        }
        self.hubs.push(hub);
        self.bind_hub(now, self.hubs.len() - 1);
    }

    /// Installs (again) what is known of an NHS's overlay addresses.
    pub(crate) fn bind_hub(&mut self, now: Time, index: usize) {
        let Some(hub) = self.hubs.get(index) else { return };
        let Some(nbma) = hub.nbma() else { return };
        let mut known = hub.config.overlay.clone();
        known.extend(hub.registrations.iter().filter_map(|registration| registration.nhs));
        for overlay in known {
            if !self.is_local(overlay) {
                self.bind(now, overlay, Binding::new(nbma, Source::Nhs, now));
            }
        }
    }

    /// Registers at once, as new: after a change of address, prefixes or configuration.
    pub(crate) fn register_now(&mut self, now: Time) {
        let mut due = Vec::new();
        for registration in self.hubs.iter_mut().flat_map(|hub| hub.registrations.iter_mut()) {
            registration.start_over(now);
            due.push(registration.uid);
        }
        due.into_iter().for_each(|uid| self.timers.arm(TimerKey::Registration(uid), now));
    }

    pub(crate) fn find_registration(&self, uid: u32) -> Option<(usize, usize)> {
        self.hubs.iter().enumerate().find_map(|(hub_at, hub)| {
            let at = hub.registrations.iter().position(|registration| registration.uid == uid)?;
            Some((hub_at, at))
        })
    }

    pub(crate) fn registration_mut(&mut self, uid: u32) -> Option<&mut Registration> {
        self.hubs.iter_mut().flat_map(|hub| hub.registrations.iter_mut()).find(|it| it.uid == uid)
    }

    /// Time to register, or to register again since no answer came.
    pub(crate) fn registration_due(&mut self, now: Time, uid: u32) {
        let Some((hub_at, _)) = self.find_registration(uid) else { return };
        let has_nbma = self.config.nbma.is_some();
        let withdrawing = self.withdrawing;
        let several = self.hubs.get(hub_at).is_some_and(|hub| hub.config.nbma.len() > 1);
        let reachable = self.hubs.get(hub_at).is_some_and(|hub| hub.nbma().is_some());
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
            self.registration_down(now, uid, NhsPhase::Expecting, reason);
            if several {
                self.next_nbma(now, hub_at);
            }
        }
        self.send_registration(now, uid);
    }

    /// Another NBMA address of the same NHS, in turn.
    fn next_nbma(&mut self, now: Time, hub_at: usize) {
        let Some(hub) = self.hubs.get_mut(hub_at) else { return };
        // An address at which another family's registration still gets answers stays.
        if hub.registrations.iter().any(|registration| registration.phase == NhsPhase::Responding) {
            return;
        }
        hub.nbma_at = (hub.nbma_at + 1) % hub.config.nbma.len().max(1);
        self.bind_hub(now, hub_at);
    }

    fn send_registration(&mut self, now: Time, uid: u32) {
        let id = self.next_id;
        let Some(registration) = self.registration_mut(uid) else { return };
        let fresh = !registration.outstanding;
        if fresh {
            registration.outstanding = true;
            registration.unproven = false;
            registration.request_id = id;
            registration.misses = 0;
            if registration.told == 0 {
                registration.round = id;
            }
        }
        registration.sent += 1;
        let backoff = registration.misses.min(MAX_BACKOFF);
        if fresh {
            self.new_id();
        }
        let delay = self.rng.jitter(1000 << backoff);
        if let Some(registration) = self.registration_mut(uid) {
            registration.due = now.after(delay);
        }
        self.timers.arm(TimerKey::Registration(uid), now.after(delay));
        let Some((nbma, bytes, telling)) = self.registration_packet(uid) else { return };
        if let Some(registration) = self.registration_mut(uid) {
            registration.telling = telling;
        }
        self.send(PacketType::RegistrationRequest, nbma, bytes);
    }

    /// The request, where it goes, and up to where it tells our list.
    fn registration_packet(&self, uid: u32) -> Option<(IpAddr, Vec<u8>, usize)> {
        let (hub_at, at) = self.find_registration(uid)?;
        let hub = self.hubs.get(hub_at)?;
        let registration = hub.registrations.get(at)?;
        let nbma = hub.nbma()?;
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
        let family = self.config.subnets.iter().filter(|net| net.addr().is_ipv4() == local.is_ipv4());
        let list: Vec<_> = family.filter(|_| registration.primary).map(IpNet::trunc).collect();
        let (chunk, telling) = self.list_chunk(&builder, &list, registration.told);
        let chunk = PrefixChunk {
            flags: chunk.flags | if registration.has_list { 0 } else { list_flags::WANT },
            generation: registration.round,
            ..chunk
        };
        Some((nbma, builder.extension(false, ext::PREFIXES, &chunk.encode()).finish(), telling))
    }

    /// A Registration Reply: to a registration of ours, or to a list that we pushed as NHS.
    pub(crate) fn registration_reply(&mut self, now: Time, received: &Received<'_>) {
        if self.push_answered(now, received) {
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
        if hub.nbma() != Some(received.from) && self.enforced(Rule::RegistrationReplySource) {
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
            Some(code) => self.registration_refused(now, uid, Reason::Refused(code)),
            None => self.registration_accepted(now, uid, received),
        }
    }

    /// A reply that failed the check of its password: it does nothing, but silence has another reason then.
    pub(crate) fn reply_unproven(&mut self, from: IpAddr, id: u32) {
        let hubs = self.hubs.iter_mut().filter(|hub| hub.nbma() == Some(from));
        let mut all = hubs.flat_map(|hub| hub.registrations.iter_mut());
        if let Some(registration) = all.find(|it| it.is_waiting_for(id)) {
            registration.unproven = true;
        }
    }

    /// NAK or error: tried again later, with a new id.
    pub(crate) fn registration_refused(&mut self, now: Time, uid: u32, reason: Reason) {
        let Some(registration) = self.registration_mut(uid) else { return };
        registration.outstanding = false;
        registration.resumed = false;
        registration.failed += 1;
        registration.told = 0;
        let backoff = registration.refusals.min(MAX_BACKOFF);
        registration.refusals = registration.refusals.saturating_add(1);
        let delay = self.rng.jitter(1000 << backoff);
        if let Some(registration) = self.registration_mut(uid) {
            registration.due = now.after(delay);
        }
        self.timers.arm(TimerKey::Registration(uid), now.after(delay));
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
        registration.refusals = 0;
        registration.told = registration.telling;
        let newly_up = registration.phase != NhsPhase::Responding;
        if newly_up {
            registration.phase = NhsPhase::Responding;
            registration.reason = Reason::None;
            registration.since = now;
        }
        let (overlay, local, primary) = (registration.nhs, registration.local, registration.primary);
        if learned.is_some() {
            self.bind_hub(now, hub_at);
        }
        if newly_up {
            let name = self.hubs.get(hub_at).map(|hub| hub.config.name.clone()).unwrap_or_default();
            self.event(Event::NhsUp { name, overlay, nbma: received.from });
            self.choose_all();
        }
        if let Some(extension) = received.packet.extension(ext::PREFIXES) {
            match PrefixChunk::decode(extension.value) {
                Ok(chunk) => self.list_heard(now, uid, chunk),
                Err(_) => self.drop(now, DropReason::BadPrefixList, Some(received.from)),
            }
        }
        let total = self.config.subnets.iter().filter(|net| net.addr().is_ipv4() == local.is_ipv4()).count();
        let Some(registration) = self.registration_mut(uid) else { return };
        if primary && registration.told < total {
            // The next chunk of our list.
            registration.due = now;
            return self.timers.arm(TimerKey::Registration(uid), now);
        }
        registration.told = 0;
        let natted = registration.public.is_some();
        let third = (self.config.holding_time / 3).max(1);
        let interval = u64::from(self.config.registration_interval.unwrap_or(third).max(1)) * 1000;
        let interval = if natted { interval.min(NAT_INTERVAL_MS) } else { interval };
        let delay = self.rng.jitter(interval);
        if let Some(registration) = self.registration_mut(uid) {
            registration.due = now.after(delay);
        }
        self.timers.cancel(TimerKey::Registration(uid));
        self.timers.arm(TimerKey::Registration(uid), now.after(delay));
    }

    /// The NHS no longer answers, or not as we want it: its list no longer counts. Its binding stays.
    pub(crate) fn registration_down(&mut self, now: Time, uid: u32, phase: NhsPhase, reason: Reason) {
        let Some(registration) = self.registration_mut(uid) else { return };
        if registration.phase == phase && registration.reason == reason {
            return;
        }
        registration.phase = phase;
        registration.reason = reason;
        registration.since = now;
        let overlay = registration.nhs;
        let Some((hub_at, _)) = self.find_registration(uid) else { return };
        let name = self.hubs.get(hub_at).map(|hub| hub.config.name.clone()).unwrap_or_default();
        self.event(Event::NhsDown { name, overlay, reason: reason.code().into() });
        self.forget_list(uid);
        self.choose_all();
    }
}

impl Registration {
    /// Whether the NHS has, or may have, a binding of ours.
    pub(crate) fn may_be_known(&self) -> bool {
        // Before its first word: an earlier run may have registered, and died before it kept a snapshot.
        let silent = self.sent == 0;
        self.phase == NhsPhase::Responding || self.outstanding || self.resumed || silent
    }

    /// Whether this is the request that an Error Indication speaks of.
    pub(crate) fn is_waiting_for(&self, id: u32) -> bool {
        self.outstanding && self.request_id == id
    }

    pub(crate) fn start_over(&mut self, now: Time) {
        self.outstanding = false;
        self.misses = 0;
        self.refusals = 0;
        self.told = 0;
        self.due = now;
    }
}
