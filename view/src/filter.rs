//! Narrowing of a report to some of its tunnels.

use thiserror::Error;

use crate::report::{Report, Tunnel};

/// Which tunnels are wanted; `None` admits every one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Name of the tunnel interface.
    pub interface: Option<String>,
    /// Name of the `DmvpnNetwork`.
    pub network: Option<String>,
}

impl Filter {
    /// The report with only the tunnels that are wanted. Problems stay: they belong to objects, not to tunnels.
    ///
    /// # Errors
    /// [`NoSuchTunnel`] when something was asked for by name and nothing is left.
    pub fn apply(&self, report: &Report) -> Result<Report, NoSuchTunnel> {
        let tunnels: Vec<Tunnel> = report.tunnels.iter().filter(|t| self.admits(t)).cloned().collect();
        if tunnels.is_empty() && *self != Self::default() {
            return Err(NoSuchTunnel {
                wanted: self.words(),
                node: report.node.clone(),
                present: present(report),
            });
        }
        Ok(Report { tunnels, ..report.clone() })
    }

    fn admits(&self, tunnel: &Tunnel) -> bool {
        let interface = self.interface.as_ref().is_none_or(|name| *name == tunnel.interface);
        let network = self.network.as_ref().is_none_or(|name| *name == tunnel.network);
        interface && network
    }

    fn words(&self) -> String {
        let interface = self.interface.as_ref().map(|name| format!("interface {name}"));
        let network = self.network.as_ref().map(|name| format!("network {name}"));
        interface.into_iter().chain(network).collect::<Vec<_>>().join(" and ")
    }
}

/// Nothing on the node has the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("node {node} has no tunnel with {wanted}; it has {present}")]
pub struct NoSuchTunnel {
    wanted: String,
    node: String,
    present: String,
}

fn present(report: &Report) -> String {
    if report.tunnels.is_empty() {
        return "none at all".into();
    }
    let names = report.tunnels.iter().map(|t| format!("{} (network {})", t.interface, t.network));
    names.collect::<Vec<_>>().join(", ")
}
