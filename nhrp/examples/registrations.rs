//! How many registrations the bare engine takes in a second on one core: no sockets, no kernel. Prints one line a
//! figure, name and value; `make bench` reads them.
//!
//! The packets are what an FRR or Cisco spoke sends, made beforehand. New registrations fill an empty hub with all
//! spokes; refreshes go round over all of them, so that each touches another entry. Every answer is taken out as the
//! agent takes it. The best of several rounds counts: what disturbs a round is the machine's other work.

#![forbid(unsafe_code)]
// The engine must not look at a clock; whoever measures it must.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures time")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use nhrp::wire::{Builder, Cie, Header, MAX_HOPS, ext, flags};
use nhrp::{Config, Engine, LinkId, Origin, Output, PacketType, Phase, Time, Uniqueness};

const LINK: LinkId = LinkId(7);
const HUB: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const HUB_NBMA: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SPOKES: [u32; 3] = [1_000, 5_000, 10_000];
const ROUNDS: u32 = 15;
/// As a burst from the socket holds.
const BURST: usize = 64;

fn main() {
    for spokes in SPOKES {
        let packets: Vec<_> = (0..spokes).map(registration).collect();
        let mut new = Duration::MAX;
        let mut refresh = Duration::MAX;
        for _ in 0..ROUNDS {
            let mut hub = Engine::new(configuration(), 1, Time(1_000));
            new = new.min(round(&mut hub, Time(2_000), &packets));
            refresh = refresh.min(round(&mut hub, Time(60_000), &packets));
        }
        for (what, took) in [("new", new), ("refresh", refresh)] {
            println!("engine.{what}.{spokes} {:.0}", f64::from(spokes) / took.as_secs_f64());
        }
    }
}

/// Every packet once; the time until the last answer is out.
fn round(hub: &mut Engine, now: Time, packets: &[(IpAddr, Vec<u8>)]) -> Duration {
    let start = Instant::now();
    let mut answers = 0;
    for burst in packets.chunks(BURST) {
        for (nbma, bytes) in burst {
            hub.handle_packet(now, Origin { link: LINK, nbma: *nbma }, bytes);
        }
        while let Some(output) = hub.poll_output() {
            if let Output::Send { bytes, .. } = output {
                answers += 1;
                hub.recycle(bytes);
            }
        }
    }
    let took = start.elapsed();
    assert!(answers >= packets.len(), "{answers} answers to {} requests", packets.len());
    took
}

/// Where spoke `n` is, and its request: an empty entry, the three records, the NAT extension.
fn registration(n: u32) -> (IpAddr, Vec<u8>) {
    let nbma = IpAddr::from(Ipv4Addr::from_bits(0xc612_0000 + n));
    let header = Header {
        packet_type: PacketType::RegistrationRequest,
        hop_count: MAX_HOPS,
        flags: flags::NAT,
        request_id: n,
        src_nbma: nbma,
        src_proto: Ipv4Addr::from_bits(HUB.to_bits() + 1 + n).into(),
        dst_proto: HUB.into(),
    };
    let builder = Builder::new(&header)
        .cie(&Cie { prefix_len: 0xff, mtu: 1400, holding_time: 600, ..Cie::default() })
        .extension(true, ext::RESPONDER, &[])
        .extension(true, ext::FORWARD_RECORD, &[])
        .extension(true, ext::REVERSE_RECORD, &[])
        .extension(false, ext::NAT, &[]);
    (nbma, builder.finish())
}

fn configuration() -> Config {
    Config {
        names: Vec::new(),
        hub_list: Vec::new(),
        advertise: Vec::new(),
        beside: Vec::new(),
        across: Vec::new(),
        child_hubs: Vec::new(),
        pool: None,
        own_groups: Vec::new(),
        groups: std::collections::BTreeSet::new(),
        members: None,
        request: None,
        fixed_hubs: false,
        fallback_seconds: 0,
        link: LINK,
        nbma: Some(HUB_NBMA.into()),
        phase: Phase::Three,
        server: true,
        local: vec![HUB.into()],
        overlay: vec!["10.255.0.0/16".parse().expect("a prefix")],
        subnets: vec!["10.10.0.0/24".parse().expect("a prefix")],
        nhs: Vec::new(),
        statics: Vec::new(),
        external: Vec::new(),
        holding_time: 600,
        registration_interval: None,
        unique: false,
        uniqueness: Uniqueness::Identity,
        authentication: Vec::new(),
        mtu: 1400,
    }
}
