//! Networks that this node reaches through another one of its cluster: routes, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crds::Reason;
use crds::endpoint::EndpointGateway;
use dataplane::model::{KernelEvent, Observed, Route};
use dataplane::nft;
use ipnet::IpNet;
use tracing::{info, warn};

use super::Agent;
use super::underlay::LOOPBACK;
use crate::clock;
use crate::ladder::{Rung, Trouble};
use crate::plan::behind::{self as plan, Ways};
use crate::plan::wanted::ALIAS_PREFIX;
use crate::source::{Desired, DesiredEndpoint};
use crate::summary::TunnelSummary;

/// What is not as it should be is tried again this soon, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// One network behind a gateway.
#[derive(Debug)]
pub(super) struct Behind {
    endpoint: DesiredEndpoint,
    /// Routes that are wanted, once the gateway was found.
    routes: BTreeSet<Route>,
    /// Why it is not reached.
    trouble: Option<Trouble>,
    hindrance: Option<Trouble>,
    /// How it was seen the last time.
    seen: bool,
    /// The nft table as it was loaded last: our text, and how nft lists what came of it.
    loaded: Option<(String, String)>,
}

impl Behind {
    fn gateway(&self) -> Option<&EndpointGateway> {
        self.endpoint.spec.gateway.as_ref()
    }

    /// What is said of it.
    pub(super) fn summary(&self) -> TunnelSummary {
        let suspended = self.endpoint.spec.suspend;
        let rung = match &self.trouble {
            _ if suspended => Rung::suspended("spec.suspend is true: there are no routes"),
            _ if !self.seen => Rung::starting("the agent has not looked for the gateway yet"),
            Some(trouble) => Rung::held(trouble),
            None => Rung::up(),
        };
        TunnelSummary::behind(rung, self.trouble.clone(), self.hindrance.clone())
    }

    /// Whether an event means that the kernel may not be as it should be.
    fn is_disturbed(&self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Route { route, ours: true, gone } => self.routes.contains(route) == *gone,
            KernelEvent::Nft { table } => *table == nft::table(&self.endpoint.spec.network),
            KernelEvent::Link(_)
            | KernelEvent::LinkGone { .. }
            | KernelEvent::Address { .. }
            | KernelEvent::Route { .. }
            | KernelEvent::Settings
            | KernelEvent::Overrun => true,
            _ => false,
        }
    }
}

impl Agent {
    /// Takes up what is behind gateways now.
    pub(super) fn configure_behind(&mut self, desired: &Desired) {
        let wanted = desired.endpoints.iter().filter(|it| it.spec.gateway.is_some());
        let wanted: BTreeMap<_, _> = wanted.map(|it| (it.spec.network.clone(), it.clone())).collect();
        let named = |network: &str| {
            let asked = |it: &DesiredEndpoint| it.spec.network == network;
            wanted.contains_key(network)
                || desired.keep_unnamed
                    && !desired.removals.iter().any(asked)
                    && !desired.endpoints.iter().any(asked)
        };
        self.behind.retain(|network, _| named(network));
        for (network, endpoint) in wanted {
            self.met.insert(network.clone());
            match self.behind.get_mut(&network) {
                Some(behind) => behind.endpoint = endpoint,
                None => {
                    let behind = Behind {
                        endpoint,
                        routes: BTreeSet::new(),
                        trouble: None,
                        hindrance: None,
                        seen: false,
                        loaded: None,
                    };
                    self.behind.insert(network, behind);
                }
            }
        }
        // What an earlier run of the agent left goes as well.
        for removal in desired.removals.iter().filter(|it| it.spec.gateway.is_some()) {
            self.met.insert(removal.spec.network.clone());
        }
    }

    pub(super) fn disturbs_behind(&self, event: &KernelEvent) -> bool {
        self.behind.values().any(|it| it.is_disturbed(event))
    }

    /// Makes the routes by gateways as they should be.
    pub(super) async fn reconcile_behind(&mut self, observed: &Observed, look_at_nft: bool) {
        let networks: Vec<String> = self.behind.keys().cloned().collect();
        let kept = self.lifelines.kept();
        for network in &networks {
            self.find_gateway(network, observed, &kept).await;
        }
        // One whose gateway cannot be found at the moment keeps what is there.
        let lost: BTreeSet<IpNet> = self
            .behind
            .values()
            .filter(|it| it.trouble.is_some() && it.routes.is_empty())
            .filter_map(|it| Some((it, it.gateway()?)))
            .flat_map(|(it, gateway)| plan::prefixes(&it.endpoint.spec, gateway))
            .collect();
        let wanted: BTreeSet<Route> = self.behind.values().flat_map(|it| it.routes.iter().cloned()).collect();
        self.routed.extend(wanted.iter().cloned());
        let removed: BTreeSet<IpNet> = self.removed_prefixes();
        let may_go = |route: &Route| {
            // Our protocol number alone does not make a route ours: whoever likes may use it.
            !lost.contains(&route.prefix) && (removed.contains(&route.prefix) || self.routed.contains(route))
        };
        let ops = plan::changes(&wanted, may_go, observed);
        if !ops.is_empty() {
            info!(changes = ops.len(), "routes by gateways");
            if !self.apply("-", &ops).await {
                self.reconcile_at = self.reconcile_at.min(clock::now().after(RETRY_MS));
            }
        }
        let gone = |route: &Route| !wanted.contains(route) && !observed.routes.contains(route);
        self.routed.retain(|route| !gone(route));
        for network in &networks {
            self.keep_pods(network, look_at_nft).await;
        }
    }

