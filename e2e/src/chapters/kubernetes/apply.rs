//! Chapter 9: the same network in both clusters and on the boxes; the hub moves from its box into cluster east.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Stage, example};
use crate::lab::Frr;
use crate::scene::Scene;
use crate::scene::clusters::{EAST_1, EAST_1_TUNNEL, EAST_HUB, WEST_1, WEST_1_TUNNEL};
use crate::scene::overlay::{self, BRANCH_A, BRANCH_B, HUB, NETWORK, Overlay, ROUTER};
use crate::story::Chapter;
use crate::wait;

const SOON: Duration = Duration::from_secs(60);

pub(super) fn tell(
    chapter: &mut Chapter,
    scene: &Scene,
    stage: &Stage,
    overlay: &Overlay,
    router: &mut Frr,
) -> Result<()> {
    let network = example("network.yaml")?;
    chapter.step(
        "label node east-hub dmvpn.io/hub=hub1; kubectl apply the same network.yaml in both clusters, and each one's sites",
        "every object is accepted by the API server; east-hub is a hub by its label alone",
        || {
            stage.east.kubectl(&["label", "node", EAST_HUB, "dmvpn.io/hub=hub1"])?;
            let mut seen = Vec::new();
            for (cluster, sites) in [(&stage.east, "east.yaml"), (&stage.west, "west.yaml")] {
                let text = cluster.apply(&format!("{network}---\n{}", example(sites)?))?;
                seen.push(format!("{}: {}", cluster.name(), text.trim().replace('\n', ", ")));
            }
            let hub = wait_until_up(&stage.east, EAST_HUB)?;
            seen.push(format!("endpoint of {EAST_HUB}: {}, {}", hub["spec"]["role"], hub["status"]["state"]));
            Ok(seen.join("\n"))
        },
    )?;
    chapter.step(
        "lay the same network.yaml on branch-a and branch-b, name the new hub to FRR, and take the old hub's away",
        "all register with east-hub, under the hub's old tunnel address",
        || {
            for file in ["network.yaml", "hub-lan.yaml", "router.yaml"] {
                overlay.hub.remove(file)?;
            }
            for (agent, own) in [(&overlay.branch_a, "branch-a.yaml"), (&overlay.branch_b, "branch-b.yaml")] {
                agent.write("network.yaml", &network)?;
                agent.write(own, &overlay::quickstart(own)?)?;
            }
            overlay::move_router(scene, router, scene.site(EAST_HUB)?.nbma())?;
            for agent in [&overlay.branch_a, &overlay.branch_b] {
                let hub = scene.site(EAST_HUB)?.nbma().into();
                wait::until(SOON, &format!("{} at the new hub", agent.host().name()), || {
                    let tunnel = agent.tunnel(NETWORK)?;
                    let up = tunnel.nhs.iter().any(|n| n.nbma == Some(hub) && n.state == view::State::Up);
                    ensure!(up && tunnel.nhs.len() == 1, "{:?}", tunnel.nhs);
                    Ok(())
                })?;
            }
            Ok(format!("branch-a and branch-b are Up with {HUB} at {}", scene.site(EAST_HUB)?.nbma()))
        },
    )?;
    chapter.step(
        "kubectl wait --for=condition=Ready dmvpnnetworks,dmvpnspokes,dmvpnendpoints --all, in both clusters",
        "condition met for every object, the FRR router's DmvpnSpoke too",
        || {
            let mut seen = Vec::new();
            for cluster in [&stage.east, &stage.west] {
                let kinds = "dmvpnnetworks,dmvpnspokes,dmvpnendpoints";
                let words = ["wait", "--for=condition=Ready", kinds, "--all", "--timeout=60s"];
                let text = cluster.kubectl(&words)?;
                seen.push(format!("{}: {} objects are Ready", cluster.name(), text.lines().count()));
            }
            Ok(seen.join("\n"))
        },
    )?;
    gets_read_like_show_dmvpn(chapter, scene, stage)?;
    shows_reach_any_node(chapter, scene, stage)
}

