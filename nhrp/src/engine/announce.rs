//! What an NHS tells its clients: the prefixes that are reachable through it.
//!
//! Changes are gathered for a moment, then each client that knows the extension gets the new list, chunk by chunk,
//! each sent again until it is answered. A client whose list is up to date is left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::bindings::Binding;
use super::config::Phase;
use super::hierarchy::Told;
use super::learn::{Assembly, is_late};
use super::snapshot::Source;
use super::timers::TimerKey;
use super::{DropReason, Engine, Map, Received, Time};
use crate::wire::{Builder, Cie, ENTRY_V4, ENTRY_V6, LIST_HEADER, PacketType, PrefixChunk, ext, list_flags};

/// Changes are gathered for this long at least.
const GATHER_MS: u64 = 50;
/// Clients that one millisecond of gathering is added for: bounds what a wave of changes can cost.
const CLIENTS_PER_MS: u64 = 20;
/// A chunk goes out this often (after 1, 2, 4 s); then the client hears with its next registration.
const PUSH_TRIES: u32 = 4;

/// State of the announcements.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announcer {
    /// Counts changes of the list, from a random start: a client tells a late chunk from a new hub's.
    pub(crate) generation: u32,
    /// A change waits for the gathering time to end.
    dirty: bool,
    last_flush: Time,
    /// The list as clients are told it, with the next hop of each, by family (IPv4 first). In Phase 2 the
    /// spokes themselves are in it too, as hosts.
    lists: [Told; 2],
    /// The same as NHSs of ours are told it, and how often it changed.
    pub(crate) below: [Told; 2],
    pub(crate) below_generation: u32,
    /// What an NHS tells has changed.
    pub(crate) stale: bool,
    clients: Map<IpAddr, Client>,
    /// Lists of clients that come in chunks.
    pub(crate) assemblies: Map<IpAddr, Assembly>,
}

impl Announcer {
    pub(crate) fn starting_at(generation: u32) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Whether this client reads entries with next hops of their own.
    pub(crate) fn reads_next_hops(&self, client: IpAddr) -> bool {
        self.clients.get(&client).is_some_and(|it| it.next_hops)
    }
}

/// How far a client got.
#[derive(Clone, Debug, Default)]
struct Client {
    /// Last generation that it confirmed (by answering a push) or asked for and got in a reply.
    synced: Option<u32>,
    /// The last request that asked for the list, and the generation that it got.
    told: Option<(u32, u32)>,
    /// A push that waits for its answer.
    push: Option<Push>,
    /// Generation of its own list that was begun last.
    own: Option<u32>,
    /// It reads entries with next hops of their own.
    next_hops: bool,
}

/// A part of the list.
struct Slice {
    prefixes: Vec<IpNet>,
    next_hops: BTreeMap<IpNet, IpAddr>,
    /// Where the next one begins.
    to: usize,
    /// There is none.
    complete: bool,
}

#[derive(Clone, Debug)]
struct Push {
    generation: u32,
    request_id: u32,
    chunk: u16,
    /// Entries told before this chunk, and up to where this chunk goes.
    from: usize,
    to: usize,
    tries: u32,
    next: Time,
    more: bool,
}

impl Engine {
    /// Whether what NHSs of ours told has changed what we tell.
    pub(crate) fn settle_list(&mut self, now: Time) {
        if std::mem::take(&mut self.announcer.stale) {
            self.list_changed(now);
        }
    }

    /// The list of reachable prefixes changed: everybody hears, soon.
    pub(crate) fn list_changed(&mut self, now: Time) {
        if !self.config.server || self.announcer.dirty {
            return;
        }
        self.announcer.dirty = true;
        let cost = self.announcer.clients.len() as u64 / CLIENTS_PER_MS;
        let earliest = self.announcer.last_flush.after(GATHER_MS + cost);
        self.timers.arm(TimerKey::Flush, now.after(GATHER_MS).max(earliest));
    }

