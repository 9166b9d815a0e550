//! Prefixes that our NHSs tell us: routes via the NHS's overlay address, by the best NHS that tells them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::config::Phase;
use super::{DropReason, Engine, Event, Output, Received, RouteKind, Rule, Time};
use crate::wire::{Builder, Packet, PacketType, PrefixChunk, ext, list_flags};

/// Prefixes that one list may have.
const LIST_BOUND: usize = 65_536;
/// A list that is older by less than this is late; by more, it is that of an NHS that started anew.
const LATE_GENERATIONS: u32 = 1024;

/// A prefix that one or more NHSs tell us.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    /// Who tells it (registration), in order of arrival.
    pub(crate) tellers: Vec<u32>,
    /// Next hops that they name, where that is not the teller itself (Phase 2).
    pub(crate) next_hops: Vec<(u32, IpAddr)>,
    /// Next hop of the route in force.
    pub(crate) via: Option<IpAddr>,
    pub(crate) since: Time,
}

/// A list that comes in chunks.
#[derive(Clone, Debug)]
pub(crate) struct Assembly {
    generation: u32,
    next: u16,
    list: List,
}

/// A complete list.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    pub(crate) prefixes: Vec<IpNet>,
    pub(crate) next_hops: BTreeMap<IpNet, IpAddr>,
}

impl Assembly {
    /// Takes the next chunk; `Some` when the list is complete.
    pub(crate) fn add(slot: &mut Option<Self>, chunk: PrefixChunk) -> Option<List> {
        if chunk.has(list_flags::FIRST) {
            *slot = Some(Self { generation: chunk.generation, next: 0, list: List::default() });
        }
        let assembly = slot.as_mut()?;
        // A repeated chunk (its answer was lost) is none that we wait for.
        if assembly.generation != chunk.generation || assembly.next != chunk.chunk {
            return None;
        }
        assembly.next = assembly.next.wrapping_add(1);
        if assembly.list.prefixes.len() + chunk.prefixes.len() > LIST_BOUND {
            *slot = None;
            return None;
        }
        assembly.list.prefixes.extend(chunk.prefixes);
        assembly.list.next_hops.extend(chunk.next_hops);
        if chunk.flags & list_flags::MORE != 0 {
            return None;
        }
        slot.take().map(|assembly| assembly.list)
    }
}

impl Engine {
    /// A push: a Registration Request by which an NHS tells us its list. Says whether it was one.
    pub(crate) fn push_received(&mut self, now: Time, received: &Received<'_>) -> bool {
        let Some(chunk) = reachable_list(received.packet) else { return false };
        let header = *received.header();
        let found = self.hubs.iter().find_map(|hub| {
            let asked = |it: &&super::client::Registration| {
                it.nhs == Some(header.src_proto) && it.local == header.dst_proto
            };
            let registration = hub.registrations.iter().find(asked)?;
            let is_it = hub.nbma() == Some(received.from) || !self.enforced(Rule::PushFromNhs);
            is_it.then_some(registration.uid)
        });
        let Some(uid) = found else {
            self.drop(now, DropReason::WrongSender, Some(received.from));
            return true;
        };
        let answer = PrefixChunk {
            flags: list_flags::REACHABLE,
            chunk: chunk.chunk,
            generation: chunk.generation,
            ..PrefixChunk::default()
        };
        self.list_heard(now, uid, chunk);
        self.hubs_noticed(now, uid, received);
        let Some(mut reply) =
            self.header(PacketType::RegistrationReply, header.request_id, header.src_proto, header.dst_proto)
        else {
            return true;
        };
        reply.flags = header.flags;
        let mut builder = Builder::new(&reply);
        for cie in received.packet.cies() {
            builder = builder.cie(&cie);
        }
        let builder = self.authenticated(builder, received.secret);
        let bytes = builder.extension(false, ext::PREFIXES, &answer.encode()).finish();
        self.send(PacketType::RegistrationReply, received.from, bytes);
        true
    }

