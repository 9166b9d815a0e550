//! Addresses, routes and neighbours, in numbers and one by one.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use dataplane::model::{Address, GreLink, Neighbour, Op, Route, Target};
use dataplane::{Applied, Error, Kernel};

use crate::ensure;
use crate::host::{Outcome, apply, count, create, gre, held, json, run};

/// Entries of the mass check.
const MANY: u32 = 10_000;

pub(crate) async fn all() -> Outcome<()> {
    let (kernel, _events) = Kernel::open().await?;
    let link = create(&kernel, gre("gre1", super::HUB_NBMA)).await?;
    addresses(&kernel, link).await?;
    routes(&kernel, link).await?;
    takes_no_foreign_place(&kernel, link).await?;
    one_bad_among_many(&kernel, link).await?;
    many(&kernel, link).await?;
    lookup_and_counters(&kernel, link).await?;
    apply(&kernel, Op::DeleteLink { index: link }).await?;
    let left = kernel.observe().await?;
    ensure!(left.neighbours.is_empty(), "left: {:?}", left.neighbours);
    let routes: Vec<_> = left.routes.into_iter().map(Op::DeleteRoute).collect();
    let results = kernel.apply(&routes).await;
    ensure!(results.iter().all(Result::is_ok), "{results:?}");
    ensure!(
        count(&json("ip", &["-j", "route", "show", "table", "all", "proto", "214"])?) == 0,
        "routes are left"
    );
    held("delete: nothing of ours is left");
    Ok(())
}

async fn addresses(kernel: &Kernel, link: u32) -> Outcome<()> {
    let wanted: Vec<Address> = ["10.255.0.1/32", "fd00:255::1/128"]
        .iter()
        .map(|a| Ok(Address { link, address: a.parse()? }))
        .collect::<Outcome<_>>()?;
    for address in &wanted {
        apply(kernel, Op::AddAddress(address.clone())).await?;
        apply(kernel, Op::AddAddress(address.clone())).await?;
    }
    let mut seen: Vec<_> = kernel.observe().await?.addresses.into_iter().filter(|a| a.link == link).collect();
    seen.sort();
    ensure!(seen == wanted, "wanted {wanted:?}, observed {seen:?}");
    let gone = Address { link, address: "10.255.0.99/32".parse()? };
    apply(kernel, Op::DeleteAddress(gone)).await?;
    held("addresses: IPv4 and IPv6, added twice, observed once; removing one that is not there succeeds");
    Ok(())
}

async fn routes(kernel: &Kernel, link: u32) -> Outcome<()> {
    let on = |via: Option<IpAddr>| Target::Link { link, via };
    let (hop, hop6): (IpAddr, IpAddr) = ("10.255.0.11".parse()?, "fd00:255::11".parse()?);
    let route = |prefix: &str, table, metric, target, source: Option<&str>| -> Outcome<Route> {
        let source = source.map(str::parse).transpose()?;
        Ok(Route { prefix: prefix.parse()?, table, metric, target, source })
    };
    let wanted: HashSet<Route> = [
        // The host route of a spoke, then prefixes behind it, which need `onlink`.
        route("10.255.0.11/32", 254, 0, on(None), None)?,
        route("10.20.0.0/24", 254, 20, on(Some(hop)), Some("10.255.0.1"))?,
        // Behind a spoke that has no host route at all.
        route("10.21.0.0/24", 254, 20, on(Some("10.255.0.77".parse()?)), None)?,
        route("0.0.0.0/0", 4000, 5, on(Some(hop)), None)?,
        route("10.255.0.0/16", 254, 65_535, Target::Unreachable, None)?,
        route("fd00:255::11/128", 254, 0, on(None), None)?,
        route("fd00:20::/64", 254, 20, on(Some(hop6)), Some("fd00:255::1"))?,
        route("fd00:21::/64", 4000, 0, on(Some("fd00:255::77".parse()?)), None)?,
        route("fd00:255::/64", 254, 65_535, Target::Unreachable, None)?,
    ]
    .into();
    for route in &wanted {
        apply(kernel, Op::PutRoute(route.clone())).await?;
    }
    let seen: HashSet<Route> = kernel.observe().await?.routes.into_iter().collect();
    let odd: Vec<_> = wanted.symmetric_difference(&seen).collect();
    ensure!(odd.is_empty(), "wanted and observed differ in {odd:?}");
    // Again, by a process that never saw them: no error, no second copy.
    let (later, _) = Kernel::open().await?;
    for route in &wanted {
        apply(&later, Op::PutRoute(route.clone())).await?;
    }
    ensure!(later.observe().await?.routes.len() == wanted.len(), "a second copy");
    for prefix in ["10.20.0.0/24", "fd00:20::/64"] {
        let old = wanted.iter().find(|r| r.prefix.to_string() == prefix).ok_or("route")?;
        let other: IpAddr =
            if old.prefix.addr().is_ipv4() { "10.255.0.12".parse()? } else { "fd00:255::12".parse()? };
        let new = Route { target: on(Some(other)), ..old.clone() };
        apply(kernel, Op::PutRoute(new.clone())).await?;
        apply(kernel, Op::DeleteRoute(old.clone())).await?;
        let seen = kernel.observe().await?.routes;
        ensure!(seen.contains(&new) && !seen.contains(old), "{prefix}: not replaced: {seen:?}");
        apply(kernel, Op::DeleteRoute(new.clone())).await?;
        apply(kernel, Op::DeleteRoute(new)).await?;
    }
    ensure!(kernel.observe().await?.routes.len() == wanted.len() - 2, "deleted too much or too little");
    held("routes: IPv4, IPv6, tables 254 and 4000, onlink, unreachable; put twice, replaced, deleted twice");
    Ok(())
}

