//! The choice among several NHSs.
//!
//! Of a cluster a client uses as many NHSs as the configuration says, the best that answer; without a cluster it uses
//! them all. The others wait. When one fails the next is taken at once; the better one is asked on, and when it has
//! answered for the fallback time it is used again. An NHS that is no longer needed, or that drains, is left only when
//! the others have served for a while: each client comes back in its own time, and those that send to us by the old
//! way must not lose a packet.
//!
//! Traffic takes the best NHS that serves: not one that drains or has just come back if there is another, then by
//! priority.

use std::cmp::Reverse;
use std::net::IpAddr;

use super::super::snapshot::NhsPhase;
use super::super::timers::TimerKey;
use super::super::{Engine, Event, Time};
use super::{Hub, Reason, Registration};

/// An NHS is left so long after others suffice: longer than the rarest probe of one that was down.
const LINGER_MS: u64 = 10_000;

/// Place of an NHS among those that tell the same: silent, draining, not trusted yet, heard from last, priority,
/// position in the configuration. The lowest is best.
type Rank = (bool, bool, bool, Reverse<u64>, u8, usize);

impl Hub {
    /// It serves, and has done so for long enough.
    fn is_trusted(&self) -> bool {
        self.serves() && !self.failed
    }

    /// Nothing speaks against its serving, now or in a moment.
    fn is_hopeful(&self) -> bool {
        !self.failed && self.nbma().is_some()
    }

    fn has_family(&self, like: IpAddr) -> bool {
        self.registrations.iter().any(|it| it.local.is_ipv4() == like.is_ipv4())
    }
}

impl Engine {
    /// Works out which NHSs are used, takes up and leaves accordingly, and moves traffic to the best.
    pub(crate) fn choose_hubs(&mut self, now: Time) {
        for hub in &mut self.hubs {
            if hub.trusted_at.is_some_and(|at| at <= now) {
                hub.trust();
            }
            hub.settled_at = hub.settled_at.filter(|at| *at > now);
        }
        let mut clusters: Vec<_> = self.hubs.iter().map(|hub| hub.config.cluster).collect();
        clusters.sort_unstable();
        clusters.dedup();
        let mut wanted = vec![false; self.hubs.len()];
        for cluster in clusters {
            self.choose_in(cluster, &mut wanted);
        }
        for index in 0..self.hubs.len() {
            self.choose_draining(index, &mut wanted);
        }
        for (index, wanted) in wanted.into_iter().enumerate() {
            if wanted { self.take_up(now, index) } else { self.let_go(now, index) }
        }
        let next = self.hubs.iter().flat_map(|hub| [hub.trusted_at, hub.settled_at]).flatten().min();
        if let Some(next) = next {
            self.timers.arm(TimerKey::Hubs, next);
        }
        self.choose_all();
        self.tell_best();
    }

    /// The best of a cluster up to its limit, and besides them those that serve until the best do.
    fn choose_in(&mut self, cluster: u8, wanted: &mut [bool]) {
        let mut members: Vec<_> = self
            .hubs
            .iter()
            .enumerate()
            .filter(|(_, hub)| hub.config.cluster == cluster && !hub.config.draining)
            .map(|(index, hub)| (hub.config.priority, index))
            .collect();
        members.sort_unstable();
        let of = |(_, index): &(u8, usize)| self.hubs.get(*index);
        if !members.iter().filter_map(of).any(Hub::is_trusted) {
            // There is nothing that a wait could spare us.
            for (_, index) in &members {
                if let Some(hub) = self.hubs.get_mut(*index).filter(|hub| hub.serves()) {
                    hub.trust();
                }
            }
        }
        let limit = self.limit(cluster);
        let (mut hoped, mut trusted) = (0, 0);
        for (_, index) in &members {
            let (Some(hub), Some(slot)) = (self.hubs.get(*index), wanted.get_mut(*index)) else { continue };
            *slot = hoped < limit || (hub.scheduled && trusted < limit);
            hoped += usize::from(hub.is_hopeful());
            trusted += usize::from(hub.is_trusted());
        }
    }

    /// How many NHSs of a cluster are used.
    fn limit(&self, cluster: u8) -> usize {
        let members = self.hubs.iter().filter(|hub| hub.config.cluster == cluster && cluster != 0);
        let limit = members.map(|hub| hub.config.max_connections).find(|most| *most > 0);
        limit.map_or(usize::MAX, usize::from)
    }