    /// A chunk of an NHS's list, in a reply or a push.
    pub(crate) fn list_heard(&mut self, now: Time, uid: u32, chunk: PrefixChunk) {
        if !chunk.has(list_flags::REACHABLE) {
            return;
        }
        let Some(registration) = self.registration_mut(uid) else { return };
        if !registration.primary {
            // The same list comes with the family's first address.
            registration.has_list = true;
            return;
        }
        if chunk.has(list_flags::FIRST) {
            if registration.generation.is_some_and(|last| is_late(last, chunk.generation)) {
                return;
            }
            registration.generation = Some(chunk.generation);
        }
        let Some(list) = Assembly::add(&mut registration.assembly, chunk) else { return };
        registration.has_list = true;
        self.list_complete(now, uid, list);
    }

    fn list_complete(&mut self, now: Time, uid: u32, list: List) {
        let List { prefixes: mut list, next_hops } = list;
        let Some(registration) = self.registration_mut(uid) else { return };
        let Some(nhs) = registration.nhs else { return };
        list.retain(|prefix| prefix.addr().is_ipv4() == nhs.is_ipv4());
        list.sort_unstable();
        list.dedup();
        let told = |announced: &Announced| announced.tellers.contains(&uid);
        let old: Vec<_> =
            self.announced.iter().filter(|(_, it)| told(it)).map(|(prefix, _)| prefix).collect();
        for prefix in &list {
            let next_hop = next_hops.get(prefix).copied().filter(|hop| self.may_be_next_hop(*hop));
            if old.binary_search(prefix).is_ok() {
                self.next_hop_told(uid, *prefix, next_hop);
                continue;
            }
            if self.is_own_prefix(*prefix) {
                continue;
            }
            if let Some(reason) = self.announcement_refusal(*prefix) {
                self.event(Event::PrefixRefused { prefix: *prefix, from: nhs, reason });
                continue;
            }
            match self.announced.get_mut(*prefix) {
                Some(announced) => {
                    announced.tellers.push(uid);
                    announced.next_hops.extend(next_hop.map(|hop| (uid, hop)));
                }
                None => {
                    let next_hops = next_hop.map(|hop| (uid, hop)).into_iter().collect();
                    let announced = Announced { tellers: vec![uid], next_hops, via: None, since: now };
                    self.announced.insert(*prefix, announced);
                }
            }
            self.choose(*prefix);
        }
        for prefix in old {
            if list.binary_search(&prefix).is_err() {
                self.untell(uid, prefix);
            }
        }
        // Not when an NHS falls silent: a direct path does not need it, and ends with its holding time.
        self.recheck_coverings(now);
    }

    /// A next hop that an NHS names: another host of the overlay.
    fn may_be_next_hop(&self, hop: IpAddr) -> bool {
        self.config.overlay.iter().any(|net| net.contains(&hop)) && !self.is_local(hop)
    }

    fn next_hop_told(&mut self, uid: u32, prefix: IpNet, next_hop: Option<IpAddr>) {
        let Some(announced) = self.announced.get_mut(prefix) else { return };
        let before = announced.next_hops.iter().find(|(teller, _)| *teller == uid).map(|(_, hop)| *hop);
        if before != next_hop {
            announced.next_hops.retain(|(teller, _)| *teller != uid);
            announced.next_hops.extend(next_hop.map(|hop| (uid, hop)));
            self.choose(prefix);
        }
    }

    /// All that this registration told us no longer counts.
    pub(crate) fn forget_list(&mut self, uid: u32) {
        if let Some(registration) = self.registration_mut(uid) {
            registration.has_list = false;
            registration.assembly = None;
        }
        let told: Vec<_> = self
            .announced
            .iter()
            .filter(|(_, it)| it.tellers.contains(&uid))
            .map(|(prefix, _)| prefix)
            .collect();
        told.into_iter().for_each(|prefix| self.untell(uid, prefix));
    }

    fn untell(&mut self, uid: u32, prefix: IpNet) {
        if let Some(announced) = self.announced.get_mut(prefix) {
            announced.tellers.retain(|teller| *teller != uid);
            announced.next_hops.retain(|(teller, _)| *teller != uid);
        }
        self.choose(prefix);
    }

