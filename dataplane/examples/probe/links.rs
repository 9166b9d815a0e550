//! Links: create, adopt, change, refuse, delete.

use std::process::Command;

use dataplane::model::{Address, GreLink, Neighbour, Op, Route, Target};
use dataplane::{Error, Kernel};

use crate::ensure;
use crate::host::{ALIAS, Outcome, apply, create, gre, held, json, observed, run, setting};

pub(crate) async fn all() -> Outcome<()> {
    let (kernel, _events) = Kernel::open().await?;
    multipoint(&kernel).await?;
    in_place(&kernel).await?;
    point_to_point(&kernel).await?;
    foreign(&kernel).await?;
    unmarked(&kernel).await?;
    privileges()
}

/// Opens what the agent opens, and says what is missing.
pub(crate) async fn open() -> Outcome<()> {
    Kernel::open().await?;
    Ok(())
}

fn privileges() -> Outcome<()> {
    let me = std::env::current_exe()?;
    let drop = ["--bounding-set=-net_admin,-net_raw", &me.to_string_lossy(), "open"].map(ToOwned::to_owned);
    let output = Command::new("setpriv").args(drop).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!output.status.success() && said.contains("needs CAP_NET_ADMIN"), "without privileges: {said}");
    held("open: without CAP_NET_ADMIN the error names it");
    Ok(())
}

async fn multipoint(kernel: &Kernel) -> Outcome<()> {
    let wanted = gre("gre1", super::HUB_NBMA);
    let index = create(kernel, wanted.clone()).await?;
    // Another process, as after a restart, sees what was wanted.
    let (later, _) = Kernel::open().await?;
    let link = observed(&later, index).await?;
    ensure!(link.gre.as_ref() == Some(&wanted), "wanted {wanted:?}, observed {link:?}");
    ensure!(!link.noarp && link.up && link.kind == "gre", "{link:?}");
    let shown = json("ip", &["-d", "-j", "link", "show", "gre1"])?;
    let (link, data) = (&shown[0], &shown[0]["linkinfo"]["info_data"]);
    ensure!(link["ifalias"] == ALIAS && link["mtu"] == 1400, "{shown}");
    ensure!(!link["flags"].to_string().contains("NOARP"), "{shown}");
    ensure!(data["local"] == super::HUB_NBMA && data["remote"] == "any" && data["ttl"] == 255, "{shown}");
    ensure!(data["ikey"] == "0.0.0.100" && data["okey"] == "0.0.0.100", "{shown}");
    for (path, value) in [
        ("ipv4/conf/gre1/forwarding", "1"),
        ("ipv4/conf/gre1/rp_filter", "2"),
        ("ipv4/conf/gre1/send_redirects", "0"),
        ("ipv4/conf/gre1/accept_redirects", "0"),
        ("ipv4/neigh/gre1/app_solicit", "1"),
        ("ipv4/neigh/gre1/mcast_solicit", "0"),
        ("ipv4/neigh/gre1/ucast_solicit", "0"),
        ("ipv6/neigh/gre1/app_solicit", "1"),
        ("ipv6/neigh/gre1/mcast_solicit", "0"),
        ("ipv6/conf/gre1/addr_gen_mode", "1"),
    ] {
        let is = setting(path)?;
        ensure!(is == value, "{path} is {is}, not {value}");
    }
    let seen = kernel.observe().await?;
    ensure!(
        !seen.addresses.iter().any(|a| a.link == index),
        "an address came by itself: {:?}",
        seen.addresses
    );
    held("create: observed = wanted, `ip -d` and /proc/sys agree, no NOARP, no address by itself");
    Ok(())
}