async fn takes_no_foreign_place(kernel: &Kernel, link: u32) -> Outcome<()> {
    for (add, prefix) in [("10.77.0.0/24", "10.77.0.0/24"), ("fd00:77::/64", "fd00:77::/64")] {
        run("ip", &["route", "add", add, "dev", "lo", "metric", "20", "proto", "static"])?;
        let target = Target::Link { link, via: None };
        let route = Route { prefix: prefix.parse()?, table: 254, metric: 20, target, source: None };
        let result = kernel.apply(&[Op::PutRoute(route.clone())]).await;
        ensure!(matches!(result.as_slice(), [Err(Error::Foreign { .. })]), "{result:?}");
        apply(kernel, Op::DeleteRoute(route)).await?;
        let left = run("ip", &["route", "show", prefix])?;
        let left = if prefix.contains(':') { run("ip", &["-6", "route", "show", prefix])? } else { left };
        ensure!(
            left.contains("proto static") && left.contains("dev lo"),
            "a foreign route was touched: {left}"
        );
        run("ip", &["route", "del", add, "metric", "20"])?;
    }
    held("routes: a foreign route in the same place is never replaced or deleted");
    Ok(())
}

async fn one_bad_among_many(kernel: &Kernel, link: u32) -> Outcome<()> {
    let host = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a63_0000 + n));
    let mut ops: Vec<Op> = (0..200)
        .map(|n| Op::PutNeighbour(Neighbour { link, overlay: host(n), nbma: [192, 0, 2, 9].into() }))
        .collect();
    ops[70] = Op::PutNeighbour(Neighbour { link: 999_999, overlay: host(70), nbma: [192, 0, 2, 9].into() });
    ops[150] = Op::PutNeighbour(Neighbour { link, overlay: host(150), nbma: "::1".parse()? });
    let another = GreLink { key: Some(5), ..gre("gre5", super::HUB_NBMA) };
    ops[180] = Op::CreateGre(another);
    let results = kernel.apply(&ops).await;
    let failed: Vec<_> = (0..results.len()).filter(|i| results[*i].is_err()).collect();
    ensure!(results.len() == 200 && failed == [70, 150], "failed: {failed:?}");
    ensure!(matches!(results[70], Err(Error::Kernel { errno: 19, .. })), "{:?}", results[70]);
    let Ok(Applied::Link { index }) = results[180] else { return Err("no link among neighbours".into()) };
    ensure!(kernel.observe().await?.neighbours.len() == 197, "not 197 neighbours");
    let mut undo = vec![Op::DeleteLink { index }];
    undo.extend((0..200).map(|n| Op::DeleteNeighbour { link, overlay: host(n) }));
    ensure!(kernel.apply(&undo).await.iter().all(Result::is_ok), "deleting what may be gone");
    held("batch: each result belongs to its change; a refused one stops nothing");
    Ok(())
}