    pub(crate) fn flush_announcements(&mut self, now: Time) {
        if !std::mem::take(&mut self.announcer.dirty) {
            return;
        }
        self.announcer.last_flush = now;
        self.rebuild_list();
        let mut clients: Vec<_> = self.announcer.clients.keys().copied().collect();
        clients.sort_unstable();
        for client in clients {
            self.push(now, client);
        }
        self.tell_nhss(now);
    }

    /// Makes the lists anew; a generation that changes nothing is none.
    pub(crate) fn rebuild_list(&mut self) {
        let lists = self.told_to_clients();
        let below = self.told_to_nhss();
        let changed = lists != self.announcer.lists;
        let announcer = &mut self.announcer;
        if below != announcer.below {
            announcer.below_generation = announcer.below_generation.wrapping_add(1);
        }
        if changed || below != announcer.below {
            announcer.generation = announcer.generation.wrapping_add(1);
        }
        announcer.lists = lists;
        announcer.below = below;
    }

    /// In Phase 2 the spokes' own addresses: the kernel of another spoke asks for those.
    pub(crate) fn hosts_to_tell(&self) -> impl Iterator<Item = (IpNet, Option<IpAddr>)> + '_ {
        let is_spoke =
            |(_, it): &(&IpAddr, &Binding)| matches!(it.source, Source::Registered | Source::Static);
        let spokes = self.bindings.iter().filter(|_| self.config.phase == Phase::Two).filter(is_spoke);
        let spokes = spokes.filter(|(host, _)| !self.is_child_hub(**host));
        spokes.map(|(host, _)| (IpNet::from(*host), Some(*host)))
    }

    /// A spoke came or went: in Phase 2 the others hear of it.
    pub(crate) fn host_changed(&mut self, now: Time, source: Source) {
        if self.config.phase == Phase::Two && matches!(source, Source::Registered | Source::Static) {
            self.list_changed(now);
        }
    }

    /// What a registration reply says about the list: all of it if the client lacks it and it fits, else nothing,
    /// and the list is pushed.
    pub(crate) fn list_for_reply(
        &mut self,
        now: Time,
        client: IpAddr,
        flags: u8,
        request_id: u32,
    ) -> PrefixChunk {
        let wants = flags & list_flags::WANT != 0;
        let next_hops = flags & list_flags::NEXT_HOPS != 0;
        let generation = self.announcer.generation;
        let nothing = PrefixChunk { flags: list_flags::REACHABLE, generation, ..PrefixChunk::default() };
        let state = self.announcer.clients.entry(client).or_default();
        if state.next_hops != next_hops {
            // Another version of the agent: the list reads differently for it.
            *state = Client { next_hops, ..Client::default() };
        }
        if !wants {
            // A push is repeated until it is answered; a list in a reply could be lost with nobody knowing.
            if state.synced != Some(generation) {
                self.push(now, client);
            }
            return nothing;
        }
        // A reply carries the request's entries, the records and the NAT extension besides: leave room for them.
        let room = usize::from(self.config.mtu.max(576)).saturating_sub(260);
        let Slice { prefixes, next_hops, complete, .. } = self.slice_of_list(client, 0, room);
        let mut twice = false;
        if let Some(state) = self.announcer.clients.get_mut(&client) {
            // Should the reply get lost, the client asks again, since it still lacks the list. But if the request came
            // twice, it is the first reply that counts there, and that had another list.
            twice = state.told.is_some_and(|(id, told)| id == request_id && told != generation);
            state.told = Some((request_id, generation));
            state.synced = complete.then_some(generation).filter(|_| !twice);
            if complete {
                state.push = None;
            }
        }
        if complete {
            if twice {
                self.push(now, client);
            }
            let flags = list_flags::REACHABLE | list_flags::FIRST;
            return PrefixChunk { flags, prefixes, next_hops, ..nothing };
        }
        self.push(now, client);
        nothing
    }

    /// As many entries of the list from `from` on as fit into `room` bytes, without the client's own.
    fn slice_of_list(&self, client: IpAddr, from: usize, room: usize) -> Slice {
        let nhs = self.is_nhs_overlay(client);
        let [v4, v6] = if nhs { &self.announcer.below } else { &self.announcer.lists };
        let with_hops = self.config.phase == Phase::Two && !nhs && self.announcer.reads_next_hops(client);
        let (list, size, host) = if client.is_ipv4() { (v4, ENTRY_V4, 4) } else { (v6, ENTRY_V6, 16) };
        let most = (room / if with_hops { size + host } else { size }).max(1);
        let mut slice = Slice { prefixes: Vec::new(), next_hops: BTreeMap::new(), to: from, complete: true };
        for (net, via) in list.get(from..).unwrap_or(&[]) {
            // Who knows no next hops finds other spokes by the overlay's own route.
            let for_next_hops = !nhs && via.is_some_and(|via| IpNet::from(via) == *net);
            if *via != Some(client) && (with_hops || !for_next_hops) {
                if slice.prefixes.len() == most {
                    return Slice { complete: false, ..slice };
                }
                slice.prefixes.push(*net);
                // Hubs are reached by hubs.
                let is_spoke = |via: &IpAddr| !self.is_nhs_overlay(*via) && !self.is_child_hub(*via);
                if let Some(via) = via.filter(|via| with_hops && is_spoke(via)) {
                    slice.next_hops.insert(*net, via);
                }
            }
            slice.to += 1;
        }
        slice
    }

    /// Starts to tell a client the list, unless that is going on (then the answer to the chunk under way goes on
    /// with the new list).
    fn push(&mut self, now: Time, client: IpAddr) {
        let generation = self.announcer.generation;
        let Some(state) = self.announcer.clients.get_mut(&client) else { return };
        if state.push.is_some() || state.synced == Some(generation) {
            return;
        }
        self.push_chunk(now, client, 0, 0);
    }

    fn push_chunk(&mut self, now: Time, client: IpAddr, chunk: u16, from: usize) {
        let request_id = self.new_id();
        let room = usize::from(self.config.mtu.max(576)).saturating_sub(120 + LIST_HEADER);
        let Slice { to, complete, .. } = self.slice_of_list(client, from, room);
        let push = Push {
            generation: self.announcer.generation,
            request_id,
            chunk,
            from,
            to,
            tries: 0,
            next: now,
            more: !complete,
        };
        if let Some(state) = self.announcer.clients.get_mut(&client) {
            state.push = Some(push);
        }
        self.push_due(now, client);
    }

    /// Sends the chunk under way (again).
    pub(crate) fn push_due(&mut self, now: Time, client: IpAddr) {
        let generation = self.announcer.generation;
        let Some(state) = self.announcer.clients.get_mut(&client) else { return };
        let Some(push) = &mut state.push else { return };
        if push.next > now {
            let next = push.next;
            return self.timers.arm(TimerKey::Push(client), next);
        }
        if push.tries == PUSH_TRIES || self.withdrawing {
            state.push = None;
            return;
        }
        if push.generation != generation {
            return self.push_chunk(now, client, 0, 0);
        }
        let delay = 1000 << push.tries;
        push.tries += 1;
        push.next = now.after(delay);
        let push = push.clone();
        self.timers.arm(TimerKey::Push(client), push.next);
        let Some((nbma, bytes)) = self.push_packet(client, &push) else { return };
        self.send(PacketType::RegistrationRequest, nbma, bytes);
    }

    fn push_packet(&self, client: IpAddr, push: &Push) -> Option<(IpAddr, Vec<u8>)> {
        let nbma = self.bindings.get(&client)?.nbma;
        let local = self.local_like(client)?;
        let header = self.header(PacketType::RegistrationRequest, push.request_id, local, client)?;
        let own = Cie { prefix_len: 0xff, mtu: self.config.mtu, ..Cie::default() };
        let builder = self.authenticated(Builder::new(&header).cie(&own), None);
        let builder = match self.hub_list_notice() {
            Some(notice) => builder.extension(false, ext::HUBS, &notice.encode()),
            None => builder,
        };
        let room = usize::from(self.config.mtu.max(576)).saturating_sub(120 + LIST_HEADER);
        let Slice { prefixes, next_hops, .. } = self.slice_of_list(client, push.from, room);
        let first = if push.chunk == 0 { list_flags::FIRST } else { 0 };
        let more = if push.more { list_flags::MORE } else { 0 };
        let chunk = PrefixChunk {
            flags: list_flags::REACHABLE | first | more,
            chunk: push.chunk,
            generation: push.generation,
            prefixes,
            next_hops,
        };
        Some((nbma, builder.extension(false, ext::PREFIXES, &chunk.encode()).finish()))
    }

    /// A Registration Reply may be the answer to a push; says whether it was.
    pub(crate) fn push_answered(&mut self, now: Time, received: &Received<'_>) -> bool {
        let header = received.header();
        let client = header.dst_proto;
        let Some(push) = self.announcer.clients.get(&client).and_then(|state| state.push.clone()) else {
            return false;
        };
        if push.request_id != header.request_id || !self.is_local(header.src_proto) {
            return false;
        }
        if self.bindings.get(&client).is_none_or(|binding| binding.nbma != received.from) {
            self.drop(now, DropReason::WrongSender, Some(received.from));
            return true;
        }
        if push.generation != self.announcer.generation {
            self.push_chunk(now, client, 0, 0);
        } else if push.more {
            self.push_chunk(now, client, push.chunk.wrapping_add(1), push.to);
        } else if let Some(state) = self.announcer.clients.get_mut(&client) {
            state.synced = Some(push.generation);
            state.push = None;
            self.timers.cancel(TimerKey::Push(client));
        }
        true
    }

    /// A client begins to tell its own list: whether a newer one has overtaken it on the way.
    pub(crate) fn is_late(&mut self, client: IpAddr, chunk: &PrefixChunk) -> bool {
        let own = &mut self.announcer.clients.entry(client).or_default().own;
        let late = own.is_some_and(|last| is_late(last, chunk.generation));
        if !late {
            *own = Some(chunk.generation);
        }
        late
    }

    /// The client is gone, or no longer knows the extension.
    pub(crate) fn forget_push(&mut self, client: IpAddr) {
        self.announcer.clients.remove(&client);
        self.announcer.assemblies.remove(&client);
        self.timers.cancel(TimerKey::Push(client));
    }

    /// A client from before a restart: it gets the list when it differs from what it may hold.
    pub(crate) fn resume_client(&mut self, client: IpAddr, next_hops: bool) {
        self.announcer.clients.insert(client, Client { next_hops, ..Client::default() });
    }

    /// One chunk of a list of our own for a registration, from `told` on, and up to where it goes.
    pub(crate) fn list_chunk(&self, builder: &Builder, list: &[IpNet], told: usize) -> (PrefixChunk, usize) {
        let mtu = usize::from(self.config.mtu.max(576));
        // Type and length of the extension, list header, End.
        let room = mtu.saturating_sub(builder.len() + 4 + LIST_HEADER + 4);
        let size = if list.first().is_none_or(|net| net.addr().is_ipv4()) { ENTRY_V4 } else { ENTRY_V6 };
        let most = (room / size).max(1);
        let told = told.min(list.len());
        let end = list.len().min(told + most);
        let prefixes = list.get(told..end).unwrap_or(&[]).to_vec();
        let first = if told == 0 { list_flags::FIRST } else { 0 };
        let more = if end < list.len() { list_flags::MORE } else { 0 };
        let chunk = u16::try_from(told / most).unwrap_or(u16::MAX);
        (PrefixChunk { flags: first | more, chunk, prefixes, ..PrefixChunk::default() }, end)
    }
}
