//! A client without an overlay address asks its NHSs for one in band (extension 0x3804), and registers with it.
//!
//! One NHS after the other is asked, at each of its underlay addresses: at once, after 1 and 2 s again, then the next.
//! The first address that is given is ours, with every NHS, for as long as the configuration asks for one; it is kept
//! over restarts. When an NHS says that another holds it, it is given back and another is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::client::Reason;
use super::config::{AddressRequest, Config};
use super::snapshot::{NhsPhase, NhsState};
use super::timers::TimerKey;
use super::{Engine, Event, Output, Received, Time};
use crate::wire::{
    Assignment, Builder, Cie, CieCode, ErrorCode, PacketType, Software, assignment_flags, ext,
};

/// Requests that one underlay address of an NHS gets before the next is asked.
const TRIES: u32 = 3;
/// When all have refused: again after 1 s, doubled up to 2^6 s.
const MAX_BACKOFF: u32 = 6;

/// How far we got with the address of one family.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    ipv6: bool,
    /// What we have got.
    pub(crate) assigned: Option<IpAddr>,
    /// What another holds.
    declined: Option<IpAddr>,
    /// Which of the NHSs' underlay addresses is being asked, counted over all of them.
    at: usize,
    request_id: Option<u32>,
    tries: u32,
    /// Refusals since the last time that everybody was asked.
    rounds: u32,
    due: Time,
    since: Time,
    reason: Reason,
    sent: u64,
    replies: u64,
}

impl Ask {
    fn new(ipv6: bool, now: Time) -> Self {
        Self {
            ipv6,
            assigned: None,
            declined: None,
            at: 0,
            request_id: None,
            tries: 0,
            rounds: 0,
            due: now,
            since: now,
            reason: Reason::Starting,
            sent: 0,
            replies: 0,
        }
    }

    fn any(&self) -> IpAddr {
        if self.ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }
}

impl Engine {
    /// Adds to a configuration the addresses that we were assigned, if it still wants some, and starts to ask for those
    /// that are missing. What is no longer wanted is given back.
    pub(crate) fn with_assigned(&mut self, now: Time, mut config: Config) -> Config {
        let other = config.request.as_ref().map(|it| &it.identity)
            != self.config.request.as_ref().map(|it| &it.identity);
        let link = config.link;
        for ipv6 in [false, true] {
            let own = config.local.iter().any(|local| local.is_ipv6() == ipv6);
            let wanted = config.request.as_ref().is_some_and(|request| request.wants(ipv6)) && !own;
            let at = self.asks_for.iter().position(|ask| ask.ipv6 == ipv6);
            if let Some(gone) = at.filter(|_| !wanted || other) {
                let ask = self.asks_for.remove(gone);
                self.timers.cancel(TimerKey::Assign(ipv6));
                if let Some(address) = ask.assigned.filter(|address| !config.local.contains(address)) {
                    self.outputs.push_back(Output::ReleaseAddress { link, address });
                }
            }
            if !wanted {
                continue;
            }
            match self.asks_for.iter().find(|ask| ask.ipv6 == ipv6) {
                Some(ask) => config.local.extend(ask.assigned),
                None => {
                    self.asks_for.push(Ask::new(ipv6, now));
                    self.timers.arm(TimerKey::Assign(ipv6), now);
                }
            }
        }
        config
    }

