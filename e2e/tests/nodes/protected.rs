//! `helm install` with `ipsec.enabled` in two clusters, and a network under IPsec between a node of each: the IKE daemon is
//! a pod of its own beside the agent.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Capture, Host, Lab, Ping};
use e2e::scene::wire;
use e2e::{Cluster, Node, paths, wait};
use serde_json::Value;

use crate::PODS;

pub(crate) const NAMESPACE: &str = "dmvpn-system";
const LINK: &str = "dm-secure";
const HUB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 254, 0, 1));
const LOOK: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(60);
const TEN_MS: Duration = Duration::from_millis(10);
/// Pings at most; they are stopped when it is over.
const MOST: u32 = 30_000;
/// CAP_NET_BIND_SERVICE (10) and CAP_NET_ADMIN (12).
const BOUND: &str = "0000000000001400";
/// What the daemon keeps when it has its sockets.
const KEPT: &str = "0000000000001000";
const KEY: &str = "k3y-of-two-clusters";

/// The same in both clusters; the node with the hub's label is in east.
const NETWORK: &str = "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {name: secure}
spec:
  phase: Phase3
  overlay: [10.254.0.0/24]
  hubs:
  - name: core
    overlayAddresses: [10.254.0.1]
    nbma: [{address: 198.18.0.1}]
    tunnelSource: {from: Interface, interface: wan0}
  tunnel: {key: 254}
  nhrp: {networkId: 254, holdTimeSeconds: 600, registrationIntervalSeconds: 5}
  registration: {policy: Any}
  ipsec:
    mode: Required
    authentication: {type: PSK, pskSecretRefs: [{name: secure-psk}]}
---
apiVersion: v1
kind: Secret
metadata: {name: secure-psk, namespace: dmvpn-system, labels: {dmvpn.io/network: secure}}
stringData: {psk: k3y-of-two-clusters}
";
const SPOKE: &str = "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {name: west-1}
spec:
  networkRef: {name: secure}
  placement: {type: Node, nodeName: west-1}
  overlayAddresses: [10.254.0.2]
";

/// A cluster and its node that has a part in the network.
pub(crate) type Place<'a> = (&'a Cluster, &'a Node);

pub(crate) fn across_clusters(
    lab: &Lab,
    east: Place<'_>,
    west: Place<'_>,
    says: &dyn Fn(&str),
) -> Result<()> {
    let (hub, spoke) = (east.1.host(), west.1.host());
    lab.link(hub, "wan0", spoke, "wan0")?;
    hub.ip("addr add 198.18.0.1/30 dev wan0")?;
    spoke.ip("addr add 198.18.0.2/30 dev wan0")?;
    // The capture first: it is seen in the link's entry.
    let wire = Capture::start(hub, "wan0", wire::FILTER)?;
    let before = [hub.dump()?, spoke.dump()?];
    east.0.kubectl(&["label", "node", east.1.name(), "dmvpn.io/hub=core", "--overwrite"])?;
    both(east, west, |(cluster, node)| {
        install(cluster, true)?;
        let charon = node.container("charon", PODS)?;
        wait::until(PODS, "the IKE daemon to keep one capability of two", || {
            for (field, value) in
                [("CapBnd", BOUND), ("CapEff", KEPT), ("CapPrm", KEPT), ("Seccomp", "2"), ("NoNewPrivs", "1")]
            {
                let seen = node.process_status(&charon, field)?;
                ensure!(seen == value, "{field} of {charon:?}: {seen}");
            }
            Ok(())
        })?;
        cluster.apply(NETWORK).map(drop)
    })?;
    west.0.apply(SPOKE)?;
    says("installed in both clusters, IKE daemons run with two capabilities at most");
    for place in [east, west] {
        until_protected(place)?;
    }
    let table = west.0.kubectl(&["get", "dmvpnendpoints"])?;
    println!("{table}");
    let line = table.lines().find(|line| line.contains(" west-1 ")).unwrap_or_default();
    ensure!(line.contains(" Up ") && line.contains(" 198.18.0.2 "), "{table}");
    pings(spoke, |pings| pings.wait_for_reply(100, SOON))?;
    says("Up under IPsec, and packets pass");

    // The agent goes; its keys are with the daemon, its tunnel in the kernel.
    pings(spoke, |_| {
        replaced(west, "agent")?;
        until_protected(west)
    })?;
    says("the agent's pod was replaced, no packet lost");

    // The daemon goes, and takes its SAs with it: a break, and never a packet in clear.
    let run = Ping::start(spoke, HUB, MOST, TEN_MS)?;
    run.wait_for_reply(20, SOON)?;
    replaced(west, "charon")?;
    let at_hub = east.1.container("charon", PODS)?.pod;
    let log = east.0.kubectl(&["logs", "-n", NAMESPACE, &at_hub])?;
    ensure!(log.contains("received DELETE for IKE_SA dmvpn-secure"), "no farewell to the hub: {log}");
    until_protected(west)?;
    let since = run.so_far().sent;
    run.wait_for_reply(since + 50, SOON)?;
    let report = run.stop()?;
    says(&format!(
        "the IKE daemon's pod was replaced: {} of {} pings lost, longest gap {} ms",
        report.lost(),
        report.sent,
        report.longest_gap().as_millis()
    ));

    for place in [east, west] {
        for (name, says) in [("charon", "IKE_SA dmvpn-secure"), ("agent", "pre-shared key loaded")] {
            let pod = place.1.container(name, PODS)?.pod;
            let log = place.0.kubectl(&["logs", "-n", NAMESPACE, &pod])?;
            ensure!(log.contains(says) && !log.contains(KEY), "{pod}: {log}");
        }
        let kept = place.1.run(&["cat", "/run/dmvpn/last-endpoints.json"])?;
        ensure!(kept.contains("secure-psk") && !kept.contains("azN5LW9m"), "a key in a file: {kept}");
    }
    both(east, west, |(cluster, _)| {
        cluster.helm(&["uninstall", "dmvpn", "-n", NAMESPACE, "--wait", "--timeout", "120s"]).map(drop)
    })?;
    for (host, before) in [hub, spoke].into_iter().zip(&before) {
        wait::until(SOON, &format!("the kernel of {} to be as before", host.name()), || {
            before.ensure_equal(&host.dump()?)
        })?;
    }
    let packets = wire.stop()?;
    let clear = packets.iter().filter(|p| p.ip.is_some_and(|ip| ip.protocol == 47)).count();
    says(&format!(
        "uninstalled, nothing is left; {clear} packets of clear GRE, {} of ESP",
        packets.len() - clear
    ));
    ensure!(clear == 0 && packets.len() > 500, "{clear} of clear GRE among {}", packets.len());
    Ok(())
}

