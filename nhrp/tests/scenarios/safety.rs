//! Forged packets: each is refused, counted, and changes nothing.

use nhrp::wire::{Builder, Cie, ErrorCode, Header, MAX_HOPS, PrefixChunk, ext, flags, list_flags};
use nhrp::{DropReason, Event, NhsPhase, PacketType, RouteKind, ShortcutPhase};

use super::net::*;

const A: usize = 1;
const B: usize = 2;
/// Outer source of a member that nobody trusts.
const MALLORY: u32 = 66;

fn triangle(seed: u64) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    sim
}

fn header(packet_type: PacketType, id: u32, src: u32, dst: u32) -> Header {
    Header {
        packet_type,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: id,
        src_nbma: nbma(MALLORY),
        src_proto: overlay(src),
        dst_proto: overlay(dst),
    }
}

fn dropped(sim: &Net, index: usize, reason: DropReason) -> u64 {
    sim.snapshot(index).counters.dropped(reason)
}

/// Kernel tables of all nodes, to show that nothing changed.
fn tables(sim: &Net) -> String {
    format!("{:?}", sim.nodes.iter().map(|node| (&node.neighbours, &node.routes)).collect::<Vec<_>>())
}

#[test]
fn traffic_indications() {
    let mut sim = triangle(50);
    let indication = |src: &str, dst: &str| {
        let header = header(PacketType::TrafficIndication, 0, 1, 2);
        Builder::new(&header).payload(&data(ip(src), ip(dst))[..84]).finish()
    };
    let before = sim.wire.len();
    sim.inject(nbma(MALLORY), A, &indication("10.2.0.5", "10.3.0.5"));
    assert_eq!(dropped(&sim, A, DropReason::WrongSender), 1);
    sim.inject(nbma(3), A, &indication("10.2.0.5", "10.3.0.5"));
    assert_eq!(dropped(&sim, A, DropReason::WrongSender), 2, "another spoke is no hub");
    for (src, dst) in [
        ("10.9.0.5", "10.3.0.5"),
        ("10.2.0.5", "10.2.0.6"),
        ("10.2.0.5", "224.0.0.5"),
        // The hub's underlay address: the tunnel would lead into itself.
        ("10.2.0.5", "198.18.0.1"),
    ] {
        sim.inject(nbma(1), A, &indication(src, dst));
    }
    assert_eq!(dropped(&sim, A, DropReason::NotOurTraffic), 4);
    assert_eq!(sim.wire.len(), before, "no request came of it");
    sim.inject(nbma(1), A, &indication("10.2.0.5", "10.3.0.5"));
    sim.inject(nbma(1), A, &indication("10.2.0.5", "10.3.0.5"));
    assert_eq!(sim.count(PacketType::ResolutionRequest), 1);
    assert_eq!(dropped(&sim, A, DropReason::AlreadyDirect), 1);
}

/// A request is under way at A; what the attacker has to guess is known here.
fn asking(seed: u64) -> (Net, u32) {
    let mut sim = triangle(seed);
    sim.cut.insert((nbma(1), nbma(3)));
    sim.ping_without_loss(A);
    let request = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionRequest)).unwrap();
    let id = request.message.header.request_id;
    (sim, id)
}

impl Net {
    fn ping_without_loss(&mut self, start: usize) {
        let packet = data(ip("10.2.0.5"), ip("10.3.0.5"));
        self.input(0, nhrp::Input::Hairpin { link: LINK, packet });
        self.run(20);
        assert_eq!(self.snapshot(start).shortcuts[0].phase, ShortcutPhase::Incomplete);
    }
}

fn reply(id: u32, cie: Cie) -> Vec<u8> {
    let mut header = header(PacketType::ResolutionReply, id, 2, 3);
    header.dst_proto = ip("10.3.0.5");
    Builder::new(&header).cie(&cie).finish()
}

fn egress(n: u32, at: u32, prefix_len: u8) -> Cie {
    Cie { prefix_len, holding_time: 600, nbma: Some(nbma(at)), proto: Some(overlay(n)), ..Cie::default() }
}

