//! The list of hubs that hubs tell us, so that a new hub needs no edit here.
//!
//! What is configured stays in force: a list adds hubs that are not configured (unless they are fixed), adds underlay
//! addresses to those that are (tried after the configured ones), and says which hub hands its clients on. Priority and
//! cluster of a configured hub are those of the configuration. A list is believed from an NHS of ours only, in the reply to a
//! request of ours. A hub that no list names any more goes; nobody vouches for himself, and those that were told only
//! count as long as a configured one, or one that such a one told, names them.

use std::net::IpAddr;

use super::super::config::{Config, Nhs, Phase};
use super::super::snapshot::HubListState;
use super::super::timers::TimerKey;
use super::super::{DropReason, Engine, Event, Received, Time};
use super::Hub;
use crate::wire::{HubChunk, HubEntry, HubNbma, ext, hub_flags};

/// Hubs in all, configured or told.
const HUB_BOUND: usize = 32;
/// Underlay addresses a hub.
const NBMA_BOUND: usize = 16;
/// Who hears of a new list asks for it within this time: not all at once.
const ASK_WITHIN_MS: u64 = 1000;

/// A hub that the engine knows, for whoever has to see to its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownHub<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its underlay addresses.
    pub nbma: &'a [IpAddr],
    /// Told by other hubs, not configured.
    pub learned: bool,
}

