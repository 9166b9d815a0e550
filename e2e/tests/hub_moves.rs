//! The hub moves to another site: one line of YAML (its underlay address) changes on every box. The branches register
//! with the new one under the same overlay address, the old one's registrations are withdrawn, traffic goes on.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Agent, Lab};
use e2e::scene::Scene;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{self, NETWORK};
use e2e::{ring3, wait};

const SOON: Duration = Duration::from_secs(20);

#[test]
#[expect(clippy::redundant_closure, reason = "the closure's type names the test")]
fn branches_follow_a_hub_that_moves() {
    ring3(|lab| moves(lab));
}

fn moves(lab: &Lab) -> Result<()> {
    let branches = Branches::start(Scene::build(lab)?)?;
    let (old, new) = (branches.scene.site("hub")?, branches.scene.site("router")?);
    let network = overlay::quickstart("network.yaml")?;
    let moved = network.replace(&old.nbma().to_string(), &new.nbma().to_string());
    ensure!(moved != network, "the quickstart's hub is not at {}", old.nbma());
    let files = [("network.yaml".to_owned(), moved.clone())].into();
    let hub = Agent::start(&new.host, &["dmvpn.io/hub=hub1"], &files)?;
    let agents = [&branches.overlay.branch_a, &branches.overlay.branch_b];
    for agent in agents {
        agent.write("network.yaml", &moved)?;
    }
    for agent in agents {
        let name = agent.host().name().to_owned();
        wait::until(SOON, &format!("{name} to be up with the new hub"), || {
            let tunnel = agent.tunnel(NETWORK)?;
            let nhs = tunnel.nhs.iter().find(|n| n.nbma == Some(new.nbma().into()));
            ensure!(nhs.is_some_and(|n| n.state == view::State::Up), "{:?}", tunnel.nhs);
            ensure!(tunnel.nhs.len() == 1, "{:?}", tunnel.nhs);
            Ok(())
        })?;
    }
    wait::until(SOON, "the new hub to know both branches", || {
        let peers = hub.tunnel(NETWORK)?.peers;
        for branch in [overlay::BRANCH_A, overlay::BRANCH_B] {
            ensure!(peers.iter().any(|p| p.address == branch), "{branch}: {peers:?}");
        }
        Ok(())
    })?;
    branches.make_direct()?;
    branches.ensure_direct_traffic()?;
    wait::until(SOON, "the old hub to forget the branches", || {
        let peers = branches.overlay.hub.tunnel(NETWORK)?.peers;
        ensure!(peers.is_empty(), "{peers:?}");
        Ok(())
    })
}
