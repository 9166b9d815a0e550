//! What a changed configuration changes, and no more than that.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::bindings::Binding;
use super::client::{Hub, Reason};
use super::config::{Config, Nhs, StaticBinding};
use super::prefix_map::overlaps;
use super::snapshot::{NhsPhase, Source};
use super::{Engine, Output, RouteKind, Time};

impl Engine {
    /// Puts in all that the configuration says by itself.
    pub(crate) fn install_configured(&mut self, now: Time) {
        self.bind_locals(now);
        for binding in self.config.statics.clone() {
            self.bind_static(now, &binding);
        }
        for nhs in self.known_hubs() {
            self.add_hub(now, nhs);
        }
        self.rebuild_list();
    }

    pub(crate) fn configure(&mut self, now: Time, new: Config) {
        let new = self.with_assigned(now, new);
        self.apply(now, new);
    }

    /// Does what a configuration, with the addresses that we were assigned, changes.
    pub(crate) fn apply(&mut self, now: Time, new: Config) {
        if self.config == new {
            return;
        }
        let old = std::mem::replace(&mut self.config, new);
        // Wanted again while it was being taken away.
        let revived = std::mem::take(&mut self.withdrawing);
        let new = self.config.clone();
        if old.link != new.link {
            self.reinstall();
        }
        if old.nbma != new.nbma {
            self.config.nbma = old.nbma;
            self.nbma_changed(now, new.nbma);
        }
        self.configure_statics(now, &old, &new);
        self.configure_locals(now, &old, &new);
        self.forget_left_places(&old, &new);
        self.configure_hubs(now);
        self.configure_server(now, &old, &new);
        if old.hub_list != new.hub_list {
            self.hub_list_changed(now);
        }
        if old.groups != new.groups {
            self.groups_changed(now);
        }
        if old.members != new.members {
            self.configure_members(now);
        }
        self.configure_child_hubs(now, &old, &new);
        self.configure_externals(now, &old, &new);
        if old.subnets != new.subnets || old.beside != new.beside {
            self.configure_subnets(now, &old, &new);
        }
        if new.phase != old.phase {
            self.configure_phase(now);
        }
        let told = |config: &Config| {
            (
                config.subnets.clone(),
                config.holding_time,
                config.registration_interval,
                config.unique,
                config.authentication.clone(),
                config.mtu,
                (config.own_groups.clone(), config.request.as_ref().and_then(|it| it.group.clone())),
            )
        };
        if told(&old) != told(&new) || revived {
            self.register_now(now);
        }
        if old.nhs != new.nhs || old.authentication != new.authentication || revived {
            self.ask_anew(now);
        }
    }

    /// The local underlay address changed: hubs hear at once.
    pub(crate) fn nbma_changed(&mut self, now: Time, nbma: Option<IpAddr>) {
        if self.config.nbma == nbma {
            return;
        }
        self.config.nbma = nbma;
        self.bind_locals(now);
        let mut uids = Vec::new();
        for registration in self.hubs.iter_mut().flat_map(|hub| hub.registrations.iter_mut()) {
            registration.public = None;
            uids.push(registration.uid);
        }
        self.recheck_paths(now);
        if nbma.is_some() {
            self.ask_anew(now);
            return self.register_now(now);
        }
        for uid in uids {
            self.registration_down(now, uid, NhsPhase::Down, Reason::NoUnderlayAddress);
        }
    }

    fn bind_locals(&mut self, now: Time) {
        let nbma = self.config.nbma.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        for local in self.config.local.clone() {
            let others = self.bindings.get(&local).is_some_and(|it| it.source != Source::Local);
            if others {
                self.unbind(now, local);
            }
            self.bind(now, local, Binding::new(nbma, Source::Local, now));
        }
    }

    fn bind_static(&mut self, now: Time, binding: &StaticBinding) {
        if self.bind(now, binding.overlay, Binding::new(binding.nbma, Source::Static, now)) {
            let prefixes: Vec<_> = binding.prefixes.iter().map(IpNet::trunc).collect();
            self.set_prefixes(now, binding.overlay, &prefixes);
        }
    }

    fn configure_statics(&mut self, now: Time, old: &Config, new: &Config) {
        if old.statics == new.statics {
            return;
        }
        for gone in
            old.statics.iter().filter(|it| !new.statics.iter().any(|other| other.overlay == it.overlay))
        {
            if self.bindings.get(&gone.overlay).is_some_and(|it| it.source == Source::Static) {
                self.unbind(now, gone.overlay);
            }
        }
        for binding in &new.statics {
            if !old.statics.contains(binding) {
                self.bind_static(now, binding);
            }
        }
    }

