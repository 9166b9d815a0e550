//! `DmvpnAddress`: one overlay address that the operator allocated. The object's name is made of network and
//! address, so that the API server itself keeps two owners from getting the same one.

#![allow(clippy::duplicated_attributes, reason = "printer columns share their type")]

use std::net::{IpAddr, Ipv6Addr};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::{self, rules};

/// An overlay address that was allocated from a network's pools, and to whom.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "dmvpn.io",
    version = "v1alpha1",
    kind = "DmvpnAddress",
    plural = "dmvpnaddresses",
    shortname = "daddr",
    category = "dmvpn",
    derive = "PartialEq",
    cel,
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "Owner", type_ = "string", json_path = ".spec.owner"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "self == oldSelf",
    "an allocation is immutable: delete it, and the operator allocates anew",
    "",
)])))]
pub struct DmvpnAddressSpec {
    /// Name of the `DmvpnNetwork`.
    #[schemars(schema_with = "bounds::subdomain")]
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// Whose it is: the spoke's name, or `spoke/node` for placement EveryNode.
    #[schemars(schema_with = "bounds::owner")]
    pub owner: String,
}

/// Name of the object that holds `address` of `network`: there is exactly one for each pair.
pub fn object_name(network: &str, address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{network}-{v4}"),
        // Written out: `::` cannot be in a name, and each address has one form only.
        IpAddr::V6(v6) => format!("{network}-{}", written_out(v6)),
    }
}

fn written_out(address: Ipv6Addr) -> String {
    address.segments().map(|s| format!("{s:04x}")).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_of_objects_and_differ() {
        let name = |a: &str| object_name("branches", a.parse().unwrap());
        assert_eq!(name("10.255.16.1"), "branches-10.255.16.1");
        assert_eq!(name("fd00:255::1"), "branches-fd00-0255-0000-0000-0000-0000-0000-0001");
        assert_ne!(name("fd00::1"), name("fd00:0:1::"));
    }
}