    /// Time to ask for an address, again or somebody else.
    pub(crate) fn assign_due(&mut self, now: Time, ipv6: bool) {
        let withdrawing = self.withdrawing;
        let candidates = self.candidates(ipv6);
        let has_nbma = self.config.nbma.is_some();
        let id = self.next_id;
        let Some(ask) = self.asks_for.iter_mut().find(|ask| ask.ipv6 == ipv6) else { return };
        if ask.due > now {
            let due = ask.due;
            return self.timers.arm(TimerKey::Assign(ipv6), due);
        }
        if withdrawing || ask.assigned.is_some() {
            return;
        }
        if !has_nbma || candidates.is_empty() {
            // Either of them starts us anew when it changes.
            ask.reason = if has_nbma { Reason::NoNhsAddress } else { Reason::NoUnderlayAddress };
            ask.request_id = None;
            return;
        }
        if ask.tries == TRIES {
            ask.reason = Reason::NoAnswer;
            ask.tries = 0;
            ask.request_id = None;
            ask.at += 1;
        }
        let fresh = ask.request_id.is_none();
        ask.request_id.get_or_insert(id);
        let delay = 1000 << ask.tries.min(MAX_BACKOFF);
        ask.tries += 1;
        ask.sent += 1;
        let ask = ask.clone();
        if fresh {
            self.new_id();
        }
        let delay = self.rng.jitter(delay);
        self.assign_at(now.after(delay), ipv6);
        let Some((overlay, nbma, _)) = candidates.get(ask.at % candidates.len()).cloned() else { return };
        let Some(bytes) = self.address_request_packet(&ask, overlay) else { return };
        self.send(PacketType::RegistrationRequest, nbma, bytes);
    }

    fn assign_at(&mut self, at: Time, ipv6: bool) {
        if let Some(ask) = self.asks_for.iter_mut().find(|ask| ask.ipv6 == ipv6) {
            ask.due = at;
        }
        self.timers.cancel(TimerKey::Assign(ipv6));
        self.timers.arm(TimerKey::Assign(ipv6), at);
    }

    /// Whom to ask: overlay address of that family (if known), underlay address, name.
    fn candidates(&self, ipv6: bool) -> Vec<(Option<IpAddr>, IpAddr, String)> {
        let mut candidates = Vec::new();
        for hub in &self.hubs {
            let overlay = hub.config.overlay.iter().copied().find(|overlay| overlay.is_ipv6() == ipv6);
            if overlay.is_none() && !hub.config.overlay.is_empty() {
                continue;
            }
            candidates.extend(hub.config.nbma.iter().map(|nbma| (overlay, *nbma, hub.config.name.clone())));
        }
        candidates
    }

    fn address_request_packet(&self, ask: &Ask, overlay: Option<IpAddr>) -> Option<Vec<u8>> {
        let request = self.config.request.as_ref()?;
        let (id, any) = (ask.request_id?, ask.any());
        let header = self.header(PacketType::RegistrationRequest, id, any, overlay.unwrap_or(any))?;
        // Holds for no time: a peer of another make has nothing to bind.
        let own = Cie { prefix_len: 0xff, mtu: self.config.mtu, ..Cie::default() };
        let wish = Assignment {
            flags: if ask.declined.is_some() { assignment_flags::DECLINED } else { 0 },
            seconds: 0,
            address: ask.declined.unwrap_or(any),
            identity: request.identity.clone(),
        };
        let builder = self.request_extensions(Builder::new(&header).cie(&own));
        let builder = builder.extension(false, ext::SOFTWARE, &Software::OURS.encode());
        Some(builder.extension(false, ext::ADDRESS, &wish.encode()).finish())
    }

    /// The claim that renews our lease, for the registration of `local`.
    pub(crate) fn lease_claim(&self, local: IpAddr) -> Option<Assignment> {
        self.asks_for.iter().find(|ask| ask.assigned == Some(local))?;
        let identity = self.config.request.as_ref()?.identity.clone();
        Some(Assignment { flags: 0, seconds: 0, address: local, identity })
    }

    /// A Registration Reply may be the answer to a request for an address; says whether it was.
    pub(crate) fn address_answered(&mut self, now: Time, received: &Received<'_>) -> bool {
        let header = received.header();
        let Some(name) = self.asked(header.request_id, header.src_proto, received.from) else { return false };
        if self.withdrawing {
            return true;
        }
        let ipv6 = header.src_proto.is_ipv6();
        let refusal =
            received.packet.cies().map(|cie| CieCode::from(cie.code)).find(|code| *code != CieCode::Success);
        let given = received.packet.extension(ext::ADDRESS).and_then(|it| Assignment::decode(it.value));
        if let Some(ask) = self.asks_for.iter_mut().find(|ask| ask.ipv6 == ipv6) {
            ask.replies += 1;
        }
        let address = given.map(|given| given.address).filter(|address| self.may_be_ours(*address, ipv6));
        match (refusal, address) {
            (None, Some(address)) => self.address_given(now, address, &name),
            // Of another make: it says yes to what it does not know.
            (None, None) => {
                self.address_refused(now, ipv6, Reason::Refused(CieCode::AdministrativelyProhibited));
            }
            (Some(code), _) => self.address_refused(now, ipv6, Reason::Refused(code)),
        }
        true
    }

