//! Transit: our hub between two FRR spokes, which redirects both and passes their questions and answers on; the same
//! overlay in IPv6 as far as FRR can.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Agent, Capture, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::foreign::Foreign;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, NETWORK, ROUTER_LINK, overlay6, quickstart};
use e2e::scene::{Scene, Site};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(180) };

/// Declares a router that is not ours.
fn external(site: &Site, addresses: &str, subnets: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {}}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: External}}
  overlayAddresses: [{addresses}]
  subnets: [{subnets}]
",
        site.plan.name
    )
}

#[test]
fn our_hub_between_two_frr_spokes() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let subnet = |site: &Site| format!("{{cidr: {}}}", site.plan.lan);
        let files = [
            ("network.yaml", quickstart("network.yaml")?),
            ("a.yaml", external(a, &BRANCH_A.to_string(), &subnet(a))),
            ("b.yaml", external(b, &BRANCH_B.to_string(), &subnet(b))),
        ];
        let files = files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        let agent = Agent::start(&hub.host, &["dmvpn.io/hub=hub1"], &files)?;
        let frr_a = Foreign::new(a, BRANCH_A).client_of(HUB, hub).default_by(HUB).start()?;
        let frr_b = Foreign::new(b, BRANCH_B).client_of(HUB, hub).default_by(HUB).start()?;
        for (frr, site, other) in [(&frr_a, a, b), (&frr_b, b, a)] {
            frr.wait_for_cache("nhs", HUB, SOON)?;
            wait::until(SOON, "routes on both sides", || {
                let peers = agent.tunnel(NETWORK)?.peers;
                ensure!(peers.iter().any(|p| p.target == site.plan.lan.into()), "{peers:?}");
                let route = site.host.run(&["ip", "route", "get", &other.lan_host().to_string()])?;
                wait::ensure(route.contains(ROUTER_LINK), || route)
            })?;
        }
        let capture = Capture::start(&hub.host, "wan0", "proto gre")?;
        let ends = ((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()));
        let (there, back) = ping::both_ways(ends.0, ends.1, 500, TEN_MS)?;
        println!("a → b: {there}\nb → a: {back}");
        for report in [&there, &back] {
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
            // FRR's own switch may lose some.
            ensure!(report.lost() <= 5, "{report}");
        }
        frr_a.wait_for_shortcut(b.plan.lan, BRANCH_B, SOON)?;
        frr_b.wait_for_shortcut(a.plan.lan, BRANCH_A, SOON)?;
        // Passed on: one hop less, ourselves in between.
        let packets = capture.stop()?;
        let hops = |from: &Site, to: &Site| {
            let request = packets.iter().find(|p| {
                p.is_nhrp(NhrpKind::ResolutionRequest) && p.is_between(from.nbma().into(), to.nbma().into())
            });
            request.and_then(|p| p.nhrp.as_ref()).map(|n| n.hop_count)
        };
        let (asked, passed) = (hops(a, hub), hops(hub, b));
        ensure!(asked.is_some() && passed == asked.map(|n| n - 1), "{asked:?} {passed:?}");
        let forwarded = agent.tunnel(NETWORK)?.traffic.forwarded;
        ensure!(forwarded.iter().any(|(kind, n)| kind == "Resolution Request" && *n >= 2), "{forwarded:?}");
        Ok(())
    });
}

#[test]
fn ipv6_overlay_of_our_hub_and_frr_spokes() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let network = quickstart("network.yaml")?
            .replace("overlay: [10.255.0.0/16]", "overlay: [10.255.0.0/16, 'fd00:255::/64']")
            .replace("overlayAddresses: [10.255.0.1]", "overlayAddresses: [10.255.0.1, 'fd00:255::1']");
        let own = |site: &Site, overlay| {
            let addresses = format!("{overlay}, '{}'", overlay6(overlay));
            external(
                site,
                &addresses,
                &format!("{{cidr: {}}}, {{cidr: '{}'}}", site.plan.lan, site.plan.lan6),
            )
        };
        let files = [("network.yaml", network), ("a.yaml", own(a, BRANCH_A)), ("b.yaml", own(b, BRANCH_B))];
        let files = files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        let agent = Agent::start(&hub.host, &["dmvpn.io/hub=hub1"], &files)?;
        let spoke = |site, overlay| Foreign::new(site, overlay).dual().client_of(HUB, hub).default_by(HUB);
        let frr_a = spoke(a, BRANCH_A).start()?;
        let frr_b = spoke(b, BRANCH_B).start()?;
        for (frr, site, other) in [(&frr_a, a, b), (&frr_b, b, a)] {
            frr.wait_for_cache("nhs", overlay6(HUB), SOON)?;
            wait::until(SOON, "routes on both sides", || {
                let peers = agent.tunnel(NETWORK)?.peers;
                ensure!(peers.iter().any(|p| p.target == site.plan.lan6.into()), "{peers:?}");
                let route = site.host.run(&["ip", "route", "get", &other.lan_host6().to_string()])?;
                wait::ensure(route.contains(ROUTER_LINK), || route)
            })?;
        }
        let ends = |site: &Site| IpAddr::from(site.lan_host6());
        let (there, back) = ping::both_ways((&a.lan, ends(a)), (&b.lan, ends(b)), 300, TEN_MS)?;
        println!("a → b: {there}\nb → a: {back}\n{}", frr_a.vtysh("show ipv6 nhrp cache")?);
        println!("{}", frr_a.vtysh("show ipv6 nhrp shortcut")?);
        for report in [&there, &back] {
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
        }
        Ok(())
    });
}
