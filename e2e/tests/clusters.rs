//! Two control planes beside one guest: each is reached from inside, each alone, and nothing of one management
//! network reaches the other's.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::lab::{Host, Lab};
use e2e::ring4::{Needs, ring4};
use e2e::{Cluster, wait};

#[test]
fn two_clusters_beside_one_guest() {
    let needs = Needs { clusters: &["east", "west"], nodes: false, memory_mib: 768, ..Needs::default() };
    ring4(needs, |lab, clusters| {
        let [east, west] = clusters else { anyhow::bail!("two clusters") };
        answers_from_inside(east, west)?;
        let start = Instant::now();
        management_networks_do_not_meet(lab, east, west).context("isolation")?;
        println!("isolation: {:.1} s", start.elapsed().as_secs_f64());
        one_api_server_stops_alone(east, west).context("API server")
    });
}

fn answers_from_inside(east: &Cluster, west: &Cluster) -> Result<()> {
    for cluster in [east, west] {
        let words = ["get", "endpointslices", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[*]}"];
        let address = cluster.kubectl(&words)?;
        ensure!(address == cluster.server_address().to_string(), "{}: {address}", cluster.name());
        // A failure comes back with its status and its words.
        let reply = cluster.output("kubectl", &["get", "node", "nobody"], "")?;
        ensure!(reply.status == 1 && reply.stderr.contains("NotFound"), "{reply:?}");
        ensure!(cluster.kubeconfig().is_file(), "no kubeconfig in the guest");
    }
    let start = Instant::now();
    east.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: only-east}, data: {umlaut: ä}}")?;
    let data = east.kubectl(&["get", "configmap", "only-east", "-o", "jsonpath={.data.umlaut}"])?;
    println!("apply and get from inside: {:.2} s", start.elapsed().as_secs_f64());
    ensure!(data == "ä", "{data:?}");
    let names = west.kubectl(&["get", "configmaps", "-o", "name"])?;
    ensure!(!names.contains("only-east"), "both clusters are one");
    ensure!(
        east.writes()?.iter().any(|w| w.resource == "configmaps" && w.user == "admin"),
        "no audit log inside"
    );
    Ok(())
}

/// Neither routed nor bridged, and no way from a host to the helper, which does anything for anyone who reaches it.
fn management_networks_do_not_meet(lab: &Lab, east: &Cluster, west: &Cluster) -> Result<()> {
    let probe = host_on(lab, "east", "172.31.1.11/24")?;
    let (own, other) = (east.server_address().to_string(), west.server_address().to_string());
    probe.ip(&format!("route add default via {own}"))?;
    wait::until(PATIENCE, "east's own wire", || probe.run(&["ping", "-c1", "-W1", &own]))?;
    east.succeed("ping", &["-c1", "-W1", "172.31.1.11"], "")?;
    for to in [other.as_str(), "172.30.0.1", "172.30.0.2"] {
        ensure!(probe.run(&["ping", "-c1", "-W1", to]).is_err(), "a host of east reaches {to}");
        ensure!(
            east.output("ping", &["-c1", "-W1", to], "")?.status != 0,
            "east's control plane reaches {to}"
        );
    }
    // An address of the other network on this one's wire: nobody answers there. It is a good address, since on its
    // own wire somebody does.
    probe.ip("addr add 172.31.2.99/24 dev mgmt0")?;
    ensure!(
        probe.run(&["ping", "-c1", "-W1", "-I", "mgmt0", &other]).is_err(),
        "the two networks are one wire"
    );
    let witness = host_on(lab, "west", "172.31.2.99/24")?;
    wait::until(PATIENCE, "west's own wire", || witness.run(&["ping", "-c1", "-W1", &other]))?;
    west.succeed("ping", &["-c1", "-W1", "172.31.2.99"], "").map(drop)
}

fn one_api_server_stops_alone(east: &Cluster, west: &Cluster) -> Result<()> {
    west.stop_api_server()?;
    let reply = west.output("kubectl", &["get", "nodes"], "")?;
    ensure!(reply.status != 0 && reply.stderr.contains("refused"), "{reply:?}");
    east.kubectl(&["get", "nodes"])?;
    let start = Instant::now();
    west.start_api_server()?;
    println!("west's API server is ready again after {:.1} s", start.elapsed().as_secs_f64());
    west.kubectl(&["get", "nodes"]).map(drop)
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// A host on the management network of a cluster, as a node would be.
fn host_on(lab: &Lab, cluster: &str, address: &str) -> Result<Host> {
    let bridge = format!("mgmt-{cluster}");
    let bridge = lab.hosts().into_iter().find(|h| h.name() == bridge).context(bridge)?;
    let host = lab.host(&format!("probe-{cluster}"))?;
    lab.link(&bridge, "to-probe", &host, "mgmt0")?;
    bridge.ip("link set to-probe master br0")?;
    host.ip(&format!("addr add {address} dev mgmt0"))?;
    Ok(host)
}