#[test]
fn resolution_replies() {
    let (mut sim, id) = asking(51);
    let before = tables(&sim);
    // Unasked, or about something else.
    sim.inject(nbma(MALLORY), A, &reply(id.wrapping_add(1), egress(66, MALLORY, 24)));
    let mut other = header(PacketType::ResolutionReply, id, 2, 3);
    other.dst_proto = ip("10.3.0.6");
    sim.inject(nbma(MALLORY), A, &Builder::new(&other).cie(&egress(66, MALLORY, 24)).finish());
    assert_eq!(dropped(&sim, A, DropReason::Unsolicited), 2);
    let errors = |sim: &Net| -> Vec<_> {
        let errors = sim.wire.iter().filter(|sent| sent.is(PacketType::ErrorIndication));
        errors.map(|sent| (sent.to, sent.message.header.error().0, sent.message.header.dst_proto)).collect()
    };
    let invalid = |dst: &str| (nbma(MALLORY), ErrorCode::InvalidReply, ip(dst));
    assert_eq!(errors(&sim), [invalid("10.3.0.5"), invalid("10.3.0.6")], "one each, to who sent it");
    // From neither the hub nor the egress that it names.
    sim.inject(nbma(MALLORY), A, &reply(id, egress(3, 3, 24)));
    // A refusal by one who was not asked.
    sim.inject(nbma(MALLORY), A, &reply(id, Cie { code: 12, ..Cie::default() }));
    assert_eq!(dropped(&sim, A, DropReason::WrongSender), 2);
    assert_eq!(tables(&sim), before);
    assert_eq!(
        sim.snapshot(A).shortcuts[0].phase,
        ShortcutPhase::Incomplete,
        "still waiting for the real one"
    );

    // The real egress, but claiming too much: bounded by what the hub told.
    sim.inject(nbma(3), A, &reply(id, egress(3, 3, 1)));
    sim.run(20);
    assert_eq!(sim.snapshot(A).shortcuts[0].prefix, net("10.3.0.0/24"));
    // A late second answer is nobody's any more.
    sim.inject(nbma(3), A, &reply(id, egress(3, 3, 24)));
    assert_eq!(dropped(&sim, A, DropReason::Unsolicited), 3);
    assert_eq!(errors(&sim).len(), 2, "who was asked twice may answer twice");
}

/// An answer never moves what is configured: who claims the hub's own address gets nothing for it.
#[test]
fn replies_do_not_outrank_the_configuration() {
    let (mut sim, id) = asking(62);
    sim.inject(nbma(MALLORY), A, &reply(id, egress(1, MALLORY, 24)));
    assert_eq!(sim.nodes[A].neighbours[&overlay(1)], nbma(1));
    assert!(!sim.nodes[A].neighbours.values().any(|at| *at == nbma(MALLORY)));
}

#[test]
fn replies_that_make_no_sense_stay_on_the_hub() {
    for (what, cie) in [
        ("ourselves", egress(2, 3, 24)),
        ("our own underlay address", egress(3, 2, 24)),
        ("outside of the overlay", Cie { proto: Some(ip("10.9.9.9")), ..egress(3, 3, 24) }),
        ("no time", Cie { holding_time: 0, ..egress(3, 3, 24) }),
        ("no egress", Cie { proto: None, ..egress(3, 3, 24) }),
        ("refused", Cie { code: 12, ..Cie::default() }),
    ] {
        let (mut sim, id) = asking(52);
        let before = tables(&sim);
        sim.inject(nbma(1), A, &reply(id, cie));
        assert_eq!(tables(&sim), before, "{what}");
        assert_eq!(sim.snapshot(A).shortcuts[0].phase, ShortcutPhase::Negative, "{what}");
    }
}

