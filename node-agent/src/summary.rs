//! What the agent's task tells of itself when it changes: little enough to be made on every change, also on a hub with
//! ten thousand peers. The full tables are in the report, on request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crds::{Cidr, Reason};

use crate::ladder::{Rung, Trouble};
use crate::source::Desired;
use crate::tunnel::{Leaving, Tunnel};

/// Most prefixes that are told of one tunnel.
const TOLD: usize = 1024;

/// The state of everything, in short.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// What was wanted when it was made: the agent has compared the kernel with it.
    pub desired: Arc<Desired>,
    /// Tunnels by network.
    pub tunnels: BTreeMap<String, TunnelSummary>,
    /// Networks of `desired.removals` of which nothing is left in the kernel.
    pub gone: BTreeSet<String>,
    /// Networks whose latest change was rolled back, and why.
    pub rolled_back: BTreeMap<String, String>,
}

/// One tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct TunnelSummary {
    /// Where it stands.
    pub rung: Rung,
    /// What the interface lacks; `None`: it is there, up, with an underlay address.
    pub interface: Option<Trouble>,
    /// Why nobody knows about SAs: the IKE daemon of a protected tunnel is away.
    pub unknown: Option<Unknown>,
    /// What keeps packets from passing through the host; `None`: nothing that is known of.
    pub hindrance: Option<Trouble>,
    /// The longest packet that gets through the tunnel to each hub, once that is measured.
    pub path_mtu: Option<u32>,
    /// Its own MTU.
    pub mtu: Option<u32>,
    /// What is to be borne in mind of how it is configured; empty: nothing.
    pub remark: String,
    /// It withdraws and will be taken away.
    pub leaving: bool,
    /// Overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Underlay address in use.
    pub nbma: Option<IpAddr>,
    /// Number of peers.
    pub peers: usize,
    /// Prefixes that it leads to, where the endpoint asks for them.
    pub prefixes: Vec<Cidr>,
    /// External spokes that are registered, with their underlay addresses, in the order of the endpoint.
    pub external: Vec<(String, IpAddr)>,
}

/// The IKE daemon is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Why.
    pub why: String,
    /// It was there since the agent started: SAs are as they were, as far as is known.
    pub met: bool,
}

impl TunnelSummary {
    /// Of a tunnel. Peers and external spokes are counted when `old` does not know better.
    pub fn new(tunnel: &Tunnel, old: Option<&Self>) -> Self {
        let (peers, external, prefixes) = match old.filter(|_| !tunnel.stirred) {
            Some(old) => (old.peers, old.external.clone(), old.prefixes.clone()),
            None => {
                let (peers, external) = count(tunnel);
                (peers, external, prefixes(tunnel))
            }
        };
        let interface = interface(tunnel);
        let local = tunnel.wanted.as_ref().map(|w| w.link.local);
        let starting = || Rung::starting("the agent has not looked at the underlay yet");
        Self {
            rung: tunnel.rung().map_or_else(starting, |(rung, _)| rung.clone()),
            addresses: tunnel.addresses().collect(),
            nbma: local.filter(|_| interface.is_none()),
            interface,
            unknown: unknown(tunnel),
            hindrance: tunnel.hindrance.clone(),
            path_mtu: tunnel.path_mtus.least(),
            mtu: tunnel.wanted.as_ref().map(|w| w.link.mtu),
            remark: tunnel.remark.clone(),
            leaving: is_leaving(tunnel),
            peers,
            external,
            prefixes,
        }
    }

    /// Of a network that is reached through another node.
    pub fn behind(rung: Rung, interface: Option<Trouble>, hindrance: Option<Trouble>) -> Self {
        Self {
            rung,
            interface,
            unknown: None,
            hindrance,
            path_mtu: None,
            mtu: None,
            remark: String::new(),
            leaving: false,
            addresses: Vec::new(),
            nbma: None,
            peers: 0,
            external: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    /// Whether this is still true of the tunnel, its counts aside. Asked after every packet: it copies nothing.
    pub fn holds(&self, tunnel: &Tunnel) -> bool {
        tunnel.rung().is_some_and(|(rung, _)| *rung == self.rung)
            && tunnel.addresses().eq(self.addresses.iter().copied())
            && is_leaving(tunnel) == self.leaving
            && tunnel.hindrance == self.hindrance
            && tunnel.path_mtus.least() == self.path_mtu
            && tunnel.wanted.as_ref().map(|w| w.link.mtu) == self.mtu
            && away(tunnel) == self.unknown.as_ref().map(|it| (it.why.as_str(), it.met))
            && tunnel.remark == self.remark
            && self.interface.is_none() == has_interface(tunnel)
            && (self.interface.is_some() || tunnel.wanted.as_ref().map(|w| w.link.local) == self.nbma)
    }
}

fn away(tunnel: &Tunnel) -> Option<(&str, bool)> {
    tunnel.spec.ipsec.as_ref()?;
    Some((tunnel.sas.away.as_deref()?, tunnel.sas.met))
}

fn unknown(tunnel: &Tunnel) -> Option<Unknown> {
    away(tunnel).map(|(why, met)| Unknown { why: why.to_owned(), met })
}

fn is_leaving(tunnel: &Tunnel) -> bool {
    tunnel.doomed || matches!(tunnel.leaving, Some(Leaving::Removed(_)))
}

fn has_interface(tunnel: &Tunnel) -> bool {
    tunnel.link != 0 && tunnel.ground.trouble.is_none() && !tunnel.ground.suspended
}

fn interface(tunnel: &Tunnel) -> Option<Trouble> {
    if tunnel.ground.suspended {
        return Some(Trouble::new(Reason::Suspended, "spec.suspend is true: the interface is down"));
    }
    let missing =
        || (tunnel.link == 0).then(|| Trouble::new(Reason::Starting, "the interface is being made"));
    tunnel.ground.trouble.clone().or_else(missing)
}

/// What it leads to besides the overlay, made as short as can be; no default routes.
fn prefixes(tunnel: &Tunnel) -> Vec<Cidr> {
    let Some(wanted) = tunnel.wanted.as_ref().filter(|_| tunnel.spec.tells_prefixes) else {
        return Vec::new();
    };
    let own = tunnel.spec.overlay.iter();
    let overlay: Vec<_> = own.map(|it| it.0).collect();
    let led = wanted.leads_to();
    let led: Vec<_> = led
        .filter(|it| it.prefix_len() > 0 && !overlay.iter().any(|net| net.contains(it) || it.contains(net)))
        .collect();
    let mut short = ipnet::IpNet::aggregate(&led);
    short.sort_unstable();
    short.truncate(TOLD);
    short.into_iter().map(Cidr).collect()
}

fn count(tunnel: &Tunnel) -> (usize, Vec<(String, IpAddr)>) {
    let Some(engine) = &tunnel.engine else { return (0, Vec::new()) };
    let registered = tunnel.spec.external.iter().filter_map(|external| {
        let from = external.overlay_addresses.iter().find_map(|address| engine.registered(*address))?;
        Some((external.name.clone(), from))
    });
    (engine.peer_count(), registered.collect())
}
