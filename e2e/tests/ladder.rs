//! Why a tunnel is not up: each reason is provoked on the wire, told with its cure by the report and by
//! `show dmvpn`, and gone by itself when its cause is; the tunnel link stays the same one all the while.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::Lab;
use e2e::lab::inject::{self, Nhrp, in_gre};
use e2e::lab::{Agent, Host};
use e2e::ring3::Needs;
use e2e::scene::Scene;
use e2e::scene::overlay::{BRANCH_A, HUB, KEY, NETWORK, TUNNEL, link_index, manifests, quickstart};
use e2e::wait;
use e2e::{ring3, ring3_with};
use view::State;

const SOON: Duration = Duration::from_secs(10);
/// Three requests without an answer: 1 s + 2 s + 4 s, with jitter, after the refresh that is due within 1 s.
const SILENCE: Duration = Duration::from_secs(12);
/// A path MTU is measured again after 10 s, in up to 12 steps of 1.5 s.
const MEASURED: Duration = Duration::from_secs(60);
/// A silent hub is asked again after 8 s at the latest.
const AGAIN: Duration = Duration::from_secs(25);
/// A moved tunnel source is known to the hub within this time: 2 s are meant, of which the hub spends one on asking at the
/// old address; two guests beside builds took 2.3 s.
const MOVED: Duration = Duration::from_secs(4);

/// NHRP packet types, and the error "unrecognised extension" (RFC 2332 §5.2).
const REGISTRATION_REQUEST: u8 = 3;
const ERROR_INDICATION: u8 = 7;
const UNRECOGNISED: u16 = 1;

/// Hub and `branch-a`, both Up.
struct Pair {
    scene: Scene,
    hub: Agent,
    branch: Agent,
    index: u64,
}

impl Pair {
    /// Starts both; `change` is made in the branch's network.
    fn start(lab: &Lab, change: (&str, &str)) -> Result<Self> {
        let scene = Scene::build(lab)?;
        let hub = Agent::start(
            &scene.site("hub")?.host,
            &["dmvpn.io/hub=hub1"],
            &manifests(&["network.yaml", "hub-lan.yaml"])?,
        )?;
        let mut files = manifests(&["network.yaml", "branch-a.yaml"])?;
        files.insert("network.yaml".into(), changed("network.yaml", &[change])?);
        let branch = Agent::start(&scene.site("branch-a")?.host, &[], &files)?;
        branch.wait_until_up(NETWORK, SOON)?;
        let index = link_index(branch.host(), TUNNEL)?;
        let pair = Self { scene, hub, branch, index };
        pair.works(SOON)?;
        Ok(pair)
    }

    fn host(&self) -> &Host {
        self.branch.host()
    }

    /// The branch tells state and reason, in the report and for people, with `cause` and `cure` in the text.
    fn tells(
        &self,
        state: State,
        reason: &str,
        words: [&str; 2],
        deadline: Duration,
    ) -> Result<view::Tunnel> {
        let tunnel = self.branch.wait_for_state(NETWORK, state, reason, deadline)?;
        let shown = self.branch.cli("show dmvpn")?;
        for word in words.iter().chain([&reason]) {
            ensure!(*word == reason || tunnel.message.contains(word), "no {word:?} in {:?}", tunnel.message);
            ensure!(shown.contains(word), "no {word:?} in:\n{shown}");
        }
        ensure!(self.index == link_index(self.host(), TUNNEL)?, "another link at {reason}");
        Ok(tunnel)
    }

    /// The tunnel is Up, carries packets to the hub, is the same link, and nothing is left of the reason.
    fn works(&self, deadline: Duration) -> Result<()> {
        let tunnel = self.branch.wait_until_up(NETWORK, deadline)?;
        ensure!(
            tunnel.reason.is_empty() && tunnel.message.is_empty(),
            "{}: {}",
            tunnel.reason,
            tunnel.message
        );
        let shown = self.branch.cli("show dmvpn")?;
        ensure!(!shown.contains("   State "), "still a reason:\n{shown}");
        wait::until(SOON, "a ping to the hub's tunnel address", || {
            self.host().run(&["ping", "-c1", "-W1", &HUB.to_string()])
        })?;
        ensure!(self.index == link_index(self.host(), TUNNEL)?, "another link");
        Ok(())
    }

