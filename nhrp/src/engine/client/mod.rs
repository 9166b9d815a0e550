//! The client's side of registration (RFC 2332 §5.2.3): each local address with each NHS that is in use.
//!
//! - here: what is known of an NHS and of a registration with it
//! - `request`: when a Registration Request goes out, and what it says
//! - `reply`: what the answers do
//! - `told`: the list of hubs that hubs tell us
//! - `choice`: which NHSs of a cluster are used, which one traffic takes, when it goes back to a better one
//!
//! Cisco's words for how far a client got with an NHS, and ours: DOWN (`W`) is [`NhsPhase::Waiting`], PROBE (`E`)
//! `Expecting`, UP (`R`) `Responding`.

mod choice;
mod reply;
mod request;
mod told;

use std::net::IpAddr;

pub use told::KnownHub;

use ipnet::IpNet;

use super::bindings::Binding;
use super::config::Nhs;
use super::learn::Assembly;
use super::snapshot::{NhsPhase, Source};
use super::timers::TimerKey;
use super::{Engine, Time};
use crate::wire::{CieCode, ErrorCode, HubEntry, Software};

/// An NHS of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    pub(crate) config: Nhs,
    /// Which of its NBMA addresses traffic takes.
    pub(crate) nbma_at: usize,
    /// Which of them is asked: another one while the one in use is silent.
    asked_at: usize,
    pub(crate) registrations: Vec<Registration>,
    /// It is registered with, or tried; else it waits until others of its cluster fail.
    pub(crate) scheduled: bool,
    /// It was silent or refused us and has not been trusted again since.
    pub(crate) failed: bool,
    /// It answers again, and is trusted from then on.
    pub(crate) trusted_at: Option<Time>,
    /// It answers again, and may be expected to know everybody else from then on.
    pub(crate) settled_at: Option<Time>,
    /// Others suffice since then: it is left in a moment.
    pub(crate) surplus_since: Option<Time>,
    /// The list of hubs that it is telling: generation, and entries so far.
    telling: Option<(u32, Vec<HubEntry>)>,
}

impl Hub {
    /// Where traffic for it goes.
    pub(crate) fn nbma(&self) -> Option<IpAddr> {
        self.config.nbma.get(self.nbma_at).copied()
    }

    /// Where requests go.
    pub(crate) fn asked(&self) -> Option<IpAddr> {
        self.config.nbma.get(self.asked_at).copied()
    }

    /// Uses its address number `at` for traffic and requests.
    pub(crate) fn use_nbma(&mut self, at: usize) {
        (self.nbma_at, self.asked_at) = (at, at);
    }

    /// Whether it answers, as far as is known.
    pub(crate) fn serves(&self) -> bool {
        self.registrations.iter().any(|it| it.serving)
    }

    /// Its registration whose silence is the hub's: the first that is answered.
    fn pulse(&self) -> Option<u32> {
        self.registrations.iter().find(|it| it.phase == NhsPhase::Responding).map(|it| it.uid)
    }

    /// Registrations that have not begun do, if it is in use.
    pub(crate) fn begin(&mut self, now: Time) {
        for registration in self.registrations.iter_mut().filter(|it| it.phase == NhsPhase::Waiting) {
            if self.scheduled {
                registration.phase = NhsPhase::Expecting;
                registration.reason = Reason::Starting;
                registration.since = now;
            }
        }
    }

    /// Its overlay addresses, configured or learned.
    pub(crate) fn overlays(&self) -> Vec<IpAddr> {
        let mut known = self.config.overlay.clone();
        known.extend(self.registrations.iter().filter_map(|registration| registration.nhs));
        known
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
    /// The NHS answers, or did before a restart of ours and has not been found silent since.
    pub(crate) serving: bool,
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
    /// When the next request has to say everything (the ones before only ask whether the NHS is there).
    full_at: Time,
    /// The request that is outstanding only asks.
    light: bool,
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) replies: u64,
    pub(crate) last_reply: Option<Time>,
    pub(crate) public: Option<IpAddr>,
    /// What the NHS says of itself.
    pub(crate) software: Option<Software>,
    /// Entries of our own list that the NHS acknowledged in this round, and the round.
    told: usize,
    /// Which of our lists was told last.
    pub(crate) list: u32,
    telling: usize,
    round: u32,
    /// We hold a complete list of the NHS's.
    pub(crate) has_list: bool,
    pub(crate) assembly: Option<Assembly>,
    /// Generation of the last list that was begun.
    pub(crate) generation: Option<u32>,
    /// Prefixes of our own list that the NHS does not take, and who announced what each overlaps with.
    pub(crate) denied: Vec<(IpNet, Option<IpAddr>)>,
}

