//! Where endpoints come from. [`directory`]: a directory of YAML files on a box without Kubernetes. [`kubernetes`]: the
//! objects that the operator wrote for this node.
//!
//! Whatever the source, the agent gets the same [`Desired`], and what is wrong never takes away what worked.

pub mod directory;
pub mod kubernetes;
mod last_good;

use std::sync::Arc;

use crds::endpoint::DmvpnEndpointSpec;
use serde::{Deserialize, Serialize};
use view::Problem;

use crate::plan::certificate::Certificate;
use crate::plan::ipsec::Secret;

/// Everything that this node should be, and what was wrong with the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Tunnels that should be there, one a network.
    pub endpoints: Vec<DesiredEndpoint>,
    /// Tunnels that are to be taken away because somebody asked for it (`desired: Absent`), one a network.
    pub removals: Vec<DesiredEndpoint>,
    /// What is named in neither list stays as it is: only a directory that was read as a whole says by silence that
    /// something is to go.
    pub keep_unnamed: bool,
    /// Objects and files that could not be used.
    pub problems: Vec<Problem>,
}

/// An endpoint and its secrets.
#[derive(Clone, PartialEq)]
pub struct DesiredEndpoint {
    /// The endpoint.
    pub spec: DmvpnEndpointSpec,
    /// Passwords for NHRP authentication, in the order of the references.
    pub passwords: Vec<Vec<u8>>,
    /// Pre-shared keys for IPsec, in the order of the references.
    pub keys: Vec<Secret>,
    /// Certificates for IPsec, in the place of keys.
    pub certificate: Option<Arc<Certificate>>,
    /// The API object that it is from.
    pub origin: Option<Origin>,
}

/// Which API object an endpoint is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its name.
    pub object: String,
    /// Its generation.
    pub generation: i64,
}

impl std::fmt::Debug for DesiredEndpoint {
    // Passwords never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DesiredEndpoint")
            .field("spec", &self.spec)
            .field("passwords", &self.passwords.len())
            .field("keys", &self.keys)
            .field("certificate", &self.certificate.is_some())
            .field("origin", &self.origin)
            .finish()
    }
}
