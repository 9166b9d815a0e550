//! Who may have which overlay address and prefix, where IPsec says who somebody is.
//!
//! The shell tells which identities have been authenticated at an underlay address ([`super::Input::Identities`]). What is
//! declared belongs to the identity that it is declared for. An address that nobody declared goes to the first who
//! registers it, and is that identity's until it is taken back, or for a day after its last registration. An identity
//! that nothing is known of (the IKE daemon is away) keeps what it had at the same place.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::prefix_map::overlaps;
use super::snapshot::{ClaimState, Source};
use super::{Engine, Event, Time};
use crate::wire::CieCode;

/// An address is kept for its identity for so long after its last registration.
const CLAIM_MS: u64 = 24 * 3600 * 1000;
/// Claims in all.
const BOUND: usize = 1 << 18;

/// Who may register what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Identities that nobody declared may register too.
    pub open: bool,
    /// What belongs to whom. Several entries of one identity count together.
    pub declared: Vec<Member>,
    /// Identities that may register nothing.
    pub denied: BTreeSet<String>,
}

/// What belongs to an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name for people.
    pub name: String,
    /// Its IKE identity.
    pub identity: String,
    /// Its overlay addresses; of a family that has none here, any that nobody else has.
    pub overlay: Vec<IpAddr>,
    /// Prefixes that it may announce, or parts of; `None`: any, as a hub that speaks for others.
    pub prefixes: Option<Vec<IpNet>>,
}

/// An address that was registered.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    identity: Box<str>,
    until: Time,
}

/// Why somebody may not have something.
type Refusal = (CieCode, String);

impl Members {
    fn of<'a>(&'a self, identity: &'a str) -> impl Iterator<Item = &'a Member> + 'a {
        self.declared.iter().filter(move |it| it.identity == identity)
    }

    /// Whether an identity may have an address, as far as is declared.
    fn address_refusal(&self, identity: &str, claim: IpAddr) -> Option<Refusal> {
        let prohibited = |why: String| Some((CieCode::AdministrativelyProhibited, why));
        if self.denied.contains(identity) {
            return prohibited(format!("{identity} is denied (ipsec.deniedIdentities)"));
        }
        if self.of(identity).any(|it| it.overlay.contains(&claim)) {
            return None;
        }
        if let Some(owner) = self.declared.iter().find(|it| it.overlay.contains(&claim)) {
            let why = format!("the address is declared for {}, and {identity} claims it", owner.name);
            return Some((CieCode::AlreadyRegistered, why));
        }
        let mut own = self.of(identity).peekable();
        if own.peek().is_none() && !self.open {
            return prohibited(format!("no DmvpnSpoke is declared for {identity}"));
        }
        let like = |address: &&IpAddr| address.is_ipv4() == claim.is_ipv4();
        let mut named = own.filter_map(|it| Some((it, it.overlay.iter().find(like)?)));
        let (it, address) = named.next()?;
        prohibited(format!("{} ({identity}) is declared with {address}", it.name))
    }

    /// Whether an identity may announce a prefix, as far as is declared.
    fn prefix_refusal(&self, identity: &str, prefix: IpNet) -> Option<String> {
        let mut own = self.of(identity).peekable();
        if own.peek().is_none() {
            // Somebody new: what is nobody's.
            let declared = self.declared.iter().flat_map(|it| {
                let prefixes = it.prefixes.iter().flatten();
                prefixes.map(move |net| (&it.name, net))
            });
            let mut taken = declared.filter(|(_, net)| overlaps(**net, prefix));
            return taken
                .next()
                .map(|(name, net)| format!("{identity} announces it, and {net} is declared for {name}"));
        }
        let mut last = "";
        for it in own {
            last = &it.name;
            match &it.prefixes {
                None => return None,
                Some(prefixes) if prefixes.iter().any(|net| net.contains(&prefix)) => return None,
                Some(_) => {}
            }
        }
        Some(format!("it is not in the subnets of {last} ({identity})"))
    }
}

impl Engine {
    /// Which identities are authenticated at an underlay address now.
    pub(crate) fn identities_changed(&mut self, nbma: IpAddr, identities: BTreeSet<String>) {
        if identities.is_empty() {
            self.identities.remove(&nbma);
        } else {
            self.identities.insert(nbma, identities);
        }
    }

    /// Who is at an underlay address; `None`: nobody is known there.
    fn identity_at(&self, nbma: IpAddr) -> Option<Result<&str, String>> {
        let mut known = self.identities.get(&nbma)?.iter();
        let first = known.next()?;
        Some(match known.next() {
            None => Ok(first),
            Some(second) => {
                Err(format!("{first} and {second} are both at {nbma}, and nothing says whose packet it was"))
            }
        })
    }

    /// Why whoever is at `from` may not register an address; `None` also where nothing says who anybody is.
    pub(crate) fn claim_refusal(&self, now: Time, claim: IpAddr, from: IpAddr) -> Option<Refusal> {
        let members = self.config.members.as_ref()?;
        let prohibited = |why: String| Some((CieCode::AdministrativelyProhibited, why));
        let held = self.claims.get(&claim).filter(|it| it.until > now);
        let identity = match self.identity_at(from) {
            Some(Ok(identity)) => identity,
            Some(Err(why)) => return prohibited(why),
            None => {
                let bound = self.bindings.get(&claim);
                let keeps = bound.is_some_and(|it| it.source == Source::Registered && it.nbma == from);
                match held.filter(|_| keeps) {
                    Some(held) => &held.identity,
                    None => return prohibited(format!("nobody was authenticated at {from}")),
                }
            }
        };
        members.address_refusal(identity, claim).or_else(|| {
            let declared = || members.of(identity).any(|it| it.overlay.contains(&claim));
            let other = held.filter(|it| *it.identity != *identity && !declared())?;
            let why = format!("the address belongs to {}, and {identity} claims it", other.identity);
            Some((CieCode::AlreadyRegistered, why))
        })
    }