    /// Prefixes that were reached by gateways and are to be no more.
    fn removed_prefixes(&self) -> BTreeSet<IpNet> {
        let removals = self.desired.removals.iter();
        let removals = removals.filter_map(|it| Some((&it.spec, it.spec.gateway.as_ref()?)));
        removals.flat_map(|(spec, gateway)| plan::prefixes(spec, gateway)).collect()
    }

    /// Whether the kernel still has a route of a removal.
    pub(super) fn is_routed_by_gateway(&self, removal: &DesiredEndpoint, observed: &Observed) -> bool {
        let Some(gateway) = &removal.spec.gateway else { return false };
        let prefixes: BTreeSet<_> = plan::prefixes(&removal.spec, gateway).collect();
        let wanted = |route: &Route| self.behind.values().any(|it| it.routes.contains(route));
        let mut routes = observed.routes.iter().filter(|it| plan::is_one(it, observed));
        routes.any(|it| prefixes.contains(&it.prefix) && !wanted(it))
    }

    /// Looks by which link the gateway is reached, and what follows.
    async fn find_gateway(&mut self, network: &str, observed: &Observed, kept: &BTreeSet<std::net::IpAddr>) {
        let Some(behind) = self.behind.get_mut(network) else { return };
        let Some(gateway) = behind.endpoint.spec.gateway.clone() else { return };
        let ours =
            |link: u32| observed.links.iter().any(|l| l.index == link && l.alias.starts_with(ALIAS_PREFIX));
        let (mut ways, mut far) = (Ways::new(), None);
        for address in &gateway.addresses {
            match self.kernel.lookup(*address, 0).await {
                Ok(found) if found.link == LOOPBACK || ours(found.link) => {}
                Ok(found) if found.via.is_none() => {
                    ways.entry(address.is_ipv4()).or_insert((found.link, *address));
                }
                Ok(found) => far = found.via,
                Err(_) => {}
            }
        }
        behind.seen = true;
        let spec = &behind.endpoint.spec;
        let node = &gateway.node_name;
        let wanting = |v4: bool| plan::prefixes(spec, &gateway).any(|it| it.addr().is_ipv4() == v4);
        let missing = [true, false].into_iter().find(|v4| wanting(*v4) && !ways.contains_key(v4));
        behind.trouble = missing.map(|v4| {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let how = match far {
                Some(router) => {
                    format!("node {node} is behind the router {router}, and shares no link with this one")
                }
                None => format!("node {node} is on no link of this one by an {family} address"),
            };
            let reason = Reason::GatewayElsewhere;
            Trouble::new(reason, format!("{how}: {}", reason.cure()))
        });
        let settings = dataplane::settings();
        let off = [(true, settings.ipv4_forwarding), (false, settings.ipv6_forwarding)];
        let off = off.into_iter().find(|(v4, forwards)| !forwards && wanting(*v4));
        behind.hindrance = off.map(|(v4, _)| {
            let reason = Reason::ForwardingDisabled;
            let family = if v4 { "IPv4" } else { "IPv6" };
            Trouble::new(reason, format!("this node forwards no {family} packets: {}", reason.cure()))
        });
        if spec.suspend {
            behind.routes.clear();
        } else if !ways.is_empty() {
            behind.routes = plan::routes(spec, &gateway, &ways, kept);
        } else {
            behind.routes.retain(|it| observed.routes.contains(it));
        }
    }

    /// Announced pods of this node keep their addresses towards the network, whatever is masqueraded.
    async fn keep_pods(&mut self, network: &str, look: bool) {
        let Some(behind) = self.behind.get_mut(network) else { return };
        let Some(gateway) = behind.gateway() else { return };
        let pods: Vec<IpNet> = gateway.pods.iter().map(|it| it.0).collect();
        let prefixes: Vec<IpNet> = plan::prefixes(&behind.endpoint.spec, gateway).collect();
        let text = nft::render_kept(network, &pods, &prefixes);
        if !look && behind.loaded.as_ref().is_some_and(|(loaded, _)| *loaded == text) {
            return;
        }
        let loaded = match nft::listed(network).await {
            Ok(Some(listed)) if behind.loaded == Some((text.clone(), listed.clone())) => return,
            Ok(_) => nft::load(&text).await,
            Err(error) => Err(error),
        };
        match loaded {
            Ok(()) => behind.loaded = nft::listed(network).await.ok().flatten().map(|listed| (text, listed)),
            Err(error) => {
                warn!(network, %error, "nft table not loaded");
                behind.loaded = None;
                self.reconcile_at = self.reconcile_at.min(clock::now().after(RETRY_MS));
            }
        }
    }
}
