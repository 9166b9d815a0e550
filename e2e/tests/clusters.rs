//! Two control planes beside one guest: each is reached from inside, each alone, and nothing of one management
//! network reaches the other's. And `kubectl dmvpn join`, from a cluster to another and to boxes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::cluster::Reply;
use e2e::lab::{Agent, Host, Lab, Ping};
use e2e::ring4::{Needs, ring4};
use e2e::scene::Scene;
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

/// What a cluster prints for another member makes one of a box and is taken by another cluster, and no two members get
/// one address: nothing but that file goes to them, and nothing is edited here.
#[test]
fn joining_is_one_file() {
    let needs = Needs { clusters: &["east", "west"], nodes: false, memory_mib: 768, ..Needs::default() };
    ring4(needs, |lab, clusters| {
        let [east, west] = clusters else { anyhow::bail!("two clusters") };
        for cluster in [east, west] {
            cluster.install_crds()?;
            cluster.kubectl(&["create", "namespace", "dmvpn-system"])?;
        }
        let objects = [NETWORK, SECRET].join("---\n");
        east.apply(&objects)?;
        what_cannot_be_joined_says_why(east)?;

        let scene = Scene::build(lab)?;
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        let file = |node: &str, lan: &str, more: &[&str]| {
            let words = ["branches", "-n", "dmvpn-system", "--host", node, "--subnet", lan];
            let reply = join(east, &[&words[..], more].concat())?;
            ensure!(reply.status == 0, "{}", reply.stderr);
            ensure!(reply.stderr.contains("keys and passwords"), "no word of the secrets: {}", reply.stderr);
            Ok(reply.stdout)
        };
        let (lan_a, lan_b) = (a.plan.lan.to_string(), b.plan.lan.to_string());
        let for_a = file("branch-a", &lan_a, &["--pool", "/24"])?;
        let for_b = file("branch-b", &lan_b, &["--pool", "10.255.9.0/29"])?;
        // The first block is the hub's, the second a pool of this cluster.
        let noted = ["get", "dmvpnnetwork", "branches", "-o", "jsonpath={.spec.addressing.reserved}"];
        let noted = east.kubectl(&noted)?;
        ensure!(noted == r#"["10.255.2.0/24","10.255.9.0/29"]"#, "{noted}");
        let again = file("branch-a", &lan_a, &["--pool", "10.255.2.0/24", "--again"])?;
        ensure!(again == for_a, "the same file again:\n{again}\nfirst it was\n{for_a}");
        ensure!(!for_a.contains("elsewhere") && !for_a.contains("not-for-members"), "{for_a}");

        // Another cluster takes it as it is.
        west.apply(&for_b)?;
        let pools = ["get", "dmvpnnetwork", "branches", "-o", "jsonpath={.spec.addressing.pools}"];
        let pools = west.kubectl(&pools)?;
        ensure!(pools == r#"["10.255.9.0/29"]"#, "{pools}");

        let alone = |text: &str| BTreeMap::from([("joined.yaml".to_owned(), text.to_owned())]);
        let hub = Agent::start(&scene.site("hub")?.host, &["role=gateway"], &alone(&objects))?;
        hub.wait_until_up("branches", SOON)?;
        let on_a = Agent::start(&a.host, &[], &alone(&for_a))?;
        let on_b = Agent::start(&b.host, &[], &alone(&for_b))?;
        for (agent, pool) in [(&on_a, "10.255.2."), (&on_b, "10.255.9.")] {
            agent.wait_until_up("branches", SOON)?;
            let addresses = agent.host().run(&["ip", "-4", "addr", "show", "dev", "dm-branches"])?;
            ensure!(addresses.contains(pool), "{addresses}");
        }
        wait::until(SOON, "the way to the other branch", || {
            let way = on_a.host().run(&["ip", "route", "get", &b.lan_host().to_string()])?;
            ensure!(way.contains("dev dm-branches"), "{way}");
            Ok(())
        })?;
        Ping::start(&a.lan, b.lan_host().into(), 50, Duration::from_millis(10))?
            .finish()?
            .ensure_nothing_lost()
    });
}

const SOON: Duration = Duration::from_secs(20);

const NETWORK: &str = "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {name: branches, labels: {team: elsewhere}}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16]
  addressing: {pools: [10.255.1.0/24]}
  hubs:
  - {name: hub1, overlayAddresses: [10.255.0.1], nbma: [{address: 192.0.2.2}], nodeSelector: {role: gateway}}
  tunnel: {key: 100}
  nhrp: {networkId: 100, authenticationSecretRefs: [{name: branches-nhrp}]}
";

const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: branches-nhrp, namespace: dmvpn-system, labels: {dmvpn.io/network: branches}}
stringData: {password: s3cret, other: not-for-members}
";

/// As a user does: the program is kubectl's plugin.
fn join(cluster: &Cluster, words: &[&str]) -> Result<Reply> {
    cluster.output("kubectl", &[&["dmvpn", "join"], words].concat(), "")
}

/// And changes nothing.
fn what_cannot_be_joined_says_why(east: &Cluster) -> Result<()> {
    let before = east.kubectl(&["get", "dmvpnnetwork", "branches", "-o", "yaml"])?;
    for (words, why) in [
        (&["nobody", "--host", "a", "--pool", "/24"][..], "\"nobody\" not found"),
        (&["branches", "--host", "a"], "add --pool /24"),
        (
            &["branches", "--host", "a", "--pool", "10.255.1.0/25"],
            "10.255.1.0/24, which is a pool of this cluster",
        ),
        (
            &["branches", "--host", "a", "--address", "10.9.9.9"],
            "10.9.9.9 is not in the overlay (10.255.0.0/16)",
        ),
        (
            &["branches", "--host", "a", "--pool", "/24", "-n", "default"],
            "Secret branches-nhrp in namespace default",
        ),
    ] {
        let reply = join(east, words)?;
        ensure!(reply.status != 0 && reply.stderr.contains(why), "{words:?}: {}", reply.stderr);
        ensure!(reply.stdout.is_empty(), "{words:?} prints {}", reply.stdout);
    }
    let after = east.kubectl(&["get", "dmvpnnetwork", "branches", "-o", "yaml"])?;
    ensure!(after == before, "something was changed:\n{before}\nnow\n{after}");
    Ok(())
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

const PATIENCE: Duration = Duration::from_secs(10);

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