#[test]
fn error_indications() {
    let (mut sim, id) = asking(53);
    let about = |id: u32, dst: &str| {
        let mut inner = header(PacketType::ResolutionRequest, id, 2, 3);
        inner.dst_proto = ip(dst);
        let inner = Builder::new(&inner).finish();
        let word = u32::from(u16::from(ErrorCode::ProtocolAddressUnreachable)) << 16;
        Builder::new(&header(PacketType::ErrorIndication, word, 3, 2)).payload(&inner).finish()
    };
    sim.inject(nbma(MALLORY), A, &about(id.wrapping_add(9), "10.3.0.5"));
    sim.inject(nbma(MALLORY), A, &about(id, "10.3.0.6"));
    assert_eq!(dropped(&sim, A, DropReason::Unsolicited), 2);
    let before = tables(&sim);
    // It is the hub that was asked.
    sim.inject(nbma(3), A, &about(id, "10.3.0.5"));
    sim.inject(nbma(MALLORY), A, &about(id, "10.3.0.5"));
    assert_eq!(dropped(&sim, A, DropReason::WrongSender), 2);
    assert_eq!(sim.snapshot(A).shortcuts[0].phase, ShortcutPhase::Incomplete);
    sim.inject(nbma(1), A, &about(id, "10.3.0.5"));
    assert_eq!(tables(&sim), before, "no black hole");
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap_err(), "198.18.0.1 does not reach 198.18.0.3, way [1, 0]");
    let state = &sim.snapshot(A).shortcuts[0];
    assert_eq!(state.phase, ShortcutPhase::Negative);
    assert!(state.reason.contains("unreachable"));

    // About a registration: only from the hub that was asked.
    let registration = sim.nodes[A].engine.nhs_states(sim.now)[0].request_id;
    let mut inner = header(PacketType::RegistrationRequest, registration, 2, 1);
    inner.src_nbma = nbma(2);
    let inner = Builder::new(&inner).finish();
    let word = u32::from(u16::from(ErrorCode::AuthenticationFailure)) << 16;
    let error = Builder::new(&header(PacketType::ErrorIndication, word, 1, 2)).payload(&inner).finish();
    sim.inject(nbma(1), A, &error);
    assert_eq!(
        sim.nodes[A].engine.nhs_states(sim.now)[0].phase,
        NhsPhase::Responding,
        "it was answered long ago"
    );
    // Nobody answers an error with an error.
    assert_eq!(sim.count(PacketType::ErrorIndication), 0);
}

fn purge(src: u32, prefix: &str) -> Vec<u8> {
    let prefix = net(prefix);
    let cie = Cie { prefix_len: prefix.prefix_len(), proto: Some(prefix.addr()), ..Cie::default() };
    Builder::new(&header(PacketType::PurgeRequest, 4711, src, 1)).cie(&cie).finish()
}

#[test]
fn purges() {
    let mut sim = triangle(54);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
    let before = tables(&sim);
    sim.inject(nbma(MALLORY), 0, &purge(3, "10.255.0.3/32"));
    assert_eq!(dropped(&sim, 0, DropReason::NotOwner), 1);
    sim.inject(nbma(MALLORY), 0, &purge(3, "0.0.0.0/0"));
    sim.inject(nbma(2), A, &purge(3, "10.3.0.0/24"));
    sim.inject(nbma(MALLORY), A, &purge(3, "10.0.0.0/8"));
    assert_eq!(dropped(&sim, A, DropReason::NotOwner), 2);
    assert_eq!(tables(&sim), before);
    // Acknowledged all the same (RFC 2332 §5.2.5), unless that is not wanted.
    assert_eq!(sim.count(PacketType::PurgeReply), 4);
    let mut quiet = header(PacketType::PurgeRequest, 1, 3, 1);
    quiet.flags = flags::NO_REPLY;
    sim.inject(nbma(MALLORY), 0, &Builder::new(&quiet).finish());
    assert_eq!(sim.count(PacketType::PurgeReply), 4);
    // An answer to nothing.
    sim.inject(nbma(MALLORY), 0, &Builder::new(&header(PacketType::PurgeReply, 1, 1, 3)).finish());
    assert_eq!(dropped(&sim, 0, DropReason::Unsolicited), 1);
    // The owner may, and so may the hub at the requester.
    sim.inject(nbma(3), 0, &purge(3, "10.255.0.3/32"));
    assert!(!sim.nodes[0].neighbours.contains_key(&overlay(3)));
    sim.run(50);
    assert!(sim.snapshot(A).shortcuts.is_empty(), "the hub told the requester");
}