pub(crate) fn both(a: Place<'_>, b: Place<'_>, act: impl Fn(Place<'_>) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| act(b));
        act(a)?;
        other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })
}

/// `helm install`, with or without the IKE daemon.
pub(crate) fn install(cluster: &Cluster, ipsec: bool) -> Result<()> {
    let chart = paths::repository().join("charts/dmvpn").display().to_string();
    let mut words = vec!["install", "dmvpn", &chart, "-n", NAMESPACE, "--create-namespace"];
    let host = format!("apiServer.host={}", cluster.server_address());
    let enabled = format!("ipsec.enabled={ipsec}");
    words.extend(["--set-string", &host, "--set", &enabled, "--wait", "--timeout", "180s"]);
    let mut values = Vec::new();
    for part in ["operator", "agent", "charon"] {
        for (key, value) in [
            ("repository", format!("lab.local/dmvpn-{part}")),
            ("tag", "1".to_owned()),
            ("pullPolicy", "Never".to_owned()),
        ] {
            values.extend(["--set-string".to_owned(), format!("image.{part}.{key}={value}")]);
        }
    }
    words.extend(values.iter().map(String::as_str));
    cluster.helm(&words).map(drop)
}

/// Until the endpoint of the node is Up, in the version that is stored, and GRE is under IPsec.
fn until_protected((cluster, node): Place<'_>) -> Result<()> {
    wait::until_max(SOON, LOOK, &format!("{} to be Up under IPsec", node.name()), || {
        let selector = format!("spec.nodeName={}", node.name());
        let list = cluster.kubectl_json(&["get", "dmvpnendpoints", "--field-selector", &selector])?;
        let endpoint = &list["items"][0];
        let says = |type_: &str, status: &str, reason: &str| {
            let all = endpoint["status"]["conditions"].as_array().into_iter().flatten();
            all.into_iter()
                .any(|c: &Value| c["type"] == type_ && c["status"] == status && c["reason"] == reason)
        };
        let all = endpoint["status"]["state"] == "Up"
            && says("IPsecReady", "True", "Protected")
            && says("CredentialsReady", "True", "Accepted")
            && says("Authenticated", "False", "SharedSecret");
        wait::ensure(all, || endpoint["status"].to_string())
    })
}

/// Deletes the pod of a component on the node, and waits for another.
fn replaced((cluster, node): Place<'_>, name: &str) -> Result<()> {
    let old = node.container(name, PODS)?;
    cluster.kubectl(&["delete", "pod", "-n", NAMESPACE, &old.pod, "--timeout=60s"])?;
    wait::until(PODS, &format!("another pod of the {name}"), || {
        let new = node.container(name, PODS)?;
        wait::ensure(new.id != old.id && new.pod != old.pod, || format!("{new:?}"))
    })
}

/// Pings the hub's tunnel address from the spoke while `act` runs: none is lost.
fn pings(spoke: &Host, act: impl FnOnce(&Ping) -> Result<()>) -> Result<()> {
    let run = Ping::start(spoke, HUB, MOST, TEN_MS)?;
    run.wait_for_reply(20, SOON)?;
    let device = spoke.run(&["ip", "route", "get", &HUB.to_string()])?;
    ensure!(device.contains(LINK), "{device}");
    act(&run)?;
    let sent = run.so_far().sent;
    run.wait_for_reply(sent + 50, SOON)?;
    let report = run.stop()?;
    println!("          {report}");
    report.ensure_nothing_lost()
}