    /// Whether we can do without this NHS: it waits, it drains, or enough others of its cluster serve.
    pub(crate) fn is_spare(&self, index: usize) -> bool {
        let Some(hub) = self.hubs.get(index) else { return false };
        let others = self.hubs.iter().enumerate().filter(|(at, it)| {
            *at != index && it.config.cluster == hub.config.cluster && !it.config.draining && it.serves()
        });
        let drained = hub.config.draining && self.another_serves(index);
        !hub.scheduled || drained || others.count() >= self.limit(hub.config.cluster)
    }

    /// One that drains is left when others serve all that it serves; taken up only when there is nobody else.
    fn choose_draining(&mut self, index: usize, wanted: &mut [bool]) {
        let Some(hub) = self.hubs.get(index).filter(|hub| hub.config.draining) else { return };
        let others = || self.hubs.iter().filter(|other| !other.config.draining);
        let needed = if hub.scheduled {
            let served = |mine: &Registration| {
                let like = |it: &Registration| it.serving && it.local.is_ipv4() == mine.local.is_ipv4();
                others().any(|other| other.is_trusted() && other.registrations.iter().any(like))
            };
            let coming = others().any(|other| {
                other.config.cluster == hub.config.cluster && other.is_hopeful() && !other.serves()
            });
            coming || !hub.registrations.iter().all(served)
        } else {
            !others().any(Hub::is_hopeful)
        };
        if let Some(slot) = wanted.get_mut(index) {
            *slot = needed;
        }
    }

    fn take_up(&mut self, now: Time, index: usize) {
        let Some(hub) = self.hubs.get_mut(index) else { return };
        hub.surplus_since = None;
        if hub.scheduled {
            return;
        }
        hub.scheduled = true;
        hub.begin(now);
        self.register_with(now, index);
    }

    fn let_go(&mut self, now: Time, index: usize) {
        let settling = self.hubs.iter().any(|hub| hub.settled_at.is_some());
        let Some(hub) = self.hubs.get_mut(index) else { return };
        if !hub.scheduled {
            let draining = hub.config.draining;
            hub.registrations.iter_mut().for_each(|it| it.reason = Reason::idle(draining));
            return;
        }
        if settling && hub.serves() {
            // All of the traffic has to have moved first.
            hub.surplus_since = None;
            return;
        }
        let since = *hub.surplus_since.get_or_insert(now);
        let until = since.after(LINGER_MS);
        if until <= now || !hub.serves() {
            return self.leave_hub(now, index);
        }
        self.timers.arm(TimerKey::Hubs, until);
    }

    /// Takes our registrations with an NHS back: it waits from now on.
    fn leave_hub(&mut self, now: Time, index: usize) {
        let Some(hub) = self.hubs.get_mut(index) else { return };
        let nbma = hub.nbma();
        hub.scheduled = false;
        hub.failed = false;
        hub.trusted_at = None;
        hub.settled_at = None;
        hub.surplus_since = None;
        let mut left = Vec::new();
        for registration in &mut hub.registrations {
            let known = registration.may_be_known();
            left.push((
                registration.uid,
                known,
                registration.request_id,
                registration.local,
                registration.nhs,
            ));
            registration.start_over(now);
            registration.serving = false;
            registration.resumed = false;
            registration.phase = NhsPhase::Waiting;
            registration.reason = Reason::idle(hub.config.draining);
            registration.since = now;
        }
        for (uid, known, id, local, nhs) in left {
            self.timers.cancel(TimerKey::Registration(uid));
            self.forget_list(uid);
            if let (true, Some(nhs), Some(nbma)) = (known, nhs, nbma) {
                self.purge_registration(now, id, local, nhs, nbma);
            }
        }
    }

    /// Whether traffic could go by another NHS, or by another address of this one, should this one be silent.
    pub(super) fn has_alternative(&self, hub_at: usize) -> bool {
        let Some(hub) = self.hubs.get(hub_at) else { return false };
        let shares = |other: &Hub| hub.registrations.iter().any(|it| other.has_family(it.local));
        let other =
            |(index, other): (usize, &Hub)| index != hub_at && other.nbma().is_some() && shares(other);
        hub.config.nbma.len() > 1 || self.hubs.iter().enumerate().any(other)
    }