    /// Where the hub's kernel sends packets to the branch.
    fn hub_neighbour(&self) -> Result<String> {
        let text = self.hub.host().run(&["ip", "neighbour", "show", &BRANCH_A.to_string(), "dev", TUNNEL])?;
        Ok(text.trim().to_owned())
    }
}

/// A file of the quickstart with texts replaced.
fn changed(file: &str, changes: &[(&str, &str)]) -> Result<String> {
    let mut text = quickstart(file)?;
    for (from, to) in changes {
        ensure!(text.contains(from), "{file} has no {from:?}");
        text = text.replace(from, to);
    }
    Ok(text)
}

const NOTHING: (&str, &str) = ("", "");
/// Refresh every second, so that silence is noticed in seconds.
const REFRESH: (&str, &str) =
    ("holdTimeSeconds: 600", "holdTimeSeconds: 600\n    registrationIntervalSeconds: 1");

#[test]
fn what_is_wrong_with_the_underlay_is_told_and_passes() {
    ring3(|lab| {
        let pair = Pair::start(lab, NOTHING)?;
        let host = pair.host();
        let bring_up = || -> Result<()> {
            host.ip("link set wan0 up")?;
            host.ip("route add default via 198.51.100.1")
        };

        host.ip("link set wan0 down")?;
        pair.tells(State::Intf, "NoDefaultRoute", ["no default route", "tunnelSource"], SOON)?;
        bring_up()?;
        pair.works(SOON)?;

        // There is a default route, but not for the hub.
        host.ip("route add unreachable 192.0.2.2/32")?;
        pair.tells(State::Intf, "NoRouteToHub", ["192.0.2.2", "add a route"], SOON)?;
        host.ip("route del unreachable 192.0.2.2/32")?;
        pair.works(SOON)?;

        // The same tunnel, its source named: the reasons are more exact.
        let address = "overlayAddresses: [10.255.0.11]";
        let source = format!("{address}\n  tunnelSource: {{from: Interface, interface: wan0}}");
        pair.branch.write("branch-a.yaml", &changed("branch-a.yaml", &[(address, &source)])?)?;
        pair.works(SOON)?;

        host.ip("link set wan0 down")?;
        pair.tells(State::Intf, "InterfaceDown", ["wan0", "ip link set wan0 up"], SOON)?;
        bring_up()?;
        pair.works(SOON)?;

        let cable = pair.scene.uplink(pair.scene.site("branch-a")?);
        pair.scene.isp.ip(&format!("link set {cable} down"))?;
        pair.tells(State::Intf, "InterfaceNoCarrier", ["wan0", "check the cable"], SOON)?;
        pair.scene.isp.ip(&format!("link set {cable} up"))?;
        pair.works(SOON)?;

        host.ip("addr del 198.51.100.2/24 dev wan0")?;
        pair.tells(State::Intf, "InterfaceHasNoAddress", ["wan0", "configure one"], SOON)?;
        host.ip("addr add 198.51.100.2/24 dev wan0")?;
        // An address alone is no way to the hub.
        pair.tells(State::Intf, "NoRouteToHub", ["192.0.2.2", "add a route"], SOON)?;
        host.ip("route add default via 198.51.100.1")?;
        pair.works(SOON)
    });
}

/// What keeps packets from passing through the host is none of the tunnel's: it stays Up, and says so.
#[test]
fn a_host_that_does_not_forward_is_told_and_passes() {
    ring3(|lab| {
        let pair = Pair::start(lab, ("", ""))?;
        let told = |agent: &Agent, words: &[&str]| {
            wait::until(SOON, &format!("{words:?}"), || {
                let tunnel = agent.tunnel(NETWORK)?;
                ensure!(tunnel.state == State::Up, "{:?}", tunnel.state);
                let said = &tunnel.hindrance;
                wait::ensure(words.iter().all(|word| said.contains(word)), || format!("{said:?}"))?;
                wait::ensure(!words.is_empty() || said.is_empty(), || said.clone())?;
                let shown = agent.cli("show dmvpn")?;
                wait::ensure(shown.contains("   Forwarding: ") != words.is_empty(), || shown)
            })
        };
        told(&pair.branch, &[])?;
        for (agent, key) in [(&pair.branch, "net/ipv4/ip_forward"), (&pair.hub, "net/ipv4/ip_forward")] {
            agent.host().sysctl(key, "0")?;
            told(agent, &["ForwardingDisabled", "no IPv4 packets", "net.ipv4.ip_forward"])?;
            agent.host().sysctl(key, "1")?;
            told(agent, &[])?;
        }
        // Strict alone harms nobody; packets whose way back is another do not get in.
        let host = pair.host();
        host.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
        told(&pair.branch, &[])?;
        let (lan, hub_lan) = (&pair.scene.site("branch-a")?.lan, pair.scene.site("hub")?.lan_host());
        lan.ip("addr add 10.77.0.5/32 dev lo")?;
        // (The router does not answer ARP for such an address either.)
        lan.run(&["ping", "-c1", "-W2", &hub_lan.to_string()])?;
        let _ = lan.output(&["ping", "-c3", "-i0.2", "-W1", "-I", "10.77.0.5", &hub_lan.to_string()])?;
        // It is looked at with the next change.
        host.ip("route add 10.97.0.0/24 dev lan0")?;
        told(&pair.branch, &["ReversePathFilter", "strict by net.ipv4.conf.all.rp_filter"])?;
        host.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        told(&pair.branch, &[])?;
        pair.works(SOON)
    });
}