    /// An Error Indication may be about a request for an address; says whether it was.
    pub(crate) fn address_error(
        &mut self,
        now: Time,
        id: u32,
        src: IpAddr,
        from: IpAddr,
        code: ErrorCode,
    ) -> bool {
        if self.asked(id, src, from).is_none() {
            return false;
        }
        self.address_refused(now, src.is_ipv6(), Reason::Error(code));
        true
    }

    /// Name of the NHS that an answer with this id, source address and sender may come from.
    fn asked(&self, id: u32, src: IpAddr, from: IpAddr) -> Option<String> {
        if !src.is_unspecified() {
            return None;
        }
        let ask = self.asks_for.iter().find(|ask| ask.any() == src && ask.request_id == Some(id))?;
        let candidates = self.candidates(ask.ipv6);
        let (_, nbma, name) = candidates.get(ask.at.checked_rem(candidates.len())?)?;
        (*nbma == from && ask.assigned.is_none()).then(|| name.clone())
    }

    fn may_be_ours(&self, address: IpAddr, ipv6: bool) -> bool {
        address.is_ipv6() == ipv6
            && !address.is_unspecified()
            && !address.is_multicast()
            && self.config.overlay.iter().any(|net| net.contains(&address))
            && !self.hubs.iter().any(|hub| hub.config.overlay.contains(&address))
    }

    fn address_given(&mut self, now: Time, address: IpAddr, by: &str) {
        let Some(ask) = self.asks_for.iter_mut().find(|ask| ask.ipv6 == address.is_ipv6()) else { return };
        ask.assigned = Some(address);
        ask.request_id = None;
        ask.rounds = 0;
        ask.since = now;
        self.timers.cancel(TimerKey::Assign(address.is_ipv6()));
        self.event(Event::AddressReceived { address, by: by.into() });
        self.outputs.push_back(Output::AssignAddress { link: self.config.link, address });
        let mut config = self.config.clone();
        config.local.push(address);
        self.apply(now, config);
    }

    /// The next NHS is asked at once; when all have refused, after a while.
    fn address_refused(&mut self, now: Time, ipv6: bool, reason: Reason) {
        let count = self.candidates(ipv6).len().max(1);
        let Some(ask) = self.asks_for.iter_mut().find(|ask| ask.ipv6 == ipv6) else { return };
        ask.request_id = None;
        ask.tries = 0;
        ask.at += 1;
        if ask.reason != reason {
            ask.reason = reason;
            ask.since = now;
        }
        let round_over = ask.at % count == 0;
        let rounds = ask.rounds.min(MAX_BACKOFF);
        let delay = if round_over { self.rng.jitter(1000 << rounds) } else { 0 };
        if let Some(ask) = self.asks_for.iter_mut().find(|ask| ask.ipv6 == ipv6) {
            ask.rounds = ask.rounds.saturating_add(u32::from(round_over));
        }
        self.assign_at(now.after(delay), ipv6);
    }

