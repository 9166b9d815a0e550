//! Hubs above and below this one: who is one, what each is told, and where a packet goes next.
//!
//! What comes from a client, be it a spoke or a hub that registers with us, lies *below*; what an NHS of ours tells
//! lies *above*; what other links of this networkId lead to lies *beside*. What is below everybody is told; what is above
//! or beside clients alone, never an NHS. Of two hubs that register with each other each is above the other. So what a hub
//! tells rests only on hubs further down, or on one further up and then down: as long as nobody is below himself (compile
//! refuses that), no announcement comes back to where it started and no withdrawn prefix lives on between hubs that
//! believe each other: there is nothing to count to infinity.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::bindings::Binding;
use super::snapshot::Source;
use super::timers::TimerKey;
use super::{Engine, Time};

/// Prefixes with their overlay next hops (`None`: this hub itself), in order.
pub(crate) type Told = Vec<(IpNet, Option<IpAddr>)>;

/// Where a packet goes next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextHop {
    /// Overlay address.
    pub(crate) via: IpAddr,
    pub(crate) nbma: IpAddr,
    /// The most specific prefix that says so.
    pub(crate) prefix: IpNet,
    /// Seconds, as the next hop told; 0 if it is configured.
    pub(crate) holding_time: u16,
}

impl Engine {
    /// Whether this is the overlay address of an NHS of ours.
    pub(crate) fn is_nhs_overlay(&self, overlay: IpAddr) -> bool {
        self.hubs.iter().any(|hub| {
            hub.config.overlay.contains(&overlay)
                || hub.registrations.iter().any(|it| it.nhs == Some(overlay))
        })
    }

    /// Whether a hub registers with us under this overlay address, from where the configuration says that it is.
    pub(crate) fn is_child_hub(&self, overlay: IpAddr) -> bool {
        let Some(binding) = self.bindings.get(&overlay) else { return false };
        let mut named = self.config.child_hubs.iter().filter(|hub| hub.overlay.contains(&overlay));
        named.any(|hub| hub.nbma.contains(&binding.nbma))
    }

    /// Whether a packet from there comes from a hub, above or below: it speaks for others.
    pub(crate) fn is_hub(&self, nbma: IpAddr) -> bool {
        let bound = |overlay: &IpAddr| self.bindings.get(overlay).is_some_and(|it| it.nbma == nbma);
        self.is_nhs(nbma)
            || self
                .config
                .child_hubs
                .iter()
                .any(|hub| hub.nbma.contains(&nbma) && hub.overlay.iter().any(bound))
    }

    /// Where a packet for `address` goes next, as the kernel's tables have it: to the host itself, else by the most
    /// specific prefix (of one that is below and above alike, below), else, inside of the overlay, upwards.
    pub(crate) fn next_hop(&self, address: IpAddr) -> Option<NextHop> {
        let to = |via: IpAddr, prefix: IpNet| {
            let binding = self.bindings.get(&via).filter(|it| leads(it))?;
            Some(NextHop { via, nbma: binding.nbma, prefix, holding_time: binding.holding_time })
        };
        if let Some(host) = to(address, IpNet::from(address)) {
            return Some(host);
        }
        let below = self.prefixes.longest(address).map(|(prefix, owner)| (prefix, owner.via));
        let above = self.announced.longest(address).and_then(|(prefix, it)| Some((prefix, it.via?)));
        let best = [above, below].into_iter().flatten().max_by_key(|(prefix, _)| prefix.prefix_len());
        if let Some((prefix, via)) = best {
            return to(via, prefix);
        }
        let overlay = self.config.overlay.iter().find(|net| net.contains(&address))?;
        to(self.gateways().find(|via| via.is_ipv4() == address.is_ipv4())?, *overlay)
    }

    /// Whether the hub at this overlay address and we register with each other.
    pub(crate) fn is_peer(&self, overlay: IpAddr) -> bool {
        self.is_nhs_overlay(overlay)
            && self.config.child_hubs.iter().any(|hub| hub.overlay.contains(&overlay))
    }

    /// What clients are told, by family (IPv4 first): all that is ours, below or above. The overlay they route
    /// by their hub as it is, but for the spokes of Phase 2, as hosts.
    pub(crate) fn told_to_clients(&self) -> [Told; 2] {
        let above = self.announced.iter().filter_map(|(net, it)| Some((net, Some(it.via?))));
        let beside = self.config.beside.iter().map(|net| (net.trunc(), None));
        let below = self.prefixes.iter().map(|(net, owner)| (net, Some(owner.via)));
        let own = self.config.subnets.iter().map(|net| (net.trunc(), None));
        // Of one prefix the later counts: what is ours before what is below, that before what is beside or above.
        let all: BTreeMap<_, _> = above.chain(beside).chain(below).chain(own).collect();
        let outside = all.into_iter().filter(|(net, _)| !self.is_of_overlay(*net));
        self.summarized(outside.chain(self.hosts_to_tell()), |advertised| !self.is_of_overlay(advertised))
    }