    /// Whether another NHS than this one serves.
    pub(super) fn another_serves(&self, hub_at: usize) -> bool {
        self.hubs.iter().enumerate().any(|(index, hub)| index != hub_at && hub.serves())
    }

    /// Place of a registration's NHS among those that tell the same.
    pub(crate) fn rank(&self, uid: u32) -> Option<(Rank, IpAddr)> {
        let (hub_at, at) = self.find_registration(uid)?;
        let hub = self.hubs.get(hub_at)?;
        let registration = hub.registrations.get(at)?;
        Some((hub.rank(registration, hub_at), registration.nhs?))
    }

    /// The best NHS of a family: by its overlay address goes what nothing more particular leads to. One that was down
    /// may not have heard of everybody again: others come back in their own time.
    pub(crate) fn best_hub(&self, ipv4: bool) -> Option<(&Hub, IpAddr)> {
        self.best_of(ipv4, |_| true)
    }

    /// The same of those that do not register with us too: each would send to the other what neither has.
    fn best_above(&self, ipv4: bool) -> Option<(&Hub, IpAddr)> {
        self.best_of(ipv4, |nhs| !self.is_peer(nhs))
    }

    fn best_of(&self, ipv4: bool, usable: impl Fn(IpAddr) -> bool) -> Option<(&Hub, IpAddr)> {
        let all = self.hubs.iter().enumerate().flat_map(|(index, hub)| {
            let family = hub.registrations.iter().filter(move |it| it.local.is_ipv4() == ipv4);
            family.filter_map(move |it| {
                let rank = hub.rank(it, index);
                Some(((rank.0, hub.settled_at.is_some(), rank), hub, it.nhs?))
            })
        });
        let usable = all.filter(|(.., nhs)| usable(*nhs));
        usable.min_by_key(|(rank, ..)| *rank).map(|(_, hub, nhs)| (hub, nhs))
    }

    /// NBMA address of the NHS to ask about `like`: that at `nbma` if it serves, else the best.
    pub(crate) fn serving_nhs(&self, nbma: IpAddr, like: IpAddr) -> IpAddr {
        if self.hubs.iter().any(|hub| hub.nbma() == Some(nbma) && hub.serves()) {
            return nbma;
        }
        let best = self.best_hub(like.is_ipv4()).filter(|(hub, _)| hub.serves());
        best.and_then(|(hub, _)| hub.nbma()).unwrap_or(nbma)
    }

    /// Overlay addresses of the NHSs that traffic takes when nothing more particular leads to its destination: at most
    /// one a family.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        [true, false].into_iter().filter_map(|ipv4| self.best_above(ipv4).map(|(_, nhs)| nhs))
    }

    /// Says so when another NHS became the best of a family.
    pub(super) fn tell_best(&mut self) {
        for ipv4 in [true, false] {
            let Some((hub, overlay)) = self.best_above(ipv4) else { continue };
            let name = hub.config.name.clone();
            let slot = if ipv4 { &mut self.gateway.0 } else { &mut self.gateway.1 };
            if slot.replace(overlay) != Some(overlay) {
                self.event(Event::NhsChosen { name, overlay });
            }
        }
    }
}

impl Hub {
    fn trust(&mut self) {
        self.failed = false;
        self.trusted_at = None;
    }

    fn rank(&self, registration: &Registration, at: usize) -> Rank {
        let silent = !registration.serving;
        // Of those that are silent the one heard from last is the likeliest to be there.
        let heard = registration.last_reply.filter(|_| silent).map_or(0, |last| last.0);
        (silent, self.config.draining, self.failed, Reverse(heard), self.config.priority, at)
    }

    /// It answered: trusted at once, or after it has kept answering for `fallback_ms` if it had failed.
    pub(super) fn answered(&mut self, now: Time, fallback_ms: u64) {
        if self.failed && self.trusted_at.is_none() {
            self.trusted_at = Some(now.after(fallback_ms));
            self.settled_at = Some(now.after(fallback_ms.max(LINGER_MS)));
        }
    }

    /// A registration of it is down.
    pub(super) fn failing(&mut self, reason: Reason) {
        if self.serves() {
            return;
        }
        self.trusted_at = None;
        self.settled_at = None;
        self.failed |= !matches!(reason, Reason::NoUnderlayAddress | Reason::NoNhsAddress);
    }
}

impl Reason {
    fn idle(draining: bool) -> Self {
        if draining { Self::Draining } else { Self::Waiting }
    }
}
