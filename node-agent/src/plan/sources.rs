//! What each peer of a hub may send, where IPsec says who it is: from its overlay addresses, and from the prefixes that lead
//! to it. Both are what its identity may have, since nothing else is registered. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crds::endpoint::{DmvpnEndpointSpec, Role};
use crds::network::RoutingProtocol;
use dataplane::nft::{Senders, Strangers};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nhrp::{Output, RouteKind};

/// Set in the mark of every sender.
const FLAG: u32 = 1 << 31;

/// What each peer may send.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sources {
    on: bool,
    /// There is no other hub: whoever is a member is here.
    alone: bool,
    /// Overlay addresses of our own hubs: they pass on what is anybody's.
    above: BTreeSet<IpAddr>,
    /// Of those that register here: they pass on what members of theirs may send straight.
    below: BTreeSet<IpAddr>,
    /// Numbers are given once, and kept while the peer is there.
    numbers: BTreeMap<Ipv4Addr, u32>,
    last: u32,
    stirred: bool,
}

impl Sources {
    /// For this endpoint.
    pub fn new(spec: &DmvpnEndpointSpec) -> Self {
        let told = matches!(spec.routing.protocol, RoutingProtocol::Nhrp | RoutingProtocol::Static);
        let apart = spec.ipsec.as_ref().is_some_and(crds::endpoint::EndpointIpsec::tells_apart);
        Self {
            // Under routing protocols of others nobody tells us who is behind whom.
            on: told && apart && spec.role != Role::Spoke,
            above: spec.nhs.iter().flat_map(|hub| hub.overlay_addresses.iter().copied()).collect(),
            below: spec.child_hubs.iter().flat_map(|hub| hub.overlay_addresses.iter().copied()).collect(),
            alone: spec.nhrp.hub_list.len() <= 1 && spec.nhs.is_empty() && spec.child_hubs.is_empty(),
            stirred: true,
            ..Self::default()
        }
    }

    /// What those may send who are not here; `None`: nothing is looked at.
    pub fn strangers(&self) -> Option<Strangers> {
        self.on.then_some(if self.alone { Strangers::Nothing } else { Strangers::Untaken })
    }

    /// Goes on with the numbers that were given.
    pub fn keep(&mut self, old: &mut Self) {
        self.numbers = std::mem::take(&mut old.numbers);
        self.last = old.last;
    }

    /// Something changed.
    pub fn stir(&mut self) {
        self.stirred = true;
    }

    /// Whether an output of the engine changes something.
    pub fn heed(&mut self, output: &Output) {
        self.stirred |= matches!(
            output,
            Output::InstallNeighbour { .. }
                | Output::RemoveNeighbour { .. }
                | Output::InstallRoute { kind: RouteKind::Registered | RouteKind::Shortcut, .. }
                | Output::RemoveRoute { kind: RouteKind::Registered | RouteKind::Shortcut, .. }
        );
    }

    /// Whether something has changed since [`Self::senders`].
    pub fn is_stirred(&self) -> bool {
        self.on && self.stirred
    }

