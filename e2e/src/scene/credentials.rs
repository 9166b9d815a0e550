//! Certificates of the scene's members, as each box has them: Secrets beside the network of
//! `examples/ipsec-certificates`.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::overlay::NETWORK;
use crate::lab::Agent;
use crate::lab::authority::{Authority, Issued};
use crate::paths;

/// Years that contain today.
pub const NOW: (i32, i32) = (2020, 2090);

/// The network of the example.
///
/// # Errors
/// When it is not in the repository.
pub fn example() -> Result<String> {
    let path = paths::repository().join("examples/ipsec-certificates/network.yaml");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// A Secret of the network.
///
/// # Errors
/// Never: texts can be written.
pub fn secret(name: &str, data: &[(&str, &str)]) -> Result<String> {
    let mut text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  labels: {{dmvpn.io/network: {NETWORK}}}\nstringData:\n"
    );
    for (key, value) in data {
        writeln!(text, "  {key}: |")?;
        for line in value.lines() {
            writeln!(text, "    {line}")?;
        }
    }
    Ok(text)
}

/// Gives an agent the roots that it trusts.
///
/// # Errors
/// When they cannot be written.
pub fn trust(agent: &Agent, roots: &[&Authority]) -> Result<()> {
    let pem: String = roots.iter().map(|root| root.pem.as_str()).collect();
    agent.write("ca.yaml", &secret("branches-ca", &[("ca.crt", &pem)])?)
}

/// Gives an agent its own certificate.
///
/// # Errors
/// When it cannot be written.
pub fn own(agent: &Agent, issued: &Issued) -> Result<()> {
    let data = [("tls.crt", issued.certificate.as_str()), ("tls.key", &issued.key)];
    agent.write("own.yaml", &secret("own-certificate", &data)?)
}
