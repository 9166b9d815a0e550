//! What this version does not do yet, one row each: asking for it gives `Accepted=False, NotSupported`, never
//! silence. Whoever builds a feature removes its row.

use crds::network::{
    AuthenticationType, Certificate, DmvpnNetworkSpec, DscpPolicy, IpsecMode, MulticastMode, NhrpMode, Phase,
    RegistrationPolicy, RoutingProtocol, UnderlayFamily,
};
use crds::spoke::DmvpnSpokeSpec;
use crds::{Reason, schema};
use serde::Serialize;

use crate::findings::Faults;

/// Rows for each kind of object.
#[derive(Clone, Copy)]
pub(crate) struct Support {
    network: &'static [Row<DmvpnNetworkSpec>],
    spoke: &'static [Row<DmvpnSpokeSpec>],
}

impl Support {
    /// What this version does.
    pub(crate) const THIS_VERSION: Self = Self { network: NETWORK, spoke: SPOKE };
    /// All that the API can express, to test what is built before its row goes.
    #[cfg(test)]
    pub(crate) const ALL: Self = Self { network: &[], spoke: &[] };

    pub(crate) fn check_network(self, spec: &DmvpnNetworkSpec, faults: &mut Faults) {
        check(self.network, spec, faults);
    }

    /// What is only there on boxes; `cluster`: some node here is a cluster's.
    pub(crate) fn check_place(self, spec: &DmvpnNetworkSpec, cluster: bool, faults: &mut Faults) {
        if cluster && !self.network.is_empty() && certificate(spec).is_some() {
            let field = "spec.ipsec.authentication.type";
            let message = format!(
                "{field}: Certificate is not supported on nodes of a cluster by this version: use PSK, or run its \
                 sites as boxes"
            );
            faults.reject(Reason::NotSupported, field, message);
        }
    }

    pub(crate) fn check_spoke(self, spec: &DmvpnSpokeSpec, faults: &mut Faults) {
        check(self.spoke, spec, faults);
    }
}

/// Something that is not supported: where it is asked for, and what to use instead.
struct Row<T: 'static> {
    asked: fn(&T) -> Vec<Ask>,
    instead: &'static str,
}

/// A field and its value.
struct Ask(String, String);

fn check<T>(rows: &[Row<T>], spec: &T, faults: &mut Faults) {
    for row in rows {
        for Ask(field, value) in (row.asked)(spec) {
            let message = format!("{field}: {value} is not supported by this version: {}", row.instead);
            faults.reject(Reason::NotSupported, field, message);
        }
    }
}

