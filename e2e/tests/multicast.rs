//! Multicast through the tunnel: to those who should have it and to nobody else, and a routing protocol that lives on
//! it. (The kernel itself would put it into GRE to the multicast address: nothing of that leaves.)

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::groups::{self, Listener};
use e2e::lab::{Agent, Capture, Frr, Host, Lab, Peek, Ping, frr};
use e2e::ring3::Needs;
use e2e::scene::Scene;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, KEY, NETWORK, TUNNEL};
use e2e::{ring3_with, wait};

const SOON: Duration = Duration::from_secs(20);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(180) };

fn start(lab: &Lab, multicast: &str) -> Result<Branches> {
    Branches::start_with(Scene::build(lab)?, |network| with(&network, multicast))
}

/// `network.yaml` with a setting for multicast.
fn with(network: &str, multicast: &str) -> String {
    network.replace("    networkId: 100\n", &format!("    networkId: 100\n    multicast: {multicast}\n"))
}

fn group(text: &str) -> Result<IpAddr> {
    Ok(text.parse()?)
}

/// Packets of a capture on the underlay that carry multicast to `group`, in GRE to anywhere.
fn carried(capture: &Capture, group: IpAddr) -> Result<Vec<Peek>> {
    let packets = capture.packets()?;
    Ok(packets.into_iter().filter(|p| p.inner.is_some_and(|inner| inner.destination == group)).collect())
}

#[test]
fn it_reaches_those_who_should_have_it_and_nobody_else() {
    ring3_with(NEEDS, |lab| {
        let branches = start(lab, "{mode: Dynamic, groups: [239.1.1.1]}")?;
        let hub = branches.scene.site("hub")?;
        let (a, b) = (branches.a()?, branches.b()?);
        // Speaks GRE with the right key, and has not registered.
        let stranger = branches.scene.site("router")?;
        frr::make_gre(&stranger.host, TUNNEL, stranger.nbma(), Some(KEY), "10.255.0.99".parse()?)?;
        let (local, named) = (group("224.0.0.100")?, group("239.1.1.1")?);
        let hosts = [&hub.host, &a.host, &b.host, &stranger.host];
        let hear = |group: IpAddr| -> Result<Vec<Listener>> {
            hosts.iter().map(|host| Listener::start(host, TUNNEL, group)).collect()
        };
        let (locals, nameds) = (hear(local)?, hear(named)?);
        let wires: Vec<_> = [hub, a, b, stranger]
            .iter()
            .map(|site| Capture::start(&site.host, "wan0", "proto gre"))
            .collect::<Result<_>>()?;

        // From the hub to both branches.
        groups::say(&hub.host, TUNNEL, local, "from-hub")?;
        locals[1].wait_for("from-hub", SOON)?;
        locals[2].wait_for("from-hub", SOON)?;
        locals[0].wait_for("from-hub", SOON)?;
        // From a branch to the hub only; then a named group to the hub, which relays it.
        groups::say(&a.host, TUNNEL, local, "from-a")?;
        locals[0].wait_for("from-a", SOON)?;
        groups::say(&a.host, TUNNEL, named, "named-by-a")?;
        nameds[0].wait_for("named-by-a", SOON)?;
        nameds[2].wait_for("named-by-a", SOON)?;
        groups::say(&hub.host, TUNNEL, named, "named-by-hub")?;
        nameds[1].wait_for("named-by-hub", SOON)?;
        nameds[2].wait_for("named-by-hub", SOON)?;
        // Neither named nor link-local: nobody.
        groups::say(&hub.host, TUNNEL, group("239.9.9.9")?, "unnamed")?;
        // All that was sent before is where it goes when this is.
        groups::say(&hub.host, TUNNEL, local, "last")?;
        locals[1].wait_for("last", SOON)?;
        locals[2].wait_for("last", SOON)?;

        let heard =
            |listeners: &[Listener]| -> Vec<Vec<String>> { listeners.iter().map(Listener::heard).collect() };
        ensure!(
            heard(&locals)
                == [
                    &["from-hub", "from-a", "last"][..],
                    &["from-hub", "from-a", "last"],
                    &["from-hub", "last"],
                    &[]
                ],
            "link-local: {:?}",
            heard(&locals)
        );
        ensure!(
            heard(&nameds)
                == [
                    &["named-by-a", "named-by-hub"][..],
                    &["named-by-a", "named-by-hub"],
                    &["named-by-a", "named-by-hub"],
                    &[]
                ],
            "named: {:?}",
            heard(&nameds)
        );
        let to_a = carried(&wires[1], named)?
            .into_iter()
            .filter(|p| p.ip.is_some_and(|ip| ip.destination == IpAddr::from(a.nbma())));
        ensure!(to_a.count() == 1, "what it sent itself came back to a branch");
        for (wire, site) in wires.iter().zip([hub, a, b, stranger]) {
            // (The stranger's own kernel reports his groups to the underlay, now and then.)
            let his = IpAddr::from(stranger.nbma());
            let leaks = |p: &Peek| p.ip.is_some_and(|ip| ip.destination.is_multicast() && ip.source != his);
            let leaked = wire.count(leaks)?;
            ensure!(
                leaked == 0,
                "{leaked} packets to a multicast address in the underlay at {}",
                site.plan.name
            );
            ensure!(carried(wire, group("239.9.9.9")?)?.is_empty(), "an unnamed group at {}", site.plan.name);
        }
        ensure!(carried(&wires[3], local)?.is_empty() && carried(&wires[3], named)?.is_empty());
        branches.ensure_direct_traffic()
    });
}

