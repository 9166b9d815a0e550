//! Makes links shape as is wanted: classes first, then what leads to them, and the other way round.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::model::{Observed, Op};
use dataplane::nft;
use tracing::warn;

use super::Agent;
use crate::clock;
use crate::plan::shaping;

/// What changes for several spokes is gathered for this long, in milliseconds.
pub(super) const GATHER_MS: u64 = 100;

impl Agent {
    /// Compares how the link of a tunnel shapes with what is wanted: as it was observed, or as it was left last. `look`:
    /// nft is asked too who is led where.
    pub(super) async fn shape(&mut self, network: &str, observed: Option<&Observed>, look: bool) {
        let Some(tunnel) = self.tunnels.get_mut(network) else { return };
        let again = tunnel.reshape_at(clock::now());
        let (link, Some(wanted)) = (tunnel.link, &mut tunnel.wanted) else { return };
        let there = match (observed, tunnel.shaped.take()) {
            _ if link == 0 => return,
            (Some(observed), _) => shaping::observed(link, observed).cloned(),
            (None, Some(shaped)) => shaped,
            (None, None) => {
                self.reconcile_at = self.reconcile_at.min(again);
                return;
            }
        };
        let left_out = wanted.shaping.left_out();
        let shape = wanted.shape();
        if (left_out == 0) != (wanted.shaping.left_out() == 0) {
            if left_out == 0 {
                warn!(network, "{}", wanted.shaping.remark());
            }
            // What is to be borne in mind is worked out with all the rest.
            self.reconcile_at = clock::now();
        }
        let (before, after) = shape.changes(link, there.as_ref());
        let known = tunnel.classified.take().filter(|_| shape.root);
        let loaded = tunnel.loaded_nft.is_some();
        let mut done = self.change(&before).await;
        let known = if look && known.is_some() { nft::shaped(network).await.ok() } else { known };
        // A table that is not loaded leads nobody anywhere; when it is, this comes again.
        let led = match shape.root && loaded {
            true => classify(network, known.as_ref(), &shape.hosts).await,
            false => Ok(()),
        };
        let classified = (led.is_ok() && loaded).then(|| shape.hosts.clone());
        done = done.and(led).and(self.change(&after).await);
        let now = clock::now();
        if let Some(tunnel) = self.tunnels.get_mut(network) {
            tunnel.shaped = done.is_ok().then(|| shape.shaper(link));
            tunnel.classified = classified;
            let before = tunnel.unshaped.is_some();
            if tunnel.shaping_tried(done.err().map(|error| error.to_string()), now) {
                warn!(network, error = ?tunnel.unshaped, "what spokes get is not shaped as is wanted");
            }
            if before || tunnel.unshaped.is_some() {
                // What hinders is worked out with all the rest.
                self.reconcile_at = self.reconcile_at.min(tunnel.reshape_at(now));
            }
        }
    }

    /// Makes changes, all that can be made; the first refusal.
    async fn change(&self, ops: &[Op]) -> Result<(), dataplane::Error> {
        if ops.is_empty() {
            return Ok(());
        }
        self.kernel.apply(ops).await.into_iter().try_for_each(|result| result.map(drop))
    }

    /// Carries out what has been gathered.
    pub(super) async fn shape_stirred(&mut self) {
        if self.shape_at.is_none_or(|at| at > clock::now()) {
            return;
        }
        self.shape_at = None;
        let now = clock::now();
        let stirred = self.tunnels.iter().filter(|(_, tunnel)| tunnel.is_to_be_shaped(now));
        let networks: Vec<_> = stirred.map(|(network, _)| network.clone()).collect();
        for network in networks {
            self.shape(&network, None, false).await;
        }
    }
}

/// Leads hosts to their classes in the network's table, where others (`None`: it is not known which) are led.
async fn classify(
    network: &str,
    known: Option<&BTreeMap<IpAddr, u16>>,
    hosts: &BTreeMap<IpAddr, u16>,
) -> Result<(), dataplane::Error> {
    let differs = |a: &BTreeMap<IpAddr, u16>, host: &IpAddr, minor: &u16| a.get(host) != Some(minor);
    let out = known.into_iter().flatten().filter(|(host, minor)| differs(hosts, host, minor));
    let out: Vec<_> = out.map(|(host, _)| *host).collect();
    let into = hosts.iter().filter(|(host, minor)| known.is_none_or(|it| differs(it, host, minor)));
    let into: Vec<_> = into.map(|(host, minor)| (*host, *minor)).collect();
    if known.is_some() && out.is_empty() && into.is_empty() {
        return Ok(());
    }
    nft::load(&nft::classify(network, known.is_none(), &out, &into)).await
}
