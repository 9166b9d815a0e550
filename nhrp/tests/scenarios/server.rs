//! What an NHS answers, entry by entry, and what it does not take from a request.

use nhrp::wire::{Builder, Cie, ErrorCode, Header, MAX_HOPS, ext, flags};
use nhrp::{DropReason, Event, PacketType, RouteKind, ShortcutPhase};

use super::net::*;

const A: usize = 1;
const B: usize = 2;
const MALLORY: u32 = 66;

fn header(packet_type: PacketType, src: u32, at: u32, dst: std::net::IpAddr) -> Header {
    Header {
        packet_type,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: 900,
        src_nbma: nbma(at),
        src_proto: overlay(src),
        dst_proto: dst,
    }
}

fn registration(n: u32) -> Builder {
    Builder::new(&header(PacketType::RegistrationRequest, n, n, overlay(1)))
}

fn own() -> Cie {
    Cie { prefix_len: 0xff, holding_time: 600, ..Cie::default() }
}

fn triangle(seed: u64) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    sim
}

fn dropped(sim: &Net, index: usize, reason: DropReason) -> u64 {
    sim.snapshot(index).counters.dropped(reason)
}

#[test]
fn several_entries_have_an_outcome_each() {
    let mut sim = Net::new(100);
    let h = sim.add(hub(1));
    let entry = |proto: &str| Cie { proto: Some(ip(proto)), ..own() };
    let request = registration(2)
        .cie(&own())
        .cie(&entry("10.255.0.12"))
        .cie(&entry("10.254.0.1"))
        .cie(&entry("10.255.0.1"))
        .cie(&Cie { prefix_len: 24, ..entry("10.255.0.13") })
        .cie(&Cie { holding_time: 0, ..entry("10.255.0.14") })
        .cie(&Cie { holding_time: 30, ..entry("10.255.0.15") })
        .finish();
    sim.inject(nbma(2), h, &request);
    let reply = sim.wire.last().unwrap();
    assert!(reply.is(PacketType::RegistrationReply));
    assert_eq!(reply.to, nbma(2));
    let outcome: Vec<_> = reply.message.cies.iter().map(|cie| (cie.code, cie.holding_time)).collect();
    assert_eq!(outcome, [(0, 600), (0, 600), (4, 0), (14, 0), (4, 0), (4, 0), (0, 30)]);
    let bound: Vec<_> = sim.nodes[h].neighbours.keys().copied().collect();
    assert_eq!(bound, [overlay(2), overlay(12), overlay(15)]);
    // Each for its own time, refreshed or not.
    sim.run(20_000);
    sim.inject(nbma(2), h, &registration(2).cie(&entry("10.255.0.12")).finish());
    sim.run(11_000);
    let bound: Vec<_> = sim.nodes[h].neighbours.keys().copied().collect();
    assert_eq!(bound, [overlay(2), overlay(12)]);
    sim.run(570_000);
    let bound: Vec<_> = sim.nodes[h].neighbours.keys().copied().collect();
    assert_eq!(bound, [overlay(12)]);
}

/// RFC 2332 §5.2.2: the time that is left, one entry if it must be unique, 13 if it is not.
#[test]
fn an_answer_for_a_registered_host_holds_as_long_as_its_registration() {
    for unique in [false, true] {
        let mut sim = Net::new(101);
        let h = sim.add(hub(1));
        let mut registered = header(PacketType::RegistrationRequest, 3, 3, overlay(1));
        registered.flags = if unique { flags::REGISTRATION_UNIQUE } else { 0 };
        sim.inject(nbma(3), h, &Builder::new(&registered).cie(&own()).finish());
        sim.inject(nbma(2), h, &registration(2).cie(&own()).finish());
        sim.run(100_500);
        let ask = |flags: u16| {
            let mut request = header(PacketType::ResolutionRequest, 2, 2, overlay(3));
            request.flags = flags;
            Builder::new(&request).cie(&own()).extension(true, ext::RESPONDER, &[]).finish()
        };
        sim.inject(nbma(2), h, &ask(0));
        let reply = sim.wire.last().unwrap();
        assert_eq!((reply.message.header.packet_type, reply.to), (PacketType::ResolutionReply, nbma(2)));
        let [cie] = reply.message.cies[..] else { panic!("one entry: {:?}", reply.message) };
        assert_eq!((cie.code, cie.holding_time, cie.prefix_len), (0, 499, 32));
        assert_eq!((cie.nbma, cie.proto), (Some(nbma(3)), Some(overlay(3))));
        let responder = &reply.message.extensions.as_ref().unwrap()[0];
        let responder = nhrp::wire::cies(&responder.value).unwrap().next().unwrap();
        assert_eq!(responder.proto, Some(overlay(1)), "it says who answered");

        sim.inject(nbma(2), h, &ask(flags::RESOLUTION_UNIQUE));
        let code = sim.wire.last().unwrap().message.cies[0].code;
        assert_eq!(code, if unique { 0 } else { 13 });

        // Who wants the egress's own word gets it: this is what routers in a DMVPN ask for.
        sim.inject(nbma(2), h, &ask(flags::AUTHORITATIVE));
        let passed = sim.wire.last().unwrap();
        assert_eq!((passed.message.header.packet_type, passed.to), (PacketType::ResolutionRequest, nbma(3)));

        // What was told is taken back.
        let gone = header(PacketType::PurgeRequest, 3, 3, overlay(1));
        sim.inject(nbma(3), h, &Builder::new(&gone).cie(&own()).finish());
        let purge = sim.wire.iter().find(|sent| sent.is(PacketType::PurgeRequest)).unwrap();
        assert_eq!((purge.to, purge.message.cies[0].proto), (nbma(2), Some(overlay(3))));
    }
}

