//! The network under the tunnel: who is where, NATs, partitions, loss.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nhrp::Time;

use crate::address::nbma;
use crate::node::Node;
use crate::plan::NatPlan;

/// A NAT forgets who was sent something after this long.
const NAT_IDLE_MS: u64 = 60_000;

#[derive(Debug)]
pub(crate) struct Nat {
    pub(crate) public: IpAddr,
    pub(crate) masquerade: bool,
    /// Remote address → who behind it, and when last.
    mappings: BTreeMap<IpAddr, (usize, Time)>,
    rebound: u8,
}

#[derive(Debug, Default)]
pub(crate) struct Underlay {
    pub(crate) nats: Vec<Nat>,
    /// Pairs of nodes that do not reach each other until then.
    pub(crate) cut: BTreeMap<(usize, usize), Time>,
}

impl Underlay {
    pub(crate) fn new(plans: &[NatPlan]) -> Self {
        let nat = |(index, plan): (usize, &NatPlan)| Nat {
            public: nbma(8, index as u8 + 1),
            masquerade: plan.masquerade,
            mappings: BTreeMap::new(),
            rebound: 0,
        };
        Self { nats: plans.iter().enumerate().map(nat).collect(), cut: BTreeMap::new() }
    }

    /// Another public address, as after a reboot of the router.
    pub(crate) fn rebind(&mut self, nat: usize) {
        let Some(nat) = self.nats.get_mut(nat) else { return };
        nat.rebound = nat.rebound.wrapping_add(1);
        let number = match nat.public {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => 1,
        };
        nat.public = nbma(100 + nat.rebound % 100, number);
        nat.mappings.clear();
    }

    /// The address by which others see a node.
    pub(crate) fn public(&self, node: &Node) -> Option<IpAddr> {
        match node.nat.and_then(|nat| self.nats.get(nat)) {
            Some(nat) => Some(nat.public),
            None => node.config.nbma,
        }
    }

    pub(crate) fn is_cut(&self, a: usize, b: usize, now: Time) -> bool {
        self.cut.get(&(a.min(b), a.max(b))).is_some_and(|until| *until > now)
    }

    /// A packet leaves: opens the NAT for the answer. `false`: the NAT has given the remote to somebody else.
    pub(crate) fn opens(&mut self, node: usize, nat: Option<usize>, to: IpAddr, now: Time) -> bool {
        let Some(nat) = nat.and_then(|nat| self.nats.get_mut(nat)).filter(|nat| nat.masquerade) else {
            return true;
        };
        let held = nat.mappings.get(&to).filter(|(_, last)| now.since(*last) < NAT_IDLE_MS);
        if held.is_some_and(|(holder, _)| *holder != node) {
            return false;
        }
        nat.mappings.insert(to, (node, now));
        true
    }

    /// The node that gets what comes from `from` (a public address) to `to`; `sender` is inside of which NAT.
    pub(crate) fn target(&self, nodes: &[Node], sender: &Node, to: IpAddr, now: Time) -> Option<usize> {
        let from = self.public(sender)?;
        if let Some(nat) = self.nats.iter().position(|nat| nat.public == to) {
            let behind = |index: &usize| nodes[*index].nat == Some(nat);
            if !self.nats[nat].masquerade {
                return (0..nodes.len()).find(behind);
            }
            let (inside, last) = self.nats[nat].mappings.get(&from)?;
            return (now.since(*last) < NAT_IDLE_MS).then_some(*inside);
        }
        nodes.iter().position(|node| {
            node.config.nbma == Some(to) && (node.nat.is_none() || node.nat == sender.nat) && node.present()
        })
    }
}