async fn in_place(kernel: &Kernel) -> Outcome<()> {
    let before = kernel.observe().await?;
    let index = before.links.iter().find(|l| l.name == "gre1").ok_or("gre1")?.index;
    let address = Address { link: index, address: "10.255.0.1/32".parse()? };
    let prefix = "10.255.0.0/16".parse()?;
    let target = Target::Link { link: index, via: None };
    let route = Route { prefix, table: 254, metric: 100, target, source: None };
    let neighbour =
        Neighbour { link: index, overlay: "10.255.0.11".parse()?, nbma: super::SPOKES[0].2.parse()? };
    apply(kernel, Op::AddAddress(address.clone())).await?;
    apply(kernel, Op::PutRoute(route.clone())).await?;
    apply(kernel, Op::PutNeighbour(neighbour.clone())).await?;
    let first = gre("gre1", super::HUB_NBMA);
    let changes = [
        GreLink { key: Some(7), ..first.clone() },
        GreLink { key: None, ttl: 64, ..first.clone() },
        GreLink { local: super::SPOKES[0].1.parse()?, mtu: 1300, ..first.clone() },
        first,
    ];
    for wanted in changes {
        apply(kernel, Op::ChangeGre { index, link: wanted.clone() }).await?;
        let seen = kernel.observe().await?;
        let link = seen.links.iter().find(|l| l.index == index).ok_or("the index changed")?;
        ensure!(link.gre.as_ref() == Some(&wanted), "wanted {wanted:?}, observed {link:?}");
        ensure!(
            seen.addresses.contains(&address) && seen.routes.contains(&route),
            "lost by a change: {seen:?}"
        );
    }
    let down = GreLink { up: false, ..gre("gre1", super::HUB_NBMA) };
    apply(kernel, Op::ChangeGre { index, link: down.clone() }).await?;
    ensure!(observed(kernel, index).await?.gre == Some(down), "not down");
    let renamed = GreLink { name: "gre9".into(), ..gre("gre1", super::HUB_NBMA) };
    let refused = kernel.apply(&[Op::ChangeGre { index, link: renamed }]).await;
    ensure!(matches!(refused.as_slice(), [Err(Error::Invalid { .. })]), "{refused:?}");
    run("ip", &["link", "set", "gre1", "type", "gre", "ikey", "1", "okey", "2"])?;
    let odd = observed(kernel, index).await?.gre.ok_or("no parameters")?;
    ensure!(odd.ttl == 0, "two keys look like one: {odd:?}");
    apply(kernel, Op::DeleteLink { index }).await?;
    apply(kernel, Op::DeleteLink { index }).await?;
    ensure!(kernel.observe().await?.links.iter().all(|l| l.index != index), "still there");
    held("change: key, no key, TTL, source, MTU, down in place, nothing on it lost; deleted twice");
    Ok(())
}

async fn point_to_point(kernel: &Kernel) -> Outcome<()> {
    let wanted = GreLink { remote: Some(super::SPOKES[0].2.parse()?), ..gre("gre2", super::HUB_NBMA) };
    let index = create(kernel, wanted.clone()).await?;
    ensure!(observed(kernel, index).await?.gre.as_ref() == Some(&wanted), "observed differs");
    ensure!(!observed(kernel, index).await?.noarp, "NOARP");
    let other = GreLink { remote: Some(super::SPOKES[1].2.parse()?), ..wanted.clone() };
    apply(kernel, Op::ChangeGre { index, link: other.clone() }).await?;
    ensure!(observed(kernel, index).await?.gre.as_ref() == Some(&other), "observed differs after a change");
    let multipoint = GreLink { remote: None, ..wanted };
    let refused = kernel.apply(&[Op::ChangeGre { index, link: multipoint }]).await;
    let errno = refused.first().and_then(|r| r.as_ref().err()).and_then(Error::errno);
    ensure!(errno == Some(22), "changing to multipoint: {refused:?}");
    ensure!(observed(kernel, index).await?.gre.as_ref() == Some(&other), "changed by a refused change");
    apply(kernel, Op::DeleteLink { index }).await?;
    held("point-to-point: created, another remote in place; to multipoint is refused and changes nothing");
    Ok(())
}

async fn foreign(kernel: &Kernel) -> Outcome<()> {
    run("ip", &["link", "add", "gre3", "type", "dummy"])?;
    let before = run("ip", &["-d", "-j", "link", "show", "gre3"])?;
    let refused = kernel.apply(&[Op::CreateGre(gre("gre3", super::HUB_NBMA))]).await;
    ensure!(matches!(refused.as_slice(), [Err(Error::Foreign { .. })]), "{refused:?}");
    ensure!(run("ip", &["-d", "-j", "link", "show", "gre3"])? == before, "a foreign link was touched");
    run("ip", &["link", "del", "gre3"])?;
    held("create: a foreign link of that name is refused and untouched");
    Ok(())
}

/// As if we had been killed between making the link and marking it.
async fn unmarked(kernel: &Kernel) -> Outcome<()> {
    let add = "link add gre4 mtu 1400 type gre local 203.0.113.1 key 100 ttl 255";
    run("ip", &add.split(' ').collect::<Vec<_>>())?;
    let wanted = gre("gre4", super::HUB_NBMA);
    let index = create(kernel, wanted.clone()).await?;
    let link = observed(kernel, index).await?;
    ensure!(link.gre == Some(wanted) && !link.noarp, "{link:?}");
    apply(kernel, Op::DeleteLink { index }).await?;
    held("create: a link that was made but not yet marked is taken up");
    Ok(())
}