    /// An NHS says that another holds `local`. If it was assigned to us it is given back, and another one asked for.
    pub(crate) fn address_lost(&mut self, now: Time, local: IpAddr) -> bool {
        if self.withdrawing {
            return false;
        }
        let Some(ask) = self.asks_for.iter_mut().find(|ask| ask.assigned == Some(local)) else {
            return false;
        };
        ask.assigned = None;
        ask.declined = Some(local);
        ask.tries = 0;
        ask.since = now;
        ask.reason = Reason::Refused(CieCode::AlreadyRegistered);
        let (ipv6, rounds) = (ask.ipv6, ask.rounds.min(MAX_BACKOFF));
        // Not in a tight circle, should the NHSs not agree among each other.
        ask.rounds = ask.rounds.saturating_add(1);
        let delay = if rounds == 0 { 0 } else { self.rng.jitter(1000 << rounds) };
        let mut config = self.config.clone();
        config.local.retain(|address| *address != local);
        self.apply(now, config);
        self.outputs.push_back(Output::ReleaseAddress { link: self.config.link, address: local });
        self.assign_at(now.after(delay), ipv6);
        true
    }

    /// Asks again at once: underlay address or NHSs have changed.
    pub(crate) fn ask_anew(&mut self, now: Time) {
        let waiting: Vec<_> =
            self.asks_for.iter().filter(|ask| ask.assigned.is_none()).map(|ask| ask.ipv6).collect();
        for ipv6 in waiting {
            if let Some(ask) = self.asks_for.iter_mut().find(|ask| ask.ipv6 == ipv6) {
                ask.request_id = None;
                ask.tries = 0;
                ask.at = 0;
                ask.rounds = 0;
            }
            self.assign_at(now, ipv6);
        }
    }

    /// Takes up the addresses that an earlier run was assigned.
    pub(crate) fn resume_assigned(&mut self, now: Time, assigned: &[IpAddr]) {
        let Some(request) = self.config.request.clone() else { return };
        for address in assigned {
            let ipv6 = address.is_ipv6();
            let own = self.config.local.iter().any(|local| local.is_ipv6() == ipv6);
            if own || !request.wants(ipv6) || !self.may_be_ours(*address, ipv6) {
                continue;
            }
            self.asks_for.push(Ask { assigned: Some(*address), ..Ask::new(ipv6, now) });
            self.outputs.push_back(Output::AssignAddress { link: self.config.link, address: *address });
        }
    }

    /// Addresses that we were assigned.
    pub(crate) fn assigned(&self) -> Vec<IpAddr> {
        self.asks_for.iter().filter_map(|ask| ask.assigned).collect()
    }

    /// Where the search for an address stands, as the state of the NHS that is asked.
    pub(crate) fn ask_states(&self, now: Time) -> impl Iterator<Item = NhsState> + '_ {
        self.asks_for.iter().filter(|ask| ask.assigned.is_none()).filter_map(move |ask| {
            let candidates = self.candidates(ask.ipv6);
            let (overlay, nbma, name) = candidates.get(ask.at.checked_rem(candidates.len())?)?.clone();
            let (code, text) = match ask.reason {
                Reason::Starting => {
                    ("AddressRequested", "an overlay address was asked for, no answer yet".into())
                }
                Reason::Refused(CieCode::AlreadyRegistered) => (
                    "AddressTaken",
                    "another client holds the overlay address, or has the same identity".into(),
                ),
                Reason::Refused(CieCode::InsufficientResources) => {
                    ("PoolExhausted", "the hub has no free overlay address".into())
                }
                Reason::Refused(_) => ("AddressNotAssigned", "the hub assigns no overlay addresses".into()),
                reason => (reason.code(), format!("asking for an overlay address: {}", reason.text())),
            };
            let hub = &self.hubs.iter().find(|hub| hub.config.name == name)?.config;
            Some(NhsState {
                name,
                overlay,
                nbma: Some(nbma),
                priority: hub.priority,
                cluster: hub.cluster,
                phase: NhsPhase::Expecting,
                reason: text,
                reason_code: code.into(),
                since_ms: now.since(ask.since),
                requests_sent: ask.sent,
                requests_failed: ask.sent.saturating_sub(ask.replies),
                replies_received: ask.replies,
                request_id: ask.request_id.unwrap_or_default(),
                ..NhsState::default()
            })
        })
    }
}

impl AddressRequest {
    fn wants(&self, ipv6: bool) -> bool {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }
}