    /// Whether it is the same member that has an address and claims it from elsewhere; `None`: nothing says so.
    pub(crate) fn is_same_member(&self, claim: IpAddr, from: IpAddr) -> Option<bool> {
        self.config.members.as_ref()?;
        let held = self.claims.get(&claim)?;
        Some(matches!(self.identity_at(from), Some(Ok(identity)) if *identity == *held.identity))
    }

    /// Why whoever is at `from` may have no address at all.
    pub(crate) fn stranger(&self, from: IpAddr) -> Option<String> {
        let members = self.config.members.as_ref()?;
        match self.identity_at(from) {
            Some(Ok(identity)) if members.denied.contains(identity) => {
                Some(format!("{identity} is denied (ipsec.deniedIdentities)"))
            }
            Some(Ok(identity)) if !members.open && members.of(identity).next().is_none() => {
                Some(format!("no DmvpnSpoke is declared for {identity}"))
            }
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(why),
            None => Some(format!("nobody was authenticated at {from}")),
        }
    }

    /// An address was registered: it is that identity's from now on.
    pub(crate) fn claimed_by(&mut self, now: Time, claim: IpAddr, from: IpAddr) {
        if self.config.members.is_none() {
            return;
        }
        let until = now.after(CLAIM_MS);
        let identity: Option<Box<str>> = match self.identity_at(from) {
            Some(Ok(identity)) => Some(identity.into()),
            _ => None,
        };
        match (self.claims.get_mut(&claim), identity) {
            (Some(held), None) => held.until = until,
            (Some(held), Some(identity)) if held.identity == identity => held.until = until,
            (_, Some(identity)) => {
                if self.claims.len() >= BOUND {
                    self.claims.retain(|_, it| it.until > now);
                }
                if self.claims.len() < BOUND {
                    self.claims.insert(claim, Claim { identity, until });
                }
            }
            (None, None) => {}
        }
    }

    /// Whoever had an address gives it back.
    pub(crate) fn claim_released(&mut self, overlay: IpAddr) {
        self.claims.remove(&overlay);
    }

    /// Why whoever has `overlay` may not announce a prefix.
    pub(crate) fn foreign_prefix(&self, overlay: IpAddr, prefix: IpNet) -> Option<String> {
        let members = self.config.members.as_ref()?;
        let bound = self.bindings.get(&overlay).filter(|it| it.source == Source::Registered)?;
        let identity = match self.identity_at(bound.nbma) {
            Some(Ok(identity)) => identity,
            Some(Err(why)) => return Some(why),
            None => match self.claims.get(&overlay) {
                Some(held) => &held.identity,
                // It came before anybody had to be somebody, and is judged when it comes again.
                None => return None,
            },
        };
        members.prefix_refusal(identity, prefix)
    }

    /// Who owns what is declared anew: registrations and prefixes that are now somebody else's go.
    pub(crate) fn configure_members(&mut self, now: Time) {
        let Some(members) = self.config.members.clone() else {
            self.claims.clear();
            return;
        };
        let registered = self.bindings.iter().filter(|(_, it)| it.source == Source::Registered);
        let mut registered: Vec<_> = registered.map(|(overlay, it)| (*overlay, it.nbma)).collect();
        registered.sort_unstable();
        for (overlay, nbma) in registered {
            // One that came before anybody had to be somebody comes again soon, and is judged then.
            let Some(held) = self.claims.get(&overlay) else { continue };
            if let Some((code, reason)) = members.address_refusal(&held.identity, overlay) {
                self.claims.remove(&overlay);
                self.event(Event::RegistrationRefused { overlay, nbma, code, reason });
                self.unbind(now, overlay);
                continue;
            }
            let own = self.bindings.get(&overlay).map(|it| it.prefixes().to_vec()).unwrap_or_default();
            for prefix in own {
                let Some(reason) = self.foreign_prefix(overlay, prefix) else { continue };
                if let Some(binding) = self.bindings.get_mut(&overlay) {
                    binding.refuse(prefix);
                }
                self.untell_prefix(now, prefix, overlay);
                self.event(Event::PrefixRefused { prefix, from: overlay, reason });
            }
        }
        self.claims.retain(|overlay, it| members.address_refusal(&it.identity, *overlay).is_none());
    }

    /// Whether it matters who somebody is.
    pub fn has_members(&self) -> bool {
        self.config.members.is_some()
    }

    /// Who has registered an address, as IPsec said.
    pub fn identity_of(&self, overlay: IpAddr) -> Option<&str> {
        self.claims.get(&overlay).map(|it| &*it.identity)
    }

    pub(crate) fn claim_states(&self, now: Time) -> Vec<ClaimState> {
        let state = |(address, it): (&IpAddr, &Claim)| ClaimState {
            address: *address,
            identity: it.identity.to_string(),
            expires_ms: it.until.since(now),
        };
        let mut states: Vec<_> = self.claims.iter().map(state).collect();
        states.sort_unstable_by_key(|state| state.address);
        states
    }

    pub(crate) fn resume_claims(&mut self, now: Time, states: &[ClaimState], elapsed_ms: u64) {
        if self.config.members.is_none() {
            return;
        }
        for state in states.iter().take(BOUND).filter(|it| it.expires_ms > elapsed_ms) {
            let claim = Claim {
                identity: state.identity.as_str().into(),
                until: now.after(state.expires_ms - elapsed_ms),
            };
            self.claims.insert(state.address, claim);
        }
    }
}