/// The path MTU is measured and told. Where the underlay carries less than the tunnel and says so, senders are told by the
/// kernel; where it does not, packets vanish, and the tunnel says so and stays Up.
#[test]
fn long_packets_that_vanish_are_told_and_pass() {
    ring3_with(Needs { memory_mib: 768, deadline: Duration::from_secs(240) }, |lab| {
        let pair = Pair::start(lab, NOTHING)?;
        let told = |mtu: u32, words: &[&str]| {
            wait::until(MEASURED, &format!("a path MTU of {mtu} {words:?}"), || {
                let tunnel = pair.branch.tunnel(NETWORK)?;
                ensure!(tunnel.state == State::Up && tunnel.path_mtu == Some(mtu), "{:?}", tunnel.path_mtu);
                let said = &tunnel.hindrance;
                let all = words.iter().all(|word| said.contains(word));
                wait::ensure(all && (!words.is_empty() || said.is_empty()), || format!("{said:?}"))
            })
        };
        told(1400, &[])?;
        let shown = pair.branch.cli("show dmvpn detail")?;
        ensure!(shown.contains("MTU 1400, path MTU 1400,"), "{shown}");

        // As much as that passes from one LAN to the other; of one byte more the sender is told by us.
        let (lan, hub_lan) = (&pair.scene.site("branch-a")?.lan, pair.scene.site("hub")?.lan_host());
        let long = |packet: u32| {
            let size = packet - 28;
            lan.sh(&format!("ip route flush cache; ping -c1 -W2 -M do -s {size} {hub_lan} 2>&1 || true"))
        };
        let passed = long(1400)?;
        ensure!(passed.contains("1 received"), "{passed}");
        let refused = long(1401)?;
        ensure!(refused.contains("From 10.20.0.1") && refused.contains("mtu = 1400"), "{refused}");

        // The hub's last mile carries less, and its router may not say so.
        let cable = pair.scene.uplink(pair.scene.site("hub")?);
        pair.scene.isp.nft(
            "table inet mute { chain o { type filter hook output priority 0; icmp type destination-unreachable drop; }; }",
        )?;
        pair.scene.isp.ip(&format!("link set {cable} mtu 1300"))?;
        // With another MTU of the tunnel it is measured at once.
        pair.branch
            .write("network.yaml", &changed("network.yaml", &[("key: 100", "key: 100\n    mtu: 1396")])?)?;
        told(1300 - 28, &["MtuBlackHole", "more than 1272 bytes vanish", "Set tunnel.mtu"])?;
        // Of a way that is not there any more nothing is said.
        let short = ("key: 100", "key: 100\n    mtu: 1396");
        let asleep = ("  phase: Phase3", "  phase: Phase3\n  suspend: true");
        pair.branch.write("network.yaml", &changed("network.yaml", &[short, asleep])?)?;
        wait::until(SOON, "nothing to be said of it", || {
            let tunnel = pair.branch.tunnel(NETWORK)?;
            wait::ensure(tunnel.state == State::AdminDown && tunnel.hindrance.is_empty(), || tunnel.hindrance)
        })?;
        pair.branch.write("network.yaml", &changed("network.yaml", &[short])?)?;
        told(1300 - 28, &["MtuBlackHole"])?;
        pair.scene.isp.nft("delete table inet mute")?;
        told(1300 - 28, &[])?;
        pair.scene.isp.ip(&format!("link set {cable} mtu 1500"))?;
        pair.host().ip("route flush cache")?;
        told(1396, &[])
    });
}

