//! "Equal to the dump": what is planted is noticed, in every table; what happens by itself is not.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Host, Ping, dump};
use e2e::ring3;
use e2e::scene::Scene;

#[test]
fn a_planted_entry_is_noticed_in_every_table_and_gone_when_removed() {
    ring3(|lab| {
        let scene = Scene::build(lab)?;
        let host = &scene.site("branch-a")?.host;
        for (section, plant, remove) in [
            ("link", "ip link add d0 type dummy", "ip link del d0"),
            ("address", "ip addr add 10.9.9.9/32 dev lo", "ip addr del 10.9.9.9/32 dev lo"),
            ("route", "ip route add 10.9.0.0/16 via 198.51.100.1", "ip route del 10.9.0.0/16"),
            ("route", "ip route add unreachable 10.9.0.0/16 table 77", "ip route del 10.9.0.0/16 table 77"),
            ("route", "ip -6 route add fd99::/64 dev lan0", "ip -6 route del fd99::/64 dev lan0"),
            ("rule", "ip rule add fwmark 7 lookup 77", "ip rule del fwmark 7 lookup 77"),
            (
                "neighbour",
                "ip neigh add 10.20.0.77 lladdr 02:00:00:00:00:77 nud permanent dev lan0",
                "ip neigh del 10.20.0.77 dev lan0",
            ),
            ("neighbour", "ip neigh add proxy 10.20.0.78 dev lan0", "ip neigh del proxy 10.20.0.78 dev lan0"),
            (
                "xfrm",
                "ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out action block",
                "ip xfrm policy del src 10.9.0.0/16 dst 10.8.0.0/16 dir out",
            ),
            ("nft", "nft add table inet planted", "nft delete table inet planted"),
            (
                "sysctl",
                "echo 1 >/proc/sys/net/ipv4/conf/lan0/accept_local",
                "echo 0 >/proc/sys/net/ipv4/conf/lan0/accept_local",
            ),
        ] {
            planted(host, section, plant, remove)?;
        }
        Ok(())
    });
}

fn planted(host: &Host, section: &str, plant: &str, remove: &str) -> Result<()> {
    let before = host.dump()?;
    ensure!(!before.section("link").is_empty() && !before.section("sysctl").is_empty(), "an empty dump");
    host.sh(plant)?;
    let changes = before.changes(&host.dump()?);
    ensure!(changes.iter().any(|c| c.section == section), "{plant}: {}", dump::print(&changes));
    host.sh(remove)?;
    before.ensure_equal(&host.dump()?).map_err(|e| e.context(remove.to_owned()))
}

#[test]
fn traffic_and_modules_leave_the_dump_equal_and_a_link_made_again_does_not() {
    ring3(|lab| {
        let scene = Scene::build(lab)?;
        let (hub, branch) = (scene.site("hub")?, scene.site("branch-a")?);
        hub.host.nft("table inet foreign { chain c { type filter hook input priority 0; counter; }\n}\n")?;
        let before = hub.host.dump()?;
        let target = hub.nbma().into();
        Ping::start(&branch.host, target, 20, Duration::from_millis(5))?.finish()?.ensure_nothing_lost()?;
        Ping::start(&hub.lan, target, 2, Duration::from_millis(5))?.finish()?.ensure_nothing_lost()?;
        // The first GRE link of a namespace may load the module; both are gone or excepted afterwards.
        hub.host.sh("ip link add g type gre key 1 local 192.0.2.2; ip link del g")?;
        before.ensure_equal(&hub.host.dump()?)?;

        hub.host.sh("ip link add d0 type dummy")?;
        let with_link = hub.host.dump()?;
        hub.host.sh("ip link del d0; ip link add d0 type dummy")?;
        let changes = with_link.changes(&hub.host.dump()?);
        ensure!(changes.iter().any(|c| c.section == "link"), "a link with another index passed for the same");
        Ok(())
    });
}