#[test]
fn pushed_lists_and_registration_replies() {
    let mut sim = triangle(55);
    let before = tables(&sim);
    let chunk = PrefixChunk {
        flags: list_flags::REACHABLE | list_flags::FIRST,
        generation: 77,
        prefixes: vec![net("10.66.0.0/16")],
        ..PrefixChunk::default()
    };
    let push = |src: u32| {
        Builder::new(&header(PacketType::RegistrationRequest, 5, src, 2))
            .cie(&Cie { prefix_len: 0xff, ..Cie::default() })
            .extension(false, ext::PREFIXES, &chunk.encode())
            .finish()
    };
    sim.inject(nbma(MALLORY), A, &push(1));
    sim.inject(nbma(3), A, &push(3));
    assert_eq!(dropped(&sim, A, DropReason::WrongSender), 2);
    // Without the mark of a list it is a registration, and a spoke is no NHS.
    let plain = Builder::new(&header(PacketType::RegistrationRequest, 5, 66, 2))
        .cie(&Cie { prefix_len: 0xff, holding_time: 600, ..Cie::default() })
        .finish();
    sim.inject(nbma(MALLORY), A, &plain);
    assert_eq!(dropped(&sim, A, DropReason::NotServer), 1);
    // A refusal of our registration that the hub did not send; a reply to nothing.
    let mut nak = header(PacketType::RegistrationReply, 0, 2, 1);
    sim.nodes[0].alive = false;
    sim.run(21_000);
    nak.request_id = sim.nodes[A].engine.nhs_states(sim.now)[0].request_id;
    let refused = |header: &Header| Builder::new(header).cie(&Cie { code: 14, ..Cie::default() }).finish();
    sim.inject(nbma(MALLORY), A, &refused(&nak));
    assert_eq!(dropped(&sim, A, DropReason::WrongSender), 3);
    nak.request_id = nak.request_id.wrapping_add(5);
    sim.inject(nbma(1), A, &refused(&nak));
    assert_eq!(dropped(&sim, A, DropReason::Unsolicited), 1);
    assert_eq!(sim.nodes[A].engine.nhs_states(sim.now)[0].reason_code, "");
    assert_eq!(tables(&sim), before);
}

#[test]
fn requests_of_strangers_and_loops() {
    let mut sim = triangle(56);
    let request = |src: u32, hops: u8, record: &[Cie]| {
        let mut header = header(PacketType::ResolutionRequest, 900, src, 3);
        header.hop_count = hops;
        header.src_nbma = nbma(src);
        header.dst_proto = ip("10.3.0.5");
        Builder::new(&header)
            .cie(&Cie { holding_time: 600, ..Cie::default() })
            .extension_cies(true, ext::FORWARD_RECORD, record)
            .finish()
    };
    // A hub passes on for its own spokes only, and its table of them does not grow by requests.
    let before = tables(&sim);
    sim.inject(nbma(MALLORY), 0, &request(66, 255, &[]));
    sim.inject(nbma(MALLORY), 0, &request(2, 255, &[]));
    assert_eq!(dropped(&sim, 0, DropReason::Forbidden), 2);
    // Round and back, and out of hops.
    let errors = |sim: &Net| {
        let last = sim.wire.last().unwrap();
        assert!(last.is(PacketType::ErrorIndication));
        assert_eq!(last.to, nbma(2));
        last.message.header.error().0
    };
    let own = Cie { nbma: Some(nbma(1)), proto: Some(overlay(1)), ..Cie::default() };
    sim.inject(nbma(2), 0, &request(2, 255, &[own]));
    assert_eq!(errors(&sim), ErrorCode::Loop);
    sim.run(1000);
    sim.inject(nbma(2), 0, &request(2, 1, &[]));
    assert_eq!(errors(&sim), ErrorCode::HopCountExceeded);
    sim.run(1000);
    // What nobody understands must be understood: at the egress an error, at the transit passed on without a trace.
    let mut strange = header(PacketType::ResolutionRequest, 901, 2, 3);
    strange.src_nbma = nbma(2);
    strange.dst_proto = ip("10.3.0.5");
    let strange = Builder::new(&strange)
        .cie(&Cie { holding_time: 600, ..Cie::default() })
        .extension(true, ext::FORWARD_RECORD, &[])
        .extension(true, 0x123, b"what")
        .finish();
    sim.inject(nbma(2), 0, &strange);
    let passed = sim.wire.last().unwrap();
    assert_eq!(passed.to, nbma(3));
    let record =
        passed.message.extensions.iter().flatten().find(|it| it.kind == ext::FORWARD_RECORD).unwrap();
    assert!(record.value.is_empty());
    assert!(passed.message.extensions.iter().flatten().any(|it| it.kind == 0x123 && it.compulsory));
    sim.run(100);
    let error =
        sim.wire.iter().find(|sent| sent.is(PacketType::ErrorIndication) && sent.from == nbma(3)).unwrap();
    assert_eq!(error.message.header.error().0, ErrorCode::UnrecognisedExtension);
    assert_eq!(tables(&sim), before);
    assert!(sim.snapshot(0).bindings.iter().all(|it| it.overlay != overlay(66)));
}

