//! Snapshots: taken, and taken up again after a restart.
//!
//! The kernel has kept forwarding meanwhile: what still holds is installed in the order that new state would be, so
//! that the shell only has to compare.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::bindings::Binding;
use super::learn::Announced;
use super::requesters::{Requester, Requesters};
use super::shortcut::Resumed;
use super::snapshot::{
    AnnouncedState, BindingState, NhsPhase, NhsState, RequesterState, ShortcutPhase, ShortcutState, Snapshot,
    Source,
};
use super::{Engine, Time};

/// Request ids go on this far after those of before (RFC 2332 §5.2.3).
const ID_GAP: u32 = 100;

impl Engine {
    /// All tables, ordered by address.
    pub fn snapshot(&self, now: Time) -> Snapshot {
        let mut bindings: Vec<_> = self.binding_states(now).collect();
        bindings.sort_unstable_by_key(|binding| binding.overlay);
        Snapshot { bindings, ..self.all_but_bindings(now) }
    }

    fn binding_states(&self, now: Time) -> impl Iterator<Item = BindingState> + '_ {
        self.bindings.iter().map(move |(overlay, it)| {
            let mut state = binding_state(now, *overlay, it);
            state.next_hops = self.announcer.reads_next_hops(*overlay);
            if !self.config.external.is_empty() {
                let declared = self
                    .prefixes
                    .iter()
                    .filter(|(_, owner)| owner.via == *overlay && owner.external.is_some());
                state.prefixes.extend(declared.map(|(prefix, _)| prefix));
            }
            state
        })
    }

    fn all_but_bindings(&self, now: Time) -> Snapshot {
        let shortcuts = self.shortcuts.iter().map(|(prefix, it)| ShortcutState {
            prefix,
            via: it.via,
            phase: it.phase,
            reason: it.reason.clone(),
            age_ms: now.since(it.made),
            expires_ms: it.expires.since(now),
            used: it.used,
        });
        let announced = self.announced.iter().filter_map(|(prefix, it)| {
            let (nhs, via) = self.best_teller(it)?;
            let next_hop = (via != nhs).then_some(via);
            Some(AnnouncedState { prefix, nhs, next_hop, age_ms: now.since(it.since) })
        });
        Snapshot {
            nhs: self.nhs_states(now),
            bindings: Vec::new(),
            shortcuts: shortcuts.collect(),
            announced: announced.collect(),
            hub_lists: self.hub_lists.clone(),
            assigned: self.assigned(),
            leases: self.leases.states(now),
            claims: self.claim_states(now),
            counters: self.counters.clone(),
            next_request_id: self.next_id,
        }
    }

    /// The same to be written down: it becomes a [`Snapshot`] when it is read, but is never there as a whole, and not
    /// ordered.
    pub fn saved(&self, now: Time) -> impl Serialize + '_ {
        Saved { engine: self, now }
    }

    /// The client's part of the snapshot alone, at a cost that does not grow with the tables.
    pub fn nhs_states(&self, now: Time) -> Vec<NhsState> {
        let hubs = self.hubs.iter().enumerate();
        let registrations = hubs.flat_map(|(at, hub)| hub.registrations.iter().map(move |it| (at, hub, it)));
        let state = registrations.map(|(at, hub, it)| NhsState {
            name: hub.config.name.clone(),
            overlay: it.nhs,
            nbma: hub.nbma(),
            priority: hub.config.priority,
            cluster: hub.config.cluster,
            learned: self.is_learned(&hub.config.name),
            phase: it.phase,
            spare: self.is_spare(at),
            fallback_ms: hub.trusted_at.map(|at| at.since(now)),
            reason: it.reason.text(),
            reason_code: it.reason.code().into(),
            since_ms: now.since(it.since),
            public_nbma: it.public,
            requests_sent: it.sent,
            requests_failed: it.failed,
            replies_received: it.replies,
            last_reply_ms: it.last_reply.map(|last| now.since(last)),
            request_id: it.request_id,
            software: it.software,
        });
        state.chain(self.ask_states(now)).collect()
    }

    /// Number of underlay addresses that something is bound to: cheaper than a snapshot.
    pub fn peer_count(&self) -> usize {
        let others =
            self.bindings.values().filter(|b| !matches!(b.source, Source::Local | Source::Requester));
        others.map(|binding| binding.nbma).collect::<hashbrown::HashSet<_, rustc_hash::FxBuildHasher>>().len()
    }

    /// Where `overlay` has registered with us from, if it has.
    pub fn registered(&self, overlay: IpAddr) -> Option<IpAddr> {
        let binding = self.bindings.get(&overlay).filter(|b| b.source == Source::Registered)?;
        Some(binding.nbma)
    }

    pub(crate) fn resume(&mut self, now: Time, snapshot: &Snapshot, elapsed_ms: u64) {
        self.counters = snapshot.counters.clone();
        self.next_id = snapshot.next_request_id.wrapping_add(ID_GAP);
        self.hub_lists.clone_from(&snapshot.hub_lists);
        self.leases.resume(now, &snapshot.leases, elapsed_ms);
        self.resume_claims(now, &snapshot.claims, elapsed_ms);
        self.resume_assigned(now, &snapshot.assigned);
        self.config = self.with_assigned(now, self.config.clone());
        self.install_configured(now);
        self.resume_nhs(now, snapshot, elapsed_ms);
        for state in &snapshot.bindings {
            self.resume_binding(now, state, elapsed_ms);
        }
        // Before anybody asks: a list without those who are still registered would take their routes away.
        self.rebuild_list();
        self.resume_announced(now, snapshot, elapsed_ms);
        // Before a registration tells it.
        self.rebuild_list();
        let Some(nhs) = self.hubs.iter().find_map(super::client::Hub::nbma) else { return };
        for state in &snapshot.shortcuts {
            let left = state.expires_ms.saturating_sub(elapsed_ms);
            let (ShortcutPhase::Up, Some(via)) = (state.phase, state.via) else { continue };
            if left == 0 || self.is_ours(state.prefix.addr()) {
                continue;
            }
            let shortcut = Resumed {
                prefix: state.prefix,
                via,
                made: before(now, state.age_ms.saturating_add(elapsed_ms)),
                expires: now.after(left),
                nhs,
                used: state.used,
            };
            self.resume_shortcut(now, shortcut);
        }
        // An egress that no shortcut leads to any more.
        let idle: Vec<_> = self
            .bindings
            .iter()
            .filter(|(_, binding)| binding.source == Source::Resolved && binding.users == 0)
            .map(|(overlay, _)| *overlay)
            .collect();
        idle.into_iter().for_each(|overlay| self.unbind(now, overlay));
    }

    fn resume_nhs(&mut self, now: Time, snapshot: &Snapshot, elapsed_ms: u64) {
        let count = self.hubs.len();
        for index in 0..count {
            let Some(hub) = self.hubs.get_mut(index) else { continue };
            let mut in_use = None;
            for registration in &mut hub.registrations {
                let like = |state: &&NhsState| {
                    state.name == hub.config.name
                        && state.overlay.is_none_or(|nhs| nhs.is_ipv4() == registration.local.is_ipv4())
                };
                let Some(state) = snapshot.nhs.iter().find(like) else { continue };
                registration.nhs = registration.nhs.or(state.overlay);
                registration.public = state.public_nbma;
                registration.software = state.software;
                registration.sent = state.requests_sent;
                registration.failed = state.requests_failed;
                registration.replies = state.replies_received;
                let asked = !matches!(state.phase, NhsPhase::Down | NhsPhase::Waiting);
                registration.resumed = asked;
                registration.serving = state.phase == NhsPhase::Responding;
                let last = state.last_reply_ms.map(|ms| before(now, ms.saturating_add(elapsed_ms)));
                registration.last_reply = last;
                hub.scheduled |= asked;
                hub.failed |= state.phase == NhsPhase::Expecting && state.requests_failed > 0;
                hub.trusted_at = state.fallback_ms.map(|left| now.after(left.saturating_sub(elapsed_ms)));
                registration.request_id = state.request_id;
                in_use = in_use.or(state.nbma);
            }
            if let Some(at) = hub.config.nbma.iter().position(|it| Some(*it) == in_use) {
                hub.use_nbma(at);
            }
            hub.failed = hub.trusted_at.is_some() || (hub.failed && !hub.serves());
            hub.begin(now);
            self.register_with(now, index);
            self.bind_hub(now, index);
        }
        self.choose_hubs(now);
    }

    fn resume_binding(&mut self, now: Time, state: &BindingState, elapsed_ms: u64) {
        let overlay = state.overlay;
        let left = state.expires_ms.unwrap_or(0).saturating_sub(elapsed_ms);
        let inside = self.config.overlay.iter().any(|net| net.contains(&overlay));
        match state.source {
            Source::Registered if self.config.server && inside && left > 0 => {}
            // Of an overlay beside ours, maybe: an egress that no shortcut leads to goes again.
            Source::Resolved if left > 0 => {}
            Source::Local => {}
            // Configured still, and registered besides.
            Source::Static | Source::Nhs if state.extended && left > 0 => {
                let same = |it: &&mut Binding| it.source == state.source && it.nbma == state.nbma;
                let Some(binding) = self.bindings.get_mut(&overlay).filter(same) else { return };
                binding.extended = true;
                binding.holding_time = state.holding_time;
                binding.expire_at(now, now.after(left), overlay, &mut self.timers);
            }
            _ => return,
        }
        if matches!(state.source, Source::Registered | Source::Resolved) {
            if self.bindings.contains_key(&overlay) {
                return;
            }
            let binding = Binding {
                unique: state.unique,
                made: before(now, state.age_ms.saturating_add(elapsed_ms)),
                holding_time: state.holding_time,
                mtu: state.mtu,
                extended: state.extended,
                software: state.software,
                ..Binding::new(state.nbma, state.source, now).for_host(state.claimed_nbma, now.after(left))
            };
            self.bind(now, overlay, binding);
        }
        self.set_group(now, overlay, state.group.as_deref());
        if state.source != Source::Resolved && state.source != Source::Local {
            let declared =
                |prefix: &IpNet| self.prefixes.get(*prefix).is_some_and(|owner| owner.external.is_some());
            let own: Vec<_> = state.prefixes.iter().copied().filter(|prefix| !declared(prefix)).collect();
            self.set_prefixes(now, overlay, &own);
            if state.extended {
                self.resume_client(overlay, state.next_hops);
                self.list_changed(now);
            }
        }
        for it in state.requesters.iter().filter(|it| it.left_ms > elapsed_ms) {
            let requester = Requester {
                overlay: it.overlay,
                asked: it.asked,
                nbma: it.nbma,
                request_id: it.request_id,
                prefix: it.prefix,
                until: now.after(it.left_ms - elapsed_ms),
            };
            self.remember(now, overlay, requester);
        }
    }

    /// Prefixes count until the NHS tells the list anew, or turns out to be silent.
    fn resume_announced(&mut self, now: Time, snapshot: &Snapshot, elapsed_ms: u64) {
        for state in &snapshot.announced {
            let registrations = self.hubs.iter().flat_map(|hub| hub.registrations.iter());
            let uid =
                registrations.filter(|it| it.primary && it.nhs == Some(state.nhs)).map(|it| it.uid).next();
            let Some(uid) = uid.filter(|_| self.announcement_refusal(state.prefix).is_none()) else {
                continue;
            };
            let since = before(now, state.age_ms.saturating_add(elapsed_ms));
            let next_hops = state.next_hop.map(|hop| (uid, hop)).into_iter().collect();
            let announced = Announced { tellers: vec![uid], next_hops, via: None, since };
            self.announced.insert(state.prefix, announced);
            self.choose(state.prefix);
        }
    }
}

