//! From what the agent knows to `DmvpnEndpoint.status`. Pure, but for [`writer`].
//!
//! [`verdict`] says what is to be said of an object; [`decide`] whether, and when, that has to be written: transitions at
//! once, mere numbers of peers gathered, nothing while nothing changes.

#[cfg(test)]
mod tests;
mod verdict;
pub mod writer;

use std::time::Duration;

use crds::{DmvpnEndpointStatus, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

pub use verdict::{OWNED, Verdict, verdict};

/// Mere numbers of peers, and what somebody else wrote over our status, are written at most this often.
pub const GATHER: Duration = Duration::from_secs(5);
/// After its start an agent finds its tunnels up again within this time: until then it does not call them down.
pub const SETTLING: Duration = Duration::from_secs(5);

/// What was written last to an object.
#[derive(Clone, Debug)]
pub struct Written {
    /// UID of the object.
    pub uid: String,
    /// The status.
    pub status: DmvpnEndpointStatus,
    /// When, on the writer's clock; `None`: by an earlier run.
    pub at: Option<Duration>,
}

/// What to do about an object's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is as it should be.
    Nothing,
    /// Write it now.
    Write,
    /// Look again at that time, on the writer's clock.
    NotBefore(Duration),
}

/// Whether the verdict has to be written: `stored` is what the API shows, `now` the time since the writer began.
pub fn decide(
    verdict: &Verdict,
    uid: &str,
    stored: &DmvpnEndpointStatus,
    written: Option<&Written>,
    now: Duration,
) -> Step {
    let due = |at: Duration| if now >= at { Step::Write } else { Step::NotBefore(at) };
    let Some(written) = written.filter(|w| w.uid == uid) else {
        return match verdict.same(stored) {
            true => Step::Nothing,
            // The tunnel works on while the agent is replaced: its first moments are no news.
            false if verdict.passing() && was_up(stored) => due(SETTLING),
            false => Step::Write,
        };
    };
    let gathered = || written.at.map_or(Step::Write, |at| due(at + GATHER));
    if verdict.same(&written.status) {
        // What the API shows may be older than what was written, or newer and somebody else's.
        return if verdict.same(stored) { Step::Nothing } else { gathered() };
    }
    let mut counted = verdict.clone();
    counted.peers = written.status.peers;
    counted.path_mtu = written.status.path_mtu;
    if counted.same(&written.status) { gathered() } else { Step::Write }
}

fn was_up(stored: &DmvpnEndpointStatus) -> bool {
    stored.state.as_deref() == Some("Up")
}

/// The status to write: times of conditions move only where their status flips against `stored`.
pub fn status(verdict: &Verdict, stored: &DmvpnEndpointStatus, now: &Time) -> DmvpnEndpointStatus {
    let owned = |c: &&Condition| verdict.conditions.iter().any(|(type_, ..)| type_.as_str() == c.type_);
    let mut list: Vec<_> = stored.conditions.iter().filter(owned).cloned().collect();
    for (type_, status, reason, message) in &verdict.conditions {
        let generation = Some(verdict.generation);
        conditions::set(&mut list, *type_, *status, *reason, message, generation, now.clone());
    }
    DmvpnEndpointStatus {
        observed_generation: Some(verdict.generation),
        state: Some(verdict.state.clone()),
        tunnel_ip: verdict.tunnel_ip.clone(),
        nbma: verdict.nbma.clone(),
        peers: verdict.peers,
        path_mtu: verdict.path_mtu.or(stored.path_mtu),
        external: verdict.external.clone(),
        prefixes: verdict.prefixes.clone(),
        conditions: list,
    }
}
