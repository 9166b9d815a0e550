//! Overlay host → NBMA address: who wins, what is installed for it, and who was told of it.

use std::net::IpAddr;

use hashbrown::hash_map::Entry;
use ipnet::IpNet;

use super::requesters::Requesters;
use super::snapshot::Source;
use super::timers::TimerKey;
use super::{Engine, Event, Output, RouteKind, Rule, Time};
use crate::wire::Software;

/// One binding. Local ones (our own addresses) are in the table for their requesters; nothing is installed for them.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) nbma: IpAddr,
    /// What the host itself claims, if different (NAT).
    pub(crate) claimed: Option<IpAddr>,
    pub(crate) source: Source,
    pub(crate) unique: bool,
    pub(crate) made: Time,
    pub(crate) expires: Option<Time>,
    /// Seconds, as told to us.
    pub(crate) holding_time: u16,
    pub(crate) mtu: u16,
    /// It knows our prefix extension.
    pub(crate) extended: bool,
    /// What it says of itself.
    pub(crate) software: Option<Software>,
    /// Its bandwidth class.
    pub(crate) group: Option<Box<str>>,
    /// Shortcuts that lead to it.
    pub(crate) users: u32,
    /// Its own list.
    pub(crate) lists: Option<Box<Lists>>,
    pub(crate) requesters: Requesters,
}

/// A binding's own list, as installed, and what of it was refused. Few bindings of a hub with many have one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lists {
    prefixes: Vec<IpNet>,
    refused: Vec<IpNet>,
}

impl Binding {
    pub(crate) fn new(nbma: IpAddr, source: Source, now: Time) -> Self {
        Self {
            nbma,
            claimed: None,
            source,
            unique: false,
            made: now,
            expires: None,
            holding_time: 0,
            mtu: 0,
            extended: false,
            software: None,
            group: None,
            users: 0,
            lists: None,
            requesters: Requesters::default(),
        }
    }

    /// Its own list, as installed.
    pub(crate) fn prefixes(&self) -> &[IpNet] {
        self.lists.as_ref().map_or(&[], |lists| &lists.prefixes)
    }

    /// What of its own list was refused.
    pub(crate) fn refused(&self) -> &[IpNet] {
        self.lists.as_ref().map_or(&[], |lists| &lists.refused)
    }

    /// Another list of its own: what is installed of it, and what was refused.
    pub(crate) fn set_lists(&mut self, prefixes: Vec<IpNet>, refused: Vec<IpNet>) {
        let empty = prefixes.is_empty() && refused.is_empty();
        self.lists = (!empty).then(|| Box::new(Lists { prefixes, refused }));
    }

    /// One of its prefixes is not installed any more, but refused.
    pub(crate) fn refuse(&mut self, prefix: IpNet) {
        let lists = self.lists.get_or_insert_default();
        lists.prefixes.retain(|net| *net != prefix);
        lists.refused.push(prefix);
    }

    /// Forgets its own list; gives what was installed.
    pub(crate) fn take_prefixes(&mut self) -> Vec<IpNet> {
        self.lists.take().map(|lists| lists.prefixes).unwrap_or_default()
    }
}

impl Engine {
    /// Puts a binding into the table and installs neighbour and host route, unless one of higher rank is there.
    /// Says whether it is in force. What was known of the same binding before (requesters, users) is kept.
    pub(crate) fn bind(&mut self, now: Time, overlay: IpAddr, mut binding: Binding) -> bool {
        let ranked = self.enforced(Rule::Precedence);
        if let Some(old) = self.bindings.get_mut(&overlay) {
            if old.source < binding.source && ranked {
                return false;
            }
            binding.users = old.users;
            binding.requesters = std::mem::take(&mut old.requesters);
            // The shell was told of it, and knows the host by its address: whoever has that now says another.
            binding.group = old.group.take();
            if old.source == binding.source {
                binding.made = old.made;
                binding.expires = binding.expires.or(old.expires);
                binding.extended |= old.extended;
                binding.lists = old.lists.take();
                binding.software = binding.software.or(old.software);
            }
        }
        let installed =
            self.bindings.get(&overlay).filter(|old| old.source != Source::Local).map(|old| old.nbma);
        let install = binding.source != Source::Local && installed != Some(binding.nbma);
        let (nbma, source) = (binding.nbma, binding.source);
        let told = |source| matches!(source, Source::Registered | Source::Static);
        let was_told = self.bindings.get(&overlay).is_some_and(|old| told(old.source));
        if let Some(expires) = binding.expires {
            self.timers.arm(TimerKey::Binding(overlay), expires);
        }
        if binding.source == Source::Registered {
            *self.held.entry(nbma).or_insert(0) += 1;
        }
        let local = binding.source == Source::Local;
        self.note_nat(overlay, &binding);
        let before = self.bindings.insert(overlay, binding);
        if let Some(old) = &before {
            self.uncount(old);
        }
        let before = before.filter(|old| old.source != Source::Local);
        if let Some(old) = before.as_ref().filter(|old| old.nbma != nbma) {
            self.forget_nat(overlay, old);
        }
        self.end_moved(before.map(|old| old.nbma), (!local).then_some(nbma));
        self.host_listed(now);
        if install {
            self.clear_way_to(now, nbma);
            self.install_host(overlay, nbma, installed.is_none());
        }
        if installed.is_none() {
            self.externals_of(now, overlay);
        }
        if !was_told {
            self.host_changed(now, source);
        }
        true
    }

