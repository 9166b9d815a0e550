//! Overlay addresses that this NHS assigns in band (extension 0x3804): who has which, and new ones from its share of the
//! pools.
//!
//! The same identity gets the same address for as long as no other needs it. An address that anybody is bound to, that is
//! reserved or configured, or that another identity holds, is never given. Several hubs have disjoint shares of one pool.
//! A hub that lost its memory learns the leases again from the registrations, which name the identity; until then the
//! search, which begins at a place that depends on the identity, mostly finds the same address. Should two clients
//! hold one address all the same, uniqueness lets one of them register, and the other asks again.

use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rustc_hash::FxBuildHasher;

use super::config::Pool;
use super::limit::{Bucket, Limiter};
use super::snapshot::{LeaseState, Source};
use super::{DropReason, Engine, Event, Map, Received, Time};
use crate::wire::{
    Assignment, Builder, Cie, CieCode, Header, MAX_HOPS, PacketType, Software, assignment_flags, ext,
};

/// An address is kept for its client for so long after its last word.
const LEASE_MS: u64 = 24 * 3600 * 1000;
/// One that was offered, and never registered, is free again after this time.
const OFFER_MS: u64 = 20_000;
/// One that a client declined is not given to anybody for this long.
const DECLINED_MS: u64 = 600_000;
/// Leases in all.
const BOUND: usize = 1 << 16;
/// New leases: one an underlay address and family in this time, and so many a second in all.
const OFFER_INTERVAL_MS: u64 = 400;
const OFFERS_PER_SECOND: u64 = 100;

/// Who has which address, by family.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    by_address: Map<IpAddr, Lease>,
    /// Identity and whether it is IPv6.
    by_identity: Map<(String, bool), IpAddr>,
    declined: Map<IpAddr, Time>,
    /// By underlay address and family.
    offers: Limiter<(IpAddr, bool)>,
    budget: Bucket,
}

#[derive(Clone, Debug)]
struct Lease {
    identity: String,
    until: Time,
}

impl Leases {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            by_address: Map::default(),
            by_identity: Map::default(),
            declined: Map::default(),
            offers: Limiter::new(OFFER_INTERVAL_MS, super::TABLE_BOUND),
            budget: Bucket::new(OFFERS_PER_SECOND, OFFERS_PER_SECOND, now),
        }
    }

    fn address_of(&self, identity: &str, ipv6: bool) -> Option<IpAddr> {
        self.by_identity.get(&(identity.to_owned(), ipv6)).copied()
    }

    /// Gives `address` to `identity`, whoever had it and whatever it had of the family.
    fn put(&mut self, identity: &str, address: IpAddr, until: Time) {
        self.forget(address);
        if let Some(old) = self.by_identity.insert((identity.to_owned(), address.is_ipv6()), address) {
            self.by_address.remove(&old);
        }
        self.by_address.insert(address, Lease { identity: identity.to_owned(), until });
    }

    pub(crate) fn forget(&mut self, address: IpAddr) {
        if let Some(old) = self.by_address.remove(&address) {
            self.by_identity.remove(&(old.identity, address.is_ipv6()));
        }
    }

    fn sweep(&mut self, now: Time) {
        let over: Vec<_> =
            self.by_address.iter().filter(|(_, it)| it.until <= now).map(|(address, _)| *address).collect();
        over.into_iter().for_each(|address| self.forget(address));
        self.declined.retain(|_, until| *until > now);
    }

    pub(crate) fn states(&self, now: Time) -> Vec<LeaseState> {
        let state = |(address, it): (&IpAddr, &Lease)| LeaseState {
            address: *address,
            identity: it.identity.clone(),
            expires_ms: it.until.since(now),
        };
        let mut states: Vec<_> = self.by_address.iter().map(state).collect();
        states.sort_unstable_by_key(|state| state.address);
        states
    }

    pub(crate) fn resume(&mut self, now: Time, states: &[LeaseState], elapsed_ms: u64) {
        for state in states.iter().take(BOUND) {
            // One that is over stays: the same identity gets the same address while nobody else needs it.
            self.put(&state.identity, state.address, now.after(state.expires_ms.saturating_sub(elapsed_ms)));
        }
    }
}