#[test]
fn none_is_nothing_and_nhs_is_to_the_hub_only() {
    ring3_with(NEEDS, |lab| {
        let branches = start(lab, "{mode: None}")?;
        let (hub, a) = (branches.scene.site("hub")?, branches.a()?);
        let local = group("224.0.0.100")?;
        let at_hub = Listener::start(&hub.host, TUNNEL, local)?;
        let at_a = Listener::start(&a.host, TUNNEL, local)?;
        let wires =
            [Capture::start(&hub.host, "wan0", "proto gre")?, Capture::start(&a.host, "wan0", "proto gre")?];
        groups::say(&hub.host, TUNNEL, local, "none")?;
        groups::say(&a.host, TUNNEL, local, "none")?;
        // What was sent before has been seen when this has.
        Ping::start(&a.host, HUB.into(), 3, Duration::from_millis(10))?.finish()?.ensure_nothing_lost()?;
        for wire in &wires {
            wire.wait_for(SOON, "the ping", |p| p.inner.is_some_and(|inner| inner.protocol == 1))?;
            let leaked = wire.count(|p| p.ip.is_some_and(|ip| ip.destination.is_multicast()))?;
            ensure!(leaked == 0 && carried(wire, local)?.is_empty(), "multicast left");
        }
        let network = e2e::scene::overlay::quickstart("network.yaml")?;
        for agent in [&branches.overlay.hub, &branches.overlay.branch_a] {
            agent.write("network.yaml", &with(&network, "{mode: NHS}"))?;
        }
        // Until the change is in force nothing is carried.
        wait::until(SOON, "NHS in force on the branch", || {
            groups::say(&a.host, TUNNEL, local, "nhs")?;
            wait::ensure(at_hub.heard().iter().any(|h| h == "nhs"), || format!("{:?}", at_hub.heard()))
        })?;
        wait::until(SOON, "NHS in force on the hub", || {
            let rules = hub.host.run(&["nft", "list", "table", "inet", "dmvpn_branches"])?;
            wait::ensure(rules.contains("multicast_out"), || rules)
        })?;
        groups::say(&hub.host, TUNNEL, local, "from-hub")?;
        groups::say(&a.host, TUNNEL, local, "last")?;
        at_hub.wait_for("last", SOON)?;
        let heard = at_a.heard();
        ensure!(!heard.iter().any(|h| h == "from-hub"), "a branch heard its hub: {heard:?}");
        Ok(())
    });
}

const DUAL_STACK: &str = "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {name: branches}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16, 'fd00:255::/64']
  hubs:
  - {name: hub1, overlayAddresses: [10.255.0.1, 'fd00:255::1'], nbma: [{address: 192.0.2.2}]}
  addressing: {pools: [10.255.16.0/20, 'fd00:255::1:0/112']}
  tunnel: {key: 100}
  nhrp: {networkId: 100, multicast: {mode: Dynamic, groups: ['ff08::1']}}
";