    /// Keeps count of the underlay addresses that bindings lead to.
    fn end_moved(&mut self, from: Option<IpAddr>, to: Option<IpAddr>) {
        if from == to {
            return;
        }
        if let Some(to) = to {
            *self.ends.entry(to).or_insert(0) += 1;
        }
        if let Some(count) = from.and_then(|from| self.ends.get_mut(&from)) {
            *count -= 1;
        }
        if let Some(from) = from.filter(|from| self.ends.get(from) == Some(&0)) {
            self.ends.remove(&from);
        }
    }

    /// Neighbour first, so that the route never leads to an unknown neighbour.
    pub(crate) fn install_host(&mut self, overlay: IpAddr, nbma: IpAddr, route: bool) {
        let link = self.config.link;
        self.outputs.push_back(Output::InstallNeighbour { link, overlay, nbma });
        if route {
            let prefix = IpNet::from(overlay);
            self.outputs.push_back(Output::InstallRoute {
                link,
                prefix,
                via: overlay,
                kind: RouteKind::Host,
            });
        }
    }

    /// Takes a binding and all that rests on it away, in the order that leaves no route to nowhere, and tells those
    /// who were told of it.
    pub(crate) fn unbind(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get(&overlay) else { return };
        let source = binding.source;
        if binding.users > 0 {
            self.shortcuts_via_gone(now, overlay, "the egress is gone");
        }
        self.release_prefixes(now, overlay);
        let told = self.take_requesters(overlay, |_| true);
        let Some(binding) = self.bindings.remove(&overlay) else { return };
        self.uncount(&binding);
        self.end_moved(Some(binding.nbma).filter(|_| source != Source::Local), None);
        self.forget_nat(overlay, &binding);
        self.timers.cancel(TimerKey::Binding(overlay));
        self.forget_push(overlay);
        self.host_listed(now);
        if source != Source::Local {
            let link = self.config.link;
            let prefix = IpNet::from(overlay);
            self.outputs.push_back(Output::RemoveRoute { link, prefix, kind: RouteKind::Host });
            self.outputs.push_back(Output::RemoveNeighbour { link, overlay });
        }
        self.host_changed(now, source);
        self.purge_requesters(now, overlay, &told);
    }

    /// How many registrations are held from this underlay address.
    pub(crate) fn registered_at(&self, nbma: IpAddr) -> u32 {
        self.held.get(&nbma).copied().unwrap_or(0)
    }

    fn uncount(&mut self, binding: &Binding) {
        if binding.source != Source::Registered {
            return;
        }
        if let Entry::Occupied(mut held) = self.held.entry(binding.nbma) {
            match held.get().checked_sub(1) {
                Some(0) | None => drop(held.remove()),
                Some(left) => *held.get_mut() = left,
            }
        }
    }

    /// A binding's holding time may be over.
    pub(crate) fn binding_due(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get(&overlay) else { return };
        let Some(expires) = binding.expires else { return };
        if expires > now {
            return self.timers.arm(TimerKey::Binding(overlay), expires);
        }
        if !self.enforced(Rule::Expiry) {
            return;
        }
        let nbma = binding.nbma;
        if binding.source < Source::Registered {
            return self.announcements_due(now, overlay);
        }
        if binding.source == Source::Registered {
            self.event(Event::Expired { overlay, nbma });
        } else if binding.users > 0 {
            // Shortcuts have their own time, and take it along when the last one goes.
            return;
        }
        self.unbind(now, overlay);
    }

    /// A configured peer that registers no longer does: what it announced goes, the binding stays.
    fn announcements_due(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get_mut(&overlay) else { return };
        binding.expires = None;
        binding.holding_time = 0;
        if std::mem::take(&mut binding.extended) {
            self.forget_push(overlay);
            let configured = self.config.statics.iter().find(|it| it.overlay == overlay);
            let configured = configured.map(|it| it.prefixes.iter().map(IpNet::trunc).collect::<Vec<_>>());
            self.set_prefixes(now, overlay, &configured.unwrap_or_default());
        }
    }
}