    /// Takes an announced prefix out, whoever tells it.
    pub(crate) fn forget_prefix(&mut self, prefix: IpNet) {
        if let Some(announced) = self.announced.get_mut(prefix) {
            announced.tellers.clear();
            announced.next_hops.clear();
        }
        self.choose(prefix);
    }

    /// Chooses anew for all prefixes that have several tellers (an NHS came or went).
    pub(crate) fn choose_all(&mut self) {
        self.interims_follow();
        if self.hubs.len() < 2 {
            return;
        }
        let contested: Vec<_> =
            self.announced.iter().filter(|(_, it)| it.tellers.len() > 1).map(|(prefix, _)| prefix).collect();
        contested.into_iter().for_each(|prefix| self.choose(prefix));
    }

    /// The best of those who tell a prefix (one that answers, then by priority), and the next hop that it means.
    pub(crate) fn best_teller(&self, announced: &Announced) -> Option<(IpAddr, IpAddr)> {
        let ranked = announced.tellers.iter().filter_map(|uid| Some((self.rank(*uid)?, *uid)));
        let ((_, nhs), uid) = ranked.min_by_key(|((rank, _), _)| *rank)?;
        // A hub routes by hubs: nobody's kernel asks it for a way round them.
        let keeps = self.config.phase == Phase::Two && !self.config.server;
        let named = announced.next_hops.iter().find(|(teller, _)| *teller == uid).map(|(_, hop)| *hop);
        Some((nhs, named.filter(|_| keeps).unwrap_or(nhs)))
    }

    /// Routes a prefix by the best of those who tell it.
    pub(crate) fn choose(&mut self, prefix: IpNet) {
        let Some(announced) = self.announced.get(prefix) else { return };
        let best = self.best_teller(announced).map(|(_, via)| via);
        if best == announced.via && best.is_some() {
            return;
        }
        let link = self.config.link;
        let kind = RouteKind::Announced;
        self.announcer.stale = true;
        match best {
            Some(via) => {
                if let Some(announced) = self.announced.get_mut(prefix) {
                    announced.via = Some(via);
                }
                self.outputs.push_back(Output::InstallRoute { link, prefix, via, kind });
            }
            None => {
                let installed = announced.via.is_some();
                self.announced.remove(prefix);
                if installed {
                    self.outputs.push_back(Output::RemoveRoute { link, prefix, kind });
                }
            }
        }
    }

    /// Silently ignored: our own prefixes come back to us from an NHS that does not know whose they are.
    pub(crate) fn is_own_prefix(&self, prefix: IpNet) -> bool {
        self.config.subnets.iter().any(|own| own.contains(&prefix))
            || self.config.beside.contains(&prefix)
            || (prefix.prefix_len() == if prefix.addr().is_ipv4() { 32 } else { 128 }
                && self.is_local(prefix.addr()))
    }

    pub(crate) fn announcement_refusal(&self, prefix: IpNet) -> Option<String> {
        // A summary that covers our subnets is what hubs announce: our own routes are more specific and stay in force. A
        // default route covers the underlay by its nature: the shell keeps the tunnel's own packets off it.
        if prefix.prefix_len() == 0 {
            return None;
        }
        let nbma = self.underlay_inside(prefix)?;
        Some(format!("it contains the underlay address {nbma}: the tunnel would lead into itself"))
    }
}

/// Whether a list was overtaken on the way by the `last` one, which is newer.
pub(crate) fn is_late(last: u32, generation: u32) -> bool {
    (1..LATE_GENERATIONS).contains(&last.wrapping_sub(generation))
}

/// The prefix list of a packet if it is an NHS's list of what is reachable.
pub(crate) fn reachable_list(packet: &Packet<'_>) -> Option<PrefixChunk> {
    let chunk = PrefixChunk::decode(packet.extension(ext::PREFIXES)?.value).ok()?;
    chunk.has(list_flags::REACHABLE).then_some(chunk)
}
