//! Addresses that hubs assign in band (`addressing.assignedBy: Hub`): what contradicts that, who asks, and what each hub
//! assigns from.
//!
//! Each hub has the addresses of the pools whose number is its place among the hubs, modulo their count: hubs that do not
//! hear of each other never assign the same one. Nothing is allocated here in that mode.

use std::net::IpAddr;

use crds::endpoint::{EndpointAddressPool, EndpointAddressRequest};
use crds::network::{HubMode, NhrpMode};
use crds::{Cidr, Reason};
use ipnet::IpNet;

use crate::addresses::usable;
use crate::names;
use crate::network::{HubView, Network};
use crate::site::{Member, Site};
use crate::spoke::Spoke;

/// Blocks that an endpoint's `addressPool.reserved` can name.
const RESERVED: usize = 4096;
/// So many addresses of a family's pools are looked at for those of each hub; a larger pool has some for each.
const LOOKED_AT: usize = 4096;

impl Network<'_> {
    /// Whether what the network says of its pools and hubs lets hubs assign.
    pub(crate) fn check_in_band(&mut self) {
        if !self.addresses.by_hub() {
            return;
        }
        if self.object.spec.nhrp.mode == NhrpMode::Disabled {
            let message = "hubs assign addresses by NHRP, which is off: set nhrp.mode to Enabled, or assignedBy to Cluster";
            self.faults.reject(Reason::SettingConflict, "spec.addressing.assignedBy", message);
        }
        let pools = self.addresses.pools().to_vec();
        if pools.is_empty() {
            let message = "the hubs have nothing to assign addresses from: add a part of the overlay to pools, or set \
                           assignedBy to Cluster";
            self.faults.reject(Reason::SettingConflict, "spec.addressing.pools", message);
        }
        for (i, pool) in pools.iter().enumerate() {
            if let Some(other) = pools.iter().take(i).find(|other| other.overlaps(pool)) {
                let message = format!(
                    "{pool} overlaps {other}, and hubs would assign the same address twice: leave one of them out"
                );
                self.faults.reject(Reason::SettingConflict, "spec.addressing.pools", message);
            }
        }
        self.check_summaries(&pools);
        for ipv6 in [false, true] {
            let pools: Vec<Cidr> = pools.iter().filter(|p| p.is_ipv4() != ipv6).copied().collect();
            if !pools.is_empty() {
                self.check_family(&pools, if ipv6 { "IPv6" } else { "IPv4" });
            }
        }
    }

    /// What a hub tells in place of the addresses inside, to hubs above it, must all be behind it; but every hub assigns
    /// out of all pools.
    fn check_summaries(&mut self, pools: &[Cidr]) {
        let mut faults = Vec::new();
        let below = |hub: &&HubView<'_>| !hub.hub.registers_to.is_empty();
        for hub in self.hubs.values().filter(below) {
            for summary in hub.advertise.iter().filter(|summary| summary.prefix_len() > 0) {
                if let Some(pool) = pools.iter().find(|pool| pool.overlaps(summary)) {
                    let message = format!(
                        "hub {} would answer for all of {summary}, and other hubs assign addresses out of {pool} too: \
                         take {summary} out of advertise or out of addressing.pools",
                        hub.hub.name
                    );
                    faults.push((format!("spec.hubs[{}].advertise", hub.index), message));
                }
            }
        }
        for (field, message) in faults {
            self.faults.reject(Reason::SettingConflict, field, message);
        }
    }

    /// Every hub can be asked for an address of a family that there are pools of, and has some to give.
    fn check_family(&mut self, pools: &[Cidr], family: &str) {
        let shares = self.object.spec.hubs.len();
        let given = self.shares_with_addresses(pools, shares);
        let ipv4 = pools.iter().any(Cidr::is_ipv4);
        let mut faults = Vec::new();
        for hub in self.hubs.values().filter(|h| h.hub.mode != HubMode::Disabled) {
            if !hub.addresses.iter().any(|a| a.is_ipv4() == ipv4) {
                let message = format!(
                    "hub {} cannot be asked for an {family} address without one of its own: add one, or take the \
                     {family} prefixes out of addressing.pools",
                    hub.hub.name
                );
                faults.push((format!("spec.hubs[{}].overlayAddresses", hub.index), message));
            } else if given.get(hub.index) == Some(&false) {
                let message = format!(
                    "each of {shares} hubs has a share of the {family} pools, and that of {} is empty: use larger pools, \
                     or reserve less",
                    hub.hub.name
                );
                faults.push(("spec.addressing.pools".to_owned(), message));
            }
        }
        for (field, message) in faults {
            self.faults.reject(Reason::SettingConflict, field, message);
        }
    }

    /// Which shares have an address at all.
    fn shares_with_addresses(&self, pools: &[Cidr], shares: usize) -> Vec<bool> {
        let mut given = vec![false; shares];
        let mut left = LOOKED_AT;
        for pool in pools {
            for (address, share) in hosts(pool).zip((0..shares).cycle()) {
                if left == 0 {
                    return vec![true; shares];
                }
                left -= 1;
                if usable(pool, address) && !self.addresses.is_stated(address) {
                    given[share] = true;
                }
            }
        }
        given
    }

    /// Why a spoke must not state this address; `None`: every hub that could assign it to another knows of it.
    pub(crate) fn assigned_elsewhere(&self, address: IpAddr) -> Option<String> {
        let pool = self.addresses.pools().iter().find(|p| p.contains(&address))?;
        (self.addresses.by_hub() && !self.hubs_are_here).then(|| {
            format!(
                "{address} lies in {pool}, out of which hubs that are elsewhere assign addresses and do not know of it: \
                 use one outside of addressing.pools of DmvpnNetwork/{}",
                self.name
            )
        })
    }

    /// What must not be assigned has to fit into an endpoint; else nothing is.
    pub(crate) fn check_stated(&mut self) {
        let count = self.stated().len();
        if self.addresses.by_hub() && count > RESERVED {
            let message = format!(
                "{count} blocks of the pools are reserved or stated, and hubs can leave out at most {RESERVED}: they assign \
                 nothing; use addresses outside of the pools for what is stated"
            );
            self.faults.degrade(Reason::SettingConflict, "spec.addressing.pools", message);
        }
    }

    /// What must not be assigned: reserved, or stated by somebody.
    fn stated(&self) -> Vec<Cidr> {
        let blocks: Vec<IpNet> = self.addresses.stated().map(|block| block.0).collect();
        IpNet::aggregate(&blocks).into_iter().map(Cidr).collect()
    }
}

