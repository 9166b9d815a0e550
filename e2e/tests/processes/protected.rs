//! The network comes again under IPsec: not one GRE packet in clear, keys by Secret, and what outlasts whom.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::charon::Charon;
use e2e::lab::ping::both_ways;
use e2e::scene::overlay::NETWORK;
use e2e::scene::wire::Wire;
use e2e::{Cluster, wait};
use serde_json::{Value, json};
use vici::Message;

use crate::stage::{
    LOOK, NAMESPACE, SOON, Stage, condition, endpoint, kept, network, under_pings, wait_until_gone,
};

const INTERVAL: Duration = Duration::from_millis(10);
const OLD: &str = "k3y-of-before";
const NEW: &str = "k3y-of-today";
/// Keeps an agent from the operator.
const CUT: &str =
    "table inet cut { chain out { type filter hook output priority 0; tcp dport 8443 reject; }; }";
/// What an agent says when it has given a key to the IKE daemon.
const LOADED: &str = "pre-shared key loaded";

pub(crate) fn under_ipsec(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    stage.b.remove("network.yaml")?;
    east.kubectl(&["delete", "dmvpnnetwork", NETWORK, "--timeout=30s"])?;
    stage.a_is_as_before()?;
    let wire = Wire::tap(&stage.scene)?;

    let protected = network()?
        + "  ipsec:\n    mode: Required\n    authentication:\n      type: PSK\n      \
                                 pskSecretRefs: [{name: ipsec}, {name: ipsec, key: next}]\n";
    east.apply(&protected)?;
    stage.b.write("network.yaml", &protected)?;
    told(
        east,
        "CredentialsReady",
        "False",
        "SecretMissing",
        "pskSecretRefs[0]: Secret dmvpn-system/ipsec is not",
    )?;
    set_keys(stage, OLD, OLD)?;
    // Nobody speaks IKE yet, and each says so, the hub too.
    for node in ["hub", "branch-a"] {
        until(stage, node, "IKE", "False", "IkeDaemonAway")?;
    }
    told(east, "IPsecReady", "False", "IkeDaemonAway", "branch-a (IkeDaemonAway: ")?;
    told(east, "Authenticated", "False", "SharedSecret", "anyone can claim any name")?;
    let daemon = |name: &str| Charon::start(&stage.site(name)?.host);
    let (mut of_hub, mut of_a, mut of_b) = (daemon("hub")?, daemon("branch-a")?, daemon("branch-b")?);
    for node in ["hub", "branch-a"] {
        until(stage, node, "Up", "True", "Protected")?;
        let shared = condition(&endpoint(east, node)?, "Authenticated");
        ensure!(shared["status"] == "False" && shared["reason"] == "SharedSecret", "{shared}");
    }
    stage.b.wait_until_up(NETWORK, SOON)?;
    told(east, "IPsecReady", "True", "Protected", "")?;
    until_direct(stage)?;

    under_pings(stage, |stage| {
        for (first, next) in [(OLD, NEW), (NEW, OLD), (NEW, NEW)] {
            let loaded = |stage: &Stage<'_>| {
                [&stage.hub, &stage.a, &stage.b].map(|agent| agent.log().matches(LOADED).count())
            };
            let before = loaded(stage);
            set_keys(stage, first, next)?;
            wait::until(SOON, "all three to have other keys", || {
                let now = loaded(stage);
                let all = now.iter().zip(&before).all(|(now, before)| now > before);
                wait::ensure(all, || format!("{before:?}, now {now:?}"))
            })?;
        }
        Ok(())
    })
    .context("keys are exchanged by their Secret")?;
    agent_without_operator(stage, &of_a).context("an agent starts while the operator is away")?;

    // The hub's daemon dies: SAs are the kernel's, and nobody knows of them. (What a dead one leaves lies about until it
    // ends: the kernel of branch-a is compared below.)
    under_pings(stage, |stage| {
        of_hub.kill()?;
        until(stage, "hub", "Unknown", "Unknown", "IkeDaemonAway")?;
        told(east, "IPsecReady", "Unknown", "IkeDaemonAway", "hub (IkeDaemonAway: ")
    })
    .context("the IKE daemon is killed")?;
    of_hub.restart()?;
    until(stage, "hub", "Up", "True", "Protected")?;
    // Its successor knows of the branches' SAs when those are made anew: dead peer detection would do that later.
    end_with_hub(stage, &of_a)?;
    end_with_hub(stage, &of_b)?;
    wait::until(SOON, "both branches to be known to the hub's new daemon", || {
        let stats = of_hub.call("stats", Message::new())?;
        let sas = stats.section("ikesas").context("ikesas")?;
        let all = (sas.text("total"), sas.text("half-open"));
        wait::ensure(all == (Some("2"), Some("0")), || format!("{all:?}"))
    })?;
    until_direct(stage)?;

    for node in ["hub", "branch-a"] {
        let endpoint = endpoint(east, node)?.to_string();
        ensure!(!endpoint.contains("k3y-of"), "a key is told: {endpoint}");
    }
    for agent in [&stage.hub, &stage.a, &stage.b] {
        ensure!(!agent.log().contains("k3y-of"), "{} logs a key", agent.host().name());
    }
    ensure!(!stage.operator.process.log().contains("k3y-of"), "the operator logs a key");

    stage.delete_spoke()?;
    wait_until_gone(east, "branch-a")?;
    stage.hub_has_forgotten_a()?;
    let held = [of_a.call("get-conns", Message::new())?, of_a.call("get-shared", Message::new())?];
    let held = [held[0].list("conns"), held[1].list("keys")].concat();
    ensure!(held.is_empty(), "the IKE daemon of branch-a holds {held:?}");
    of_a.stop()?;
    stage.a_is_as_before()?;
    let (clear, esp) = wire.stop()?;
    println!("    {clear} packets of clear GRE, {esp} of ESP");
    ensure!(clear == 0 && esp > 2000, "{clear} of clear GRE, {esp} of ESP");

    // As it was before this check.
    east.apply(&network()?)?;
    stage.b.write("network.yaml", &network()?)?;
    stage.apply_spoke()?;
    stage.wait_until_up("hub")?;
    stage.b.wait_until_up(NETWORK, SOON)?;
    ensure!(condition(&endpoint(east, "hub")?, "IPsecReady").is_null(), "it says IPsecReady in clear");
    of_hub.stop()?;
    of_b.stop()?;
    until_direct(stage)
}

