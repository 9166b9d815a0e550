//! What the operator's secrets endpoint answers to the agent of a node: `GET /v1/secrets`, over TLS, with the agent's
//! projected token (audience [`AUDIENCE`]) as bearer. Never stored in an API object.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Audience of the token that an agent shows to the operator.
pub const AUDIENCE: &str = "dmvpn.io";
/// Path of the secrets of the node that the token names.
pub const PATH: &str = "/v1/secrets";
/// Annotation of a `DmvpnEndpoint`: changes when one of its Secrets does, so that the agent asks again.
pub const REVISION_ANNOTATION: &str = "dmvpn.io/credentials-revision";

/// Secrets of all networks that have an endpoint on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSecrets {
    /// By name of the `DmvpnNetwork`; a network whose Secrets are not all there is missing.
    pub networks: BTreeMap<String, NetworkSecrets>,
}

/// Secrets of one network.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSecrets {
    /// Value of [`REVISION_ANNOTATION`] that they belong to.
    pub revision: String,
    /// Passwords for NHRP authentication, in the order of the references.
    pub nhrp_passwords: Vec<k8s_openapi::ByteString>,
    /// Pre-shared keys for IPsec, in the order of the references; an operator of before knows none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipsec_keys: Vec<k8s_openapi::ByteString>,
}

impl fmt::Debug for NetworkSecrets {
    // Passwords and keys never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkSecrets")
            .field("revision", &self.revision)
            .field("nhrp_passwords", &self.nhrp_passwords.len())
            .field("ipsec_keys", &self.ipsec_keys.len())
            .finish()
    }
}
