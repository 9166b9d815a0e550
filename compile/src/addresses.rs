//! Overlay addresses of one network: who has which, and new ones from the pools.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::Cidr;
use ipnet::IpNet;

use crate::names;

/// Addresses of one network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    /// Everybody who has an address.
    taken: BTreeMap<IpAddr, String>,
    /// Addresses that somebody states: never allocated, even if the claim is refused.
    claimed: BTreeSet<IpAddr>,
    /// Allocations by owner and family (IPv4 first).
    allocated: BTreeMap<(String, bool), IpAddr>,
    pools: Vec<Cidr>,
    reserved: Vec<Cidr>,
    /// Hubs give addresses out of the pools, in band; nothing is allocated.
    by_hub: bool,
}

impl Addresses {
    pub(crate) fn new(pools: Vec<Cidr>, reserved: Vec<Cidr>) -> Self {
        Self { pools, reserved, ..Self::default() }
    }

    /// Addresses of a network whose hubs assign them in band.
    pub(crate) fn assigned_by_hub(self) -> Self {
        Self { by_hub: true, ..self }
    }

    /// Whether hubs assign addresses in band.
    pub(crate) fn by_hub(&self) -> bool {
        self.by_hub
    }

    /// The pools.
    pub(crate) fn pools(&self) -> &[Cidr] {
        &self.pools
    }

    /// What of the pools is reserved or somebody's who states it.
    pub(crate) fn stated(&self) -> impl Iterator<Item = Cidr> {
        let reserved = self.reserved.iter().filter(|r| self.pools.iter().any(|p| p.overlaps(r)));
        let hosts = self.taken.keys().chain(&self.claimed);
        let hosts = hosts.filter(|a| self.pools.iter().any(|p| p.contains(*a)));
        reserved.copied().chain(hosts.map(|a| Cidr::host(*a)))
    }

    /// Whether an address is reserved or somebody's who states it.
    pub(crate) fn is_stated(&self, address: IpAddr) -> bool {
        self.taken.contains_key(&address)
            || self.claimed.contains(&address)
            || self.reserved(address).is_some()
    }

    /// Keeps an address from being allocated.
    pub(crate) fn claim(&mut self, address: IpAddr) {
        self.claimed.insert(address);
    }

    /// Gives an address to its owner.
    ///
    /// # Errors
    /// Names the one who has it already.
    pub(crate) fn take(&mut self, address: IpAddr, owner: &str) -> Result<(), String> {
        match self.taken.get(&address) {
            Some(other) if other != owner => Err(other.clone()),
            _ => {
                self.taken.insert(address, owner.to_owned());
                Ok(())
            }
        }
    }

    /// Who has an address.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&str> {
        self.taken.get(&address).map(String::as_str)
    }

    /// Whether an address is reserved.
    pub(crate) fn reserved(&self, address: IpAddr) -> Option<&Cidr> {
        self.reserved.iter().find(|r| r.contains(&address))
    }

    /// Keeps an allocation of earlier, unless it is no longer valid.
    pub(crate) fn keep(&mut self, address: IpAddr, owner: &str) {
        let slot = (owner.to_owned(), address.is_ipv6());
        let pooled = self.pools.iter().any(|p| p.contains(&address) && usable(p, address));
        let free = !self.taken.contains_key(&address)
            && !self.claimed.contains(&address)
            && self.reserved(address).is_none()
            && !self.allocated.contains_key(&slot);
        if pooled && free && !self.by_hub {
            self.taken.insert(address, format!("DmvpnSpoke/{owner}"));
            self.allocated.insert(slot, address);
        }
    }

    /// The addresses of an owner, one for each family that has a pool; new ones as needed. `None`: the pools
    /// of a family are exhausted.
    pub(crate) fn allocate(&mut self, network: &str, owner: &str) -> Option<Vec<IpAddr>> {
        let mut found = Vec::new();
        for ipv6 in [false, true] {
            let pools: Vec<Cidr> = self.pools.iter().filter(|p| p.is_ipv4() != ipv6).copied().collect();
            if pools.is_empty() {
                continue;
            }
            let slot = (owner.to_owned(), ipv6);
            let address = match self.allocated.get(&slot) {
                Some(kept) => *kept,
                None => pools.iter().find_map(|pool| self.free_in(pool, network, owner))?,
            };
            found.push((slot, address));
        }
        let addresses = found.iter().map(|(_, address)| *address).collect();
        for (slot, address) in found {
            self.taken.insert(address, format!("DmvpnSpoke/{owner}"));
            self.allocated.insert(slot, address);
        }
        Some(addresses)
    }

    /// Whether there is a pool at all.
    pub(crate) fn has_pools(&self) -> bool {
        !self.pools.is_empty()
    }

    /// All allocations: (address, owner).
    pub(crate) fn allocations(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.allocated.iter().map(|((owner, _), address)| (*address, owner.as_str()))
    }

    /// A free address. The search begins at a place that depends on the owner's name, so that it mostly gets
    /// the same one again even where allocations are not kept.
    fn free_in(&self, pool: &Cidr, network: &str, owner: &str) -> Option<IpAddr> {
        let bits = u32::from(pool.max_prefix_len() - pool.prefix_len()).min(64);
        let size = 1u128 << bits;
        let start = u128::from(names::hash(&[network, owner])) % size;
        // at most as many steps as addresses are in use, and one more
        let steps = size.min((self.taken.len() + self.claimed.len()) as u128 + self.reserved_size(pool) + 3);
        let mut offset = start;
        for _ in 0..steps {
            let address = nth(pool, offset)?;
            if let Some(block) = self.reserved(address) {
                offset = after(pool, block).filter(|o| *o < size).unwrap_or(0);
                continue;
            }
            let free = usable(pool, address)
                && !self.taken.contains_key(&address)
                && !self.claimed.contains(&address);
            if free {
                return Some(address);
            }
            offset = (offset + 1) % size;
        }
        None
    }

    /// Steps that reserved blocks can cost.
    fn reserved_size(&self, pool: &Cidr) -> u128 {
        let blocks = self.reserved.iter().filter(|r| r.overlaps(pool)).count() as u128;
        blocks * 2 + 1
    }
}

