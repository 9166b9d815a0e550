//! Pods and nodes behind a gateway: two nodes of a cluster of which one has the tunnel, a node of another cluster, and pods
//! on all three that talk to each other; with rules as kube-proxy and CNI plugins make them, FORWARD policy drop and a
//! strict reverse path filter. Then both clusters' pods have the same addresses, as kubeadm's have.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::{Capture, Process};
use e2e::node::{Container, Plan};
use e2e::ring4::{Needs, ring4};
use e2e::scene::wire;
use e2e::{Cluster, Node, wait};
use serde_json::Value;

use crate::protected::{NAMESPACE, both, install};
use crate::{Clock, DAEMON_SETS, PODS};

const LINK: &str = "dm-pods";
const LOOK: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(60);

/// The same in both clusters; the node with the hub's label is in east.
const NETWORK: &str = "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {name: pods}
spec:
  phase: Phase3
  overlay: [10.253.0.0/24]
  hubs:
  - name: core
    overlayAddresses: [10.253.0.1]
    nbma: [{address: 198.18.0.1}]
    tunnelSource: {from: Interface, interface: wan0}
  tunnel: {key: 253}
  nhrp: {networkId: 253, holdTimeSeconds: 600, registrationIntervalSeconds: 5}
  registration: {policy: Any}
";

/// What is behind a node; `more` says which prefixes.
fn spoke(node: &str, more: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {node}}}
spec:
  networkRef: {{name: pods}}
  placement: {{type: Node, nodeName: {node}}}
{more}
"
    )
}

const EAST: &str = "  gatewayFor: {}\n";
const WEST: &str = "  overlayAddresses: [10.253.0.2]\n";
const ANNOUNCE: &str = "  podCIDRPolicy: Announce\n";

/// As `iptables -P FORWARD DROP`, kube-proxy's KUBE-FORWARD, flannel's FLANNEL-FWD, and the masquerading of the bridge
/// plugin (`ipMasq`): all in foreign tables.
fn foreign_rules(pods: &str) -> String {
    format!(
        "table ip filter {{
  chain FORWARD {{
    type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    meta mark & 0x4000 == 0x4000 counter accept
    ct state established,related counter accept
    ip saddr 10.244.0.0/16 counter accept
    ip daddr 10.244.0.0/16 counter accept
  }}
}}
table ip nat {{
  chain POSTROUTING {{
    type nat hook postrouting priority srcnat;
    ip saddr {pods} ip daddr != {pods} ip daddr != 224.0.0.0/4 counter masquerade
  }}
}}"
    )
}

/// A pod with a network of its own, on a node.
struct Pod<'a> {
    node: &'a Node,
    container: Container,
    address: Ipv4Addr,
}

impl<'a> Pod<'a> {
    fn of(cluster: &Cluster, node: &'a Node) -> Result<Self> {
        let container = node.container("idle", PODS)?;
        let address = wait::until(PODS, "the pod's address", || {
            let pod = cluster.kubectl_json(&["get", "pod", &container.pod])?;
            Ok(pod["status"]["podIP"].as_str().context("none")?.parse()?)
        })?;
        Ok(Self { node, container, address })
    }

    fn inside<'w>(&'w self, pid: &'w str, words: &[&'w str]) -> Vec<&'w str> {
        [&["nsenter", "--target", pid, "--net", "--"], words].concat()
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let pid = self.container.pid.to_string();
        self.node.run(&self.inside(&pid, words))
    }

    fn spawn(&self, label: &str, words: &[&str]) -> Result<Process> {
        let pid = self.container.pid.to_string();
        let mut command = self.node.command("nsenter")?;
        command.args(&self.inside(&pid, words)[1..]);
        self.node.host().spawn_command(label, command)
    }

    /// 50 pings, none lost.
    fn reaches(&self, to: Ipv4Addr) -> Result<()> {
        let said = self.run(&["ping", "-n", "-q", "-c", "50", "-i", "0.02", "-W", "5", &to.to_string()])?;
        ensure!(said.contains("50 received"), "{} to {to}: {said}", self.address);
        Ok(())
    }

    /// As soon as one gets there.
    fn reaches_soon(&self, to: Ipv4Addr) -> Result<()> {
        wait::until_max(SOON, LOOK, &format!("{} to reach {to}", self.address), || {
            self.run(&["ping", "-n", "-c", "1", "-W", "1", &to.to_string()])
        })?;
        self.reaches(to)
    }

    /// A stream both ways; which address the other one saw.
    fn streams(&self, other: &Pod<'_>, to: Ipv4Addr) -> Result<String> {
        let server = other.spawn("iperf3-server", &["iperf3", "--server", "--one-off", "--json"])?;
        let to = to.to_string();
        let words = ["iperf3", "--json", "--time", "1", "--bidir", "--client", &to];
        let said: Value = wait::until(SOON, "a stream", || {
            let said: Value = serde_json::from_str(&self.run(&words)?)?;
            ensure!(said["error"].is_null(), "{}", said["error"]);
            Ok(said)
        })?;
        for end in ["sum_received", "sum_received_bidir_reverse"] {
            let bytes = said["end"][end]["bytes"].as_u64().unwrap_or(0);
            ensure!(bytes > 100_000, "{to}: {end} {bytes}: {}", said["end"]);
        }
        drop(server);
        let log = other.node.host().out().join(format!("{}-iperf3-server.log", other.node.name()));
        let log = std::fs::read_to_string(log)?;
        let seen = log.rmatch_indices("\"remote_host\":").next().context("nobody was seen")?.0;
        Ok(log[seen..].split('"').nth(3).unwrap_or_default().to_owned())
    }
}

