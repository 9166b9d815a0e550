//! Prefixes that lead to a binding: registered by a spoke, configured for a static one, declared for an external
//! router. First come, first served; what overlaps is refused by name.
//!
//! Hubs that register with us speak for others. Two of them may tell the same prefix or parts of each other's (a spoke
//! registers with both, or moved), and so may a hub and a spoke that it has too: the most specific prefix counts, and
//! of one prefix the nearest: a spoke's own word before a hub's, a hub below before one that is an NHS of ours too. The
//! others wait (`rivals`) until that one goes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::hierarchy::leads;
use super::prefix_map::overlaps;
use super::{Engine, Event, Output, RouteKind, Rule, Time};

/// Who a prefix leads to, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Overlay next hop, of the prefix's family.
    pub(crate) via: IpAddr,
    /// Declared for an external router (by its position in the configuration), not announced.
    pub(crate) external: Option<usize>,
}

impl Engine {
    /// Prefixes of others that a hub leads to: registered, external, static. See [`super::Config::beside`].
    pub fn registered_prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.prefixes.iter().map(|(prefix, _)| prefix)
    }

    /// Grows with each change of those.
    pub fn registered_changes(&self) -> u64 {
        self.prefixes.changes()
    }

    /// Makes `wanted` the prefixes of the binding of `overlay`: installs new ones, removes what is not listed any
    /// more, refuses what stands against others.
    pub(crate) fn set_prefixes(&mut self, now: Time, overlay: IpAddr, wanted: &[IpNet]) {
        let Some(binding) = self.bindings.get(&overlay) else { return };
        // The ordinary refresh: the same list, nothing refused.
        if binding.refused().is_empty() && binding.prefixes() == wanted {
            return;
        }
        let nbma = binding.nbma;
        let old: BTreeSet<IpNet> = binding.prefixes().iter().copied().collect();
        let refused_before: BTreeSet<IpNet> = binding.refused().iter().copied().collect();
        let listed: BTreeSet<IpNet> = wanted.iter().copied().collect();
        let gone: Vec<_> = old.difference(&listed).copied().collect();
        for prefix in &gone {
            self.untell_prefix(now, *prefix, overlay);
        }
        let mut refused = BTreeSet::new();
        // A hub's hosts first: they say which spokes' prefixes may be told by both.
        let (hosts, others): (Vec<_>, Vec<_>) =
            listed.difference(&old).copied().partition(|net| self.is_of_overlay(*net));
        for prefix in hosts.into_iter().chain(others) {
            if let Some(reason) = self.prefix_refusal(overlay, nbma, prefix) {
                refused.insert(prefix);
                if !refused_before.contains(&prefix) {
                    self.event(Event::PrefixRefused { prefix, from: overlay, reason });
                }
            } else {
                self.tell_prefix(now, prefix, Owner { via: overlay, external: None });
            }
        }
        if let Some(binding) = self.bindings.get_mut(&overlay) {
            // In the order of the list, so that the same list is known again.
            let kept = wanted.iter().copied().filter(|prefix| !refused.contains(prefix)).collect();
            binding.set_lists(kept, refused.into_iter().collect());
        }
        if !gone.is_empty() {
            let told = self.take_requesters(overlay, |it| gone.iter().any(|net| overlaps(*net, it.prefix)));
            self.purge_prefixes(now, &told);
            // What it no longer announces may still be declared for it.
            self.externals_of(now, overlay);
        }
    }

    /// Why `overlay` (at `nbma`) may not announce `prefix`.
    fn prefix_refusal(&self, overlay: IpAddr, nbma: IpAddr, prefix: IpNet) -> Option<String> {
        if prefix.addr().is_ipv4() != overlay.is_ipv4() {
            return Some(format!("{overlay} is no next hop for it"));
        }
        if prefix.prefix_len() == 0 {
            return Some("a spoke may not announce a default route".into());
        }
        if let Some(reason) = self.foreign_prefix(overlay, prefix) {
            return Some(reason);
        }
        let child = self.is_child_hub(overlay);
        // A hub tells which hosts are behind it; all of the overlay is nowhere but here.
        let part = |net: &IpNet| child && net.contains(&prefix) && *net != prefix;
        if let Some(net) = self.config.overlay.iter().find(|net| overlaps(**net, prefix) && !part(net)) {
            return Some(format!("it overlaps with the overlay {net}"));
        }
        if self.config.local.iter().any(|local| IpNet::from(*local) == prefix) {
            return Some("it is this hub's own address".into());
        }
        let own = self.config.subnets.iter().find(|net| net.prefix_len() > 0 && overlaps(**net, prefix));
        if let Some(net) = own {
            return Some(format!("it overlaps with {net}, which is behind this hub"));
        }
        // An external router may be a hub's client.
        let foreign = |external: &&super::External| !child && !external.overlay.contains(&overlay);
        for external in self.config.external.iter().filter(foreign) {
            if let Some(net) = external.prefixes.iter().find(|net| overlaps(**net, prefix)) {
                return Some(format!("it overlaps with {net} of {}", external.name));
            }
        }
        let tunnel_end = self.underlay_inside(prefix).or_else(|| prefix.contains(&nbma).then_some(nbma));
        if let Some(nbma) = tunnel_end.filter(|_| self.enforced(Rule::PrefixUnderlay)) {
            return Some(format!("it contains the underlay address {nbma}"));
        }
        let mut others = self.prefixes.all_covering(prefix).chain(self.prefixes.inside(prefix));
        others
            .find(|(_, owner)| owner.via != overlay && !self.may_share(owner.via, overlay))
            .filter(|_| self.enforced(Rule::PrefixOverlap))
            .map(|(net, owner)| format!("it overlaps with {net}, which {} announced first", owner.via))
    }

    /// Whether these two may tell prefixes that overlap: two hubs that speak for others, or one and its own spoke.
    fn may_share(&self, a: IpAddr, b: IpAddr) -> bool {
        let has = |hub: IpAddr, spoke: IpAddr| {
            let host = IpNet::from(spoke);
            self.prefixes.all_covering(host).any(|(_, owner)| owner.via == hub)
                || self.rivals.all_covering(host).any(|(_, rivals)| rivals.contains(&hub))
        };
        match (self.is_child_hub(a), self.is_child_hub(b)) {
            (true, true) => true,
            (true, false) => has(a, b),
            (false, true) => has(b, a),
            (false, false) => false,
        }
    }

    /// How near one is who tells a prefix: the lowest is routed by.
    fn remoteness(&self, via: IpAddr) -> u8 {
        u8::from(self.is_child_hub(via)) + u8::from(self.is_nhs_overlay(via))
    }

    /// `owner` tells a prefix: it is routed by the nearest who does, the first of equals.
    fn tell_prefix(&mut self, now: Time, prefix: IpNet, owner: Owner) {
        let waiting = match self.prefixes.get(prefix).map(|held| held.via) {
            Some(via) if via != owner.via => {
                let nearer = self.remoteness(owner.via) < self.remoteness(via);
                if nearer {
                    self.insert_prefix(now, prefix, owner.clone());
                }
                if nearer { via } else { owner.via }
            }
            _ => return self.insert_prefix(now, prefix, owner),
        };
        match self.rivals.get_mut(prefix) {
            Some(rivals) => {
                rivals.retain(|rival| *rival != owner.via && *rival != waiting);
                rivals.push(waiting);
            }
            None => {
                self.rivals.insert(prefix, vec![waiting]);
            }
        }
    }

    /// `via` no longer tells a prefix: the next nearest takes over.
    pub(crate) fn untell_prefix(&mut self, now: Time, prefix: IpNet, via: IpAddr) {
        let mut rivals = self.rivals.remove(prefix).unwrap_or_default();
        rivals.retain(|rival| *rival != via);
        if self.prefixes.get(prefix).is_some_and(|owner| owner.via == via) {
            let heir = rivals.iter().copied().min_by_key(|rival| self.remoteness(*rival));
            rivals.retain(|rival| Some(*rival) != heir);
            match heir {
                Some(heir) => self.insert_prefix(now, prefix, Owner { via: heir, external: None }),
                None => self.remove_prefix(now, prefix),
            }
        }
        if !rivals.is_empty() {
            self.rivals.insert(prefix, rivals);
        }
    }

    /// An underlay address of a tunnel end (configured, told by a hub, or bound) that lies inside `prefix`: a route of
    /// that prefix into the tunnel would lead the tunnel into itself.
    pub(crate) fn underlay_inside(&self, prefix: IpNet) -> Option<IpAddr> {
        let nhs = self.hubs.iter().flat_map(|hub| hub.config.nbma.iter());
        let statics = self.config.statics.iter().map(|binding| &binding.nbma);
        let configured = self.config.nbma.iter().chain(nhs).chain(statics).copied();
        let bound = self.ends.range(prefix.network()..=prefix.broadcast()).map(|(nbma, _)| *nbma).next();
        bound.or_else(|| configured.into_iter().find(|nbma| prefix.contains(nbma)))
    }

    /// A prefix (but for a default route) that a route of ours leads into the tunnel and that contains `nbma`.
    pub(crate) fn tunnelled(&self, nbma: IpAddr) -> Option<IpNet> {
        let registered = self.prefixes.longest(nbma).map(|(prefix, _)| prefix);
        let announced = self.announced.longest(nbma).map(|(prefix, _)| prefix);
        let up = |(prefix, shortcut): (IpNet, &super::shortcut::Shortcut)| shortcut.via.map(|_| prefix);
        let found = registered.or(announced).or_else(|| self.shortcuts.longest(nbma).and_then(up));
        found.filter(|prefix| prefix.prefix_len() > 0)
    }

    /// A peer turned up at `nbma`: a prefix of another one that contains it would lead the tunnel into itself, and
    /// goes. The peer's address is where its packets come from; the prefix is what somebody says.
    pub(crate) fn clear_way_to(&mut self, now: Time, nbma: IpAddr) {
        while let Some((prefix, owner)) = self.prefixes.longest(nbma) {
            let via = owner.via;
            if !self.enforced(Rule::PrefixUnderlay) {
                return;
            }
            if let Some(binding) = self.bindings.get_mut(&via) {
                binding.refuse(prefix);
            }
            self.untell_prefix(now, prefix, via);
            let reason = format!("it contains the underlay address {nbma}");
            self.event(Event::PrefixRefused { prefix, from: via, reason });
        }
    }

    pub(crate) fn insert_prefix(&mut self, now: Time, prefix: IpNet, owner: Owner) {
        let via = owner.via;
        self.prefixes.insert(prefix, owner);
        let link = self.config.link;
        self.outputs.push_back(Output::InstallRoute { link, prefix, via, kind: RouteKind::Registered });
        self.list_changed(now);
    }

    pub(crate) fn remove_prefix(&mut self, now: Time, prefix: IpNet) {
        if self.prefixes.remove(prefix).is_none() {
            return;
        }
        let link = self.config.link;
        self.outputs.push_back(Output::RemoveRoute { link, prefix, kind: RouteKind::Registered });
        self.list_changed(now);
    }

    /// A binding came up: prefixes declared for it are installed.
    pub(crate) fn externals_of(&mut self, now: Time, overlay: IpAddr) {
        let mut wanted = Vec::new();
        for (index, external) in self.config.external.iter().enumerate() {
            if !external.overlay.contains(&overlay) {
                continue;
            }
            let family =
                external.prefixes.iter().filter(|prefix| prefix.addr().is_ipv4() == overlay.is_ipv4());
            wanted.extend(family.map(|prefix| (index, prefix.trunc())));
        }
        if !self.bindings.get(&overlay).is_some_and(leads) {
            return;
        }
        for (index, prefix) in wanted {
            let spoke = |owner: &Owner| !self.is_child_hub(owner.via);
            if self.prefixes.get(prefix).is_some_and(spoke) {
                continue;
            }
            if let Some(nbma) = self.underlay_inside(prefix) {
                let reason = format!("it contains the underlay address {nbma}");
                self.event(Event::PrefixRefused { prefix, from: overlay, reason });
                continue;
            }
            self.tell_prefix(now, prefix, Owner { via: overlay, external: Some(index) });
        }
    }

    /// A binding goes: its prefixes go, or move to another address of the same external router.
    pub(crate) fn release_prefixes(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get_mut(&overlay) else { return };
        let own = binding.take_prefixes();
        for prefix in own {
            self.untell_prefix(now, prefix, overlay);
        }
        if self.config.external.is_empty() {
            return;
        }
        let declared: Vec<_> = self
            .prefixes
            .iter()
            .filter(|(_, owner)| owner.via == overlay)
            .filter_map(|(prefix, owner)| Some((prefix, owner.external?)))
            .collect();
        for (prefix, index) in declared {
            let others = self.config.external.get(index).map(|external| external.overlay.as_slice());
            let heir = others.unwrap_or(&[]).iter().copied().find(|other| {
                *other != overlay && other.is_ipv4() == overlay.is_ipv4() && self.bindings.contains_key(other)
            });
            match heir {
                Some(via) => self.insert_prefix(now, prefix, Owner { via, external: Some(index) }),
                None => self.untell_prefix(now, prefix, overlay),
            }
        }
    }
}
