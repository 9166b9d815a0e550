//! Protected tunnels: whom the IKE daemon has to reach, and packets that wait until it has.
//!
//! An NHRP packet to somebody without an SA would be dropped by the guard (nft): it is held until the SA is there, and
//! the packet itself is the wish for it. So IKE comes first, and then whatever NHRP says straight: registration, answer,
//! proof of a path. Data stays on the hub's path until that proof, as without IPsec.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::Reason;
use crds::endpoint::Role;
use crds::network::{Phase, UdpEncapsulation};
use dataplane::nft;
use nhrp::Time;
use tracing::warn;

use super::Agent;
use crate::clock;
use crate::drivers::ipsec::IpsecDriver;
use crate::guarded::Packet;
use crate::ladder::Trouble;
use crate::plan::ipsec::{self, Protection, Wish};
use crate::plan::nhrp::nbma_addresses;
use crate::tunnel::Tunnel;

impl Agent {
    /// Tells the IKE daemon what is wanted of it. It is not looked for before something is.
    pub(super) fn secure(&mut self) {
        let first = self.first_protected();
        let ours = self.tunnels.values().filter(|t| Some(&t.spec.network) == first);
        let all: Vec<_> = ours.filter_map(|t| protection(t, &self.names, clock::now())).collect();
        if self.ipsec.is_none() && all.is_empty() {
            return;
        }
        let driver =
            self.ipsec.get_or_insert_with(|| IpsecDriver::start(&self.identity.vici, self.to_sas.clone()));
        // What this agent had and has no more has said farewell; of others it may not have heard yet.
        let asked = |network: &String| self.desired.removals.iter().any(|r| r.spec.network == *network);
        let over = |network: &&String| {
            !self.tunnels.contains_key(*network) && (self.met.contains(*network) || asked(network))
        };
        let over = self.sas.held.iter().filter(over).cloned().collect();
        self.wished = ipsec::wanted(&all);
        let specs = self.tunnels.values().map(|t| &t.spec);
        let denied = specs.filter_map(|spec| {
            let denied = &spec.ipsec.as_ref()?.denied_identities;
            (!denied.is_empty()).then(|| (spec.network.clone(), denied.iter().cloned().collect()))
        });
        driver.want(Wish { loaded: self.wished.clone(), over, denied: denied.collect() });
    }

    /// Whether the IKE daemon, as far as it can be asked, holds something of a network.
    pub(super) fn is_held(&self, network: &str) -> bool {
        self.ipsec.is_some() && self.sas.away.is_none() && self.sas.holds(network)
    }

    /// The network that IKE is spoken for. One on a node: of two keys for all who come nothing says which is whose.
    fn first_protected(&self) -> Option<&String> {
        self.tunnels.iter().find(|(_, t)| t.spec.ipsec.is_some()).map(|(network, _)| network)
    }

    /// Why a protected tunnel has to stay down, behind its guard.
    pub(super) fn unprotectable(&self, network: &str) -> Option<Trouble> {
        self.tunnels.get(network)?.spec.ipsec.as_ref()?;
        let first = self.first_protected().filter(|first| *first != network)?;
        let message = format!(
            "spec.ipsec.mode: Required in two networks on one node is not supported by this version: {first} has it \
             here, use Disabled in {network}, or another node"
        );
        Some(Trouble::new(Reason::NotSupported, message))
    }

    /// Lets through what peers may send from now on, before they are told that they may.
    pub(super) async fn admit(&mut self, network: &str) {
        let Some(tunnel) = self.tunnels.get_mut(network) else { return };
        let Some(wanted) =
            tunnel.wanted.as_mut().filter(|it| it.nft.sources.is_some() && it.sources.is_stirred())
        else {
            return;
        };
        if tunnel.loaded_nft.is_none() {
            return;
        }
        let senders = wanted.senders();
        let text = nft::senders(network, &tunnel.senders, &senders);
        if text.is_empty() {
            return;
        }
        match nft::load(&text).await {
            Ok(()) => tunnel.senders = senders,
            Err(error) => {
                warn!(network, %error, "what peers may send");
                // All of it anew.
                tunnel.loaded_nft = None;
                self.reconcile_at = clock::now();
            }
        }
    }

