//! What another member needs of a network. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use crds::network::{AssignedBy, RegistrationPolicy};
use crds::{Cidr, DmvpnNetwork};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Blocks of a wished size that are looked at before the overlay counts as full.
const LOOKED_AT: usize = 1 << 16;

/// Who shall join, and as what.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) network: String,
    /// Name of the DmvpnSpoke; absent: made of network and place.
    pub(crate) name: Option<String>,
    pub(crate) place: Place,
    pub(crate) subnets: Vec<Cidr>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pool: Option<Pool>,
    /// The pool or the addresses were handed out to this member before.
    pub(crate) again: bool,
    pub(crate) pods: bool,
    /// Namespace of the Secrets in the other cluster; absent: as here.
    pub(crate) target_namespace: Option<String>,
}

/// Where the tunnels of the new member are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Node(String),
    Every(BTreeMap<String, String>),
}

/// The part of the overlay that the new member allocates its addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    This(Cidr),
    /// One that is free, of this prefix length.
    Any(u8),
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('/') {
            Some(length) => match length.parse() {
                Ok(length @ 1..=128) => Ok(Self::Any(length)),
                _ => Err("a prefix length is from /1 to /128".into()),
            },
            None => text.parse().map(Self::This).map_err(|e: <Cidr as FromStr>::Err| e.to_string()),
        }
    }
}

/// What the file is made of.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) network: Value,
    pub(super) spoke: Value,
    /// What is handed out by this.
    pub(super) reserve: Vec<Cidr>,
    pub(super) remarks: Vec<String>,
}

/// Works it out. `object` is the network as it is stored, `stated` the overlay addresses that its spokes name.
pub(super) fn member(
    network: &DmvpnNetwork,
    object: &Value,
    stated: &[&str],
    wish: &Wish,
) -> Result<Member, MemberError> {
    let spec = &network.spec;
    let by_hub = spec.addressing.assigned_by == AssignedBy::Hub;
    let overlay: Vec<Cidr> = spec.overlay.iter().filter_map(|it| it.parse().ok()).collect();
    let taken = taken(network, stated);
    let listed = spec.registration.policy == RegistrationPolicy::AllowListed;
    let (pool, reserve) = match wish.pool {
        Some(_) if by_hub => return Err(MemberError::HubsAssign),
        Some(_) if !wish.addresses.is_empty() => return Err(MemberError::PoolAndAddress),
        None if !by_hub && wish.addresses.is_empty() => return Err(MemberError::NoAddress),
        None => {
            let mut reserve = Vec::new();
            for address in &wish.addresses {
                let block = Cidr(IpNet::from(*address));
                // Where members are listed, the DmvpnSpoke here that lists this one states its address.
                if claim(network, &overlay, &taken, block, wish.again)? && !listed {
                    reserve.push(block);
                }
            }
            (None, reserve)
        }
        Some(_) if listed => return Err(MemberError::NotListed),
        Some(wished) => {
            let (pool, new) = find_pool(network, &overlay, &taken, wished, wish.again)?;
            (Some(pool), new.then_some(pool).into_iter().collect())
        }
    };
    let mut spoke = json!({"networkRef": {"name": wish.network}, "placement": placement(&wish.place)});
    if !wish.addresses.is_empty() {
        spoke["overlayAddresses"] = json!(wish.addresses);
    }
    if !wish.subnets.is_empty() {
        let subnets = wish.subnets.iter().map(|cidr| json!({"cidr": cidr.to_string()}));
        spoke["subnets"] = subnets.collect();
    }
    if wish.pods {
        spoke["podCIDRPolicy"] = "Announce".into();
    }
    let name = wish.name.clone().unwrap_or_else(|| match &wish.place {
        Place::Node(node) => format!("{}-{node}", wish.network),
        Place::Every(_) => format!("{}-spokes", wish.network),
    });
    Ok(Member {
        network: for_members(object, &wish.network, pool, by_hub),
        spoke: json!({
            "apiVersion": "dmvpn.io/v1alpha1",
            "kind": "DmvpnSpoke",
            "metadata": {"name": name},
            "spec": spoke,
        }),
        reserve,
        remarks: remarks(network),
    })
}

fn placement(place: &Place) -> Value {
    match place {
        Place::Node(node) => json!({"type": "Node", "nodeName": node}),
        Place::Every(labels) => json!({"type": "EveryNode", "nodeSelector": labels}),
    }
}