#[test]
fn ipv6_multicast_goes_the_same_ways() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let start = |name: &str, labels: &[&str]| -> Result<Agent> {
            let spoke = format!(
                "apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {name}}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: Node, nodeName: {name}}}
"
            );
            let files = [("network.yaml".to_owned(), DUAL_STACK.to_owned()), ("own.yaml".to_owned(), spoke)];
            Agent::start(&scene.site(name)?.host, labels, &files.into())
        };
        let hub = start("hub", &["dmvpn.io/hub=hub1"])?;
        let branches = [start("branch-a", &[])?, start("branch-b", &[])?];
        for branch in &branches {
            branch.wait_until_up(NETWORK, SOON)?;
        }
        let (local, named) = (group("ff02::1234")?, group("ff08::1")?);
        let [a, b] = [branches[0].host(), branches[1].host()];
        let hear = |group: IpAddr| -> Result<Vec<Listener>> {
            [hub.host(), a, b].iter().map(|host| Listener::start(host, TUNNEL, group)).collect()
        };
        let (locals, nameds) = (hear(local)?, hear(named)?);
        let wire = Capture::start(hub.host(), "wan0", "proto gre")?;
        // (The sender is told of no error.)
        groups::say(hub.host(), TUNNEL, local, "from-hub")?;
        groups::say(a, TUNNEL, local, "from-a")?;
        groups::say(a, TUNNEL, named, "named-by-a")?;
        for (listener, text) in [
            (&locals[1], "from-hub"),
            (&locals[2], "from-hub"),
            (&locals[0], "from-a"),
            (&nameds[0], "named-by-a"),
            (&nameds[2], "named-by-a"),
        ] {
            listener.wait_for(text, SOON)?;
        }
        ensure!(locals[2].heard() == ["from-hub"], "a branch heard the other: {:?}", locals[2].heard());
        let leaked = wire.count(|p| p.ip.is_some_and(|ip| ip.destination.is_multicast()))?;
        ensure!(leaked == 0, "{leaked} packets to a multicast address in the underlay");
        // Neighbour discovery and listener reports stay at home.
        let noise =
            wire.count(|p| p.inner.is_some_and(|i| i.destination.is_multicast() && i.protocol != 17))?;
        ensure!(noise == 0, "{noise} packets of noise");
        Ok(())
    });
}

fn start_ospf(host: &Host, id: IpAddr) -> Result<Frr> {
    Frr::start_daemons(
        host,
        &["zebra", "ospfd"],
        &format!(
            "hostname {}
interface {TUNNEL}
 ip ospf area 0
 ip ospf network point-to-multipoint
 ip ospf hello-interval 1
 ip ospf dead-interval 4
router ospf
 ospf router-id {id}
",
            host.name()
        ),
    )
}

/// OSPF neighbours and their states, as FRR shows them.
fn neighbours(frr: &Frr) -> Result<Vec<(String, String)>> {
    let text = frr.vtysh("show ip ospf neighbor")?;
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = lines.filter(|words| words.first().is_some_and(|id| id.starts_with("10.255.")));
    Ok(rows.filter_map(|w| Some((w.first()?.to_string(), w.get(2)?.to_string()))).collect())
}

#[test]
fn ospf_becomes_full_between_hub_and_branches() {
    ring3_with(NEEDS, |lab| {
        let branches = start(lab, "{mode: Dynamic}")?;
        let (hub, a, b) = (branches.scene.site("hub")?, branches.a()?, branches.b()?);
        let at_hub = start_ospf(&hub.host, HUB.into())?;
        let at_a = start_ospf(&a.host, BRANCH_A.into())?;
        let _at_b = start_ospf(&b.host, BRANCH_B.into())?;
        let full = |frr: &Frr, want: &[IpAddr]| {
            wait::until(Duration::from_secs(60), &format!("OSPF of {} to be full", frr.host().name()), || {
                let all = neighbours(frr)?;
                let good = want
                    .iter()
                    .all(|id| all.iter().any(|(n, state)| *n == id.to_string() && state.starts_with("Full")));
                wait::ensure(good && all.len() == want.len(), || format!("{all:?}"))
            })
        };
        full(&at_hub, &[BRANCH_A.into(), BRANCH_B.into()])?;
        full(&at_a, &[HUB.into()])?;
        branches.ensure_direct_traffic()
    });
}
