//! Who owns which prefix: disjoint prefixes, found by any prefix that overlaps one of them.

use std::collections::BTreeMap;

use crds::Cidr;

/// Disjoint prefixes with their owners.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixIndex(BTreeMap<(bool, u128), (Cidr, String)>);

impl PrefixIndex {
    /// The prefix that overlaps `prefix`, and whose it is.
    pub(crate) fn overlapping(&self, prefix: &Cidr) -> Option<&(Cidr, String)> {
        // the prefixes are disjoint: one that overlaps either begins inside of `prefix`, or is the last
        // before it
        let (first, last) = (key(prefix, false), key(prefix, true));
        let inside = self.0.range(first..=last).next();
        let before = self.0.range(..first).next_back().filter(|(_, (before, _))| before.overlaps(prefix));
        inside.or(before).map(|(_, found)| found)
    }

    /// Adds a prefix that overlaps none.
    pub(crate) fn insert(&mut self, prefix: Cidr, owner: &str) {
        self.0.insert(key(&prefix, false), (prefix, owner.to_owned()));
    }
}

/// First or last address of a prefix, families apart.
fn key(prefix: &Cidr, last: bool) -> (bool, u128) {
    match prefix.0 {
        ipnet::IpNet::V4(net) => {
            let address = if last { net.broadcast() } else { net.network() };
            (false, u128::from(u32::from(address)))
        }
        ipnet::IpNet::V6(net) => (true, u128::from(if last { net.broadcast() } else { net.network() })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_from_all_sides() {
        let mut index = PrefixIndex::default();
        for (prefix, owner) in [("10.1.0.0/24", "a"), ("10.2.0.0/16", "b"), ("fd00:1::/64", "c")] {
            index.insert(prefix.parse().unwrap(), owner);
        }
        for (prefix, owner) in [
            ("10.1.0.0/25", Some("a")),
            ("10.1.0.128/25", Some("a")),
            ("10.1.0.0/16", Some("a")),
            ("10.2.200.0/24", Some("b")),
            ("10.3.0.0/16", None),
            ("10.1.1.0/24", None),
            ("fd00:1::/128", Some("c")),
            ("::/0", Some("c")),
            ("fd00:2::/64", None),
        ] {
            let found = index.overlapping(&prefix.parse().unwrap()).map(|(_, o)| o.as_str());
            assert_eq!(found, owner, "{prefix}");
        }
    }
}
