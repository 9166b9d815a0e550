//! Phase 2: the kernel has a packet for a next hop that it does not know, and asks. It is told the hub's underlay
//! address at once, so that no packet waits for the answer, and the next hop's own when that comes.
//!
//! Only next hops get here (of routes that an NHS told with one, or of a routing protocol): the overlay as a whole is
//! routed by the hub, so that nobody who scans it can fill the kernel's table.

use std::net::IpAddr;

use ipnet::IpNet;

use super::config::Phase;
use super::{DropReason, Engine, Output, Time};

/// New next hops a second, and at once.
pub(crate) const PER_SECOND: u64 = 200;
pub(crate) const BURST: u64 = 1000;

impl Engine {
    /// The kernel has no neighbour for an overlay address.
    pub(crate) fn resolve_needed(&mut self, now: Time, overlay: IpAddr) {
        if self.config.phase != Phase::Two {
            return self.drop(now, DropReason::Phase, None);
        }
        let inside = self.config.overlay.iter().any(|net| net.contains(&overlay));
        if !inside || self.is_local(overlay) || self.withdrawing {
            return self.drop(now, DropReason::NotOurTraffic, None);
        }
        if let Some(binding) = self.bindings.get(&overlay) {
            // It is known: the kernel lost it.
            let nbma = binding.nbma;
            let link = self.config.link;
            return self.outputs.push_back(Output::InstallNeighbour { link, overlay, nbma });
        }
        let Some(nhs) = self.resolver(overlay) else {
            return self.drop(now, DropReason::NoRoute, None);
        };
        let key = IpNet::from(overlay);
        if self.shortcuts.get(key).is_none() {
            if !self.resolve_budget.take(now) {
                return self.drop(now, DropReason::RateLimited, None);
            }
            self.start_ask(now, overlay, nhs, None);
        }
        // Not there if the table is full: then nobody would take the neighbour away again.
        if let Some(shortcut) = self.shortcuts.get_mut(key) {
            shortcut.interim = Some(nhs);
            let link = self.config.link;
            self.outputs.push_back(Output::InstallNeighbour { link, overlay, nbma: nhs });
        }
    }

    /// NBMA address of the NHS that is asked about `like` and carries the traffic meanwhile: the best that answers. A
    /// silent one is better than none: its kernel may well forward.
    pub(crate) fn resolver(&self, like: IpAddr) -> Option<IpAddr> {
        self.best_hub(like.is_ipv4()).and_then(|(hub, _)| hub.nbma())
    }

    /// Neighbours that lead to a hub for the time being follow when another hub is the best.
    pub(crate) fn interims_follow(&mut self) {
        let interims: Vec<_> =
            self.shortcuts.iter().filter_map(|(key, it)| Some((key, it.asked, it.interim?))).collect();
        for (key, overlay, old) in interims {
            // Whose place is known meanwhile keeps it.
            if self.bindings.contains_key(&overlay) {
                continue;
            }
            let Some(nbma) = self.resolver(overlay).filter(|nbma| *nbma != old) else { continue };
            if let Some(shortcut) = self.shortcuts.get_mut(key) {
                shortcut.interim = Some(nbma);
                let link = self.config.link;
                self.outputs.push_back(Output::InstallNeighbour { link, overlay, nbma });
            }
        }
    }

    /// Puts them out again (the link is another one).
    pub(crate) fn reinstall_interims(&mut self) {
        let link = self.config.link;
        let interims = self.shortcuts.iter().filter_map(|(_, it)| Some((it.asked, it.interim?)));
        let outputs = interims
            .filter(|(overlay, _)| !self.bindings.contains_key(overlay))
            .map(|(overlay, nbma)| Output::InstallNeighbour { link, overlay, nbma })
            .collect::<Vec<_>>();
        self.outputs.extend(outputs);
    }
}