    /// What each may send: `hosts` are overlay and underlay addresses of peers, `prefixes` lead to overlay hosts.
    pub fn senders(
        &mut self,
        hosts: impl Iterator<Item = (IpAddr, IpAddr)>,
        prefixes: impl Iterator<Item = (IpNet, IpAddr)>,
    ) -> Senders {
        self.stirred = false;
        let hosts: BTreeMap<IpAddr, IpAddr> = hosts.collect();
        let mut own: BTreeMap<Ipv4Addr, Vec<IpNet>> = BTreeMap::new();
        let passes_on = |overlay: &IpAddr| self.above.contains(overlay) || self.below.contains(overlay);
        let mut taken = Vec::new();
        for (overlay, nbma) in &hosts {
            let IpAddr::V4(nbma) = nbma else { continue };
            let sources = own.entry(*nbma).or_default();
            sources.push(IpNet::from(*overlay));
            taken.push(IpNet::from(*overlay));
            if self.above.contains(overlay) {
                sources.extend([IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]);
            }
        }
        for (prefix, via) in prefixes {
            if let Some(IpAddr::V4(nbma)) = hosts.get(&via) {
                if !passes_on(&via) {
                    taken.push(prefix);
                }
                own.entry(*nbma).or_default().push(prefix);
            }
        }
        self.numbers.retain(|nbma, _| own.contains_key(nbma));
        let mut senders = Senders::default();
        if !self.alone {
            senders.taken = IpNet::aggregate(&taken).into_iter().collect();
        }
        for (nbma, sources) in own {
            let number = self.number(nbma);
            senders.numbers.insert(nbma, number);
            // The kernel takes no sources of one sender that overlap.
            senders.sources.extend(IpNet::aggregate(&sources).into_iter().map(|net| (number, net)));
        }
        senders
    }

    fn number(&mut self, nbma: Ipv4Addr) -> u32 {
        if let Some(number) = self.numbers.get(&nbma) {
            return *number;
        }
        loop {
            self.last = (self.last + 1) & !FLAG;
            let number = self.last | FLAG;
            if !self.numbers.values().any(|used| *used == number) {
                self.numbers.insert(nbma, number);
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[(&str, &str)]) -> Vec<(IpAddr, IpAddr)> {
        list.iter().map(|(overlay, nbma)| (overlay.parse().unwrap(), nbma.parse().unwrap())).collect()
    }

    #[test]
    fn each_may_send_from_what_leads_to_it() {
        let above = "10.255.0.9".parse().unwrap();
        let mut sources = Sources { on: true, above: [above].into(), ..Sources::default() };
        let all = hosts(&[
            ("10.255.0.2", "192.0.2.2"),
            ("fd00::2", "192.0.2.2"),
            ("10.255.0.3", "192.0.2.3"),
            ("10.255.0.9", "192.0.2.9"),
        ]);
        let behind = |list: &[(&str, &str)]| -> Vec<(IpNet, IpAddr)> {
            list.iter().map(|(net, via)| (net.parse().unwrap(), via.parse().unwrap())).collect()
        };
        // Overlapping prefixes of one sender become one; one whose next hop is nowhere is nobody's.
        let prefixes = behind(&[
            ("10.2.0.0/16", "10.255.0.2"),
            ("10.2.7.0/24", "10.255.0.2"),
            ("10.3.0.0/24", "10.255.0.3"),
            ("10.4.0.0/24", "10.255.0.4"),
        ]);
        let senders = sources.senders(all.iter().copied(), prefixes.iter().copied());
        let of = |at: &str| -> Vec<String> {
            let number = senders.numbers[&at.parse().unwrap()];
            assert_eq!(number & FLAG, FLAG);
            senders.sources.iter().filter(|(it, _)| *it == number).map(|(_, net)| net.to_string()).collect()
        };
        assert_eq!(of("192.0.2.2"), ["10.2.0.0/16", "10.255.0.2/32", "fd00::2/128"]);
        assert_eq!(of("192.0.2.3"), ["10.3.0.0/24", "10.255.0.3/32"]);
        assert_eq!(of("192.0.2.9"), ["0.0.0.0/0", "::/0"]);
        assert!(senders.taken.contains(&"10.2.0.0/16".parse().unwrap()));
        // Whoever stays keeps the number, and nobody gets one that is used.
        let fewer = hosts(&[("10.255.0.3", "192.0.2.3"), ("10.255.0.5", "192.0.2.5")]);
        let later = sources.senders(fewer.into_iter(), std::iter::empty());
        let (three, five) = ("192.0.2.3".parse().unwrap(), "192.0.2.5".parse().unwrap());
        assert_eq!(later.numbers[&three], senders.numbers[&three]);
        assert!(!senders.numbers.values().any(|it| *it == later.numbers[&five]));
    }
}