fn gets_read_like_show_dmvpn(chapter: &mut Chapter, scene: &Scene, stage: &Stage) -> Result<()> {
    let wanted = [
        (&stage.east, EAST_HUB, "Hub", HUB),
        (&stage.east, EAST_1, "Spoke", EAST_1_TUNNEL),
        (&stage.west, WEST_1, "Spoke", WEST_1_TUNNEL),
    ];
    for cluster in [&stage.east, &stage.west] {
        let text = chapter.step_with(
            &format!("kubectl get dmvpnnetworks,dmvpnspokes,dmvpnendpoints, in {}", cluster.name()),
            "each endpoint with role, tunnel address, NBMA address, Up and Ready True",
            || {
                let text = cluster.kubectl(&["get", "dmvpnnetworks,dmvpnspokes,dmvpnendpoints"])?;
                for (_, node, role, tunnel) in wanted.iter().filter(|w| w.0.name() == cluster.name()) {
                    let nbma = scene.site(node)?.nbma().to_string();
                    let line = text.lines().find(|l| l.contains(&format!(" {node} ")));
                    let line = line.with_context(|| format!("no line of {node}:\n{text}"))?;
                    let fields: Vec<&str> = line.split_whitespace().collect();
                    for field in [*role, &tunnel.to_string(), &nbma, "Up", "True"] {
                        ensure!(fields.contains(&field), "{field} is missing in: {line}");
                    }
                }
                Ok((text, "as the kernel has it"))
            },
        )?;
        chapter.show("$ kubectl get dmvpnnetworks,dmvpnspokes,dmvpnendpoints", &text);
    }
    Ok(())
}

fn shows_reach_any_node(chapter: &mut Chapter, scene: &Scene, stage: &Stage) -> Result<()> {
    let nbma = |name: &str| -> Result<String> { Ok(scene.site(name)?.nbma().to_string()) };
    let at_hub = [
        (BRANCH_A, nbma("branch-a")?),
        (BRANCH_B, nbma("branch-b")?),
        (ROUTER, nbma("router")?),
        (EAST_1_TUNNEL, nbma(EAST_1)?),
        (WEST_1_TUNNEL, nbma(WEST_1)?),
    ];
    let at_spoke = [(HUB, nbma(EAST_HUB)?)];
    for (cluster, node, peers) in [
        (&stage.east, EAST_HUB, &at_hub[..]),
        (&stage.east, EAST_1, &at_spoke),
        (&stage.west, WEST_1, &at_spoke),
    ] {
        for words in [&["show", "dmvpn"][..], &["show", "ip", "nhrp"]] {
            let command = [&["dmvpn"], words, &["--node", node]].concat();
            let text = chapter.step_with(
                &format!("kubectl {}, in {}", command.join(" "), cluster.name()),
                "each peer with its tunnel and NBMA address, through pods/exec",
                || {
                    let text = cluster.kubectl(&command)?;
                    for (tunnel, nbma) in peers {
                        let found = text.contains(&tunnel.to_string()) && text.contains(nbma);
                        ensure!(found, "{tunnel} at {nbma} is missing in\n{text}");
                    }
                    Ok((text, format!("{} peers", peers.len())))
                },
            )?;
            chapter.show(&format!("$ kubectl {}", command.join(" ")), &text);
        }
    }
    Ok(())
}

/// The endpoint object of a node.
pub(super) fn endpoint(cluster: &crate::cluster::Cluster, node: &str) -> Result<Value> {
    let selector = format!("spec.nodeName={node}");
    let list = cluster.kubectl_json(&["get", "dmvpnendpoints", "--field-selector", &selector])?;
    let first = list["items"].get(0).cloned();
    first.with_context(|| format!("no DmvpnEndpoint of node {node}"))
}

/// Waits until the endpoint of a node is Up and Ready; returns it.
pub(super) fn wait_until_up(cluster: &crate::cluster::Cluster, node: &str) -> Result<Value> {
    wait::until_max(SOON, Duration::from_millis(200), &format!("the endpoint of {node} to be Ready"), || {
        let endpoint = endpoint(cluster, node)?;
        let status = &endpoint["status"];
        let ready = status["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        ensure!(status["state"] == "Up" && ready, "{status}");
        Ok(endpoint)
    })
}
