//! Where endpoints come from. [`directory`]: a directory of YAML files on a box without Kubernetes.
//!
//! Whatever the source, the agent gets the same [`Desired`], and what is wrong never takes away what worked.

pub mod directory;
mod last_good;

use crds::endpoint::DmvpnEndpointSpec;
use view::Problem;

/// Everything that this node should be, and what was wrong with the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// One a network.
    pub endpoints: Vec<DesiredEndpoint>,
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
}

impl std::fmt::Debug for DesiredEndpoint {
    // Passwords never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DesiredEndpoint")
            .field("spec", &self.spec)
            .field("passwords", &self.passwords.len())
            .finish()
    }
}