#[test]
fn a_hub_routed_through_its_own_tunnel_is_told_and_passes() {
    ring3(|lab| {
        let pair = Pair::start(lab, REFRESH)?;
        let host = pair.host();
        for route in [format!("192.0.2.2/32 dev {TUNNEL}"), format!("192.0.2.0/24 via {HUB} dev {TUNNEL}")] {
            host.ip(&format!("route add {route}"))?;
            pair.tells(State::Intf, "RecursiveRouting", ["192.0.2.2", "withdraw the overlay route"], SOON)?;
            // Somebody else's route is told, not taken away.
            let there = host.run(&["ip", "route", "show", "dev", TUNNEL, "proto", "boot"])?;
            ensure!(there.contains("192.0.2."), "the foreign route is gone: {there}");
            host.ip(&format!("route del {route}"))?;
            pair.works(SOON)?;
        }
        Ok(())
    });
}

/// The agent is away, its host is not: pings through the tunnel are answered, so that nothing is said of firewalls.
#[test]
fn a_silent_hub_is_told_and_passes() {
    ring3(|lab| {
        let mut pair = Pair::start(lab, REFRESH)?;
        let words = ["no answer", "Check that GRE (IP protocol 47) passes"];
        pair.hub.kill()?;
        let tunnel = pair.tells(State::Nhrp, "NoAnswer", words, SILENCE)?;
        let nhs = tunnel.nhs.first().context("no NHS")?;
        ensure!(nhs.status == view::NhsStatus::Expecting && nhs.requests_failed >= 3, "{nhs:?}");
        let host = pair.hub.host();
        host.nft(
            "table inet seen { chain i { type filter hook input priority 0; \
             ip saddr 10.255.0.11 icmp type echo-request counter; }; }",
        )?;
        let mut other = None;
        wait::until(SILENCE, "two probes through the tunnel", || {
            let seen = host.run(&["nft", "list", "table", "inet", "seen"])?;
            let (tunnel, none) = (pair.branch.tunnel(NETWORK)?, ["packets 0 ", "packets 1 "]);
            other = other.take().or_else(|| Some(tunnel.reason).filter(|reason| reason != "NoAnswer"));
            wait::ensure(!none.iter().any(|none| seen.contains(none)), || seen)
        })?;
        ensure!(other.is_none(), "{other:?} was told");
        pair.tells(State::Nhrp, "NoAnswer", words, SOON)?;
        pair.hub.host().nft("delete table inet seen")?;
        pair.hub.restart()?;
        pair.works(AGAIN)
    });
}

#[test]
fn a_firewall_that_takes_gre_is_told_and_passes() {
    ring3(|lab| {
        let pair = Pair::start(lab, REFRESH)?;
        let drop = |what: &str| {
            let rule = format!("meta l4proto {what} drop");
            pair.scene.isp.nft(&format!(
                "table inet block {{ chain f {{ type filter hook forward priority 0; {rule}; }}; }}"
            ))
        };
        drop("gre")?;
        let words = ["192.0.2.2 answers ping, and nothing comes back by GRE", "pass both ways"];
        let tunnel = pair.tells(State::Nhrp, "GreBlocked", words, SILENCE + SOON)?;
        ensure!(tunnel.nhs.first().is_some_and(|nhs| nhs.requests_failed >= 3), "{:?}", tunnel.nhs);
        // A path that carries nothing at all is no firewall's doing.
        drop("icmp")?;
        pair.tells(State::Nhrp, "NoAnswer", ["no answer", "that the hub runs"], SILENCE)?;
        pair.scene.isp.nft("delete table inet block")?;
        pair.works(AGAIN)?;

        // One way is enough to be blocked.
        pair.scene.isp.nft(
            "table inet block { chain f { type filter hook forward priority 0; \
             ip saddr 192.0.2.2 meta l4proto gre drop; }; }",
        )?;
        pair.tells(State::Nhrp, "GreBlocked", words, SILENCE + SOON)?;
        pair.scene.isp.nft("delete table inet block")?;
        pair.works(AGAIN)
    });
}