#[test]
fn replies_through_the_hub_only_from_who_was_asked() {
    let mut sim = triangle(57);
    sim.cut.insert((nbma(3), nbma(2)));
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    let id = sim
        .wire
        .iter()
        .find(|sent| sent.is(PacketType::ResolutionRequest))
        .unwrap()
        .message
        .header
        .request_id;
    let before = sim.count(PacketType::ResolutionReply);
    sim.inject(nbma(MALLORY), 0, &reply(id, egress(66, MALLORY, 24)));
    assert_eq!(dropped(&sim, 0, DropReason::WrongSender), 1);
    sim.inject(nbma(3), 0, &reply(id.wrapping_add(1), egress(3, 3, 24)));
    assert_eq!(dropped(&sim, 0, DropReason::Unsolicited), 1);
    assert_eq!(sim.count(PacketType::ResolutionReply), before);
    // An egress that answers by way of the hub, as RFC 2332 has it; the way there is tried first.
    sim.cut.clear();
    sim.inject(nbma(3), 0, &reply(id, egress(3, 3, 24)));
    sim.run(2000);
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
}

#[test]
fn drops_are_counted_all_and_told_rarely() {
    let mut sim = triangle(58);
    for _ in 0..1000 {
        sim.inject(nbma(MALLORY), 0, b"no NHRP at all");
        sim.run(10);
    }
    assert_eq!(dropped(&sim, 0, DropReason::Malformed), 1000);
    let told: Vec<_> = sim.nodes[0]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Dropped { reason: DropReason::Malformed, from, count } => Some((*from, *count)),
            _ => None,
        })
        .collect();
    assert!((1..=2).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|(from, _)| *from == Some(nbma(MALLORY))));
    sim.run(30_000);
    let total: u64 = sim.nodes[0]
        .events
        .iter()
        .map(|event| match event {
            Event::Dropped { reason: DropReason::Malformed, count, .. } => *count,
            _ => 0,
        })
        .sum();
    assert_eq!(total, 1000, "what was not told at once is told later");
    // A flood from everywhere is bounded too.
    for n in 0..10_000u32 {
        sim.inject(nbma(1000 + n), 0, b"x");
    }
    assert_eq!(dropped(&sim, 0, DropReason::Malformed), 11_000);
    let bad = |at: usize, value: u8| {
        let mut bytes = purge(3, "10.255.0.3/32");
        bytes[at] = value;
        bytes[12..14].fill(0);
        let sum = nhrp::wire::checksum(&bytes);
        bytes[12..14].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    sim.inject(nbma(MALLORY), 0, &bad(16, 2));
    sim.inject(nbma(MALLORY), 0, &bad(17, 9));
    let mut damaged = purge(3, "10.255.0.3/32");
    damaged[30] ^= 1;
    sim.inject(nbma(MALLORY), 0, &damaged);
    assert_eq!(dropped(&sim, 0, DropReason::BadVersion), 1);
    assert_eq!(dropped(&sim, 0, DropReason::UnknownType), 1);
    assert_eq!(dropped(&sim, 0, DropReason::BadChecksum), 1);
    assert_eq!(sim.count(PacketType::ErrorIndication), 0);
}

