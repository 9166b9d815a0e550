//! The kernel room's own checks (`dataplane/examples/probe`) against the guest's kernel: links, tables, monitor
//! and its losses, NHRP packets, redirect capture, nft; each looked at from outside too.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::Agent;
use e2e::scene::Scene;
use e2e::scene::overlay::{NETWORK, manifests};
use e2e::{paths, ring3, ring3_without};
use view::State;

#[test]
fn the_kernel_does_what_the_data_plane_asks_of_it() {
    ring3(|_| {
        let output = Command::new(paths::example("probe")?).output().context("probe")?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "probe ended with {}: {}", output.status, last_line(&text)?);
        for part in ["create", "batch", "events", "NHRP socket", "lookup"] {
            ensure!(text.lines().any(|l| l.starts_with("ok") && l.contains(part)), "nothing about {part}");
        }
        ensure!(last_line(&text)?.starts_with("every check held"), "{}", last_line(&text)?);
        Ok(())
    });
}

fn last_line(text: &str) -> Result<&str> {
    text.lines().last().context("probe printed nothing")
}

/// A kernel that has no GRE: the tunnel stands at its first rung, and says what is to be loaded.
#[test]
fn a_kernel_without_gre_is_told_with_the_cure() {
    ring3_without(&["ipgre_init", "ip6gre_init"], |lab| {
        let scene = Scene::build(lab)?;
        let hub = &scene.site("hub")?.host;
        let agent =
            Agent::start(hub, &["dmvpn.io/hub=hub1"], &manifests(&["network.yaml", "hub-lan.yaml"])?)?;
        let told =
            agent.wait_for_state(NETWORK, State::Intf, "InterfaceNotCreated", Duration::from_secs(20))?;
        ensure!(told.message.contains("no such GRE: `modprobe ip_gre`"), "{}", told.message);
        let shown = agent.cli("show dmvpn")?;
        ensure!(shown.contains("modprobe ip_gre"), "{shown}");
        Ok(())
    });
}