#[test]
fn a_wrong_key_is_told_and_passes() {
    ring3(|lab| {
        let pair = Pair::start(lab, REFRESH)?;
        let other_key = changed("network.yaml", &[REFRESH, ("key: 100", "key: 101")])?;
        pair.branch.write("network.yaml", &other_key)?;
        let words = ["no tunnel for GRE with key 101", "Use the same tunnel.key"];
        pair.tells(State::Nhrp, "KeyMismatchSuspected", words, SILENCE)?;
        pair.branch.write("network.yaml", &changed("network.yaml", &[REFRESH])?)?;
        // Whoever mends something does not want to wait for the next turn.
        pair.works(SOON)
    });
}

#[test]
fn passwords_that_differ_are_told_and_equal_ones_work() {
    ring3(|lab| {
        let pair = Pair::start(lab, REFRESH)?;
        let refs = ("networkId: 100", "networkId: 100\n    authenticationSecretRefs: [{name: nhrp}]");
        let branch_network = changed("network.yaml", &[REFRESH, refs])?;
        let hub_network = changed("network.yaml", &[refs])?;
        pair.hub.write("secret.yaml", &secret("s3cret-a"))?;
        pair.hub.write("network.yaml", &hub_network)?;
        // The hub asks for a password, the branch has none.
        let cure = "Use the same authenticationSecretRefs";
        pair.tells(State::Nhrp, "AuthenticationFailed", ["the hub answered with an error", cure], SILENCE)?;
        pair.branch.write("secret.yaml", &secret("s3cret-a"))?;
        pair.branch.write("network.yaml", &branch_network)?;
        pair.works(SOON)?;

        // The branch asks for one, the hub has none: it answers, but that proves nothing.
        pair.hub.write("network.yaml", &quickstart("network.yaml")?)?;
        pair.tells(State::Nhrp, "AuthenticationFailed", ["bear no password", cure], SILENCE)?;
        pair.hub.write("network.yaml", &hub_network)?;
        pair.works(AGAIN)?;

        // Another password: the hub says so. (Errors bear none: RFC 2332.)
        pair.branch.write("secret.yaml", &secret("other"))?;
        pair.tells(State::Nhrp, "AuthenticationFailed", ["the hub answered with an error", cure], SILENCE)?;
        let dropped = pair.hub.cli("show ip nhrp traffic")?;
        ensure!(dropped.contains("uthentication"), "the hub counts no authentication failure:\n{dropped}");
        for agent in [&pair.hub, &pair.branch] {
            let told =
                format!("{}{}{}", agent.log(), agent.cli("show dmvpn detail")?, agent.cli("show problems")?);
            ensure!(!told.contains("s3cret-a") && !told.contains("other\""), "a password is told:\n{told}");
        }

        pair.branch.write("secret.yaml", &secret("s3cret-a"))?;
        pair.works(SOON)
    });
}

/// An answer that is a refusal (RFC 2332 §5.2.4, a code in the client entry), and one that is no reply at all.
#[test]
fn a_refusal_and_an_error_of_the_hub_are_told_and_pass() {
    ring3(|lab| {
        let mut pair = Pair::start(lab, REFRESH)?;
        // The branch has a wider overlay than the hub, and an address that is none to the hub.
        let wider = ("overlay: [10.255.0.0/16]", "overlay: [10.254.0.0/15]");
        let outside = ("overlayAddresses: [10.255.0.11]", "overlayAddresses: [10.254.0.11]");
        pair.branch.write("network.yaml", &changed("network.yaml", &[REFRESH, wider])?)?;
        pair.branch.write("branch-a.yaml", &changed("branch-a.yaml", &[outside])?)?;
        let words = ["the hub refused the registration", "Use an address within the hub's overlay"];
        pair.tells(State::Nhrp, "AdministrativelyProhibited", words, SOON)?;
        pair.branch.write("branch-a.yaml", &quickstart("branch-a.yaml")?)?;
        pair.branch.write("network.yaml", &changed("network.yaml", &[REFRESH])?)?;
        pair.works(SOON)?;

        // A hub of another make that cannot do what is asked; ours has no such error for a registration.
        pair.hub.kill()?;
        let (hub, branch) = (pair.scene.site("hub")?.nbma(), pair.scene.site("branch-a")?.nbma());
        wait::until(SILENCE, "the error to be told", || {
            let tunnel = pair.branch.tunnel(NETWORK)?;
            let nhs = tunnel.nhs.first().context("no NHS")?;
            let about = Nhrp { id: nhs.request_id, ..Nhrp::new(REGISTRATION_REQUEST, branch, BRANCH_A, HUB) };
            let error = Nhrp::new(ERROR_INDICATION, hub, HUB, BRANCH_A).error(UNRECOGNISED, &about.bytes());
            inject::send(pair.hub.host(), hub, branch, &[in_gre(Some(KEY), &error.bytes())])?;
            ensure!(tunnel.reason == "ErrorIndication", "{}: {}", tunnel.reason, tunnel.message);
            Ok(())
        })?;
        let words = ["the hub answered with an error", "See the code in the message"];
        pair.tells(State::Nhrp, "ErrorIndication", words, SOON)?;
        pair.hub.restart()?;
        pair.works(AGAIN)
    });
}