const NETWORK: &[Row<DmvpnNetworkSpec>] = &[
    Row {
        asked: |s| {
            let proven = certificate(s).is_some();
            let named = hubs(s, |h| h.identity.as_ref().map(|i| ("identity", text(i))));
            if proven { Vec::new() } else { named }
        },
        instead: "remove it; nothing proves an identity without certificates",
    },
    Row {
        asked: |s| match protected(s) || over_ipv6(s) {
            true => hubs(s, |h| Some(("tunnelSource.vrf", text(h.tunnel_source.as_ref()?.vrf.as_ref()?)))),
            false => Vec::new(),
        },
        instead: "under IPsec and over an IPv6 underlay remove it",
    },
    Row {
        asked: |s| {
            // Next hops that the kernel asks for: links over IPv6 ask for none.
            when(over_ipv6(s) && s.phase == Phase::Phase2, "spec.phase", s.phase)
        },
        instead: "over an IPv6 underlay use Phase3 or Phase1",
    },
    Row {
        asked: |s| some("spec.tunnel.keepalive", s.tunnel.keepalive.as_ref().filter(|_| over_ipv6(s))),
        instead: "over an IPv6 underlay remove it",
    },
    Row {
        // A link over IPv6 does not say whose packet came out of it, who would get it back.
        asked: |s| {
            let multicast = s.nhrp.multicast.as_ref().filter(|_| over_ipv6(s));
            multicast.map(|it| list("spec.nhrp.multicast.groups", &it.groups)).unwrap_or_default()
        },
        instead: "over an IPv6 underlay remove it: link-local groups alone are carried",
    },
    Row {
        asked: |s| {
            // The kernel's links in metadata mode take the outer class from the route.
            let copies = s.tunnel.dscp_policy != DscpPolicy::Clear;
            when(copies && over_ipv6(s), "spec.tunnel.dscpPolicy", s.tunnel.dscp_policy)
        },
        instead: "over an IPv6 underlay use Clear",
    },
    Row {
        asked: |s| {
            let alone = protected(s)
                || over_ipv6(s)
                || s.nhrp.multicast.as_ref().is_some_and(|it| it.mode != MulticastMode::None);
            some("spec.tunnel.vrf", s.tunnel.vrf.as_ref().filter(|_| alone))
        },
        instead: "with IPsec, an IPv6 underlay or multicast remove it",
    },
    Row {
        asked: |s| {
            let policy = s.registration.policy;
            when(policy != RegistrationPolicy::Any && !tells_apart(s), "spec.registration.policy", policy)
        },
        instead: "use Any, or certificates; nothing else proves who somebody is",
    },
    Row { asked: |s| list("spec.groups", &s.groups), instead: "remove it" },
    Row { asked: |s| some("spec.access", s.access.as_ref()), instead: "remove it" },
    Row {
        // Links over IPv6 have no next hop that a packet could be told by; without NHRP nobody registers.
        asked: |s| {
            let unshaped = over_ipv6(s) || s.nhrp.mode == NhrpMode::Disabled;
            some("spec.qos", s.qos.as_ref().filter(|_| unshaped))
        },
        instead: "over an IPv6 underlay and without NHRP remove it",
    },
    Row {
        asked: |s| {
            let by = certificate(s).and_then(|it| it.issuer_ref.as_ref());
            some("spec.ipsec.authentication.certificate.issuerRef", by)
        },
        instead: "use secretRef",
    },
    Row {
        asked: |s| {
            let signer = certificate(s).is_some_and(|it| it.secret_ref.is_none() && it.issuer_ref.is_none());
            when(signer, "spec.ipsec.authentication.certificate.secretRef", "our own signer")
        },
        instead: "name the Secret that each box has its certificate in (keys tls.crt and tls.key)",
    },
    Row {
        asked: |s| {
            let none = certificate(s).is_some_and(|it| it.ca_secret_refs.is_empty());
            when(none, "spec.ipsec.authentication.certificate.caSecretRefs", "no root")
        },
        instead: "name a Secret with the root that signs the certificates (key ca.crt)",
    },
    Row {
        asked: |s| {
            let by = s.ipsec.authentication.as_ref().filter(|_| protected(s));
            let own =
                by.is_some_and(|it| it.type_ == AuthenticationType::Psk && it.psk_secret_refs.is_empty());
            when(own, "spec.ipsec.authentication.pskSecretRefs", "a key for each spoke")
        },
        instead: "name Secrets with the network's key",
    },
    Row {
        asked: |s| {
            let denied =
                if protected(s) && !tells_apart(s) { s.ipsec.denied_identities.as_slice() } else { &[] };
            list("spec.ipsec.deniedIdentities", denied)
        },
        instead: "remove it; with one key for all nothing proves an identity",
    },
    Row {
        asked: |s| {
            let family = s.tunnel.underlay_family;
            when(protected(s) && over_ipv6(s), "spec.tunnel.underlayFamily", family)
        },
        instead: "under IPsec use IPv4",
    },
    Row {
        asked: |s| {
            let plain = protected(s) && s.nhrp.mode == NhrpMode::Disabled;
            when(plain, "spec.ipsec.mode", "Required without NHRP")
        },
        instead: "use nhrp.mode Enabled, or Disabled",
    },
    Row {
        asked: |s| {
            let protocol = s.routing.protocol;
            let ours =
                matches!(protocol, RoutingProtocol::Nhrp | RoutingProtocol::Static | RoutingProtocol::None);
            when(!ours, "spec.routing.protocol", protocol)
        },
        instead: "use NHRP, Static or None",
    },
    Row { asked: |s| some("spec.routing.distance", s.routing.distance.as_ref()), instead: "remove it" },
    Row { asked: |s| list("spec.routing.import", &s.routing.import), instead: "remove it" },
    Row { asked: |s| list("spec.routing.export", &s.routing.export), instead: "remove it" },
];

const SPOKE: &[Row<DmvpnSpokeSpec>] = &[
    Row { asked: |s| list("spec.pskSecretRefs", &s.psk_secret_refs), instead: "remove it" },
    Row { asked: |s| some("spec.group", s.group.as_ref()), instead: "remove it" },
];

fn protected(spec: &DmvpnNetworkSpec) -> bool {
    spec.ipsec.mode == IpsecMode::Required
}

/// Whether IPsec says which member somebody is.
pub(crate) fn tells_apart(spec: &DmvpnNetworkSpec) -> bool {
    certificate(spec).is_some()
}

/// Where certificates come from, if they protect the tunnel.
fn certificate(spec: &DmvpnNetworkSpec) -> Option<&Certificate> {
    spec.ipsec.authentication.as_ref().filter(|_| protected(spec))?.certificate.as_ref()
}

fn over_ipv6(spec: &DmvpnNetworkSpec) -> bool {
    spec.tunnel.underlay_family == UnderlayFamily::IPv6
}

fn when(asked: bool, field: &str, value: impl Serialize) -> Vec<Ask> {
    if asked { vec![Ask(field.to_owned(), text(value))] } else { Vec::new() }
}

fn some<T: Serialize>(field: &str, value: Option<&T>) -> Vec<Ask> {
    value.map(|v| Ask(field.to_owned(), text(v))).into_iter().collect()
}

fn list<T: Serialize>(field: &str, value: &[T]) -> Vec<Ask> {
    when(!value.is_empty(), field, value)
}

fn hubs(
    spec: &DmvpnNetworkSpec,
    asked: fn(&crds::network::Hub) -> Option<(&'static str, String)>,
) -> Vec<Ask> {
    let asks = spec.hubs.iter().enumerate().filter_map(|(i, hub)| Some((i, asked(hub)?)));
    asks.map(|(i, (field, value))| Ask(format!("spec.hubs[{i}].{field}"), value)).collect()
}

/// A value as a person wrote it.
fn text(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(value) => schema::show(&value),
        Err(_) => String::new(),
    }
}