    /// Local addresses: the old ones are taken back at the hubs, the new ones registered.
    fn configure_locals(&mut self, now: Time, old: &Config, new: &Config) {
        if old.local == new.local {
            return;
        }
        let mut taken_back = Vec::new();
        for hub in &self.hubs {
            for registration in &hub.registrations {
                let (Some(nhs), Some(nbma)) = (registration.nhs, hub.nbma()) else { continue };
                if !new.local.contains(&registration.local) && registration.may_be_known() {
                    taken_back.push((registration.request_id, registration.local, nhs, nbma));
                }
            }
        }
        for (id, local, nhs, nbma) in taken_back {
            self.purge_registration(now, id, local, nhs, nbma);
        }
        for gone in old.local.iter().filter(|local| !new.local.contains(local)) {
            if self.bindings.get(gone).is_some_and(|it| it.source == Source::Local) {
                self.unbind(now, *gone);
            }
        }
        self.bind_locals(now);
        // Which address is the first of its family may have changed: registrations are set up anew, and the lists of
        // the hubs stay in force until they are told again.
        for index in 0..self.hubs.len() {
            self.rebuild_registrations(now, index);
        }
        self.choose_hubs(now);
    }

    fn rebuild_registrations(&mut self, now: Time, index: usize) {
        let Some(hub) = self.hubs.get_mut(index) else { return };
        let before = std::mem::take(&mut hub.registrations);
        let config = hub.config.clone();
        self.add_hub(now, config);
        let Some(mut fresh) = self.hubs.pop().map(|hub| hub.registrations) else { return };
        let mut gone = Vec::new();
        for old in before {
            let same = fresh.iter_mut().find(|it| it.local == old.local);
            match same {
                Some(slot) => {
                    let primary = slot.primary;
                    let has_list = old.has_list && old.primary == primary;
                    *slot = old;
                    slot.primary = primary;
                    slot.has_list = has_list;
                }
                // Told by an address that is gone: another one of the family hears it again in a moment.
                None => gone.push(old.uid),
            }
        }
        if let Some(hub) = self.hubs.get_mut(index) {
            hub.registrations = fresh;
            hub.begin(now);
        }
        gone.into_iter().for_each(|uid| self.forget_list(uid));
        self.register_with(now, index);
    }

    /// Makes the NHSs those that are configured or told by others.
    pub(crate) fn configure_hubs(&mut self, now: Time) {
        let new = self.known_hubs();
        if self.hubs.iter().map(|hub| &hub.config).eq(new.iter()) {
            return;
        }
        let same = |a: &Nhs, b: &Nhs| a.name == b.name && a.overlay == b.overlay;
        let gone: Vec<_> =
            self.hubs.extract_if(.., |hub| !new.iter().any(|nhs| same(nhs, &hub.config))).collect();
        for hub in gone {
            self.remove_hub(now, hub);
        }
        for nhs in &new {
            let Some(index) = self.hubs.iter().position(|hub| same(nhs, &hub.config)) else {
                self.add_hub(now, nhs.clone());
                continue;
            };
            let Some(hub) = self.hubs.get_mut(index) else { continue };
            let in_use = hub.nbma();
            let changed = hub.config.nbma != nhs.nbma;
            hub.config = nhs.clone();
            if !changed {
                continue;
            }
            hub.use_nbma(nhs.nbma.iter().position(|nbma| Some(*nbma) == in_use).unwrap_or(0));
            // It moved: whoever answers at the old address is not to hold us registered for the holding time.
            let left: Vec<_> = match in_use.filter(|old| !nhs.nbma.contains(old)) {
                Some(old) => {
                    let known = hub.registrations.iter().filter(|it| it.may_be_known());
                    known.filter_map(|it| Some((it.request_id, it.local, it.nhs?, old))).collect()
                }
                None => Vec::new(),
            };
            if hub.nbma() != in_use {
                self.register_with(now, index);
                for (id, local, nhs, old) in left {
                    self.purge_registration(now, id, local, nhs, old);
                }
                self.bind_hub(now, index);
            }
        }
        // In the order of the configuration, those that were told after them.
        let position = |hub: &Hub| new.iter().position(|nhs| same(nhs, &hub.config));
        self.hubs.sort_by_key(position);
        self.choose_hubs(now);
        self.watch_anew(now);
    }

    /// An NHS that is no longer configured: what we told it is taken back, what it told us goes.
    fn remove_hub(&mut self, now: Time, hub: Hub) {
        let nbma = hub.nbma();
        for registration in &hub.registrations {
            if let (true, Some(nhs), Some(nbma)) = (registration.may_be_known(), registration.nhs, nbma) {
                self.purge_registration(now, registration.request_id, registration.local, nhs, nbma);
            }
            self.timers.cancel(super::TimerKey::Registration(registration.uid));
            self.forget_list(registration.uid);
        }
        for overlay in hub.overlays() {
            let shared = self.hubs.iter().any(|other| {
                other.config.overlay.contains(&overlay)
                    || other.registrations.iter().any(|it| it.nhs == Some(overlay))
            });
            if !shared && self.bindings.get(&overlay).is_some_and(|it| it.source == Source::Nhs) {
                self.unbind(now, overlay);
            }
        }
    }

