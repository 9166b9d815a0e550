//! Hubs above and below each other: who registers with whom, and what a hub announces for all that is behind it.

use std::collections::BTreeSet;

use crds::network::Hub;
use crds::{Cidr, Reason};

use crate::network::{Network, join_others};

impl Network<'_> {
    /// The names in `registersTo` are those of other hubs.
    pub(crate) fn check_parents(&mut self, hub: &Hub, names: &BTreeSet<&str>, field: &str) {
        for (i, other) in hub.registers_to.iter().enumerate() {
            if *other == hub.name || !names.contains(other.as_str()) {
                let message = format!(
                    "{other} is no other hub of this network: use one of {}",
                    join_others(names, hub)
                );
                self.faults.degrade(Reason::Invalid, format!("{field}.registersTo[{i}]"), message);
            }
        }
    }

    /// Nobody registers with himself by way of others: what a hub tells would come back to it as news. Two that name
    /// each other are equals, which is no circle.
    pub(crate) fn check_circles(&mut self) {
        let object = self.object;
        let hubs = &object.spec.hubs;
        let parents = |name: &str| -> Vec<&str> {
            let own = hubs.iter().filter(|h| h.name == name).flat_map(|h| &h.registers_to);
            let names = |hub: &str, other: &str| {
                hubs.iter().any(|h| h.name == hub && h.registers_to.iter().any(|it| it == other))
            };
            own.map(String::as_str).filter(|parent| !names(parent, name)).collect()
        };
        let mut found = None;
        for (index, hub) in hubs.iter().enumerate() {
            // The way from the hub to each that is above it, by breadth.
            let mut ways: Vec<Vec<&str>> = vec![vec![hub.name.as_str()]];
            let mut at = 0;
            while let Some(way) = ways.get(at).cloned() {
                at += 1;
                for parent in way.last().map(|last| parents(last)).unwrap_or_default() {
                    let further: Vec<&str> = way.iter().copied().chain([parent]).collect();
                    if parent == hub.name {
                        found = found.or(Some((index, further)));
                    } else if !ways.iter().any(|known| known.last() == Some(&parent)) {
                        ways.push(further);
                    }
                }
            }
        }
        if let Some((index, circle)) = found {
            let message = format!(
                "hubs register with each other in a circle ({}): take one of them out of registersTo",
                circle.join(" → ")
            );
            self.faults.reject(Reason::HubCircle, format!("spec.hubs[{index}].registersTo"), message);
        }
    }

    /// What a hub announces; what cannot be announced is left out.
    pub(crate) fn summaries(&mut self, hub: &Hub, field: &str) -> Vec<Cidr> {
        let mut summaries = Vec::new();
        for (i, text) in hub.advertise.iter().enumerate() {
            let field = format!("{field}.advertise[{i}]");
            let summary = match text.parse::<Cidr>() {
                Ok(summary) => summary,
                Err(e) => {
                    self.faults.degrade(Reason::Invalid, field, e.to_string());
                    continue;
                }
            };
            // A default route has every underlay address in it: agents see to it that the tunnel's own packets do
            // not follow it.
            let inside = self.hub_inside(&summary).filter(|_| summary.prefix_len() > 0);
            if let Some((other, nbma)) = inside {
                let message = format!(
                    "{summary} contains {nbma}, the underlay address of hub {other}: announce smaller prefixes without \
                     it, or the default route"
                );
                self.faults.degrade(Reason::SubnetContainsNbma, field, message);
                continue;
            }
            summaries.push(summary);
        }
        summaries
    }

    /// Why a spoke cannot name this hub.
    pub(crate) fn no_such_hub(&self, name: &str) -> Option<String> {
        let hubs = &self.object.spec.hubs;
        if hubs.iter().any(|hub| hub.name == name) {
            return None;
        }
        let names: Vec<&str> = hubs.iter().map(|hub| hub.name.as_str()).collect();
        Some(format!("{name} is no hub of DmvpnNetwork/{}: use one of {}", self.name, names.join(", ")))
    }
}