/// Whether an address of a prefix can be a host's: not the network or broadcast address of IPv4, not the
/// subnet-router anycast address of IPv6.
pub(crate) fn usable(prefix: &Cidr, address: IpAddr) -> bool {
    if prefix.max_prefix_len() - prefix.prefix_len() <= 1 {
        return true;
    }
    match (prefix.0, address) {
        (IpNet::V4(net), IpAddr::V4(a)) => a != net.network() && a != net.broadcast(),
        (IpNet::V6(net), IpAddr::V6(a)) => a != net.network(),
        _ => false,
    }
}

fn nth(pool: &Cidr, offset: u128) -> Option<IpAddr> {
    match pool.0 {
        IpNet::V4(net) => {
            let value = u32::from(net.network()).checked_add(u32::try_from(offset).ok()?)?;
            Some(IpAddr::V4(value.into()))
        }
        IpNet::V6(net) => Some(IpAddr::V6(u128::from(net.network()).checked_add(offset)?.into())),
    }
}

/// Offset in the pool of the first address after a block; `None` when the block reaches its end.
fn after(pool: &Cidr, block: &Cidr) -> Option<u128> {
    match (pool.0, block.0) {
        (IpNet::V4(pool), IpNet::V4(block)) => {
            let next = u32::from(block.broadcast()).checked_add(1)?;
            next.checked_sub(u32::from(pool.network())).map(u128::from)
        }
        (IpNet::V6(pool), IpNet::V6(block)) => {
            u128::from(block.broadcast()).checked_add(1)?.checked_sub(u128::from(pool.network()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Vec<Cidr> {
        text.split_whitespace().map(|p| p.parse().unwrap()).collect()
    }

    #[test]
    fn a_pool_is_used_up_to_its_last_address_and_no_further() {
        let mut all = Addresses::new(pool("10.0.0.0/29"), pool("10.0.0.2/32 10.0.0.4/31"));
        all.claim("10.0.0.6".parse().unwrap());
        let mut got: Vec<IpAddr> =
            (0..2).filter_map(|i| all.allocate("n", &format!("s{i}"))?.pop()).collect();
        got.sort();
        assert_eq!(got, ["10.0.0.1", "10.0.0.3"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!(all.allocate("n", "late"), None);
        assert_eq!(all.allocate("n", "s0").map(|a| a.len()), Some(1), "what is allocated stays");
    }

    #[test]
    fn a_large_pool_with_a_large_reservation_is_no_search() {
        let mut all =
            Addresses::new(pool("10.0.0.0/8 fd00::/64"), pool("10.0.0.0/9 10.128.0.0/10 fd00::/65"));
        for i in 0..1000 {
            let addresses = all.allocate("n", &format!("s{i}")).unwrap();
            assert!(addresses.iter().all(|a| all.reserved(*a).is_none()));
        }
    }

    #[test]
    fn a_full_pool_is_walked_through_once() {
        let mut all = Addresses::new(pool("10.0.0.0/22"), Vec::new());
        let got = (0..1200).filter(|i| all.allocate("n", &format!("s{i}")).is_some()).count();
        assert_eq!(got, 1022);
    }
}