#[test]
fn pods_behind_a_gateway_talk_across_clusters() {
    let needs = Needs {
        clusters: &["east", "west"],
        memory_mib: 2560,
        deadline: Duration::from_secs(540),
        ..Needs::default()
    };
    ring4(needs, |lab, clusters| {
        let [east, west] = clusters else { anyhow::bail!("{clusters:?}") };
        let hosts = [lab.host("east-1")?, lab.host("east-2")?, lab.host("west-1")?];
        let clock = Clock(std::time::Instant::now());
        lab.link(&hosts[0], "wan0", &hosts[2], "wan0")?;
        hosts[0].ip("addr add 198.18.0.1/30 dev wan0")?;
        hosts[2].ip("addr add 198.18.0.2/30 dev wan0")?;
        let labels = &[("dmvpn.io/hub", "core")];
        let mut nodes = Node::start_all(&[
            Plan { host: &hosts[0], cluster: east, number: 1, labels },
            Plan { host: &hosts[1], cluster: east, number: 2, labels: &[] },
            // The third, so that its pods have other addresses than those of east, at first.
            Plan { host: &hosts[2], cluster: west, number: 3, labels: &[] },
        ])?;
        for node in &mut nodes {
            node.wait_until_ready(PODS)?;
        }
        let [gateway, behind, afar] = nodes.as_mut_slice() else { anyhow::bail!("nodes") };
        // The lab leads to the pods of nodes that are not there.
        for (host, numbers) in [(&hosts[0], [3, 4]), (&hosts[1], [3, 4]), (&hosts[2], [1, 2])] {
            for number in numbers {
                host.ip(&format!("route del 10.244.{number}.0/24"))?;
            }
        }
        for (host, number) in hosts.iter().zip(1..) {
            host.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
            host.nft(&foreign_rules(&format!("10.244.{number}.0/24")))?;
        }
        for cluster in [east, west] {
            cluster.apply(DAEMON_SETS)?;
        }
        for cluster in [east, west] {
            cluster.kubectl(&["rollout", "status", "ds/idle", "--timeout=120s"])?;
        }
        let near = Pod::of(east, gateway)?;
        let far = Pod::of(east, behind)?;
        let other = Pod::of(west, afar)?;
        let before: Vec<_> = hosts.iter().map(e2e::lab::Host::dump).collect::<Result<_>>()?;
        // After the dumps: it shows in the link's entry.
        let capture = Capture::start(&hosts[0], "wan0", wire::FILTER)?;
        let tables = |host: &e2e::lab::Host| host.run(&["nft", "list", "tables"]);
        clock.says("3 nodes Ready, with a pod each");

        both((east, gateway), (west, afar), |(cluster, _)| {
            install(cluster, false)?;
            cluster.apply(NETWORK).map(drop)
        })?;
        east.apply(&spoke("east-1", &format!("{EAST}{ANNOUNCE}")))?;
        west.apply(&spoke("west-1", &format!("{WEST}{ANNOUNCE}")))?;
        for pod in [&far, &near] {
            pod.reaches_soon(other.address)?;
            other.reaches_soon(pod.address)?;
        }
        clock.says(
            "pods of the gateway and of the node behind it reach the pod of the other cluster, and it them",
        );
        for cluster in [east, west] {
            cluster.kubectl(&["wait", "--for=condition=Ready", "dmvpnspokes", "--all", "--timeout=60s"])?;
            println!("{}", cluster.kubectl(&["get", "dmvpnendpoints"])?);
        }
        let seen = far.streams(&other, other.address)?;
        ensure!(seen == far.address.to_string(), "west's pod sees {seen}");
        let seen = other.streams(&far, far.address)?;
        ensure!(seen == other.address.to_string(), "east's pod sees {seen}");
        ensure!(hosts[1].ip_json("link show")?.to_string().find(LINK).is_none(), "east-2 has a tunnel");
        let routes = hosts[1].run(&["ip", "route", "show", "proto", "214"])?;
        ensure!(
            routes.contains("10.253.0.0/24 via 172.31.1.11 dev mgmt0")
                && routes.contains("10.244.3.0/24 via 172.31.1.11 dev mgmt0"),
            "{routes}"
        );
        for host in &hosts {
            let settings = host.run(&["cat", "/proc/sys/net/ipv4/conf/all/rp_filter"])?;
            ensure!(settings.trim() == "1", "{settings}");
        }
        // The node itself reaches the overlay, which answers it: its own address is not announced, so by nobody else.
        clock.says("TCP both ways, each sees the other's own address");

        // Drift, and an agent that goes, on the node behind.
        let run =
            far.spawn("ping-through", &["ping", "-n", "-D", "-i", "0.05", &other.address.to_string()])?;
        hosts[1].ip("route del 10.244.3.0/24 proto 214")?;
        wait::until(SOON, "the route to be back", || {
            let routes = hosts[1].run(&["ip", "route", "show", "proto", "214"])?;
            wait::ensure(routes.contains("10.244.3.0/24 via 172.31.1.11"), || routes)
        })?;
        let old = behind.container("agent", PODS)?;
        east.kubectl(&["delete", "pod", "-n", NAMESPACE, &old.pod, "--timeout=60s"])?;
        let monitor = hosts[1].spawn("routes", &["ip", "monitor", "route"])?;
        wait::until(PODS, "another pod of the agent", || {
            let new = behind.container("agent", PODS)?;
            wait::ensure(new.id != old.id && new.pod != old.pod, || format!("{new:?}"))
        })?;
        east.kubectl(&["wait", "--for=condition=Ready", "dmvpnendpoints/pods-east-2", "--timeout=60s"])?;
        far.reaches(other.address)?;
        drop((run, monitor));
        let monitored = std::fs::read_to_string(hosts[1].out().join("east-2-routes.log"))?;
        ensure!(!monitored.contains("10.244.3.0/24"), "a new agent touched what was there: {monitored}");
        clock.says("a route that was taken away is back, and an agent that is replaced touches nothing");

        outlives_the_hubs_pod(east, gateway, &other, &far)?;
        clock.says("a TCP stream went on while the pod of the hub, which is the gateway, was deleted");
        overlap(east, west, [&near, &far, &other], &clock)?;

        // Everything is gone again.
        let packets = capture.stop()?;
        let inner = |from: Ipv4Addr| {
            packets.iter().filter(|it| it.inner.is_some_and(|ip| ip.source == IpAddr::from(from))).count()
        };
        ensure!(inner(far.address) > 100 && inner(other.address) > 100, "of pods on the wire");
        println!(
            "          {} packets on the wire, {} of the pod behind the gateway",
            packets.len(),
            inner(far.address)
        );
        east.kubectl(&["delete", "dmvpnspoke", "east-1", "--timeout=60s"])?;
        wait::until(SOON, "no routes on the node behind", || {
            let routes = hosts[1].run(&["ip", "route", "show", "proto", "214"])?;
            let tables = tables(&hosts[1])?;
            wait::ensure(routes.trim().is_empty() && !tables.contains("dmvpn"), || {
                format!("{routes}{tables}")
            })
        })?;
        east.kubectl(&["wait", "--for=delete", "dmvpnendpoints/pods-east-2", "--timeout=60s"])?;
        both((east, gateway), (west, afar), |(cluster, _)| {
            cluster.helm(&["uninstall", "dmvpn", "-n", NAMESPACE, "--wait", "--timeout", "120s"]).map(drop)
        })?;
        for (host, before) in hosts.iter().zip(&before) {
            wait::until(SOON, &format!("the kernel of {} to be as before", host.name()), || {
                before.ensure_equal(&host.dump()?)
            })?;
        }
        clock.says("uninstalled, nothing is left on any node");
        Ok(())
    });
}