    /// What an NHS of ours is told, with the registration or, by one that registers with us, in our list: what is ours
    /// or below, and which hosts and parts of the overlay are there.
    pub(crate) fn told_to_nhss(&self) -> [Told; 2] {
        if self.hubs.is_empty() {
            return Default::default();
        }
        let is_client =
            |(_, it): &(&IpAddr, &Binding)| matches!(it.source, Source::Registered | Source::Static);
        let hosts = self.bindings.iter().filter(is_client).map(|(host, _)| (IpNet::from(*host), Some(*host)));
        let below = self.prefixes.iter().map(|(net, owner)| (net, Some(owner.via)));
        let own = self.config.subnets.iter().map(|net| (net.trunc(), None));
        // Who is registered here is here, whoever else has it too.
        let all: BTreeMap<_, _> = below.chain(hosts).chain(own).collect();
        let ours = all.into_iter().filter(|(_, via)| via.is_none_or(|via| !self.is_nhs_overlay(via)));
        // A default route, and what else has all of the overlay in it, is for those below alone.
        let holds_all = |net: IpNet| self.config.overlay.iter().any(|overlay| net.contains(overlay));
        self.summarized(ours, |advertised| advertised.prefix_len() > 0 && !holds_all(advertised))
    }

    /// The summaries of the configuration (those that are `wanted`) in place of what lies inside them.
    fn summarized(
        &self,
        all: impl Iterator<Item = (IpNet, Option<IpAddr>)>,
        wanted: impl Fn(IpNet) -> bool,
    ) -> [Told; 2] {
        let summaries = self.config.advertise.iter().map(IpNet::trunc).filter(|net| wanted(*net));
        let mut told: BTreeMap<_, _> = summaries.map(|net| (net, None)).collect();
        let summaries: Vec<_> = told.keys().copied().collect();
        told.extend(all.filter(|(net, _)| !summaries.iter().any(|summary| summary.contains(net))));
        let (v4, v6) = told.into_iter().partition(|(net, _)| net.addr().is_ipv4());
        [v4, v6]
    }

    /// Whether the prefix is a host or part of the overlay, or all of it.
    pub(crate) fn is_of_overlay(&self, prefix: IpNet) -> bool {
        self.config.overlay.iter().any(|net| net.contains(&prefix))
    }

    /// Whether the prefix says nothing about who is behind it: a default route, the overlay as a whole.
    pub(crate) fn is_gathering(&self, prefix: IpNet) -> bool {
        prefix.prefix_len() == 0 || self.config.overlay.contains(&prefix)
    }

    /// What a registration tells: as a hub all that is below, as a spoke its own prefixes.
    pub(crate) fn told_by_registration(&self, local: IpAddr) -> Vec<IpNet> {
        if self.config.server {
            let [v4, v6] = &self.announcer.below;
            let list = if local.is_ipv4() { v4 } else { v6 };
            return list.iter().map(|(net, _)| *net).collect();
        }
        let family = self.config.subnets.iter().filter(|net| net.addr().is_ipv4() == local.is_ipv4());
        family.map(IpNet::trunc).collect()
    }

    /// A host came or went: NHSs of ours hear of it.
    pub(crate) fn host_listed(&mut self, now: Time) {
        if !self.hubs.is_empty() {
            self.list_changed(now);
        }
    }

    /// What is below has changed: our NHSs hear at once. A registration under way goes first.
    pub(crate) fn tell_nhss(&mut self, now: Time) {
        let current = self.announcer.below_generation;
        let mut due = Vec::new();
        for registration in self.hubs.iter_mut().flat_map(|hub| hub.registrations.iter_mut()) {
            if registration.is_idle() && registration.primary && registration.list != current {
                registration.tell_anew(now);
                due.push(registration.uid);
            }
        }
        due.into_iter().for_each(|uid| self.timers.arm(TimerKey::Registration(uid), now));
    }
}

/// Whether packets are sent there, as opposed to a binding that shortcuts alone rest on.
pub(crate) fn leads(binding: &Binding) -> bool {
    matches!(binding.source, Source::Registered | Source::Static | Source::Nhs)
}