/// Why a registration is not `Responding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    None,
    Starting,
    Waiting,
    Draining,
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
            Self::Waiting => "Standby",
            Self::Draining => "Draining",
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
            Self::Waiting => "its cluster has enough hubs in use".into(),
            Self::Draining => "the hub hands its spokes on to others".into(),
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
    /// Takes up an NHS: its bindings are installed at once; whether it is registered with is decided by
    /// [`Self::choose_hubs`].
    pub(crate) fn add_hub(&mut self, now: Time, config: Nhs) {
        // Where others serve already, a newcomer has to show first that it stays.
        let late = self.hubs.iter().any(Hub::serves);
        let mut hub = Hub {
            config,
            nbma_at: 0,
            asked_at: 0,
            registrations: Vec::new(),
            scheduled: false,
            failed: late,
            trusted_at: None,
            settled_at: None,
            surplus_since: None,
            telling: None,
        };
        for (index, local) in self.config.local.clone().into_iter().enumerate() {
            let like = |address: &&IpAddr| address.is_ipv4() == local.is_ipv4();
            let nhs = hub.config.overlay.iter().find(like).copied();
            if nhs.is_none() && !hub.config.overlay.is_empty() {
                continue;
            }
            let primary = !self.config.local.iter().take(index).any(|earlier| like(&earlier));
            let uid = self.next_uid;
            self.next_uid += 1;
            hub.registrations.push(Registration::new(uid, local, primary, nhs, now));
        }
        self.hubs.push(hub);
        self.bind_hub(now, self.hubs.len() - 1);
    }

    /// Installs (again) what is known of an NHS's overlay addresses.
    pub(crate) fn bind_hub(&mut self, now: Time, index: usize) {
        let Some(hub) = self.hubs.get(index) else { return };
        let Some(nbma) = hub.nbma() else { return };
        for overlay in hub.overlays() {
            if !self.is_local(overlay) {
                self.bind(now, overlay, Binding::new(nbma, Source::Nhs, now));
            }
        }
    }

    /// Registers at once, as new: after a change of address, prefixes or configuration.
    pub(crate) fn register_now(&mut self, now: Time) {
        for index in 0..self.hubs.len() {
            self.register_with(now, index);
        }
    }

    /// Registers at once, as new, with one NHS, if it is in use.
    pub(crate) fn register_with(&mut self, now: Time, index: usize) {
        let Some(hub) = self.hubs.get_mut(index).filter(|hub| hub.scheduled) else { return };
        for registration in &mut hub.registrations {
            registration.start_over(now);
            self.timers.arm(TimerKey::Registration(registration.uid), now);
        }
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

    fn hub_of(&mut self, uid: u32) -> Option<&mut Hub> {
        self.hubs.iter_mut().find(|hub| hub.registrations.iter().any(|it| it.uid == uid))
    }
}

impl Registration {
    fn new(uid: u32, local: IpAddr, primary: bool, nhs: Option<IpAddr>, now: Time) -> Self {
        Self {
            uid,
            local,
            primary,
            nhs,
            phase: NhsPhase::Waiting,
            reason: Reason::Waiting,
            since: now,
            serving: false,
            request_id: 0,
            outstanding: false,
            resumed: false,
            unproven: false,
            misses: 0,
            refusals: 0,
            due: now,
            full_at: now,
            light: false,
            sent: 0,
            failed: 0,
            replies: 0,
            last_reply: None,
            public: None,
            software: None,
            told: 0,
            list: 0,
            telling: 0,
            round: 0,
            has_list: false,
            assembly: None,
            generation: None,
            denied: Vec::new(),
        }
    }

    /// Whether the NHS has, or may have, a binding of ours.
    pub(crate) fn may_be_known(&self) -> bool {
        if self.resumed {
            return true;
        }
        // Before its first word: an earlier run may have registered, and died before it kept a snapshot.
        let silent = self.sent == 0;
        self.phase == NhsPhase::Responding || self.outstanding || (silent && self.phase != NhsPhase::Waiting)
    }

    /// Whether this is the request that an Error Indication speaks of.
    pub(crate) fn is_waiting_for(&self, id: u32) -> bool {
        self.outstanding && self.request_id == id
    }

    /// Whether it is answered, and nothing is outstanding.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == NhsPhase::Responding && !self.outstanding
    }

    /// Our list from its start, now.
    pub(crate) fn tell_anew(&mut self, now: Time) {
        self.told = 0;
        self.due = now;
        self.full_at = now;
    }

    pub(crate) fn start_over(&mut self, now: Time) {
        self.outstanding = false;
        self.misses = 0;
        self.refusals = 0;
        self.told = 0;
        self.due = now;
        self.full_at = now;
    }
}