/// What is unreachable stays on the hub's path, and each kind has its answer.
#[test]
fn nothing_there_is_12_and_unreachable_is_6() {
    let mut sim = triangle(102);
    let redirect = |sim: &mut Net, dst: &str| {
        let mut indication = header(PacketType::TrafficIndication, 1, 1, overlay(2));
        indication.request_id = 0;
        let packet = data(ip("10.2.0.5"), ip(dst));
        sim.inject(nbma(1), A, &Builder::new(&indication).payload(&packet[..84]).finish());
        sim.run(20);
    };
    let tables = |sim: &Net| format!("{:?} {:?}", sim.nodes[A].neighbours, sim.nodes[A].routes);
    let before = tables(&sim);
    redirect(&mut sim, "10.255.0.200");
    let reply = sim.wire.last().unwrap();
    assert!(reply.is(PacketType::ResolutionReply));
    assert_eq!(reply.message.cies, [Cie { code: 12, ..Cie::default() }]);
    redirect(&mut sim, "10.99.0.9");
    let error = sim.wire.last().unwrap();
    assert!(error.is(PacketType::ErrorIndication));
    assert_eq!(error.message.header.error().0, ErrorCode::ProtocolAddressUnreachable);
    assert_eq!(error.message.header.dst_proto, overlay(2));
    // The egress says so too, by the way that the request came.
    let mut config = sim.nodes[B].config.clone();
    config.subnets.clear();
    sim.nodes[0].alive = false;
    sim.input(B, nhrp::Input::Configure(Box::new(config)));
    sim.run(100);
    sim.nodes[0].alive = true;
    redirect(&mut sim, "10.3.0.5");
    let errors: Vec<_> = sim.wire.iter().filter(|sent| sent.is(PacketType::ErrorIndication)).collect();
    let ways: Vec<_> = errors[1..].iter().map(|sent| (sent.from, sent.to)).collect();
    assert_eq!(ways, [(nbma(3), nbma(1)), (nbma(1), nbma(2))]);
    let shortcuts = sim.snapshot(A).shortcuts;
    assert_eq!(shortcuts.len(), 3);
    assert!(shortcuts.iter().all(|it| it.phase == ShortcutPhase::Negative), "{shortcuts:?}");
    assert!(!sim.nodes[A].routes.keys().any(|(_, kind)| *kind == RouteKind::Shortcut));
    assert_eq!(tables(&sim), before, "no black hole");
    assert_eq!(dropped(&sim, 0, DropReason::NoRoute), 2);
}

#[test]
fn nobody_asks_in_the_name_of_another() {
    let mut sim = triangle(103);
    let sent = sim.wire.len();
    let ask = |src: u32, record: u32| {
        let mut request = header(PacketType::ResolutionRequest, src, MALLORY, ip("10.3.0.5"));
        request.flags = flags::AUTHORITATIVE | flags::SOURCE_STABLE;
        let by = Cie { nbma: Some(nbma(MALLORY)), proto: Some(overlay(record)), ..Cie::default() };
        Builder::new(&request).cie(&own()).extension_cies(true, ext::FORWARD_RECORD, &[by]).finish()
    };
    sim.inject(nbma(MALLORY), 0, &registration(MALLORY).cie(&own()).finish());
    let before = format!("{:?}", sim.nodes.iter().map(|it| (&it.neighbours, &it.routes)).collect::<Vec<_>>());
    // As if it were the hub of a region with branch A behind it.
    sim.inject(nbma(MALLORY), 0, &ask(2, MALLORY));
    assert_eq!(dropped(&sim, 0, DropReason::Forbidden), 1);
    // In the hub's name.
    sim.inject(nbma(MALLORY), 0, &ask(1, MALLORY));
    assert_eq!(dropped(&sim, 0, DropReason::Loop), 1);
    assert!(!sim.wire[sent..].iter().any(|sent| sent.is(PacketType::ResolutionRequest)));
    // At the egress: the answer goes to where the request came from, and nothing is bound for it.
    let public = Cie { nbma: Some(nbma(2)), proto: Some(overlay(2)), ..Cie::default() };
    let request = Builder::new(&header(PacketType::ResolutionRequest, 2, 2, ip("10.3.0.5")))
        .cie(&own())
        .extension_cies(false, ext::NAT, &[public])
        .finish();
    sim.inject(nbma(MALLORY), B, &request);
    assert_eq!(sim.wire.last().unwrap().to, nbma(MALLORY), "the extension counts only from an NHS");
    sim.inject(nbma(1), B, &request);
    assert_eq!(sim.wire.last().unwrap().to, nbma(2));
    let after = format!("{:?}", sim.nodes.iter().map(|it| (&it.neighbours, &it.routes)).collect::<Vec<_>>());
    assert_eq!(after, before);
}