    /// The IKE daemon came, went, or has other SAs.
    pub(super) async fn sas_changed(&mut self) {
        let now = clock::now();
        if self.desired.removals.iter().any(|r| !self.gone.contains(&r.spec.network)) {
            self.reconcile_at = now;
        }
        for (network, tunnel) in &mut self.tunnels {
            if tunnel.spec.ipsec.is_none() {
                continue;
            }
            tunnel.sas.clone_from(&self.sas);
            tunnel.identify(now);
            let sas = &tunnel.sas;
            let released = tunnel.guarded.release(now, |peer| sas.secured(network, peer));
            if let (Some(socket), false) = (&tunnel.socket, released.is_empty()) {
                socket.send(network, &released).await;
            }
            tunnel.stirred = true;
            tunnel.stand(now);
        }
    }
}

/// Of what the engine of a protected tunnel sends, what can go now.
pub(super) fn pass(tunnel: &mut Tunnel, packets: Vec<Packet>, now: Time) -> Vec<Packet> {
    // A hub waits to be met. Without a daemon nobody knows what the kernel has: the guard decides.
    let waits = tunnel.spec.ipsec.is_some() && tunnel.spec.role != Role::Hub && tunnel.sas.away.is_none();
    if !waits {
        return packets;
    }
    let (sas, network) = (&tunnel.sas, &tunnel.spec.network);
    // Whoever registered with us has come by himself, and comes again.
    let met = |peer| sas.secured(network, peer);
    tunnel.guarded.pass(packets, now, met)
}

/// What the IKE daemon is to do for a tunnel; `None`: nothing, or not yet.
fn protection(tunnel: &Tunnel, names: &BTreeMap<String, Vec<IpAddr>>, now: Time) -> Option<Protection> {
    let settings = tunnel.spec.ipsec.as_ref()?;
    let wanted = tunnel.wanted.as_ref()?;
    if tunnel.ground.suspended && tunnel.leaving.is_none() {
        return None;
    }
    let role = tunnel.spec.role;
    let hubs: BTreeSet<IpAddr> = match wanted.link.remote {
        Some(remote) => [remote].into(),
        None => {
            let named =
                tunnel.spec.nhs.iter().flat_map(|hub| &hub.nbma).flat_map(|n| nbma_addresses(n, names));
            let told = tunnel.engine.iter().flat_map(nhrp::Engine::hubs).flat_map(|hub| hub.nbma);
            named.chain(told.copied()).filter(IpAddr::is_ipv4).collect()
        }
    };
    let mut peers = if role == Role::Hub { BTreeSet::new() } else { hubs.clone() };
    if role == Role::Spoke && wanted.link.remote.is_none() {
        peers.extend(wanted.neighbours().map(|(_, nbma)| nbma));
        peers.extend(tunnel.guarded.asked(now));
    }
    peers.remove(&wanted.link.local);
    Some(Protection {
        network: tunnel.spec.network.clone(),
        local: wanted.link.local,
        answers: role != Role::Spoke || tunnel.spec.phase != Phase::Phase1,
        peers,
        hubs,
        keys: tunnel.guarded.keys.clone(),
        certificate: tunnel.guarded.certificate.clone(),
        identity: settings.identity.clone(),
        identities: identities(tunnel, names),
        proposals: settings.proposals.clone(),
        rekey_seconds: settings.rekey_seconds,
        dpd_seconds: settings.dpd_seconds,
        in_udp: settings.udp_encapsulation == UdpEncapsulation::Always,
    })
}

/// Who the hubs have to be.
fn identities(tunnel: &Tunnel, names: &BTreeMap<String, Vec<IpAddr>>) -> BTreeMap<IpAddr, String> {
    let named = tunnel.spec.nhs.iter().filter_map(|hub| Some((hub, hub.identity.as_ref()?)));
    let addresses = named.flat_map(|(hub, identity)| {
        let nbma = hub.nbma.iter().flat_map(|n| nbma_addresses(n, names));
        nbma.map(move |address| (address, identity.clone()))
    });
    addresses.collect()
}