#[test]
fn a_suspended_tunnel_is_down_and_forgotten_and_comes_back() {
    ring3(|lab| {
        let mut pair = Pair::start(lab, NOTHING)?;
        ensure!(!pair.hub_neighbour()?.is_empty(), "the hub does not know the branch even before");
        let asleep = changed("network.yaml", &[("  phase: Phase3", "  phase: Phase3\n  suspend: true")])?;
        pair.branch.write("network.yaml", &asleep)?;
        let down = |pair: &Pair| -> Result<()> {
            pair.tells(State::AdminDown, "Suspended", ["spec.suspend is true", "set it to false"], SOON)?;
            let shown = pair.branch.cli("show dmvpn")?;
            ensure!(shown.contains(&format!("{TUNNEL} is admin down")), "{shown}");
            wait::until(SOON, "the tunnel link to be down", || {
                let link = pair.host().ip_json(&format!("link show {TUNNEL}"))?;
                let flags = link[0]["flags"].to_string();
                ensure!(!flags.contains("\"UP\""), "{flags}");
                Ok(())
            })
        };
        let start = Instant::now();
        wait::until(SOON, "the hub to forget the branch", || {
            let neighbour = pair.hub_neighbour()?;
            ensure!(neighbour.is_empty(), "{neighbour}");
            Ok(())
        })?;
        ensure!(start.elapsed() < MOVED, "forgotten after {:?}", start.elapsed());
        down(&pair)?;
        let routes = pair.host().run(&["ip", "route", "show", "dev", TUNNEL])?;
        ensure!(routes.trim().is_empty(), "routes of a suspended tunnel: {routes}");

        // It stays so over a restart.
        pair.branch.kill()?;
        pair.branch.restart()?;
        down(&pair)?;

        pair.branch.write("network.yaml", &quickstart("network.yaml")?)?;
        pair.works(SOON)?;
        ensure!(!pair.hub_neighbour()?.is_empty(), "the hub does not know the branch again");
        let lan = pair.hub.host().run(&["ip", "route", "show", "10.20.0.0/24"])?;
        ensure!(lan.contains(TUNNEL), "the hub has no route to the branch's LAN: {lan}");
        Ok(())
    });
}

#[test]
fn a_tunnel_source_that_moves_is_registered_again_at_once() {
    ring3(|lab| {
        let pair = Pair::start(lab, NOTHING)?;
        let before = pair.hub_neighbour()?;
        ensure!(before.contains("198.51.100.2 "), "{before}");
        for (from, to) in [("198.51.100.2", "198.51.100.66"), ("198.51.100.66", "198.51.100.2")] {
            let start = Instant::now();
            pair.host().ip_batch(&[
                format!("addr del {from}/24 dev wan0"),
                format!("addr add {to}/24 dev wan0"),
                "route add default via 198.51.100.1".to_owned(),
            ])?;
            wait::until(SOON, "the hub to send to the new address", || {
                let now = pair.hub_neighbour()?;
                ensure!(now.contains(&format!("{to} ")), "{now:?}");
                Ok(())
            })?;
            let took = start.elapsed();
            println!("the hub sends to {to} after {} ms", took.as_millis());
            ensure!(took <= MOVED, "the hub sends to {to} only after {took:?}");
            pair.works(SOON)?;
            let link = pair.host().run(&["ip", "-d", "link", "show", TUNNEL])?;
            ensure!(link.contains(&format!("local {to} ")), "{link}");
            let shown = pair.branch.cli("show dmvpn detail")?;
            ensure!(shown.contains(&format!("Src./Dest. addr: {to}/MGRE")), "{shown}");
        }
        Ok(())
    });
}

fn secret(password: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: nhrp, labels: {{dmvpn.io/network: {NETWORK}}}}}\n\
         stringData: {{password: {password}}}\n"
    )
}