/// The network without what is meant for this cluster alone: where its hubs run, what it allocates from, whether it is
/// shut down here.
fn for_members(object: &Value, name: &str, pool: Option<Cidr>, by_hub: bool) -> Value {
    let mut spec = object.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    spec.remove("suspend");
    for hub in spec.get_mut("hubs").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(hub) = hub.as_object_mut() {
            hub.remove("nodeSelector");
            hub.remove("tunnelSource");
        }
    }
    if !by_hub {
        spec.remove("addressing");
    }
    if let Some(pool) = pool {
        spec.insert("addressing".into(), json!({"pools": [pool.to_string()]}));
    }
    let mut out = Map::new();
    for key in ["apiVersion", "kind"] {
        out.insert(key.into(), object.get(key).cloned().unwrap_or_default());
    }
    out.insert("metadata".into(), json!({"name": name}));
    out.insert("spec".into(), spec.into());
    out.into()
}

/// Parts of the overlay that are somebody's.
fn taken(network: &DmvpnNetwork, stated: &[&str]) -> Vec<(Cidr, &'static str)> {
    let spec = &network.spec;
    let addressing = &spec.addressing;
    let hubs = spec.hubs.iter().flat_map(|hub| &hub.overlay_addresses).map(String::as_str);
    let all = hubs.map(|it| (it, "the address of a hub"));
    let all = all.chain(stated.iter().map(|it| (*it, "the address of a spoke")));
    let all = all.chain(addressing.reserved.iter().map(|it| (it.as_str(), "reserved or handed out")));
    // Where the hubs assign, a member may have one of their pools' for good: they leave out what is reserved.
    let pools = addressing.pools.iter().filter(|_| addressing.assigned_by == AssignedBy::Cluster);
    let all = all.chain(pools.map(|it| (it.as_str(), "a pool of this cluster")));
    all.filter_map(|(it, what)| Some((block(it)?, what))).collect()
}

/// Whether this may be handed out, and is so for the first time.
fn claim(
    network: &DmvpnNetwork,
    overlay: &[Cidr],
    taken: &[(Cidr, &str)],
    wished: Cidr,
    again: bool,
) -> Result<bool, MemberError> {
    let spec = &network.spec;
    if !overlay.iter().any(|net| net.contains(&wished.0)) {
        let host = wished.prefix_len() == wished.max_prefix_len();
        let what = if host { wished.addr().to_string() } else { wished.to_string() };
        return Err(MemberError::Outside { what, overlay: spec.overlay.join(", ") });
    }
    let noted = spec.addressing.reserved.iter().any(|it| block(it) == Some(wished));
    if again && noted {
        return Ok(false);
    }
    match taken.iter().find(|(it, _)| it.overlaps(&wished)) {
        Some(_) if noted => Err(MemberError::HandedOut(wished)),
        Some((other, what)) => Err(MemberError::Taken { wished, other: *other, what: (*what).into() }),
        None => Ok(true),
    }
}

/// A pool in the overlay that touches nothing that is somebody's, and whether it is handed out for the first time.
fn find_pool(
    network: &DmvpnNetwork,
    overlay: &[Cidr],
    taken: &[(Cidr, &str)],
    wished: Pool,
    again: bool,
) -> Result<(Cidr, bool), MemberError> {
    let length = match wished {
        Pool::This(pool) => return claim(network, overlay, taken, pool, again).map(|new| (pool, new)),
        Pool::Any(length) => length,
    };
    let mut left = LOOKED_AT;
    for net in overlay {
        let Ok(blocks) = net.subnets(length) else { continue };
        let free = blocks.take(left).inspect(|_| left -= 1).map(Cidr).find(|it| {
            // The first block of an overlay is where its hubs are, or will be.
            it.network() != net.network() && !taken.iter().any(|(other, _)| other.overlaps(it))
        });
        if let Some(pool) = free {
            return Ok((pool, true));
        }
    }
    Err(MemberError::Full { length, overlay: network.spec.overlay.join(", ") })
}

/// A prefix, or an address as one.
fn block(text: &str) -> Option<Cidr> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|it| Cidr(IpNet::from(it))))
}

/// What the file alone does not do.
fn remarks(network: &DmvpnNetwork) -> Vec<String> {
    let spec = &network.spec;
    let mut out = Vec::new();
    let unreachable = spec.hubs.iter().filter(|hub| hub.nbma.is_empty());
    for hub in unreachable {
        out.push(format!("hub {} has no nbma: nobody elsewhere can reach it", hub.name));
    }
    if spec.registration.policy == RegistrationPolicy::AllowListed {
        out.push(
            "registration.policy is AllowListed: declare the new member here too, as a DmvpnSpoke with placement.type \
             External"
                .into(),
        );
    }
    let certificate = spec.ipsec.authentication.as_ref().and_then(|it| it.certificate.as_ref());
    if let Some(secret) = certificate.and_then(|it| it.secret_ref.as_ref()) {
        let name = &secret.name;
        let roots = certificate.is_some_and(|it| it.ca_secret_refs.iter().any(|it| it.name == *name));
        out.push(match roots {
            true => format!(
                "Secret {name} of the file holds the roots alone: add the new member's own tls.crt and tls.key to it"
            ),
            false => format!(
                "the new member needs a certificate of its own: Secret {name} with tls.crt and tls.key"
            ),
        });
    }
    out
}

