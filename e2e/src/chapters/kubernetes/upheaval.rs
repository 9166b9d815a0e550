//! Chapter 11: an agent's pod dies, all agents get a new image, the API server goes away: the kernel carries on.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::install::{self, NAMESPACE};
use super::{Stage, apply};
use crate::cluster::Cluster;
use crate::lab::Ping;
use crate::scene::Scene;
use crate::scene::clusters::{EAST_1, WEST_1};
use crate::scene::overlay::{TUNNEL, link_index};
use crate::story::Chapter;
use crate::wait;

const INTERVAL: Duration = Duration::from_millis(10);
const SOON: Duration = Duration::from_secs(20);
/// Pings at most; they are stopped when it is over.
const MOST: u32 = 60_000;
/// How long the API server stays away.
const AWAY: Duration = Duration::from_secs(10);

pub(super) fn tell(chapter: &mut Chapter, scene: &Scene, stage: &Stage) -> Result<()> {
    let west = &stage.west;
    chapter.step(
        "delete the agent's pod on west-1, under pings (west-1 ↔ branch-a, east-1 → west-1)",
        "another pod comes and its tunnel is Up again; 0 lost; link index unchanged",
        || {
            let old = agent_pod(west, WEST_1)?;
            under_pings(scene, stage, || {
                west.kubectl(&["delete", "pod", "-n", NAMESPACE, &old, "--wait=true"])?;
                let new = wait_for_agent(west, WEST_1, &old)?;
                apply::wait_until_up(west, WEST_1)?;
                Ok(format!("{old} → {new}"))
            })
        },
    )?;
    chapter.step(
        "helm upgrade to another image of the agents, in both clusters, under the same pings",
        "every agent runs the new image; 0 lost; link index unchanged",
        || {
            under_pings(scene, stage, || {
                let mut seen = Vec::new();
                let took = install::both(stage, |cluster| install::upgrade(cluster, "2"))?;
                for (cluster, took) in [&stage.east, &stage.west].into_iter().zip(took) {
                    let images = agent_images(cluster)?;
                    ensure!(images.iter().all(|i| i.ends_with(":2")), "{images:?}");
                    let took = took.as_secs_f64();
                    seen.push(format!(
                        "{}: {} agents of {} in {took:.1} s",
                        cluster.name(),
                        images.len(),
                        images[0]
                    ));
                }
                apply::wait_until_up(west, WEST_1)?;
                apply::wait_until_up(&stage.east, EAST_1)?;
                Ok(seen.join("\n"))
            })
        },
    )?;
    chapter.step(
        &format!("stop the API server of west for {} s, and kill the agent of west-1 meanwhile", AWAY.as_secs()),
        "0 lost; the agent that comes back works from its last good configuration; after the server's return an edit is carried out",
        || {
            under_pings(scene, stage, || {
                west.stop_api_server()?;
                let stopped = Instant::now();
                let node = stage.node(WEST_1)?;
                let before = node.container("agent", SOON)?.pid;
                node.run(&["kill", "-9", &before.to_string()])?;
                let after = wait::until(SOON, "the agent to be started again by its kubelet", || {
                    let now = node.container("agent", SOON)?.pid;
                    ensure!(now != before, "{now}");
                    Ok(now)
                })?;
                wait::until(AWAY * 2, "the time without API server to pass", || {
                    wait::ensure(stopped.elapsed() >= AWAY, || "not yet".into())
                })?;
                west.start_api_server()?;
                let away = stopped.elapsed().as_secs_f64();
                let returned = Instant::now();
                edit_is_carried_out(west)?;
                let took = returned.elapsed().as_secs_f64();
                Ok(format!("away {away:.1} s; agent's process {before} → {after}; edit in force {took:.1} s after the return"))
            })
        },
    )
}

/// Pings west-1 ↔ branch-a and east-1 → west-1 while `act` runs, and for a second before and after.
fn under_pings(scene: &Scene, stage: &Stage, act: impl FnOnce() -> Result<String>) -> Result<String> {
    let (west, a, east) = (scene.site(WEST_1)?, scene.site("branch-a")?, scene.site(EAST_1)?);
    let host = stage.node(WEST_1)?.host();
    let index = link_index(host, TUNNEL)?;
    let target = IpAddr::from(west.lan_host());
    let runs = Ping::start_together(
        &[(&west.lan, a.lan_host().into()), (&a.lan, target), (&east.lan, target)],
        MOST,
        INTERVAL,
    )?;
    for run in &runs {
        run.wait_for_reply(100, SOON)?;
    }
    let mut seen = vec![act()?];
    for run in runs {
        let last = run.so_far().replies.last().map_or(0, |r| r.sequence);
        ensure!(last + 100 <= MOST, "the pings ended before it was over: {last} of {MOST}");
        run.wait_for_reply(last + 100, SOON)?;
        let report = run.stop()?;
        report.ensure_nothing_lost()?;
        seen.push(format!("to {}: {report}", report.target));
    }
    let now = link_index(host, TUNNEL)?;
    ensure!(now == index, "link index was {index} and is {now}");
    seen.push(format!("link index {index} before and after"));
    Ok(seen.join("\n"))
}

/// Edits the DmvpnSpoke of west-1, and waits until operator and agent have done their parts.
fn edit_is_carried_out(west: &Cluster) -> Result<()> {
    let generation = |endpoint: &Value| endpoint["metadata"]["generation"].as_i64();
    let before = generation(&apply::endpoint(west, WEST_1)?);
    let edit = r#"{"spec":{"nhrp":{"registrationUnique":true}}}"#;
    west.kubectl(&["patch", "dmvpnspoke", WEST_1, "--type=merge", "-p", edit])?;
    wait::until_max(SOON * 2, Duration::from_millis(200), "the edit to be in force", || {
        let endpoint = apply::wait_until_up(west, WEST_1)?;
        let (now, observed) = (generation(&endpoint), endpoint["status"]["observedGeneration"].as_i64());
        ensure!(now > before && observed == now, "generation {before:?}, {now:?}, observed {observed:?}");
        Ok(())
    })
}

/// Name of the agent's pod on a node.
fn agent_pod(cluster: &Cluster, node: &str) -> Result<String> {
    let field = format!("spec.nodeName={node}");
    let pods = cluster.kubectl_json(&[
        "get",
        "pods",
        "-n",
        NAMESPACE,
        "-l",
        install::AGENTS,
        "--field-selector",
        &field,
    ])?;
    let running = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["metadata"]["deletionTimestamp"].is_null() && p["status"]["phase"] == "Running");
    let name = running.and_then(|p| p["metadata"]["name"].as_str());
    Ok(name.with_context(|| format!("no agent runs on {node}"))?.to_owned())
}

fn wait_for_agent(cluster: &Cluster, node: &str, old: &str) -> Result<String> {
    let new = wait::until_max(SOON * 2, Duration::from_millis(200), "another agent's pod", || {
        let new = agent_pod(cluster, node)?;
        ensure!(new != old, "still {old}");
        Ok(new)
    })?;
    let pod = format!("pod/{new}");
    cluster.kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", &pod, "--timeout=60s"])?;
    Ok(new)
}

fn agent_images(cluster: &Cluster) -> Result<Vec<String>> {
    let pods = cluster.kubectl_json(&["get", "pods", "-n", NAMESPACE, "-l", install::AGENTS])?;
    let images = pods["items"].as_array().into_iter().flatten();
    Ok(images.filter_map(|p| p["spec"]["containers"][0]["image"].as_str()).map(str::to_owned).collect())
}
