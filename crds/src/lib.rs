//! The `dmvpn.io/v1alpha1` API: what users write ([`DmvpnNetwork`], [`DmvpnSpoke`]), what agents carry out
//! ([`DmvpnEndpoint`]), how their state is told ([`conditions`], [`reasons`]) and what makes an object valid
//! ([`schema`]). No I/O.
//!
//! User kinds hold addresses, prefixes and host names as plain strings, bounded by the schema, so that a
//! mistake is answered in our words; `DmvpnEndpoint` has passed `compile` and holds them typed.

#![forbid(unsafe_code)]

pub mod address;
pub mod bounds;
pub mod conditions;
pub mod docs;
pub mod endpoint;
pub mod net;
pub mod network;
pub mod reasons;
pub mod schema;
pub mod secrets;
pub mod spoke;

pub use address::{DmvpnAddress, DmvpnAddressSpec};
pub use conditions::{ConditionStatus, ConditionType};
pub use endpoint::{DmvpnEndpoint, DmvpnEndpointSpec, DmvpnEndpointStatus};
pub use net::Cidr;
pub use network::{DmvpnNetwork, DmvpnNetworkSpec, DmvpnNetworkStatus};
pub use reasons::Reason;
pub use schema::FieldError;
pub use spoke::{DmvpnSpoke, DmvpnSpokeSpec, DmvpnSpokeStatus};

/// API group of all kinds.
pub const GROUP: &str = "dmvpn.io";
/// The version served and stored.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of all kinds.
pub const API_VERSION: &str = "dmvpn.io/v1alpha1";
/// Label by which a node is a hub: the value is the hub's name in `spec.hubs[]`.
pub const HUB_LABEL: &str = "dmvpn.io/hub";
/// Label of a Secret: the network that may use it.
pub const NETWORK_LABEL: &str = "dmvpn.io/network";
/// Finalizer of a `DmvpnEndpoint`: it goes only when the agent has taken its tunnel away, or the node is gone.
pub const ENDPOINT_FINALIZER: &str = "dmvpn.io/endpoint";
/// Value of `status.state` of an endpoint whose tunnel was taken away on request (`desired: Absent`).
pub const STATE_ABSENT: &str = "Absent";
/// Value of `status.state` of an endpoint whose agent does not report.
pub const STATE_UNKNOWN: &str = "Unknown";
/// Field manager of the operator.
pub const OPERATOR_MANAGER: &str = "dmvpn-operator";

/// Field manager of the agent of a node.
pub fn agent_manager(node: &str) -> String {
    // The API server takes at most 128 characters.
    format!("dmvpn-agent/{node}").chars().take(128).collect()
}
