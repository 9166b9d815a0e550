//! The other end: a spoke that answers NHRP packets, pings, and TCP, until its standard input ends.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};

use dataplane::model::{Address, GreLink, Neighbour, Op, Route, Target};
use dataplane::{Kernel, NhrpSocket, Packets};

use crate::host::{Outcome, apply, create, gre};

/// TCP port that spokes listen on.
pub(crate) const PORT: u16 = 5001;

pub(crate) async fn run(underlay: &str, overlay: &str) -> Outcome<()> {
    let (kernel, _events) = Kernel::open().await?;
    let hub: IpAddr = super::HUB_OVERLAY.parse()?;
    // The second spoke is a Phase 1 one: point-to-point.
    let remote = if overlay == super::SPOKES[1].3 { Some(super::HUB_NBMA.parse()?) } else { None };
    let link = create(&kernel, GreLink { remote, ..gre("gre1", underlay) }).await?;
    let target = |via| Target::Link { link, via };
    let route = |prefix: &str, via| -> Outcome<Op> {
        let target = target(via);
        Ok(Op::PutRoute(Route { prefix: prefix.parse()?, table: 254, metric: 10, target, source: None }))
    };
    apply(&kernel, Op::AddAddress(Address { link, address: format!("{overlay}/32").parse()? })).await?;
    apply(&kernel, Op::PutNeighbour(Neighbour { link, overlay: hub, nbma: super::HUB_NBMA.parse()? }))
        .await?;
    apply(&kernel, route(&format!("{hub}/32"), None)?).await?;
    apply(&kernel, route("10.255.0.0/16", Some(hub))?).await?;
    // IPv6 in the same tunnel.
    let hub: IpAddr = super::HUB_OVERLAY6.parse()?;
    apply(&kernel, Op::AddAddress(Address { link, address: format!("{}/128", overlay6(overlay)).parse()? }))
        .await?;
    apply(&kernel, route("fd00:255::/64", Some(hub))?).await?;
    if remote.is_none() {
        apply(&kernel, Op::PutNeighbour(Neighbour { link, overlay: hub, nbma: super::HUB_NBMA.parse()? }))
            .await?;
    }
    let listener = TcpListener::bind((overlay.parse::<IpAddr>()?, PORT))?;
    std::thread::spawn(move || {
        let mut open = Vec::new();
        open.extend(listener.incoming());
    });
    let socket = NhrpSocket::open(link)?;
    println!("ready");
    std::io::stdout().flush()?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    loop {
        let mut received = Packets::default();
        socket.receive(&mut received).await?;
        let answers: Vec<_> =
            received.iter().map(|(nbma, packet)| (nbma, [&b"re:"[..], packet].concat())).collect();
        let answers: Vec<_> = answers.iter().map(|(to, bytes)| (*to, bytes.as_slice())).collect();
        for result in socket.send(&answers).await {
            result?;
        }
    }
}

/// The IPv6 overlay address beside an IPv4 one.
pub(crate) fn overlay6(overlay: &str) -> String {
    format!("fd00:255::{}", overlay.rsplit('.').next().unwrap_or_default())
}
