//! FRR's own topotest `nhrp_topo`, with our agents where it has nhrpd, and FRR's nhrpd mixed in: the same four routers, the
//! same checks, and no packet may be lost where FRR's allows for some.
//!
//! ```text
//!  192.168.1.0/24 ── r1 (client) ──┐
//!                                  r3 (plain router: the scene's isp)
//!  192.168.2.0/24 ── r2 (server) ──┤
//!  192.168.4.0/24 ── r4 (client) ──┘      overlay 10.255.255.0/24, GRE key 42, holding time 10 s
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::Lab;
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Agent, Capture, Ping, frr, ping};
use e2e::ring3::Needs;
use e2e::ring3_waiting;
use e2e::scene::{Scene, Site, plan};
use e2e::wait;
use view::State;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };
const NETWORK: &str = "topo";
const LINK: &str = "gre1";
const R1: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 1);
const R2: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 2);
const R4: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 4);
const PASSWORD: &str = "secret";

fn build(lab: &Lab) -> Result<Scene> {
    let mut scene = Scene::empty(lab)?;
    scene.add(lab, plan("r1", "10.1.1.2/24", "2001:db8:1::2/64", "192.168.1.0/24", "fd00:1::/64")?)?;
    scene.add(lab, plan("r2", "10.2.1.2/24", "2001:db8:2::2/64", "192.168.2.0/24", "fd00:2::/64")?)?;
    scene.add(lab, plan("r4", "10.4.1.2/24", "2001:db8:4::2/64", "192.168.4.0/24", "fd00:4::/64")?)?;
    Ok(scene)
}

fn network(password: bool) -> String {
    let refs = if password { ", authenticationSecretRefs: [{name: nhrp}]" } else { "" };
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: {NETWORK}}}
spec:
  phase: Phase3
  overlay: [10.255.255.0/24]
  hubs: [{{name: r2, overlayAddresses: [{R2}], nbma: [{{address: 10.2.1.2}}]}}]
  tunnel: {{key: 42, interfaceName: {LINK}}}
  nhrp: {{networkId: 42, holdTimeSeconds: 10{refs}}}
"
    )
}

fn secret(password: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: nhrp, labels: {{dmvpn.io/network: {NETWORK}}}}}\n\
         stringData: {{password: {password}}}\n"
    )
}

fn spoke(site: &Site, placement: &str, overlay: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {}}}
spec:
  networkRef: {{name: {NETWORK}}}
  placement: {{{placement}}}
  {overlay}
  subnets: [{{cidr: {}}}]
",
        site.plan.name, site.plan.lan
    )
}

/// Our agent on a site, with the password in force if the network has one.
fn start(site: &Site, overlay: Ipv4Addr, password: bool, more: &[(&str, String)]) -> Result<Agent> {
    let address = format!("overlayAddresses: [{overlay}]");
    let hub = overlay == R2;
    let placement = format!("type: Node, nodeName: {}", site.plan.name);
    let mut files = vec![
        ("network.yaml", network(password)),
        ("own.yaml", spoke(site, &placement, if hub { "" } else { &address })),
    ];
    if password {
        files.push(("secret.yaml", secret(PASSWORD)));
    }
    files.extend(more.iter().cloned());
    let files = files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    Agent::start(&site.host, if hub { &["dmvpn.io/hub=r2"] } else { &[] }, &files)
}

fn until_route(site: &Site, to: Ipv4Addr) -> Result<()> {
    wait::until(SOON, &format!("a route from {} to {to}", site.plan.name), || {
        let route = site.host.run(&["ip", "route", "get", &to.to_string()])?;
        wait::ensure(route.contains(&format!("dev {LINK}")), || route)
    })
}

#[test]
fn nhrp_topo() {
    ring3_waiting(NEEDS, |lab| {
        let scene = build(lab)?;
        let (r1, r2, r4) = (scene.site("r1")?, scene.site("r2")?, scene.site("r4")?);
        let hub = start(r2, R2, true, &[])?;
        let agent = start(r1, R1, true, &[])?;
        let other = start(r4, R4, true, &[])?;
        for spoke in [&agent, &other] {
            spoke.wait_until_up(NETWORK, SOON)?;
        }
        // The cache of r1: its own address, and the server.
        let cache = agent.tunnel(NETWORK)?.cache;
        let mut seen: Vec<_> = cache.iter().map(|e| (e.target.to_string(), e.nbma)).collect();
        seen.sort();
        let own = (format!("{R1}/32"), Some(r1.nbma().into()));
        let server = (format!("{R2}/32"), Some(r2.nbma().into()));
        ensure!(seen == [own, server], "{seen:?}");
        // Its host route, by our protocol, on the link; the link's flags.
        let route = r1.host.ip_json(&format!("route show {R2}"))?;
        ensure!(
            route[0]["dev"] == LINK && route[0]["protocol"] == "214" && route[0]["scope"] == "link",
            "{route}"
        );
        let link = r1.host.ip_json(&format!("link show dev {LINK}"))?;
        let flags = link[0]["flags"].to_string();
        for (flag, wanted) in [("\"UP\"", true), ("LOWER_UP", true), ("NOARP", false)] {
            ensure!(flags.contains(flag) == wanted, "{flag}: {flags}");
        }
        Ping::start(&r1.host, R2.into(), 100, TEN_MS)?.finish()?.ensure_nothing_lost()?;

        // Another password at the server, and what r1 says of it; then the old one.
        hub.write("secret.yaml", &secret("other"))?;
        agent.wait_for_state(NETWORK, State::Nhrp, "AuthenticationFailed", SOON * 2)?;
        hub.write("secret.yaml", &secret(PASSWORD))?;
        for spoke in [&agent, &other] {
            spoke.wait_until_up(NETWORK, SOON * 4)?;
        }
        Ping::start(&r1.host, R2.into(), 100, TEN_MS)?.finish()?.ensure_nothing_lost()?;

        // Routes of others by that next hop resolve.
        r1.host.ip(&format!("route add 4.4.4.0/24 via {R2}"))?;
        let route = r1.host.run(&["ip", "route", "get", "4.4.4.1"])?;
        ensure!(route.contains(&format!("via {R2} dev {LINK}")), "{route}");

        // A shortcut to r4's LAN, with nothing lost while it is made.
        until_route(r1, r4.lan_host())?;
        until_route(r4, r1.lan_host())?;
        let ends = ((&r1.lan, r1.lan_host().into()), (&r4.lan, r4.lan_host().into()));
        let (there, back) = ping::both_ways(ends.0, ends.1, 300, TEN_MS)?;
        println!("r1 → r4: {there}\nr4 → r1: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
        }
        let cache = agent.tunnel(NETWORK)?.cache;
        let shortcut = cache.iter().find(|e| e.target == r4.plan.lan.into());
        ensure!(shortcut.is_some_and(|e| e.via == R4 && e.nbma == Some(r4.nbma().into())), "{cache:?}");
        Ok(())
    });
}