/// A TCP stream from the other cluster to the node behind, while the hub's pod is deleted and another one comes.
fn outlives_the_hubs_pod(east: &Cluster, gateway: &Node, from: &Pod<'_>, to: &Pod<'_>) -> Result<()> {
    let _server = to.spawn("iperf3-long", &["iperf3", "--server", "--one-off"])?;
    let address = to.address.to_string();
    let words =
        ["iperf3", "--json", "--time", "20", "--bitrate", "2M", "--length", "1000", "--client", &address];
    let (old, said) = std::thread::scope(|scope| -> Result<_> {
        let stream = scope.spawn(|| {
            wait::until(SOON, "a long stream", || {
                let said: Value = serde_json::from_str(&from.run(&words)?)?;
                ensure!(said["error"].is_null(), "{}", said["error"]);
                Ok(said)
            })
        });
        wait::until(SOON, "the stream", || {
            let seen = to.run(&["ss", "-tniH", "state", "established", "sport", "=", ":5201"])?;
            wait::ensure(seen.contains("bytes_received:"), || seen)
        })?;
        let old = gateway.container("agent", PODS)?;
        east.kubectl(&["delete", "pod", "-n", NAMESPACE, &old.pod, "--timeout=60s"])?;
        let said = stream.join().map_err(|_| anyhow::anyhow!("the stream panicked"))??;
        Ok((old, said))
    })?;
    let new = gateway.container("agent", PODS)?;
    ensure!(new.id != old.id && new.pod != old.pod, "{new:?}");
    let intervals = said["intervals"].as_array().context("no intervals")?;
    let carried: Vec<u64> = intervals.iter().filter_map(|it| it["sum"]["bytes"].as_u64()).collect();
    ensure!(carried.len() >= 19 && carried.iter().all(|bytes| *bytes > 50_000), "{carried:?}");
    println!(
        "          bytes a second: {carried:?}, retransmitted: {}",
        said["end"]["sum_sent"]["retransmits"]
    );
    Ok(())
}