impl Engine {
    /// The hubs that are configured or were told.
    pub fn hubs(&self) -> impl Iterator<Item = KnownHub<'_>> {
        self.hubs.iter().map(|hub| KnownHub {
            name: &hub.config.name,
            nbma: &hub.config.nbma,
            learned: self.is_learned(&hub.config.name),
        })
    }

    /// Host names that hubs told us, for [`super::super::Config::names`].
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        let places = self.hub_lists.iter().flat_map(|list| &list.entries).flat_map(|entry| &entry.nbma);
        places.filter_map(|nbma| match nbma {
            HubNbma::Name(name) if is_host_name(name) => Some(name.as_str()),
            _ => None,
        })
    }

    pub(crate) fn is_learned(&self, name: &str) -> bool {
        !self.config.nhs.iter().any(|nhs| nhs.name == name)
    }

    /// What a request says of the list that we hold of this NHS's. A hub learns no other hubs: which ones it
    /// registers with is a matter of its place in the network.
    pub(super) fn hubs_held(&self, hub_at: usize) -> Option<HubChunk> {
        let hub = self.hubs.get(hub_at).filter(|_| !self.config.server)?;
        let chunk = match (&hub.telling, self.hub_lists.iter().find(|list| list.teller == hub.config.name)) {
            (Some((generation, entries)), _) => HubChunk {
                flags: hub_flags::WANT,
                first: entries.len() as u16,
                generation: *generation,
                entries: Vec::new(),
            },
            (None, Some(list)) => HubChunk { generation: list.generation, ..HubChunk::default() },
            (None, None) => HubChunk { flags: hub_flags::WANT, ..HubChunk::default() },
        };
        Some(chunk)
    }

    /// A part of the list in the reply to a registration; says whether to ask for more at once.
    pub(super) fn hubs_heard(&mut self, now: Time, uid: u32, received: &Received<'_>) -> bool {
        let Some(chunk) = self.hub_chunk(now, received) else { return false };
        let Some(hub) = self.hub_of(uid) else { return false };
        let name = hub.config.name.clone();
        if chunk.first == 0 && !(chunk.entries.is_empty() && chunk.flags & hub_flags::MORE == 0) {
            hub.telling = Some((chunk.generation, Vec::new()));
        }
        let Some((generation, entries)) = &mut hub.telling else { return false };
        if *generation != chunk.generation || entries.len() != usize::from(chunk.first) {
            hub.telling = None;
            return false;
        }
        let progress = !chunk.entries.is_empty() || received.packet.extension(ext::PREFIXES).is_some();
        entries.extend(chunk.entries);
        if entries.len() > HUB_BOUND {
            hub.telling = None;
            return false;
        }
        if chunk.flags & hub_flags::MORE != 0 {
            return progress && entries.len() < HUB_BOUND;
        }
        let entries = std::mem::take(entries);
        hub.telling = None;
        let names = entries.iter().map(|entry| entry.name.clone()).collect();
        self.event(Event::HubsTold { teller: name.clone(), names });
        self.hub_lists.retain(|list| list.teller != name);
        self.hub_lists.insert(0, HubListState { teller: name, generation: chunk.generation, entries });
        self.configure_hubs(now);
        false
    }

    /// A push says which list there is.
    pub(crate) fn hubs_noticed(&mut self, now: Time, uid: u32, received: &Received<'_>) {
        let Some(chunk) = self.hub_chunk(now, received) else { return };
        let Some(hub) = self.hub_of(uid) else { return };
        let name = hub.config.name.clone();
        if self.hub_lists.iter().any(|list| list.teller == name && list.generation == chunk.generation) {
            return;
        }
        let at = now.after(self.rng.next() % ASK_WITHIN_MS);
        let Some(registration) = self.registration_mut(uid) else { return };
        if !registration.outstanding && registration.due > at {
            registration.due = at;
            self.timers.arm(TimerKey::Registration(uid), at);
        }
    }

    fn hub_chunk(&mut self, now: Time, received: &Received<'_>) -> Option<HubChunk> {
        let extension = received.packet.extension(ext::HUBS).filter(|_| !self.config.server)?;
        match HubChunk::decode(extension.value) {
            // Without the flag it is our own word, echoed by one who does not know the extension.
            Ok(chunk) => chunk.has(hub_flags::TOLD).then_some(chunk),
            Err(_) => {
                self.drop(now, DropReason::BadHubList, Some(received.from));
                None
            }
        }
    }

    /// An NHS has been silent for its holding time: its list no longer counts, if there is one of the same weight.
    pub(super) fn forget_told_by(&mut self, now: Time, uid: u32) {
        let Some(hub) = self.hub_of(uid).filter(|hub| !hub.serves()) else { return };
        let name = hub.config.name.clone();
        let learned = self.is_learned(&name);
        let as_good = |other: &Hub| {
            other.config.name != name
                && other.serves()
                && (learned || !self.is_learned(&other.config.name))
                && self.hub_lists.iter().any(|list| list.teller == other.config.name)
        };
        if self.hubs.iter().any(as_good) {
            self.hub_lists.retain(|list| list.teller != name);
            self.configure_hubs(now);
        }
    }

    /// The NHSs of the configuration with what is told of them, then those that are told only.
    pub(crate) fn known_hubs(&self) -> Vec<Nhs> {
        let mut known = self.config.nhs.clone();
        let mut at = 0;
        // Whoever is found to be a hub may name others.
        while let Some(teller) = known.get(at).map(|nhs| nhs.name.clone()) {
            at += 1;
            let Some(list) = self.hub_lists.iter().find(|list| list.teller == teller) else { continue };
            for entry in &list.entries {
                let known_one = known.iter().any(|nhs| nhs.name == entry.name);
                if !known_one && entry.name != teller && !self.config.fixed_hubs {
                    let new = self.told_hub(entry, &known);
                    known.extend(new.filter(|_| known.len() < HUB_BOUND));
                }
            }
        }
        for nhs in &mut known {
            self.complete(nhs);
        }
        known
    }

    /// Where the configuration no longer has a hub that was in use there, it is not to be kept by what was told: its
    /// own word from there is of the time before it moved.
    pub(crate) fn forget_left_places(&mut self, old: &Config, new: &Config) {
        for hub in &self.hubs {
            let places = |config: &Config| {
                let nhs = config.nhs.iter().find(|nhs| nhs.name == hub.config.name);
                nhs.map(|nhs| nhs.nbma.clone()).unwrap_or_default()
            };
            let (before, now) = (places(old), places(new));
            let Some(left) = hub.nbma().filter(|it| before.contains(it) && !now.contains(it)) else {
                continue;
            };
            let entries = self.hub_lists.iter_mut().flat_map(|list| &mut list.entries);
            for entry in entries.filter(|entry| entry.name == hub.config.name) {
                entry.nbma.retain(|place| *place != HubNbma::Address(left));
            }
        }
    }

    /// A hub that is not configured, as it is told; `None` if that cannot be one.
    fn told_hub(&self, entry: &HubEntry, known: &[Nhs]) -> Option<Nhs> {
        let inside = |address: &IpAddr| self.config.overlay.iter().any(|net| net.contains(address));
        let free = |address: &IpAddr| {
            !self.is_local(*address) && !known.iter().any(|nhs| nhs.overlay.contains(address))
        };
        let sound = !entry.overlay.is_empty()
            && entry.overlay.iter().all(|address| inside(address) && free(address))
            && entry.overlay.iter().filter(|address| address.is_ipv4()).count() <= 1
            && entry.overlay.iter().filter(|address| address.is_ipv6()).count() <= 1;
        sound.then(|| Nhs {
            name: entry.name.clone(),
            overlay: entry.overlay.clone(),
            nbma: Vec::new(),
            priority: entry.priority,
            cluster: entry.cluster,
            max_connections: entry.max_connections,
            draining: false,
        })
    }

    /// Adds to a hub what is told of it: underlay addresses, and whether it hands its clients on: by its own word while
    /// it serves, else by the latest.
    fn complete(&self, nhs: &mut Nhs) {
        let mut words = self.hub_lists.iter().flat_map(|list| {
            let about = list.entries.iter().filter(|entry| entry.name == nhs.name);
            about.map(|entry| (list.teller == nhs.name, entry))
        });
        let words: Vec<_> = words.by_ref().collect();
        let serves = self.hubs.iter().any(|hub| hub.config.name == nhs.name && hub.serves());
        let own = words.iter().find(|(own, _)| *own && serves);
        nhs.draining |= own.or_else(|| words.first()).is_some_and(|(_, entry)| entry.draining);
        if self.config.phase == Phase::One && !self.config.server {
            // Its link has one other end, wherever else that hub is.
            return;
        }
        for place in words.iter().flat_map(|(_, entry)| &entry.nbma) {
            let resolved = |name: &String| self.config.names.iter().find(|(known, _)| known == name);
            let addresses = match place {
                HubNbma::Address(address) => vec![*address],
                HubNbma::Name(name) => resolved(name).map(|(_, all)| all.clone()).unwrap_or_default(),
            };
            for address in addresses {
                if !nhs.nbma.contains(&address) && nhs.nbma.len() < NBMA_BOUND && self.is_place(address) {
                    nhs.nbma.push(address);
                }
            }
        }
    }

    /// Whether a hub may be at this underlay address: none that leads into the tunnel itself.
    fn is_place(&self, nbma: IpAddr) -> bool {
        let host = !nbma.is_unspecified() && !nbma.is_multicast() && !nbma.is_loopback();
        let inside = self.config.overlay.iter().chain(&self.config.subnets).any(|net| net.contains(&nbma));
        let routed = self.announced.longest(nbma).is_some_and(|(prefix, _)| prefix.prefix_len() > 0);
        host && !inside && !routed && Some(nbma) != self.config.nbma
    }
}

/// RFC 1123 §2.1, roughly: what a resolver may be asked.
fn is_host_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.starts_with('-') && name.bytes().all(plain)
}
