//! What a tunnel wants to find out about the ways to its hubs, and what came of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crds::Reason;
use dataplane::GreRefused;
use nhrp::{NhsPhase, Time};

use super::Tunnel;
use crate::path_mtu::PathMtus;

/// A silent hub is probed this often at the most, in milliseconds.
const PROBE_MS: u64 = 5_000;

/// A way to a hub that is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Our underlay address.
    pub local: IpAddr,
    /// The hub's.
    pub nbma: IpAddr,
    /// Our overlay address.
    pub own: IpAddr,
    /// The hub's.
    pub overlay: IpAddr,
    /// Name of the tunnel link.
    pub link: String,
    /// The VRF of the underlay, if it is in one.
    pub vrf: Option<String>,
    /// The VRF of the overlay, if it is in one.
    pub overlay_vrf: Option<String>,
}

impl Tunnel {
    /// Silent hubs whose way is to be looked at now, and how. Under IPsec their GRE is nobody's to see.
    pub fn probes(&mut self, now: Time) -> Vec<Probe> {
        let Some(wanted) = self.wanted.as_ref().filter(|_| self.link != 0 && self.spec.ipsec.is_none())
        else {
            return Vec::new();
        };
        let states = match &self.engine {
            Some(engine) if self.silent => engine.nhs_states(now),
            _ => Vec::new(),
        };
        let silent = states.into_iter().filter(|it| it.reason_code == Reason::NoAnswer.as_str());
        let silent: BTreeMap<_, _> = silent.filter_map(|it| Some((it.nbma?, it.overlay?))).collect();
        self.probed.retain(|nbma, _| silent.contains_key(nbma));
        let mut probes = Vec::new();
        for (nbma, overlay) in silent {
            let (at, walled) = self.probed.get(&nbma).copied().unwrap_or_default();
            let own = self.addresses().find(|own| own.is_ipv4() == overlay.is_ipv4());
            let due = at == Time::default() || now.since(at) >= PROBE_MS;
            if let Some(own) = own.filter(|_| due) {
                self.probed.insert(nbma, (now, walled));
                let (local, link) = (wanted.link.local, wanted.link.name.clone());
                let vrf = self.spec.tunnel.source.vrf.clone();
                let overlay_vrf = self.spec.tunnel.vrf.clone();
                probes.push(Probe { local, nbma, own, overlay, link, vrf, overlay_vrf });
            }
        }
        probes
    }

    /// Hubs that answer, the path MTU to which is to be measured now, and the MTU of the tunnel.
    pub fn path_probes(&mut self, now: Time) -> Vec<(Probe, u16)> {
        let goes = self.link != 0 && self.leaving.is_none() && !self.spec.nhs.is_empty();
        let Some(wanted) = self.wanted.as_ref().filter(|wanted| goes && wanted.link.up) else {
            // Nothing is due that cannot be done.
            self.path_mtus = PathMtus::default();
            self.paths_of = (0, 0);
            return Vec::new();
        };
        let up = self.standing.hubs.values().filter(|(rung, _)| rung.state == view::State::Up).count();
        let of = (up, wanted.link.mtu);
        let due = self.path_mtus.next().is_some_and(|at| at <= now);
        if of == self.paths_of && !due {
            return Vec::new();
        }
        let states = self.engine.as_ref().map(|engine| engine.nhs_states(now)).unwrap_or_default();
        let answering = states.into_iter().filter(|state| state.phase == NhsPhase::Responding);
        let hubs: BTreeMap<_, _> = answering.filter_map(|it| Some((it.nbma?, it.overlay?))).collect();
        let (local, link) = (wanted.link.local, wanted.link.name.clone());
        let addresses: Vec<_> = self.addresses().collect();
        self.paths_of = of;
        let due = self.path_mtus.due(&hubs.keys().copied().collect::<Vec<_>>(), of.1, now);
        let probe = |nbma: IpAddr| {
            let overlay = *hubs.get(&nbma)?;
            let own = addresses.iter().copied().find(|own| own.is_ipv4() == overlay.is_ipv4())?;
            let (vrf, overlay_vrf) = (self.spec.tunnel.source.vrf.clone(), self.spec.tunnel.vrf.clone());
            let probe = Probe { local, nbma, own, overlay, link: link.clone(), vrf, overlay_vrf };
            Some((probe, u16::try_from(of.1).ok()?))
        };
        due.into_iter().filter_map(probe).collect()
    }

    /// A host says that it has no tunnel for what we sent it. Anybody can say so in any host's name: of those alone that are
    /// hubs is it borne in mind.
    pub fn note_refusal(&mut self, refused: &GreRefused, now: Time) {
        let ours = self.wanted.as_ref().is_some_and(|wanted| wanted.link.local == refused.from);
        if !ours || self.spec.tunnel.key != refused.key {
            return;
        }
        let states = self.engine.as_ref().map(|engine| engine.nhs_states(now)).unwrap_or_default();
        if states.iter().any(|state| state.nbma == Some(refused.by)) {
            self.refused.insert(refused.by, now);
        }
    }

    /// What a probe showed.
    pub fn probe_seen(&mut self, nbma: IpAddr, walled: bool, now: Time) {
        if let Some((_, known)) = self.probed.get_mut(&nbma) {
            self.stirred |= *known != walled;
            *known = walled;
            self.stand(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{NhrpFacts, Wanted, nhrp_config};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn no_refusal_counts_but_a_hubs() {
        let spec = serde_json::json!({
            "network": "n", "nodeName": "a", "desired": "Present", "role": "Spoke", "phase": "Phase3",
            "overlay": ["10.255.0.0/16"], "addresses": [{"address": "10.255.0.11", "owner": "a"}],
            "nhs": [{"name": "hub1", "priority": 0, "cluster": 0, "overlayAddresses": ["10.255.0.1"],
                     "nbma": [{"address": "2001:db8::1"}]}],
            "tunnel": {
                "interfaceName": "t", "source": {"from": "DefaultRoute"}, "underlayFamily": "IPv6", "key": 100,
                "mtuPolicy": "Fixed", "mtu": 1400, "tcpMssPolicy": "Clamp", "ttl": 255, "dscpPolicy": "Copy",
                "interfaceState": "Always"
            },
            "nhrp": {
                "mode": "Enabled", "networkId": 100, "holdTimeSeconds": 600, "uniquenessPolicy": "Identity",
                "registrationUnique": true
            },
            "routing": {"protocol": "NHRP", "metric": 100}
        });
        let mut tunnel = Tunnel::new(serde_json::from_value(spec).expect("endpoint"), Vec::new());
        let (local, hub, now) = (ip("2001:db8::2"), ip("2001:db8::1"), Time(10_000));
        tunnel.wanted = Some(Wanted::new(&tunnel.spec, local, None));
        let facts = NhrpFacts { link: 7, nbma: Some(local), ..NhrpFacts::default() };
        tunnel.engine = Some(nhrp::Engine::new(nhrp_config(&tunnel.spec, &facts), 1, now));
        let right = GreRefused { by: hub, from: local, key: Some(100) };
        for n in 0..1000_u128 {
            let by = (0x2001_0db8_0001 << 80 | n).to_be_bytes();
            tunnel.note_refusal(&GreRefused { by: by.into(), ..right }, now);
        }
        tunnel.note_refusal(&GreRefused { key: Some(101), ..right }, now);
        tunnel.note_refusal(&GreRefused { from: hub, ..right }, now);
        assert!(tunnel.refused.is_empty(), "{:?}", tunnel.refused);
        tunnel.note_refusal(&right, now);
        assert_eq!(tunnel.refused, BTreeMap::from([(hub, now)]));
    }
}