#[test]
fn a_flood_of_claims_is_bounded() {
    let mut sim = Net::new(59);
    let h = sim.add(hub(1));
    sim.record = false;
    let registration = |n: u32, from: u32| {
        let mut header = header(PacketType::RegistrationRequest, n, n, 1);
        header.src_nbma = nbma(from);
        Builder::new(&header).cie(&Cie { prefix_len: 0xff, holding_time: 600, ..Cie::default() }).finish()
    };
    for n in 2..3000 {
        sim.inject(nbma(n), h, &registration(n, n));
    }
    // One member claims all of them.
    let before = sim.sent;
    for n in 2..3000 {
        sim.inject(nbma(60_000), h, &registration(n, 60_000));
    }
    let counters = sim.snapshot(h).counters;
    assert_eq!(counters.dropped(DropReason::RateLimited), 2998 - 1000, "more than one peer may say");
    assert_eq!(counters.dropped(DropReason::TableFull), 1000 - 32, "and no more than these are looked into");
    assert_eq!(sim.sent - before, 32, "each by one probe, and none is answered");
    // Nor does it take the place of one who has really moved.
    sim.inject(nbma(70_000), h, &registration(77, 70_000));
    assert_eq!(sim.sent - before, 33);
    sim.run(1_100);
    assert_eq!(sim.nodes[h].neighbours[&overlay(77)], nbma(70_000));
    let stolen = (2..3000).filter(|n| sim.nodes[h].neighbours[&overlay(*n)] == nbma(60_000)).count();
    assert_eq!(stolen, 32, "nobody lives there in this test: silence is what lets go");
}

#[test]
fn nothing_is_installed_for_a_requester() {
    let mut sim = triangle(60);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.nodes[B].neighbours.keys().copied().collect::<Vec<_>>(), [overlay(1)]);
    assert!(sim.nodes[B].routes.keys().all(|(_, kind)| *kind != RouteKind::Shortcut));
}

/// Any packet at all, with a right checksum, into a hub and a spoke in the middle of their work.
#[test]
fn mutated_packets_break_nothing() {
    let mut seeds = Vec::new();
    for text in [
        include_str!("../vectors/cisco-form.hex"),
        include_str!("../vectors/phase3-frr844-hub.hex"),
        include_str!("../vectors/probe-frr1071-auth.hex"),
    ] {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            seeds.push((0..line.len()).step_by(2).map(byte).collect::<Vec<u8>>());
        }
    }
    let mut sim = triangle(61);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    // Their own packets are the best starting points: addresses and ids fit.
    seeds.extend(sim.wire.iter().map(|sent| sent.bytes.clone()));
    sim.record = false;
    let senders = [nbma(1), nbma(2), nbma(3), nbma(MALLORY)];
    for round in 0..60_000 {
        let mut bytes = seeds[(sim.random() % seeds.len() as u64) as usize].clone();
        for _ in 0..1 + sim.random() % 4 {
            let at = (sim.random() % bytes.len() as u64) as usize;
            bytes[at] = match sim.random() % 4 {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ (1 << (sim.random() % 8)),
                _ => sim.random() as u8,
            };
        }
        let size = usize::from(u16::from_be_bytes([bytes[10], bytes[11]]));
        if (20..=bytes.len()).contains(&size) {
            bytes[12..14].fill(0);
            let sum = nhrp::wire::checksum(&bytes[..size]);
            bytes[12..14].copy_from_slice(&sum.to_be_bytes());
        }
        let from = senders[(sim.random() % 4) as usize];
        let to = (sim.random() % 3) as usize;
        sim.inject(from, to, &bytes);
        if round % 50 == 0 {
            sim.run(100);
        }
    }
    // The spokes' views of their hub cannot be talked away, nor can a host outside of the overlay be bound.
    sim.run(200_000);
    for index in 0..3 {
        for overlay in sim.nodes[index].neighbours.keys() {
            assert!(net(OVERLAY).contains(overlay), "{overlay}");
        }
        let snapshot = sim.snapshot(index);
        assert!(snapshot.shortcuts.len() <= 4096 && snapshot.counters.received.total() > 10_000);
    }
    assert_eq!(sim.nodes[A].neighbours[&overlay(1)], nbma(1));
    assert_eq!(
        sim.nodes[0].neighbours[&overlay(2)],
        nbma(2),
        "its refreshes set right what was forged in its name"
    );
}
