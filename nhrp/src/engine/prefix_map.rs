//! Prefixes with longest match and overlap search.
//!
//! Ordered by address, because "what lies inside this prefix" is a range; a longest match asks once for each prefix
//! length that occurs. Not on the path of a registration refresh.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixMap<V> {
    map: BTreeMap<IpNet, V>,
    /// How many prefixes there are, by family and length.
    lengths: BTreeMap<(bool, u8), usize>,
    /// Prefixes that came or went so far.
    changes: u64,
}

impl<V> PrefixMap<V> {
    pub(crate) fn new() -> Self {
        Self { map: BTreeMap::new(), lengths: BTreeMap::new(), changes: 0 }
    }

    pub(crate) fn get(&self, prefix: IpNet) -> Option<&V> {
        self.map.get(&prefix)
    }

    pub(crate) fn get_mut(&mut self, prefix: IpNet) -> Option<&mut V> {
        self.map.get_mut(&prefix)
    }

    pub(crate) fn insert(&mut self, prefix: IpNet, value: V) -> Option<V> {
        let old = self.map.insert(prefix, value);
        if old.is_none() {
            self.changes += 1;
            *self.lengths.entry(key(prefix)).or_insert(0) += 1;
        }
        old
    }

    pub(crate) fn remove(&mut self, prefix: IpNet) -> Option<V> {
        let old = self.map.remove(&prefix)?;
        self.changes += 1;
        if let Some(count) = self.lengths.get_mut(&key(prefix)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&key(prefix));
            }
        }
        Some(old)
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, &V)> {
        self.map.iter().map(|(prefix, value)| (*prefix, value))
    }

    /// The most specific prefix that contains `address`.
    pub(crate) fn longest(&self, address: IpAddr) -> Option<(IpNet, &V)> {
        self.covering(IpNet::from(address))
    }

    /// The most specific prefix that contains all of `inner` (or is it).
    pub(crate) fn covering(&self, inner: IpNet) -> Option<(IpNet, &V)> {
        self.all_covering(inner).next()
    }

    /// All prefixes that contain all of `inner`, the most specific first.
    pub(crate) fn all_covering(&self, inner: IpNet) -> impl Iterator<Item = (IpNet, &V)> {
        let family = inner.addr().is_ipv4();
        let lengths = self.lengths.range((family, 0)..=(family, inner.prefix_len()));
        lengths.rev().filter_map(move |((_, length), _)| {
            let prefix = IpNet::new(inner.addr(), *length).ok()?.trunc();
            self.map.get(&prefix).map(|value| (prefix, value))
        })
    }

    /// All prefixes inside `outer`, itself included.
    pub(crate) fn inside(&self, outer: IpNet) -> impl Iterator<Item = (IpNet, &V)> {
        let from = IpNet::new(outer.network(), 0).unwrap_or(outer);
        let last = outer.broadcast();
        self.map
            .range(from..)
            .take_while(move |(prefix, _)| {
                prefix.addr().is_ipv4() == outer.addr().is_ipv4() && prefix.addr() <= last
            })
            .filter(move |(prefix, _)| outer.contains(*prefix))
            .map(|(prefix, value)| (*prefix, value))
    }
}

fn key(prefix: IpNet) -> (bool, u8) {
    (prefix.addr().is_ipv4(), prefix.prefix_len())
}

/// Whether the two have an address in common.
pub(crate) fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn longest_match_and_ranges() {
        let mut map = PrefixMap::new();
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.1.0.0/24",
            "fd00::/8",
            "10.2.0.0/16",
        ] {
            map.insert(net(text), text);
        }
        assert_eq!(map.longest("10.1.2.3".parse().unwrap()).unwrap().0, net("10.1.2.0/24"));
        assert_eq!(map.longest("10.3.2.3".parse().unwrap()).unwrap().0, net("10.0.0.0/8"));
        assert_eq!(map.longest("fd00::1".parse().unwrap()).unwrap().0, net("fd00::/8"));
        assert!(map.longest("fe80::1".parse().unwrap()).is_none());
        assert_eq!(map.covering(net("10.1.0.0/16")).unwrap().0, net("10.1.0.0/16"));
        assert_eq!(map.covering(net("10.1.3.0/25")).unwrap().0, net("10.1.0.0/16"));
        let covering: Vec<_> = map.all_covering(net("10.1.2.3/32")).map(|(prefix, _)| prefix).collect();
        assert_eq!(covering, ["10.1.2.0/24", "10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"].map(net));
        let inside: Vec<_> = map.inside(net("10.1.0.0/16")).map(|(prefix, _)| prefix).collect();
        assert_eq!(inside, [net("10.1.0.0/16"), net("10.1.0.0/24"), net("10.1.2.0/24")]);
        map.remove(net("10.1.2.0/24"));
        assert_eq!(map.longest("10.1.2.3".parse().unwrap()).unwrap().0, net("10.1.0.0/16"));
        assert_eq!(map.len(), 6);
    }
}