/// A spoke without an overlay address asks the hubs; its name is what gets it the same address again.
pub(crate) fn request(
    site: &Site<'_>,
    network: &Network<'_>,
    members: &[(&Member, &Spoke<'_>)],
) -> Option<EndpointAddressRequest> {
    if site.hub.is_some() || !network.addresses.by_hub() {
        return None;
    }
    let (_, spoke) = members.iter().find(|(member, _)| member.addresses.is_empty())?;
    let pools = network.addresses.pools();
    Some(EndpointAddressRequest {
        owner: spoke.name.clone(),
        identity: names::identity(&spoke.owner_on(&site.node.name)),
        ipv4: pools.iter().any(Cidr::is_ipv4),
        ipv6: pools.iter().any(|p| !p.is_ipv4()),
        qos_group: network.qos_group(spoke.object.spec.qos_group.as_ref()),
    })
}

/// What a hub assigns from: its share is its place among all hubs, whatever their mode.
pub(crate) fn pool(network: &Network<'_>, hub: &HubView<'_>) -> Option<EndpointAddressPool> {
    let reserved = network.stated();
    if !network.addresses.by_hub() || reserved.len() > RESERVED {
        return None;
    }
    Some(EndpointAddressPool {
        prefixes: network.addresses.pools().to_vec(),
        reserved,
        share: u16::try_from(hub.index).ok()?,
        shares: u16::try_from(network.object.spec.hubs.len()).ok()?,
    })
}

/// All addresses of a prefix, in order.
fn hosts(prefix: &Cidr) -> Box<dyn Iterator<Item = IpAddr>> {
    match prefix.0 {
        IpNet::V4(net) => {
            let range = u32::from(net.network())..=u32::from(net.broadcast());
            Box::new(range.map(|number| IpAddr::V4(number.into())))
        }
        IpNet::V6(net) => {
            let range = u128::from(net.network())..=u128::from(net.broadcast());
            Box::new(range.map(|number| IpAddr::V6(number.into())))
        }
    }
}
