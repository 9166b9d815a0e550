//! Telling the summary when it changes.

use std::sync::Arc;

use nhrp::Time;

use super::Agent;
use crate::clock;
use crate::summary::{Summary, TunnelSummary};

/// Peers are counted at most this often, in milliseconds.
const COUNT_MS: u64 = 150;

impl Agent {
    /// Tells the summary if it has changed.
    pub(super) fn publish(&mut self) {
        if self.summary.is_closed() {
            return;
        }
        let now = clock::now();
        let old = Arc::clone(&self.summary.borrow());
        let rolled_back = self.rolled_back();
        let count = self.counted_at.after(COUNT_MS) <= now && self.tunnels.values().any(|t| t.stirred);
        let same = !count
            && Arc::ptr_eq(&old.desired, &self.desired)
            && old.gone == self.gone
            && old.rolled_back == rolled_back
            && old.tunnels.len() == self.tunnels.len() + self.behind.len()
            && self.behind.iter().all(|(name, it)| old.tunnels.get(name) == Some(&it.summary()))
            && self.tunnels.iter().all(|(name, t)| old.tunnels.get(name).is_some_and(|o| o.holds(t)));
        if same {
            return;
        }
        // A new endpoint may ask for other external spokes.
        let counted = Arc::ptr_eq(&old.desired, &self.desired);
        let tunnels = self.tunnels.iter().map(|(name, tunnel)| {
            let known = old.tunnels.get(name).filter(|_| counted);
            (name.clone(), TunnelSummary::new(tunnel, known))
        });
        let behind = self.behind.iter().map(|(name, it)| (name.clone(), it.summary()));
        let new = Summary {
            desired: Arc::clone(&self.desired),
            tunnels: behind.chain(tunnels).collect(),
            gone: self.gone.clone(),
            rolled_back,
        };
        self.tunnels.values_mut().for_each(|t| t.stirred = false);
        self.counted_at = now;
        if new != *old {
            self.summary.send_replace(Arc::new(new));
        }
    }

    /// When peers have to be counted; `None`: nothing has changed, or nobody wants to know.
    pub(super) fn count_at(&self) -> Option<Time> {
        let stirred = !self.summary.is_closed() && self.tunnels.values().any(|t| t.stirred);
        stirred.then(|| self.counted_at.after(COUNT_MS))
    }
}