/// Why a wish cannot be granted.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum MemberError {
    #[error(
        "nothing would give the new member a tunnel address: add --pool /24 (or a prefix) or --address, or have the hubs \
         assign them (addressing.assignedBy: Hub)"
    )]
    NoAddress,
    #[error("the hubs assign the addresses of this network (addressing.assignedBy: Hub): leave --pool out")]
    HubsAssign,
    #[error(
        "--pool and --address exclude each other: with an address of its own the new member needs no pool"
    )]
    PoolAndAddress,
    #[error("{what} is not in the overlay ({overlay})")]
    Outside { what: String, overlay: String },
    #[error(
        "{wished} overlaps {other}, which is {what}: choose another one, or let --pool /{} find one",
        if wished.prefix_len() == wished.max_prefix_len() { 24 } else { wished.prefix_len() }
    )]
    Taken { wished: Cidr, other: Cidr, what: String },
    #[error("{0} is handed out or reserved already: if it was handed out to this member, add --again")]
    HandedOut(Cidr),
    #[error(
        "registration.policy is AllowListed, and what a member takes from a pool cannot be listed: give it an --address"
    )]
    NotListed,
    #[error("there is no free /{length} in the overlay ({overlay}), or it is not a part of it")]
    Full { length: u8, overlay: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(addressing: &Value) -> (DmvpnNetwork, Value) {
        let object = json!({
            "apiVersion": "dmvpn.io/v1alpha1",
            "kind": "DmvpnNetwork",
            "metadata": {"name": "branches", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {
                "phase": "Phase3",
                "overlay": ["10.255.0.0/16", "fd00:255::/64"],
                "addressing": addressing,
                "hubs": [{
                    "name": "hub1", "overlayAddresses": ["10.255.0.1"], "nbma": [{"address": "192.0.2.2"}],
                    "nodeSelector": {"role": "gateway"}, "tunnelSource": {"from": "NodeInternalIP"}, "futureField": 1,
                }],
                "tunnel": {"key": 100},
                "suspend": true,
            },
            "status": {"observedGeneration": 1},
        });
        (serde_json::from_value(object.clone()).unwrap(), object)
    }

    fn wish() -> Wish {
        Wish {
            network: "branches".into(),
            name: None,
            place: Place::Node("west-1".into()),
            subnets: vec!["10.20.0.0/24".parse().unwrap()],
            addresses: Vec::new(),
            pool: None,
            again: false,
            pods: false,
            target_namespace: None,
        }
    }

    fn ask(addressing: &Value, change: impl FnOnce(&mut Wish)) -> Result<Member, MemberError> {
        let (network, object) = network(addressing);
        let mut wish = wish();
        change(&mut wish);
        member(&network, &object, &["10.255.2.9"], &wish)
    }

    #[test]
    fn what_is_meant_for_this_cluster_stays_here() {
        let ours = json!({"pools": ["10.255.1.0/24"]});
        let member = ask(&ours, |wish| wish.addresses = vec!["10.255.7.7".parse().unwrap()]).unwrap();
        assert_eq!(
            member.network,
            json!({
                "apiVersion": "dmvpn.io/v1alpha1",
                "kind": "DmvpnNetwork",
                "metadata": {"name": "branches"},
                "spec": {
                    "phase": "Phase3",
                    "overlay": ["10.255.0.0/16", "fd00:255::/64"],
                    "hubs": [{
                        "name": "hub1", "overlayAddresses": ["10.255.0.1"], "nbma": [{"address": "192.0.2.2"}],
                        "futureField": 1,
                    }],
                    "tunnel": {"key": 100},
                },
            })
        );
        assert_eq!(
            member.spoke,
            json!({
                "apiVersion": "dmvpn.io/v1alpha1",
                "kind": "DmvpnSpoke",
                "metadata": {"name": "branches-west-1"},
                "spec": {
                    "networkRef": {"name": "branches"},
                    "placement": {"type": "Node", "nodeName": "west-1"},
                    "overlayAddresses": ["10.255.7.7"],
                    "subnets": [{"cidr": "10.20.0.0/24"}],
                },
            })
        );
        assert_eq!(member.reserve, ["10.255.7.7/32".parse().unwrap()], "nobody else gets it");
    }

    #[test]
    fn hubs_that_assign_need_no_pool() {
        let by_hub = json!({"pools": ["10.255.1.0/24"], "assignedBy": "Hub"});
        let member = ask(&by_hub, |_| {}).unwrap();
        assert_eq!(member.network["spec"]["addressing"], by_hub, "all members have the same");
        assert_eq!(
            ask(&by_hub, |wish| wish.pool = Some(Pool::Any(24))).unwrap_err(),
            MemberError::HubsAssign
        );
    }

    /// Nothing that is somebody's is in a pool that is handed out.
    #[test]
    fn pools_are_disjoint() {
        // The first block is the hubs', the second a pool here, a spoke is in the third.
        let mut reserved: Vec<String> = vec!["10.255.3.17".into()];
        for expected in ["10.255.4.0/24", "10.255.5.0/24", "10.255.6.0/24"] {
            let here = json!({"pools": ["10.255.1.0/24"], "reserved": reserved});
            let member = ask(&here, |wish| wish.pool = Some(Pool::Any(24))).unwrap();
            assert_eq!(member.reserve[0].to_string(), expected);
            assert_eq!(member.network["spec"]["addressing"], json!({"pools": [expected]}));
            reserved.push(expected.into());
        }
        let here = json!({"pools": ["10.255.1.0/24"], "reserved": ["10.255.4.0/24"]});
        let this = |text: &str, again: bool| {
            let pool = text.parse().unwrap();
            let member = ask(&here, |wish| (wish.pool, wish.again) = (Some(pool), again));
            member.map(|it| it.reserve).map_err(|e| e.to_string())
        };
        assert_eq!(this("10.255.8.0/22", false), Ok(vec!["10.255.8.0/22".parse().unwrap()]));
        assert_eq!(this("10.255.4.0/24", true), Ok(Vec::new()), "noted before");
        for (pool, why) in [
            ("10.255.4.0/24", "add --again"),
            ("10.255.4.0/25", "overlaps 10.255.4.0/24, which is reserved or handed out"),
            ("10.255.0.0/24", "overlaps 10.255.0.1/32, which is the address of a hub"),
            ("10.255.2.0/24", "overlaps 10.255.2.9/32, which is the address of a spoke"),
            ("10.255.1.128/25", "overlaps 10.255.1.0/24, which is a pool of this cluster"),
            ("10.9.0.0/24", "not in the overlay (10.255.0.0/16, fd00:255::/64)"),
        ] {
            let error = this(pool, false).unwrap_err();
            assert!(error.contains(why), "{pool}: {error}");
        }
        assert!(!this("10.255.9.0/24", true).unwrap().is_empty(), "--again of one that was never given");
        let six = ask(&json!({}), |wish| wish.pool = Some(Pool::Any(80))).unwrap();
        assert_eq!(six.reserve[0].to_string(), "fd00:255:0:0:1::/80");
        let full = ask(&json!({}), |wish| wish.pool = Some(Pool::Any(8))).unwrap_err();
        assert_eq!(full, MemberError::Full { length: 8, overlay: "10.255.0.0/16, fd00:255::/64".into() });
    }

    #[test]
    fn a_wish_that_cannot_be_granted_says_why() {
        let none = json!({});
        assert_eq!(ask(&none, |_| {}).unwrap_err(), MemberError::NoAddress);
        let outside = ask(&none, |wish| wish.addresses = vec!["10.9.0.1".parse().unwrap()]).unwrap_err();
        assert!(matches!(outside, MemberError::Outside { .. }), "{outside}");
        let here = json!({"pools": ["10.255.1.0/24"], "reserved": ["10.255.7.7"]});
        let address = |text: &str, again: bool| {
            let address = text.parse().unwrap();
            let member = ask(&here, |wish| (wish.addresses, wish.again) = (vec![address], again));
            member.map(|it| it.reserve).map_err(|e| e.to_string())
        };
        for (text, why) in [
            ("10.255.2.9", "which is the address of a spoke"),
            ("10.255.0.1", "which is the address of a hub"),
            ("10.255.1.77", "overlaps 10.255.1.0/24, which is a pool of this cluster"),
            ("10.255.7.7", "add --again"),
        ] {
            let error = address(text, false).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert_eq!(address("10.255.7.7", true), Ok(Vec::new()));
        let both = ask(&none, |wish| {
            wish.addresses = vec!["10.255.9.9".parse().unwrap()];
            wish.pool = Some(Pool::Any(24));
        });
        assert_eq!(both.unwrap_err(), MemberError::PoolAndAddress);
        assert!("/0".parse::<Pool>().is_err() && "10.255.4.1/24".parse::<Pool>().is_err());
    }
}