/// A [`Snapshot`] that is made while it is written.
struct Saved<'a> {
    engine: &'a Engine,
    now: Time,
}

impl Serialize for Saved<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // All fields by name: a new one has to be written too.
        let Snapshot {
            nhs,
            bindings: _,
            shortcuts,
            announced,
            counters,
            next_request_id,
            hub_lists,
            assigned,
            leases,
            claims,
        } = self.engine.all_but_bindings(self.now);
        let mut out = serializer.serialize_struct("Snapshot", 10)?;
        out.serialize_field("nhs", &nhs)?;
        out.serialize_field("bindings", &SavedBindings(self))?;
        out.serialize_field("shortcuts", &shortcuts)?;
        out.serialize_field("announced", &announced)?;
        out.serialize_field("counters", &counters)?;
        out.serialize_field("next_request_id", &next_request_id)?;
        out.serialize_field("hub_lists", &hub_lists)?;
        out.serialize_field("assigned", &assigned)?;
        out.serialize_field("leases", &leases)?;
        out.serialize_field("claims", &claims)?;
        out.end()
    }
}

struct SavedBindings<'a>(&'a Saved<'a>);

impl Serialize for SavedBindings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.engine.binding_states(self.0.now))
    }
}

/// A moment that lies `ms` back.
fn before(now: Time, ms: u64) -> Time {
    Time(now.0.saturating_sub(ms))
}

fn binding_state(now: Time, overlay: IpAddr, binding: &Binding) -> BindingState {
    let requesters = binding.requesters().map(Requesters::sorted).unwrap_or_default().into_iter().map(|it| {
        RequesterState {
            overlay: it.overlay,
            asked: it.asked,
            nbma: it.nbma,
            request_id: it.request_id,
            prefix: it.prefix,
            left_ms: it.until.since(now),
        }
    });
    BindingState {
        overlay,
        nbma: binding.nbma,
        claimed_nbma: binding.claimed(),
        source: binding.source,
        unique: binding.unique,
        age_ms: now.since(binding.made),
        expires_ms: binding.expires().map(|expires| expires.since(now)),
        holding_time: binding.holding_time,
        prefixes: binding.prefixes().to_vec(),
        requesters: requesters.collect(),
        extended: binding.extended,
        next_hops: false,
        mtu: binding.mtu,
        software: binding.software,
        group: binding.group().map(str::to_owned),
    }
}
