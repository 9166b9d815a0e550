//! Chapter 12: a DmvpnSpoke is deleted, a label makes a spoke, helm uninstall leaves the kernel as it was.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Dumps, Stage, apply, example, install};
use crate::lab::Capture;
use crate::lab::peek::NhrpKind;
use crate::scene::Scene;
use crate::scene::clusters::{EAST_HUB, WEST_1, WEST_1_TUNNEL};
use crate::scene::overlay::TUNNEL;
use crate::story::Chapter;
use crate::wait;

const FORGETS: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);

pub(super) fn tell(chapter: &mut Chapter, scene: &Scene, stage: &Stage, installed: &Dumps) -> Result<()> {
    spoke_deleted(chapter, scene, stage, installed)?;
    let address = label_makes_a_spoke(chapter, stage)?;
    uninstall(chapter, stage)?;
    chapter.step(
        "helm install again, in both clusters",
        "the objects are still there: every tunnel comes back, the allocated address is the same",
        || {
            install::both(stage, install::install)?;
            apply::wait_until_up(&stage.east, EAST_HUB)?;
            let endpoint = apply::wait_until_up(&stage.west, WEST_1)?;
            let again = tunnel_address(&endpoint)?;
            ensure!(again == address, "the address was {address} and is {again}");
            Ok(format!("Up again; west-1 has {again}"))
        },
    )
}

fn spoke_deleted(chapter: &mut Chapter, scene: &Scene, stage: &Stage, installed: &Dumps) -> Result<()> {
    let before = installed.get(WEST_1).context("no dump of west-1")?;
    let (west, hub) = (scene.site(WEST_1)?, scene.site(EAST_HUB)?);
    let capture = Capture::start(&hub.host, "wan0", "proto gre")?;
    chapter.step(
        "kubectl delete dmvpnspoke west-1, in west (holding time 600 s)",
        "the hub's kernel forgets its tunnel address and its LAN within 1 s",
        || {
            let gone = || -> Result<()> {
                let address = WEST_1_TUNNEL.to_string();
                let neighbour = hub.host.run(&["ip", "neighbour", "show", &address, "dev", TUNNEL])?;
                ensure!(neighbour.trim().is_empty(), "{neighbour}");
                let route = hub.host.run(&["ip", "route", "show", &west.plan.lan.to_string()])?;
                ensure!(route.trim().is_empty(), "{route}");
                Ok(())
            };
            ensure!(gone().is_err(), "the hub does not know west-1 even before");
            let start = Instant::now();
            stage.west.kubectl(&["delete", "dmvpnspoke", WEST_1, "--wait=false"])?;
            let asked = start.elapsed();
            wait::until(SOON, "the hub to forget west-1", gone)?;
            let took = start.elapsed();
            ensure!(took <= FORGETS + asked, "the hub forgot after {} ms", took.as_millis());
            Ok(format!(
                "forgotten {} ms after kubectl was started, which took {} ms itself",
                took.as_millis(),
                asked.as_millis()
            ))
        },
    )?;
    chapter.step(
        "the Purge is on the wire; link, routes, neighbours and nft table of west-1 are gone, and its endpoint object",
        "request from west-1, reply from east-hub; the kernel of west-1 is as it was before the apply",
        || {
            let (from, to): (IpAddr, IpAddr) = (west.nbma().into(), hub.nbma().into());
            let request = capture.wait_for(SOON, "the purge request", |p| {
                p.is_nhrp(NhrpKind::PurgeRequest) && p.is_between(from, to)
            })?;
            let reply = capture.wait_for(SOON, "the purge reply", |p| {
                p.is_nhrp(NhrpKind::PurgeReply) && p.is_between(to, from)
            })?;
            wait::until(SOON, "the kernel of west-1 to be as before", || {
                before.ensure_equal(&west.host.dump()?)
            })?;
            wait::until_max(SOON, Duration::from_millis(200), "the endpoint object to be gone", || {
                let left = stage.west.kubectl(&["get", "dmvpnendpoints", "-o", "name"])?;
                ensure!(left.trim().is_empty(), "{left}");
                Ok(())
            })?;
            let took = reply.time.saturating_sub(request.time);
            Ok(format!("{from} → {to}, acknowledged after {:.1} ms; all tables as before the apply", took.as_secs_f64() * 1e3))
        },
    )
}

fn label_makes_a_spoke(chapter: &mut Chapter, stage: &Stage) -> Result<Ipv4Addr> {
    chapter.step_with(
        "edge.yaml (placement EveryNode, a selector) is applied in west; then node west-1 gets the label, and nothing else",
        "no endpoint before the label; after it west-1 is a spoke, Up, with an address from the pool",
        || {
            stage.west.apply(&example("edge.yaml")?)?;
            wait::until_max(SOON, Duration::from_millis(200), "the spoke to be looked at", || {
                let spoke = stage.west.kubectl_json(&["get", "dmvpnspoke", "edge"])?;
                let generation = &spoke["metadata"]["generation"];
                ensure!(spoke["status"]["observedGeneration"] == *generation, "{}", spoke["status"]);
                Ok(())
            })?;
            ensure!(apply::endpoint(&stage.west, WEST_1).is_err(), "an endpoint before the label");
            stage.west.kubectl(&["label", "node", WEST_1, "dmvpn.io/edge=true"])?;
            let endpoint = apply::wait_until_up(&stage.west, WEST_1)?;
            let address = tunnel_address(&endpoint)?;
            let objects = stage.west.kubectl(&["get", "dmvpnaddresses"])?;
            ensure!(objects.contains(&address.to_string()), "no DmvpnAddress of {address}:\n{objects}");
            Ok((address, format!("west-1 is Up with {address}")))
        },
    )
}

fn tunnel_address(endpoint: &serde_json::Value) -> Result<Ipv4Addr> {
    let text = endpoint["status"]["tunnelIp"].as_str().context("status.tunnelIp")?;
    text.parse().with_context(|| text.to_owned())
}

fn uninstall(chapter: &mut Chapter, stage: &Stage) -> Result<()> {
    chapter.step(
        "helm uninstall, in both clusters: the drain hook takes all tunnels away first",
        "the kernel tables of all three nodes equal the dumps taken before the install; networks and spokes stay",
        || {
            let mut seen = Vec::new();
            let took = install::both(stage, |cluster| install::uninstall(cluster).map(drop))?;
            for (cluster, took) in [&stage.east, &stage.west].into_iter().zip(took) {
                seen.push(format!("{}: uninstalled in {:.1} s", cluster.name(), took.as_secs_f64()));
                let kept = cluster.kubectl(&["get", "dmvpnnetworks,dmvpnspokes", "-o", "name"])?;
                ensure!(kept.contains("dmvpnnetwork"), "the network is gone: {kept}");
                let left = cluster.kubectl(&["get", "dmvpnendpoints", "-o", "name"])?;
                ensure!(left.trim().is_empty(), "endpoints are left: {left}");
            }
            for node in &stage.nodes {
                let before = stage.before(node.name())?;
                let mut entries = 0;
                wait::until(SOON, &format!("the kernel of {} to be as before", node.name()), || {
                    let now = node.host().dump()?;
                    entries = now.len();
                    before.ensure_equal(&now)
                })?;
                seen.push(format!("{}: equal in all {entries} entries", node.name()));
            }
            Ok(seen.join("\n"))
        },
    )
}