async fn many(kernel: &Kernel, link: u32) -> Outcome<()> {
    let overlay = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + n));
    let nbma = |n: u32| IpAddr::V4(Ipv4Addr::from(0xc612_0000 + n));
    let neighbours: Vec<_> =
        (0..MANY).map(|n| Neighbour { link, overlay: overlay(n), nbma: nbma(n) }).collect();
    let routes: Vec<_> = (0..MANY)
        .map(|n| {
            let target = Target::Link { link, via: Some(overlay(n)) };
            let prefix = ipnet::IpNet::new(Ipv4Addr::from(0x1400_0000 + (n << 8)).into(), 24)?;
            Ok(Route { prefix, table: 254, metric: 20, target, source: None })
        })
        .collect::<Outcome<_>>()?;
    let before = kernel.observe().await?;
    timed(kernel, "put neighbours", neighbours.iter().cloned().map(Op::PutNeighbour).collect()).await?;
    timed(kernel, "put routes", routes.iter().cloned().map(Op::PutRoute).collect()).await?;
    let shown = run("ip", &["neigh", "show", "dev", "gre1", "nud", "permanent", "proto", "214"])?;
    ensure!(shown.lines().count() == MANY as usize, "ip shows {} neighbours", shown.lines().count());
    let started = Instant::now();
    let seen = kernel.observe().await?;
    println!(
        "    observe with 10 000 neighbours and routes: {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    let (have, want): (HashSet<_>, HashSet<_>) =
        (seen.neighbours.into_iter().collect(), neighbours.into_iter().collect());
    ensure!(have == want, "neighbours: {} observed", have.len());
    ensure!(
        seen.routes.len() == before.routes.len() + MANY as usize,
        "{} routes observed",
        seen.routes.len()
    );
    let again = routes.iter().cloned().map(Op::PutRoute).collect();
    timed(kernel, "put the same routes again", again).await?;
    timed(kernel, "delete routes", routes.into_iter().map(Op::DeleteRoute).collect()).await?;
    let gone = (0..MANY).map(|n| Op::DeleteNeighbour { link, overlay: overlay(n) }).collect();
    timed(kernel, "delete neighbours", gone).await?;
    let after = kernel.observe().await?;
    ensure!(after.neighbours.is_empty() && after.routes.len() == before.routes.len(), "not all deleted");
    held("10 000 neighbours and routes: put, observed, put again, deleted");
    Ok(())
}

async fn timed(kernel: &Kernel, what: &str, ops: Vec<Op>) -> Outcome<()> {
    let started = Instant::now();
    let results = kernel.apply(&ops).await;
    let spent = started.elapsed();
    let bad = results.iter().find_map(|r| r.as_ref().err());
    ensure!(bad.is_none() && results.len() == ops.len(), "{what}: {bad:?}");
    let each = spent.as_secs_f64() * 1e6 / ops.len() as f64;
    println!("    {what}: {} at {each:.1} µs each", ops.len());
    Ok(())
}

async fn lookup_and_counters(kernel: &Kernel, link: u32) -> Outcome<()> {
    let spoke = super::SPOKES[0].2.parse()?;
    let found = kernel.lookup(spoke, 0).await?;
    ensure!(found.via.is_none() && found.source == Some(super::SPOKES[0].1.parse()?), "{found:?}");
    let found = kernel.lookup("10.21.0.9".parse()?, 0).await?;
    ensure!(found.link == link && found.via == Some("10.255.0.77".parse()?), "{found:?}");
    for none in ["10.255.3.3", "fd00:255::3:3", "8.8.8.8", "2001:db8::9"] {
        let result = kernel.lookup(none.parse()?, 0).await;
        ensure!(matches!(result, Err(Error::Unreachable { .. })), "{none}: {result:?}");
    }
    let counted = kernel.counters(link).await?;
    let shown = json("ip", &["-s", "-j", "link", "show", "gre1"])?;
    ensure!(shown[0]["stats64"]["tx"]["packets"] == counted.tx_packets, "{counted:?} against {shown}");
    ensure!(kernel.counters(999_999).await.is_err(), "counters of no link");
    held("lookup: on-link, by a gateway, unreachable; counters agree with `ip -s`");
    Ok(())
}