/// Its tunnel works on: the daemon has the keys, and they are nowhere else on the node.
fn agent_without_operator(stage: &mut Stage<'_>, of_a: &Charon) -> Result<()> {
    let host = stage.site("branch-a")?.host.clone();
    let hub = stage.site("hub")?.nbma();
    host.nft(CUT)?;
    under_pings(stage, |stage| {
        stage.a.kill()?;
        stage.a.restart()?;
        stage.a.wait_until_up(NETWORK, SOON)?;
        wait::until_max(SOON, LOOK, "branch-a to say that it lacks the keys", || {
            let credentials = condition(&endpoint(stage.east, "branch-a")?, "CredentialsReady");
            let message = credentials["message"].as_str().unwrap_or_default();
            ensure!(credentials["reason"] == "SecretsUnavailable", "{credentials}");
            ensure!(message.contains("what is in force stays"), "{credentials}");
            Ok(())
        })
    })?;
    let (_, text) = kept(&stage.a)?;
    // NEW and OLD in base64, as the file has passwords.
    ensure!(!text.contains("azN5LW9m") && !text.contains("k3y-of"), "a key is in a file: {text}");
    let spis = || -> Result<String> {
        let states = host.run(&["ip", "xfrm", "state", "list", "dst", &hub.to_string()])?;
        let spis: Vec<_> = states.lines().filter(|l| l.contains("spi ")).map(str::trim).collect();
        Ok(spis.join(", "))
    };
    let before = spis()?;
    ensure!(before.contains("spi "), "no SA with the hub");
    end_with_hub(stage, of_a)?;
    wait::until(SOON, "another SA with the hub, by the key that the daemon has", || {
        let now = spis()?;
        wait::ensure(now.contains("spi ") && now != before, || now)
    })?;
    stage.a.wait_until_up(NETWORK, SOON)?;
    host.nft("delete table inet cut")?;
    wait::until_max(SOON, LOOK, "branch-a to have its keys again", || {
        let credentials = condition(&endpoint(stage.east, "branch-a")?, "CredentialsReady");
        wait::ensure(credentials["status"] == "True", || credentials.to_string())
    })?;
    until_direct(stage)
}

/// Ends a branch's SAs with the hub, at the branch's end.
fn end_with_hub(stage: &Stage<'_>, daemon: &Charon) -> Result<()> {
    let ike = format!("dmvpn-{NETWORK}/{}", stage.site("hub")?.nbma());
    let end = Message::new().with("ike", ike).with("force", "yes").with("timeout", "-1");
    daemon.call("terminate", end).map(drop)
}

/// Both keys of the Secret, in the cluster and on the box.
fn set_keys(stage: &Stage<'_>, first: &str, next: &str) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": {"psk": first, "next": next},
        "metadata": {"name": "ipsec", "labels": {"dmvpn.io/network": NETWORK}},
    });
    stage.east.kubectl_with_input(&["apply", "-n", NAMESPACE, "-f", "-"], &secret.to_string())?;
    stage.b.write("ipsec.yaml", &secret.to_string())
}

/// Until the endpoint of a node is in a state, and says so of its protection.
fn until(stage: &Stage<'_>, node: &str, state: &str, status: &str, reason: &str) -> Result<()> {
    wait::until_max(SOON, LOOK, &format!("{node} to be {state}, IPsecReady {status} {reason}"), || {
        let endpoint = endpoint(stage.east, node)?;
        let ready = condition(&endpoint, "IPsecReady");
        let all =
            endpoint["status"]["state"] == state && ready["status"] == status && ready["reason"] == reason;
        wait::ensure(all, || endpoint["status"].to_string())
    })
}

/// Until the network says this in a condition.
fn told(east: &Cluster, type_: &str, status: &str, reason: &str, text: &str) -> Result<()> {
    wait::until_max(SOON, LOOK, &format!("the network to say {type_}={status}, {reason}"), || {
        let network: Value = east.kubectl_json(&["get", "dmvpnnetwork", NETWORK])?;
        let said = condition(&network, type_);
        let message = said["message"].as_str().unwrap_or_default();
        let all = said["status"] == status && said["reason"] == reason && message.contains(text);
        wait::ensure(all, || network["status"].to_string())
    })
}

/// Until LAN to LAN works between the branches, and both ways are direct.
fn until_direct(stage: &Stage<'_>) -> Result<()> {
    let (a, b) = (stage.site("branch-a")?.clone(), stage.site("branch-b")?.clone());
    wait::until(SOON, "packets both ways, directly", || {
        let ends = ((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()));
        let (there, back) = both_ways(ends.0, ends.1, 10, INTERVAL)?;
        for report in [there, back] {
            report.ensure_nothing_lost()?;
            let hops = report.hops();
            wait::ensure(hops == Some((2, 2)), || format!("{hops:?}"))?;
        }
        Ok(())
    })
}