/// r4 hears nothing: r1 asks six times in 30 s, in FRR's intervals, and then leaves it.
#[test]
fn nhrp_topo_retries() {
    ring3_waiting(NEEDS, |lab| {
        let scene = build(lab)?;
        let (r1, r2, r4) = (scene.site("r1")?, scene.site("r2")?, scene.site("r4")?);
        let _hub = start(r2, R2, true, &[])?;
        let agent = start(r1, R1, true, &[])?;
        let other = start(r4, R4, true, &[])?;
        agent.wait_until_up(NETWORK, SOON)?;
        other.wait_until_up(NETWORK, SOON)?;
        until_route(r1, r4.lan_host())?;
        r4.host.nft(
            "table inet deaf { chain input { type filter hook input priority 0; iifname wan0 drop; }; }\n",
        )?;
        let capture = Capture::start(&scene.isp, &scene.uplink(r1), "proto gre")?;
        let pings = Ping::start(&r1.lan, r4.lan_host().into(), 400, TEN_MS * 10)?;
        let asked = |p: &e2e::lab::Peek| {
            p.is_nhrp(NhrpKind::ResolutionRequest) && p.is_between(r1.nbma().into(), r2.nbma().into())
        };
        capture.wait_for(SOON, "the first question", asked)?;
        let incomplete = agent.tunnel(NETWORK)?.cache;
        ensure!(incomplete.iter().any(|e| e.kind == view::CacheKind::Incomplete), "{incomplete:?}");
        let report = pings.finish()?;
        ensure!(report.received == 0, "r4 is not deaf: {report}");
        let times: Vec<_> = capture.stop()?.iter().filter(|p| asked(p)).map(|p| p.time).collect();
        let gaps: Vec<_> =
            times.windows(2).map(|two| (two[1] - two[0]).as_secs_f64().round() as u64).collect();
        ensure!(gaps == [1, 2, 4, 7, 7], "{} questions, {gaps:?}", times.len());
        Ok(())
    });
}

/// r4 is FRR, which learns the server's address by itself (`nhs dynamic`); without a password, which 8.4 does not know.
#[test]
fn nhrp_topo_with_frr_mixed_in() {
    ring3_waiting(NEEDS, |lab| {
        let scene = build(lab)?;
        let (r1, r2, r4) = (scene.site("r1")?, scene.site("r2")?, scene.site("r4")?);
        let external = spoke(r4, "type: External", &format!("overlayAddresses: [{R4}]"));
        let hub = start(r2, R2, false, &[("r4.yaml", external)])?;
        let agent = start(r1, R1, false, &[])?;
        frr::make_gre(&r4.host, LINK, r4.nbma(), Some(42), R4)?;
        let frr = e2e::lab::Frr::start(
            &r4.host,
            &format!(
                "nhrp nflog-group {}
ip route 192.168.0.0/16 {R2}
interface {LINK}
 ip nhrp network-id 42
 ip nhrp holdtime 10
 ip nhrp nhs dynamic nbma {}
 ip nhrp registration no-unique
 ip nhrp shortcut
",
                frr::NFLOG_GROUP,
                r2.nbma()
            ),
        )?;
        let nhs = frr.wait_for_cache("nhs", R2, SOON)?;
        ensure!(nhs.nbma == r2.nbma().to_string(), "{nhs:?}");
        agent.wait_until_up(NETWORK, SOON)?;
        until_route(r1, r4.lan_host())?;
        until_route(r4, r1.lan_host())?;
        let ends = ((&r1.lan, r1.lan_host().into()), (&r4.lan, r4.lan_host().into()));
        let (there, back) = ping::both_ways(ends.0, ends.1, 500, TEN_MS)?;
        println!("r1 → r4 (FRR): {there}\nr4 (FRR) → r1: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
        }
        frr.wait_for_shortcut(r1.plan.lan, R1, SOON)?;
        let cache = agent.tunnel(NETWORK)?.cache;
        ensure!(cache.iter().any(|e| e.target == r4.plan.lan.into() && e.via == R4), "{cache:?}");
        let peers = hub.tunnel(NETWORK)?.peers;
        ensure!(peers.iter().any(|p| p.address == R4), "{peers:?}");
        Ok(())
    });
}