/// A hostile egress answers for its own prefix, but says that it is at another spoke's overlay address.
#[test]
fn an_egress_does_not_move_another_one() {
    let mut sim = triangle(104);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
    let mut indication = header(PacketType::TrafficIndication, 1, 1, overlay(2));
    indication.request_id = 0;
    let packet = data(ip("10.2.0.5"), ip("10.66.0.5"));
    sim.inject(nbma(1), A, &Builder::new(&indication).payload(&packet[..84]).finish());
    let asked = sim.wire.iter().rfind(|sent| sent.is(PacketType::ResolutionRequest)).unwrap();
    let id = asked.message.header.request_id;
    let mut reply = header(PacketType::ResolutionReply, 2, 2, ip("10.66.0.5"));
    reply.request_id = id;
    let cie = Cie {
        prefix_len: 24,
        holding_time: 600,
        nbma: Some(nbma(MALLORY)),
        proto: Some(overlay(3)),
        ..Cie::default()
    };
    sim.inject(nbma(MALLORY), A, &Builder::new(&reply).cie(&cie).finish());
    assert!(!sim.nodes[A].neighbours.values().any(|at| *at == nbma(MALLORY)));
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, 0, B], "by the hub, who knows");
    assert!(sim.has_event(A, |event| {
        matches!(event, Event::ShortcutDown { reason, .. } if reason.contains("at several addresses"))
    }));
}

/// An indication counts only from the NHS by which the traffic goes.
#[test]
fn indications_from_the_hub_that_is_not_on_the_way() {
    let mut sim = Net::new(105);
    sim.add(hub(1));
    let mut config = spoke(3, &["10.2.0.0/24"]);
    config.nhs.push(nhs(2));
    let s = sim.add(config);
    sim.add(hub(2));
    let mut far = spoke(4, &["10.4.0.0/24"]);
    far.nhs.push(nhs(2));
    sim.add(far);
    sim.run(1000);
    assert_eq!(sim.nodes[s].routes[&(net("10.4.0.0/24"), RouteKind::Announced)], overlay(1));
    let packet = data(ip("10.2.0.5"), ip("10.4.0.5"));
    let indication = |n: u32| {
        let mut indication = header(PacketType::TrafficIndication, n, n, overlay(3));
        indication.request_id = 0;
        Builder::new(&indication).payload(&packet[..84]).finish()
    };
    sim.inject(nbma(2), s, &indication(2));
    assert_eq!(dropped(&sim, s, DropReason::NotOurTraffic), 1);
    assert_eq!(sim.count(PacketType::ResolutionRequest), 0);
    sim.inject(nbma(1), s, &indication(1));
    assert_eq!(sim.count(PacketType::ResolutionRequest), 1);
}

#[test]
fn who_is_leaving_answers_nothing_new() {
    let mut sim = triangle(106);
    sim.nodes[B].alive = false;
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(10);
    // Its purges wait for their answers.
    sim.nodes[A].alive = false;
    sim.input(0, nhrp::Input::Withdraw);
    let hub_left = sim.nodes[0].withdrawn;
    sim.inject(nbma(9), 0, &registration(9).cie(&own()).finish());
    sim.inject(nbma(2), 0, &Builder::new(&header(PacketType::ResolutionRequest, 2, 2, overlay(3))).finish());
    assert_eq!(dropped(&sim, 0, DropReason::Withdrawing), 2, "left already: {hub_left}");
    assert!(!sim.nodes[0].neighbours.contains_key(&overlay(9)));
}

#[test]
fn another_link_is_not_ours() {
    let mut sim = triangle(107);
    let now = sim.now;
    let other = nhrp::Origin { link: nhrp::LinkId(8), nbma: nbma(9) };
    sim.nodes[0].engine.handle_packet(now, other, &registration(9).cie(&own()).finish());
    assert_eq!(dropped(&sim, 0, DropReason::WrongLink), 1);
    assert!(sim.snapshot(0).bindings.iter().all(|it| it.overlay != overlay(9)));
}

/// Questions that are repeated over a long way are answered twice: neither answer is taken for a forgery.
#[test]
fn late_answers_are_no_forgeries() {
    let mut sim = triangle(108);
    sim.delay_ms = (400, 400);
    for _ in 0..20 {
        sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
        sim.run(1000);
    }
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
    assert!(dropped(&sim, A, DropReason::Unsolicited) > 0, "there were such answers");
    assert_eq!(sim.count(PacketType::ErrorIndication), 0);
}
