//! Prefixes that lead to a binding: registered by a spoke, configured for a static one, declared for an external
//! router. First come, first served; what overlaps is refused by name.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bindings::Binding;
use super::prefix_map::overlaps;
use super::snapshot::Source;
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
    /// The binding that leads to `address`: the host itself, or whose prefix covers it most closely.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<(IpAddr, &Binding)> {
        let leads =
            |binding: &&Binding| matches!(binding.source, Source::Registered | Source::Static | Source::Nhs);
        if let Some(binding) = self.bindings.get(&address).filter(leads) {
            return Some((address, binding));
        }
        let (_, owner) = self.prefixes.longest(address)?;
        let binding = self.bindings.get(&owner.via).filter(leads)?;
        Some((owner.via, binding))
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
        let old = binding.prefixes().to_vec();
        let refused_before = binding.refused().to_vec();
        let gone: Vec<_> = old.iter().copied().filter(|prefix| !wanted.contains(prefix)).collect();
        for prefix in &gone {
            self.remove_prefix(now, *prefix);
        }
        let mut kept = Vec::new();
        let mut refused = Vec::new();
        for prefix in wanted {
            if kept.contains(prefix) || refused.contains(prefix) {
                continue;
            }
            if old.contains(prefix) {
                kept.push(*prefix);
            } else if let Some(reason) = self.prefix_refusal(overlay, nbma, *prefix) {
                refused.push(*prefix);
                if !refused_before.contains(prefix) {
                    self.event(Event::PrefixRefused { prefix: *prefix, from: overlay, reason });
                }
            } else {
                kept.push(*prefix);
                self.insert_prefix(now, *prefix, Owner { via: overlay, external: None });
            }
        }
        if let Some(binding) = self.bindings.get_mut(&overlay) {
            binding.set_lists(kept, refused);
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
        if let Some(net) = self.config.overlay.iter().find(|net| overlaps(**net, prefix)) {
            return Some(format!("it overlaps with the overlay {net}"));
        }
        let own = self.config.subnets.iter().find(|net| net.prefix_len() > 0 && overlaps(**net, prefix));
        if let Some(net) = own {
            return Some(format!("it overlaps with {net}, which is behind this hub"));
        }
        let external = self.config.external.iter().filter(|external| !external.overlay.contains(&overlay));
        for external in external {
            if let Some(net) = external.prefixes.iter().find(|net| overlaps(**net, prefix)) {
                return Some(format!("it overlaps with {net} of {}", external.name));
            }
        }
        let tunnel_end = self.underlay_inside(prefix).or_else(|| prefix.contains(&nbma).then_some(nbma));
        if let Some(nbma) = tunnel_end.filter(|_| self.enforced(Rule::PrefixUnderlay)) {
            return Some(format!("it contains the underlay address {nbma}"));
        }
        let mut others = self.prefixes.covering(prefix).into_iter().chain(self.prefixes.inside(prefix));
        others
            .find(|(_, owner)| owner.via != overlay && self.enforced(Rule::PrefixOverlap))
            .map(|(net, owner)| format!("it overlaps with {net}, which {} announced first", owner.via))
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
            self.remove_prefix(now, prefix);
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
        let leads = self.bindings.get(&overlay).is_some_and(|binding| {
            matches!(binding.source, Source::Registered | Source::Static | Source::Nhs)
        });
        if !leads {
            return;
        }
        for (index, prefix) in wanted {
            let taken = self.prefixes.get(prefix).is_some();
            if taken {
                continue;
            }
            if let Some(nbma) = self.underlay_inside(prefix) {
                let reason = format!("it contains the underlay address {nbma}");
                self.event(Event::PrefixRefused { prefix, from: overlay, reason });
                continue;
            }
            self.insert_prefix(now, prefix, Owner { via: overlay, external: Some(index) });
        }
    }

    /// A binding goes: its prefixes go, or move to another address of the same external router.
    pub(crate) fn release_prefixes(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get_mut(&overlay) else { return };
        let own = binding.take_prefixes();
        for prefix in own {
            self.remove_prefix(now, prefix);
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
                None => self.remove_prefix(now, prefix),
            }
        }
    }
}
