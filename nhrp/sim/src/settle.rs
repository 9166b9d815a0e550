//! When faults stop: everybody is registered, knows all routes and nobody who is gone, flows arrive, shortcuts form
//! again – each within its time.

use std::net::IpAddr;

use nhrp::{Phase, RouteKind};

use crate::plan::Role;
use crate::world::World;

/// A registration that had no answer or a refusal (until a thief's registration is over) is tried again after 64 s at the
/// latest; then come the answer and the list.
const RETRY_MS: u64 = 75_000;
/// A destination that failed again and again is asked for again after 600 s; then come question and answer.
const SHORTCUT_MS: u64 = 700_000;

impl World {
    /// Faults and attacks are over: machines run, the network is whole.
    pub(crate) fn calm_down(&mut self) {
        self.note(|| "all is calm".into());
        self.quiet = Some(self.now);
        self.under.cut.clear();
        self.plan.delay_ms = (1, 20);
        for index in 0..self.nodes.len() {
            if self.nodes[index].frozen.is_some() {
                self.thaw(index);
            }
            if self.nodes[index].engine.is_none() {
                self.nodes[index].up = true;
                self.begin_again(index, None);
            }
        }
    }

    pub(crate) fn settle(&mut self) {
        let Some(quiet) = self.quiet else {
            if self.now.since(crate::world::BEGIN) >= self.plan.active_ms {
                self.calm_down();
            }
            return;
        };
        let passed = self.now.since(quiet);
        let hold = self.hold_bound();
        let registered = RETRY_MS + hold;
        let unsettled = self.unregistered().map(|what| (registered, what));
        let unsettled = unsettled.or_else(|| self.missing().map(|what| (registered + 10_000, what)));
        let unsettled = unsettled.or_else(|| self.indirect().map(|what| (SHORTCUT_MS, what)));
        match unsettled {
            Some((limit, what)) if passed > limit => {
                self.fail(format!("not settled {passed} ms after the last fault: {what}"));
            }
            Some(_) => {}
            None => {
                self.stats.settled_ms = passed;
                self.settled = true;
            }
        }
    }

    fn members(&self) -> impl Iterator<Item = usize> {
        (self.plan.hubs..self.nodes.len()).filter(|index| !self.nodes[*index].shares_nat)
    }

    fn unregistered(&self) -> Option<String> {
        for index in self.members() {
            let node = &self.nodes[index];
            let down = node.hub_addresses().into_iter().find(|hub| !node.hubs_up.contains(hub));
            if let Some(hub) = down {
                return Some(format!("{index} is not registered with {hub}"));
            }
        }
        None
    }

    /// What hubs and spokes should know, and flows.
    fn missing(&self) -> Option<String> {
        if let Some((index, overlay, nbma)) = self.ghosts.keys().next() {
            return Some(format!("{index} takes {nbma} for {overlay}"));
        }
        let foreign_hub = self.nodes.iter().any(|node| node.role == Role::Hub && node.foreign);
        for member in self.members() {
            let node = &self.nodes[member];
            let public = self.under.public(node);
            for hub in 0..self.plan.hubs {
                let kernel = &self.nodes[hub].kernel;
                if kernel.neighbours.get(&node.overlay()).copied() != public {
                    return Some(format!("hub {hub} does not know {member}"));
                }
                let said = node.config.own_groups.first().filter(|_| !node.foreign && !foreign_hub);
                let said = said.map(|(_, group)| group);
                if kernel.groups.get(&node.overlay()) != said {
                    return Some(format!("hub {hub} does not know the class of {member}"));
                }
                for net in &node.config.subnets {
                    if kernel.routes.get(&(*net, RouteKind::Registered)) != Some(&node.overlay()) {
                        return Some(format!("hub {hub} has no route to {net} of {member}"));
                    }
                }
            }
            if foreign_hub {
                continue;
            }
            for other in self.members().filter(|other| *other != member && !self.nodes[*other].foreign) {
                let told = |net| self.nodes[other].kernel.routes.contains_key(&(net, RouteKind::Announced));
                if let Some(net) = node.config.subnets.iter().find(|net| !told(**net)) {
                    return Some(format!("{other} has not been told {net} of {member}"));
                }
            }
        }
        let flows = self.flows.iter().filter(|flow| self.counts(flow.from) && self.counts(flow.to));
        for flow in flows {
            if let Err((lost, way)) = self.path(flow.from, flow.dst, true)
                && !matches!(lost, crate::check::Lost::Unresolved(_))
            {
                let (from, dst) = (flow.from, flow.dst);
                return Some(format!("what {from} sends to {dst} is lost: {lost:?} after {way:?}"));
            }
        }
        None
    }

    fn counts(&self, index: usize) -> bool {
        self.nodes[index].role == Role::Spoke && !self.nodes[index].shares_nat
    }

    /// A flow that could go straight to its egress and has not done so.
    fn indirect(&self) -> Option<String> {
        if self.plan.phase == Phase::One {
            return None;
        }
        let masked = |index: usize| self.nodes[index].nat.is_some_and(|nat| self.plan.nats[nat].masquerade);
        let open = |index: usize| self.counts(index) && !masked(index);
        // In Phase 2 the hub as next hop, which a static route names, is never replaced.
        let by_hub = |flow: &crate::world::Flow| {
            let overlay = self.plan.family.overlay_net().contains(&flow.dst);
            self.plan.phase == Phase::Two && !overlay && self.routes_statically(flow.from)
        };
        let may = |flow: &crate::world::Flow| open(flow.from) && open(flow.to) && !by_hub(flow);
        let flow = self.flows.iter().find(|flow| may(flow) && !flow.direct)?;
        let dst: IpAddr = flow.dst;
        Some(format!("what {} sends to {dst} has never gone straight to {}", flow.from, flow.to))
    }
}