impl Engine {
    /// A Registration Request by which a client asks for an address; says whether it was one.
    pub(crate) fn address_requested(&mut self, now: Time, received: &Received<'_>) -> bool {
        let header = *received.header();
        if !header.src_proto.is_unspecified() {
            return false;
        }
        let Some(extension) = received.packet.extension(ext::ADDRESS) else { return false };
        let Some(asked) = Assignment::decode(extension.value) else {
            self.drop(now, DropReason::Malformed, Some(received.from));
            return true;
        };
        let verdict = match self.stranger(received.from) {
            Some(why) => Err(Refusal::Code(CieCode::AdministrativelyProhibited, why)),
            None => self.assign(now, &asked, header.src_proto.is_ipv6(), received.from),
        };
        let (code, answer) = match verdict {
            Ok(address) => {
                let seconds = (LEASE_MS / 1000) as u32;
                (CieCode::Success, Assignment { flags: 0, seconds, address, ..asked })
            }
            Err(Refusal::Later) => {
                self.drop(now, DropReason::RateLimited, Some(received.from));
                return true;
            }
            Err(Refusal::Code(code, reason)) => {
                *self.counters.drops.entry(DropReason::Refused).or_insert(0) += 1;
                if self.refusals_told.allow(now, (header.src_proto, received.from)) {
                    let event = Event::AddressRefused { identity: asked.identity.clone(), code, reason };
                    self.event(event);
                }
                (code, asked)
            }
        };
        self.answer_address_request(received, &header, code, &answer);
        true
    }

    fn assign(&mut self, now: Time, asked: &Assignment, ipv6: bool, from: IpAddr) -> Result<IpAddr, Refusal> {
        let refuse = |code, reason: &str| Err(Refusal::Code(code, reason.into()));
        if asked.address.is_ipv6() != ipv6 {
            return refuse(CieCode::AdministrativelyProhibited, "an address of another family is asked for");
        }
        let Some(pool) = self.config.pool.clone() else {
            return refuse(CieCode::AdministrativelyProhibited, "this hub assigns no addresses");
        };
        let known = self.leases.address_of(&asked.identity, ipv6);
        // Only what was offered can be declined.
        let declined = asked.flags & assignment_flags::DECLINED != 0 && known == Some(asked.address);
        if let Some(known) = known {
            if !declined {
                if self.may_keep(&pool, known) {
                    self.extend_lease(now, known, OFFER_MS);
                    return Ok(known);
                }
                self.leases.forget(known);
            } else if self.bindings.get(&known).is_some_and(|binding| binding.nbma != from) {
                let reason = "another client of the same identity is registered";
                return refuse(CieCode::AlreadyRegistered, reason);
            } else {
                self.leases.forget(known);
            }
        }
        if declined && self.leases.declined.len() >= super::TABLE_BOUND {
            self.leases.declined.retain(|_, until| *until > now);
        }
        if declined && self.leases.declined.len() < super::TABLE_BOUND {
            self.leases.declined.insert(asked.address, now.after(DECLINED_MS));
        }
        if !self.leases.offers.allow(now, (from, ipv6)) || !self.leases.budget.take(now) {
            return Err(Refusal::Later);
        }
        if self.leases.by_address.len() >= BOUND {
            self.leases.sweep(now);
        }
        if self.leases.by_address.len() >= BOUND {
            return refuse(CieCode::InsufficientResources, "the table of leases is full");
        }
        let prefixes = pool.prefixes.iter().filter(|prefix| prefix.addr().is_ipv6() == ipv6);
        let mut any = false;
        let mut found = None;
        for prefix in prefixes {
            any = true;
            found = found.or_else(|| self.free_in(now, &pool, *prefix, &asked.identity));
        }
        let Some(address) = found else {
            return match any {
                true => refuse(CieCode::InsufficientResources, "the pool is exhausted"),
                false => refuse(CieCode::AdministrativelyProhibited, "there is no pool of that family"),
            };
        };
        self.leases.put(&asked.identity, address, now.after(OFFER_MS));
        self.event(Event::AddressAssigned { address, identity: asked.identity.clone() });
        Ok(address)
    }

    fn extend_lease(&mut self, now: Time, address: IpAddr, ms: u64) {
        if let Some(lease) = self.leases.by_address.get_mut(&address) {
            lease.until = lease.until.max(now.after(ms));
        }
    }

    /// Whether an address that is leased may still be: the pools may have changed.
    fn may_keep(&self, pool: &Pool, address: IpAddr) -> bool {
        pool.prefixes.iter().any(|prefix| prefix.contains(&address) && usable(*prefix, address))
            && !pool.reserved.iter().any(|reserved| reserved.contains(&address))
            && !self.is_configured(address)
    }

    /// Whether the configuration gives the address to somebody.
    fn is_configured(&self, address: IpAddr) -> bool {
        let binding = self.bindings.get(&address);
        self.is_local(address)
            || binding.is_some_and(|binding| binding.source < Source::Registered)
            || self.config.external.iter().any(|external| external.overlay.contains(&address))
    }