/// Both clusters call their pods 10.244.0.0/16: told, and mapped.
fn overlap(east: &Cluster, west: &Cluster, pods: [&Pod<'_>; 3], clock: &Clock) -> Result<()> {
    let [near, far, other] = pods;
    let subnet = |named: &str| format!("  subnets: [{{cidr: 10.244.0.0/16{named}}}]\n");
    // East's pods were there first; what is said of west's is said where both are known, at the hub.
    west.apply(&spoke("west-1", &format!("{WEST}{}", subnet(""))))?;
    let hub = near.node.container("agent", PODS)?.pod;
    wait::until(SOON, "the clash to be told", || {
        let log = east.kubectl(&["logs", "-n", NAMESPACE, &hub])?;
        let told = log.lines().any(|line| {
            ["10.244.0.0/16", "10.253.0.2", "overlaps", "10.244."].iter().all(|it| line.contains(it))
        });
        wait::ensure(told, || log)
    })?;
    west.apply(&spoke("west-1", &format!("{WEST}{}", subnet(", advertiseAs: 10.103.0.0/16"))))?;
    east.apply(&spoke("east-1", &format!("{EAST}{}", subnet(", advertiseAs: 10.101.0.0/16"))))?;
    // Until then they talk by the addresses that they had, and a flow keeps those that it began with.
    wait::until_max(SOON, LOOK, "the new names on all three nodes", || {
        for (pod, words, wanted) in [
            (near, &["nft", "list", "table", "inet", "dmvpn_pods"][..], "10.244.0.0/16 : 10.101.0.0/16"),
            (other, &["nft", "list", "table", "inet", "dmvpn_pods"], "10.244.0.0/16 : 10.103.0.0/16"),
            (other, &["ip", "route", "show", "proto", "214"], "10.101.0.0/16 via"),
            (far, &["ip", "route", "show", "proto", "214"], "10.103.0.0/16 via"),
        ] {
            let shown = pod.node.host().run(words)?;
            wait::ensure(shown.contains(wanted), || format!("no {wanted} in {shown}"))?;
        }
        Ok(())
    })?;
    let named = |second: u8, pod: &Pod<'_>| {
        let [_, _, c, d] = pod.address.octets();
        Ipv4Addr::new(10, second, c, d)
    };
    for pod in [far, near] {
        pod.reaches_soon(named(103, other))?;
        other.reaches_soon(named(101, pod))?;
    }
    let seen = far.streams(other, named(103, other))?;
    ensure!(seen == named(101, far).to_string(), "west's pod sees {seen}");
    let seen = other.streams(far, named(101, far))?;
    ensure!(seen == named(103, other).to_string(), "east's pod sees {seen}");
    clock.says("pods of the same prefix reach each other by the names that advertiseAs gives them");
    Ok(())
}