    /// Registered spokes that may no longer be there.
    fn configure_server(&mut self, now: Time, old: &Config, new: &Config) {
        if old.overlay == new.overlay && old.server == new.server {
            return;
        }
        let inside = |overlay: &IpAddr| new.server && new.overlay.iter().any(|net| net.contains(overlay));
        let mut gone: Vec<_> = self
            .bindings
            .iter()
            .filter(|(overlay, binding)| binding.source == Source::Registered && !inside(overlay))
            .map(|(overlay, _)| *overlay)
            .collect();
        gone.sort_unstable();
        gone.into_iter().for_each(|overlay| self.unbind(now, overlay));
    }

    /// Whose word counts for less than before starts from nothing: it tells its list again with the next registration.
    fn configure_child_hubs(&mut self, now: Time, old: &Config, new: &Config) {
        let changed = |hub: &&super::config::ChildHub| !new.child_hubs.contains(hub);
        let overlays: Vec<_> =
            old.child_hubs.iter().filter(changed).flat_map(|hub| hub.overlay.iter().copied()).collect();
        overlays.into_iter().for_each(|overlay| self.release_prefixes(now, overlay));
        if old.advertise != new.advertise {
            self.list_changed(now);
        }
    }

    fn configure_externals(&mut self, now: Time, old: &Config, new: &Config) {
        if old.external == new.external {
            return;
        }
        let declared: Vec<_> = self
            .prefixes
            .iter()
            .filter(|(_, owner)| owner.external.is_some())
            .map(|(prefix, owner)| (prefix, owner.via))
            .collect();
        for (prefix, via) in declared {
            let still = new.external.iter().position(|external| {
                external.overlay.contains(&via) && external.prefixes.iter().any(|net| net.trunc() == prefix)
            });
            match still {
                Some(index) => {
                    if let Some(owner) = self.prefixes.get_mut(prefix) {
                        owner.external = Some(index);
                    }
                }
                None => self.untell_prefix(now, prefix, via),
            }
        }
        let owners: Vec<_> =
            new.external.iter().flat_map(|external| external.overlay.iter().copied()).collect();
        owners.into_iter().for_each(|overlay| self.externals_of(now, overlay));
    }

    /// Another phase has other direct paths, and other next hops: all begins by the hub again.
    fn configure_phase(&mut self, now: Time) {
        let announced: Vec<_> = self.announced.iter().map(|(net, _)| net).collect();
        announced.into_iter().for_each(|net| self.choose(net));
        let all: Vec<_> = self.shortcuts.iter().map(|(net, _)| net).collect();
        all.into_iter().for_each(|net| self.shortcut_down(now, net, "the network is of another phase"));
        self.list_changed(now);
    }

    fn configure_subnets(&mut self, now: Time, old: &Config, new: &Config) {
        let behind = |config: &Config| -> BTreeSet<IpNet> {
            config.subnets.iter().chain(&config.beside).copied().collect()
        };
        let (before, ours_now) = (behind(old), behind(new));
        let gone: Vec<_> = before.difference(&ours_now).copied().collect();
        for local in new.local.clone() {
            let told = self.take_requesters(local, |it| gone.iter().any(|net| overlaps(*net, it.prefix)));
            self.purge_prefixes(now, &told);
        }
        // What is ours now is not to be reached by somebody else.
        let ours: Vec<_> =
            self.announced.iter().map(|(net, _)| net).filter(|net| self.is_own_prefix(*net)).collect();
        ours.into_iter().for_each(|net| self.forget_prefix(net));
        let shortcuts: Vec<_> = self.shortcuts.iter().map(|(net, _)| net).collect();
        for net in shortcuts {
            if ours_now.iter().any(|own| overlaps(*own, net)) {
                self.shortcut_down(now, net, "the prefix is ours");
            }
        }
        // What was ours is told by others again: their lists are asked for.
        for registration in self.hubs.iter_mut().flat_map(|hub| hub.registrations.iter_mut()) {
            registration.has_list = false;
        }
        self.list_changed(now);
    }

    /// Puts everything out again: the link is another one.
    fn reinstall(&mut self) {
        let mut hosts: Vec<_> = self
            .bindings
            .iter()
            .filter(|(_, binding)| binding.source != Source::Local)
            .map(|(overlay, binding)| (*overlay, binding.nbma))
            .collect();
        hosts.sort_unstable();
        for (overlay, nbma) in hosts {
            self.install_host(overlay, nbma, true);
        }
        let link = self.config.link;
        let mut groups: Vec<_> = self
            .bindings
            .iter()
            .filter_map(|(it, binding)| Some((*it, binding.group()?.to_owned())))
            .collect();
        groups.sort_unstable();
        for (overlay, group) in groups {
            self.outputs.push_back(Output::Group { link, overlay, group: Some(group) });
        }
        for (prefix, owner) in self.prefixes.iter() {
            let kind = RouteKind::Registered;
            self.outputs.push_back(Output::InstallRoute { link, prefix, via: owner.via, kind });
        }
        for (prefix, announced) in self.announced.iter() {
            let (Some(via), kind) = (announced.via, RouteKind::Announced) else { continue };
            self.outputs.push_back(Output::InstallRoute { link, prefix, via, kind });
        }
        self.reinstall_shortcuts();
    }
}