    /// A free address of our share of a pool, the search beginning where the identity says.
    fn free_in(&self, now: Time, pool: &Pool, prefix: IpNet, identity: &str) -> Option<IpAddr> {
        let (shares, share) = (u128::from(pool.shares.max(1)), u128::from(pool.share));
        let bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len()).min(64);
        // Numbers of our share: share, share + shares, …
        let size = (1u128 << bits).checked_sub(share)?.div_ceil(shares);
        let hash = hash(identity);
        let busy = self.leases.by_address.len() + self.bindings.len() + self.leases.declined.len();
        // At most as many steps as addresses can be in use; reserved blocks are jumped over.
        let steps = size.min(busy as u128 + 2 * pool.reserved.len() as u128 + 4);
        let mut number = u128::from(hash) % size.max(1);
        for _ in 0..steps {
            let address = nth(prefix, number * shares + share)?;
            if let Some(block) = pool.reserved.iter().find(|block| block.contains(&address)) {
                let after = offset(prefix, block.broadcast()).map_or(0, |last| last + 1);
                number = after.saturating_sub(share).div_ceil(shares);
                if number >= size {
                    number = 0;
                }
                continue;
            }
            if usable(prefix, address) && self.is_free(now, address) {
                return Some(address);
            }
            number = (number + 1) % size;
        }
        None
    }

    fn is_free(&self, now: Time, address: IpAddr) -> bool {
        self.leases.by_address.get(&address).is_none_or(|lease| lease.until <= now)
            && self.leases.declined.get(&address).is_none_or(|until| *until <= now)
            && !self.bindings.contains_key(&address)
            && !self.is_configured(address)
    }

    /// A registration was accepted: it renews the lease that it names, and ends one that another had.
    pub(crate) fn lease_claimed(&mut self, now: Time, received: &Received<'_>) {
        let address = received.header().src_proto;
        let claim = received.packet.extension(ext::ADDRESS).and_then(|it| Assignment::decode(it.value));
        let Some(claim) = claim.filter(|claim| claim.address == address) else {
            if !self.leases.by_address.is_empty() {
                self.leases.forget(address);
            }
            return;
        };
        let until = now.after(LEASE_MS);
        let room = self.config.pool.is_some() && self.leases.by_address.len() < BOUND;
        match self.leases.by_address.get_mut(&address) {
            Some(lease) if lease.identity == claim.identity => lease.until = until,
            _ if room => self.leases.put(&claim.identity, address, until),
            _ => {}
        }
    }

    fn answer_address_request(
        &mut self,
        received: &Received<'_>,
        header: &Header,
        code: CieCode,
        answer: &Assignment,
    ) {
        let Some(local) = self.local_like(header.src_proto) else { return };
        let reply = Header {
            packet_type: PacketType::RegistrationReply,
            hop_count: MAX_HOPS,
            dst_proto: local,
            ..*header
        };
        let mut builder = Builder::new(&reply);
        for cie in received.packet.cies() {
            builder = builder.cie(&Cie { code: code.into(), holding_time: 0, ..cie });
        }
        for extension in received.packet.extensions() {
            builder = match extension.kind {
                ext::RESPONDER => builder.extension_cies(true, ext::RESPONDER, &[self.responder_cie(local)]),
                ext::AUTHENTICATION => self.authenticated(builder, received.secret),
                ext::SOFTWARE => builder.extension(false, ext::SOFTWARE, &Software::OURS.encode()),
                ext::ADDRESS => builder.extension(false, ext::ADDRESS, &answer.encode()),
                _ => builder.extension(extension.compulsory, extension.kind, extension.value),
            };
        }
        self.send(PacketType::RegistrationReply, received.from, builder.finish());
    }
}

/// Why no address is given.
enum Refusal {
    Code(CieCode, String),
    /// Over the budget: the client asks again.
    Later,
}

/// The same in every run: an identity is to find its address again.
fn hash(identity: &str) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    identity.hash(&mut hasher);
    std::hash::Hasher::finish(&hasher)
}

/// Not the network or broadcast address of IPv4, not the subnet-router anycast address of IPv6.
fn usable(prefix: IpNet, address: IpAddr) -> bool {
    if prefix.max_prefix_len() - prefix.prefix_len() <= 1 {
        return true;
    }
    address != prefix.network() && !(address.is_ipv4() && address == prefix.broadcast())
}

fn nth(prefix: IpNet, offset: u128) -> Option<IpAddr> {
    match prefix.network() {
        IpAddr::V4(network) => {
            let number = u32::from(network).checked_add(u32::try_from(offset).ok()?)?;
            Some(Ipv4Addr::from(number).into())
        }
        IpAddr::V6(network) => Some(Ipv6Addr::from(u128::from(network).checked_add(offset)?).into()),
    }
}

/// Position of an address in a prefix; `None` if it lies before it.
fn offset(prefix: IpNet, address: IpAddr) -> Option<u128> {
    match (prefix.network(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            u32::from(address).checked_sub(u32::from(network)).map(u128::from)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => u128::from(address).checked_sub(u128::from(network)),
        _ => None,
    }
}
