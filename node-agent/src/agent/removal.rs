//! Taking tunnels away because somebody asked for it, and knowing when nothing of them is left.

use std::sync::Arc;

use dataplane::model::{Observed, Target};
use dataplane::nft;
use nhrp::Time;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Agent, Inlets};
use crate::clock;
use crate::plan::diff;
use crate::plan::sas::SaState;
use crate::source::Desired;
use crate::tunnel::Tunnel;

/// What cannot be taken away is tried again this soon, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// Taking everything away at the end lasts no longer than this, in milliseconds: the farewells, and some more.
const LEAVE_MS: u64 = 5_000;

impl Agent {
    /// A removal whose tunnel an earlier run of the agent has left in the kernel: it is taken up once more, so that the
    /// hubs hear of its end. Once only: what is in the kernel after that goes without a word.
    pub(super) fn meet_leftovers(&mut self, observed: &Observed) {
        for removal in &Arc::clone(&self.desired).removals {
            let network = &removal.spec.network;
            let left = diff::own_link(network, observed).is_some();
            if left && self.met.insert(network.clone()) {
                let mut tunnel = Tunnel::new(removal.spec.clone(), removal.passwords.clone());
                tunnel.doomed = true;
                self.tunnels.insert(network.clone(), tunnel);
            }
        }
    }

    /// Tunnels that were taken up for their farewell alone begin it; those without an interface have nobody to tell.
    pub(super) fn begin_farewells(&mut self, now: Time) {
        for tunnel in self.tunnels.values_mut().filter(|t| t.doomed) {
            tunnel.remove(now);
        }
    }

    /// Notes which removals are over: looks at the kernel itself, not at what was done.
    pub(super) async fn see_off(&mut self, observed: &Observed) {
        let desired = Arc::clone(&self.desired);
        for removal in &desired.removals {
            let network = &removal.spec.network;
            if self.tunnels.contains_key(network) || self.gone.contains(network) {
                continue;
            }
            let link = diff::own_link(network, observed).is_some();
            let ours = |prefix| super::reconcile::ends_at(&removal.spec).any(|c| c == prefix);
            let others = |prefix| {
                let mut wanted = self.tunnels.values().filter_map(|t| t.wanted.as_ref());
                wanted.any(|w| w.fixed.keys().any(|(p, _)| *p == prefix))
            };
            let routes = observed.routes.iter().filter(|r| r.target == Target::Unreachable);
            let route = routes.map(|r| r.prefix).any(|p| ours(p) && !others(p));
            let table = match nft::listed(network).await {
                Ok(listed) => listed.is_some(),
                Err(error) => {
                    warn!(network, %error, "whether the nft table is gone cannot be seen");
                    true
                }
            };
            let behind = self.behind.contains_key(network) || self.is_routed_by_gateway(removal, observed);
            if link || route || table || behind || self.is_held(network) {
                self.nft_at = clock::now();
                self.reconcile_at = clock::now().after(RETRY_MS);
            } else {
                info!(network, "nothing of it is left on this node");
                self.gone.insert(network.clone());
            }
        }
    }

    /// Says farewell to all hubs and takes every tunnel away.
    pub(super) async fn leave(
        &mut self,
        inlets: &mut Inlets,
        bursts: &mut super::Bursts,
        sas: &mut watch::Receiver<Arc<SaState>>,
    ) {
        let deadline = clock::now().after(LEAVE_MS);
        self.configure(Arc::new(Desired::default()));
        let over = |agent: &Self| {
            agent.tunnels.is_empty() && !agent.met.iter().any(|network| agent.is_held(network))
        };
        while !over(self) && clock::now() < deadline {
            self.turn().await;
            let wake = clock::instant(self.next_wake().min(deadline));
            tokio::select! {
                Some(burst) = bursts.recv() => self.packets(burst),
                Some(event) = inlets.events.recv() => self.kernel_event(event),
                Ok(()) = sas.changed() => {
                    self.sas = sas.borrow_and_update().clone();
                    self.sas_changed().await;
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        // The last comparison takes the links.
        self.reconcile_at = clock::now();
        self.nft_at = clock::now();
        self.turn().await;
    }
}
