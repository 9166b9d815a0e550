//! What the simulator (`nhrp-sim`) found in the engine: each as small as it gets.

use nhrp::wire::{Builder, Cie, Header, MAX_HOPS, PrefixChunk, ext, list_flags};
use nhrp::{DropReason, External, Input, PacketType, Phase, RouteKind, ShortcutPhase, StaticBinding};

use super::net::*;

const A: usize = 1;
const B: usize = 2;
const MALLORY: u32 = 4;
const BYSTANDER: u32 = 9999;

/// Hub, two spokes, and a third one that is registered but not to be trusted.
fn square(seed: u64) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.add(spoke(MALLORY, &["10.4.0.0/24"]));
    sim.run(500);
    sim
}

fn header(packet_type: PacketType, id: u32, src: u32, dst: &str) -> Header {
    Header {
        packet_type,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: id,
        src_nbma: nbma(MALLORY),
        src_proto: overlay(src),
        dst_proto: ip(dst),
    }
}

fn place(n: u32, at: u32) -> Cie {
    Cie { prefix_len: 32, nbma: Some(nbma(at)), proto: Some(overlay(n)), ..Cie::default() }
}

/// Who asks in its own name is answered where it is, whatever it writes into the packet.
#[test]
fn a_question_cannot_send_its_answer_to_a_bystander() {
    let mut sim = square(201);
    let ask = |src_nbma: u32, nat: &[Cie]| {
        let header = Header {
            src_nbma: nbma(src_nbma),
            ..header(PacketType::ResolutionRequest, 7, MALLORY, "10.3.0.5")
        };
        Builder::new(&header)
            .cie(&Cie { holding_time: 60, ..Cie::default() })
            .extension_cies(false, ext::NAT, nat)
            .finish()
    };
    sim.inject(nbma(MALLORY), 0, &ask(BYSTANDER, &[]));
    assert_eq!(sim.snapshot(0).counters.dropped(DropReason::Forbidden), 1);
    sim.inject(nbma(MALLORY), 0, &ask(MALLORY, &[place(MALLORY, BYSTANDER)]));
    sim.run(50);
    let replies: Vec<_> = sim.wire.iter().filter(|sent| sent.is(PacketType::ResolutionReply)).collect();
    assert!(!replies.is_empty() && replies.iter().all(|sent| sent.to == nbma(MALLORY)));
}

/// The same for one behind NAT that leaves the extension out: the hub says where it is.
#[test]
fn a_natted_client_is_answered_where_the_hub_sees_it() {
    let mut sim = square(202);
    let mut config = spoke(5, NO_LAN);
    config.nbma = Some(nbma(BYSTANDER));
    let natted = sim.add_natted(config, nbma(500));
    sim.run(500);
    assert!(sim.registered(natted));
    let header =
        Header { src_nbma: nbma(BYSTANDER), ..header(PacketType::ResolutionRequest, 8, 5, "10.3.0.5") };
    let request = Builder::new(&header).cie(&Cie { holding_time: 60, ..Cie::default() }).finish();
    sim.inject(nbma(500), 0, &request);
    sim.run(50);
    let reply = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionReply)).unwrap();
    assert_eq!(reply.to, nbma(500));
}

#[test]
fn an_answer_that_leads_to_a_bystander_is_not_passed_on() {
    let mut sim = square(203);
    sim.nodes[3].alive = false;
    sim.ping(A, ip("10.2.0.5"), ip("10.4.0.5"));
    sim.run(20);
    let asked = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionRequest)).unwrap();
    let id = asked.message.header.request_id;
    let mut header = header(PacketType::ResolutionReply, id, 2, "10.4.0.5");
    header.src_nbma = nbma(2);
    let lie = Cie { prefix_len: 24, holding_time: 60, ..place(MALLORY, BYSTANDER) };
    sim.inject(nbma(MALLORY), 0, &Builder::new(&header).cie(&lie).finish());
    sim.run(20);
    assert_eq!(sim.snapshot(0).counters.dropped(DropReason::Forbidden), 1);
    assert!(!sim.nodes[A].neighbours.values().any(|at| *at == nbma(BYSTANDER)));
}

fn registration(prefix: &str) -> Vec<u8> {
    let chunk =
        PrefixChunk { flags: list_flags::FIRST, prefixes: vec![net(prefix)], ..PrefixChunk::default() };
    Builder::new(&header(PacketType::RegistrationRequest, 3, MALLORY, "10.255.0.1"))
        .cie(&Cie { prefix_len: 0xff, holding_time: 60, ..Cie::default() })
        .extension(false, ext::PREFIXES, &chunk.encode())
        .finish()
}

/// The tunnel to a spoke must not lead into another spoke's prefix, whichever of the two comes first.
#[test]
fn a_prefix_with_a_spokes_underlay_address_is_refused() {
    let mut sim = square(204);
    let key = |prefix: &str| (net(prefix), RouteKind::Registered);
    sim.inject(nbma(MALLORY), 0, &registration("198.18.0.2/31"));
    assert!(!sim.nodes[0].routes.contains_key(&key("198.18.0.2/31")));
    sim.inject(nbma(MALLORY), 0, &registration("198.18.7.0/24"));
    assert!(sim.nodes[0].routes.contains_key(&key("198.18.7.0/24")));
    let mut config = spoke(6, NO_LAN);
    config.nbma = Some(nbma(0x706));
    let late = sim.add(config);
    sim.run(100);
    assert!(sim.registered(late));
    assert!(!sim.nodes[0].routes.contains_key(&key("198.18.7.0/24")));
    let told = sim.nodes[0].events.iter().filter(|event| event.to_string().contains("underlay address"));
    assert_eq!(told.count(), 2, "both are refused by name");
}

/// B's traffic cannot be drawn away by an answer about something else that places B elsewhere.
#[test]
fn an_egress_in_two_places_is_in_neither() {
    let mut sim = square(205);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
    sim.nodes[3].alive = false;
    sim.ping(A, ip("10.2.0.5"), ip("10.4.0.5"));
    sim.run(20);
    let asked = |sent: &&Sent| {
        sent.is(PacketType::ResolutionRequest) && sent.message.header.dst_proto == ip("10.4.0.5")
    };
    let id = sim.wire.iter().find(asked).unwrap().message.header.request_id;
    let header = header(PacketType::ResolutionReply, id, 2, "10.4.0.5");
    let lie = Cie { prefix_len: 24, holding_time: 60, ..place(3, MALLORY) };
    sim.inject(nbma(MALLORY), A, &Builder::new(&header).cie(&lie).finish());
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, 0, B], "by the hub, and not by way of Mallory");
    let state = sim.snapshot(A);
    let negative = state.shortcuts.iter().find(|it| it.prefix == net("10.4.0.5/32")).unwrap();
    assert_eq!(negative.phase, ShortcutPhase::Negative);
}

/// A thief whose claim was just refused does not keep the owner from moving.
#[test]
fn a_refused_thief_does_not_delay_a_move() {
    let mut sim = square(210);
    let theft = Builder::new(&header(PacketType::RegistrationRequest, 3, 2, "10.255.0.1"))
        .cie(&Cie { prefix_len: 0xff, holding_time: 60, ..Cie::default() })
        .finish();
    sim.inject(nbma(MALLORY), 0, &theft);
    sim.run(100);
    assert_eq!(sim.nodes[0].neighbours[&overlay(2)], nbma(2));
    sim.readdress(A, nbma(22));
    let took = sim.until(2000, |sim| sim.nodes[0].neighbours[&overlay(2)] == nbma(22));
    assert!(took < 1500, "{took} ms");
}

/// Whoever is asked for its own tunnel address says so, and nothing about those of others.
#[test]
fn a_tunnel_address_is_its_own_egress() {
    let mut sim = square(211);
    sim.nodes[3].alive = false;
    sim.ping(A, overlay(2), overlay(MALLORY));
    sim.run(20);
    let asked = |sent: &&Sent| sent.is(PacketType::ResolutionRequest) && sent.from == nbma(2);
    let id = sim.wire.iter().find(asked).unwrap().message.header.request_id;
    let header = header(PacketType::ResolutionReply, id, 2, "10.255.0.4");
    let lie = Cie { prefix_len: 32, holding_time: 60, ..place(3, MALLORY) };
    sim.inject(nbma(MALLORY), A, &Builder::new(&header).cie(&lie).finish());
    assert!(!sim.nodes[A].neighbours.contains_key(&overlay(3)));
    assert_eq!(sim.path(A, overlay(3)).unwrap(), [A, 0, B]);
}

/// Nor is there a shortcut to one whose underlay address the hub has told to be reachable by the tunnel.
#[test]
fn an_egress_inside_an_announced_prefix_is_refused() {
    let mut sim = square(212);
    // Before anybody is there: the hub tells it to all.
    sim.inject(nbma(MALLORY), 0, &registration("198.18.7.0/24"));
    sim.run(100);
    assert!(sim.nodes[A].routes.contains_key(&(net("198.18.7.0/24"), RouteKind::Announced)));
    sim.cut.insert((nbma(1), nbma(3)));
    sim.ping(A, ip("10.2.0.5"), overlay(MALLORY));
    let mut header = header(PacketType::ResolutionReply, 0, 2, "10.255.0.4");
    sim.nodes[3].alive = false;
    sim.run(20);
    let asked = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionRequest)).unwrap();
    header.request_id = asked.message.header.request_id;
    let inside = Cie { prefix_len: 32, holding_time: 60, ..place(MALLORY, 0x704) };
    sim.inject(nbma(0x704), A, &Builder::new(&header).cie(&inside).finish());
    assert!(!sim.nodes[A].neighbours.contains_key(&overlay(MALLORY)));
}

/// A request that asks for the list comes twice, and the list changes in between: the client heeds the first reply.
#[test]
fn a_repeated_request_does_not_count_as_told() {
    let mut sim = square(213);
    let chunk = PrefixChunk {
        flags: list_flags::FIRST | list_flags::WANT,
        prefixes: vec![net("10.2.0.0/24")],
        ..PrefixChunk::default()
    };
    let header = Header { src_nbma: nbma(2), ..header(PacketType::RegistrationRequest, 77, 2, "10.255.0.1") };
    let request = Builder::new(&header)
        .cie(&Cie { prefix_len: 0xff, holding_time: 60, ..Cie::default() })
        .extension(false, ext::PREFIXES, &chunk.encode())
        .finish();
    sim.inject(nbma(2), 0, &request);
    sim.run(100);
    sim.cut.insert((nbma(1), nbma(2)));
    sim.add(spoke(7, &["10.7.0.0/24"]));
    sim.run(200);
    sim.inject(nbma(2), 0, &request);
    sim.cut.clear();
    sim.run(40_000);
    assert!(sim.nodes[A].routes.contains_key(&(net("10.7.0.0/24"), RouteKind::Announced)));
}

/// A purge goes out again to where the requester is by then.
#[test]
fn a_purge_follows_a_requester_that_moves() {
    let mut sim = square(214);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(2000);
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
    sim.cut.insert((nbma(1), nbma(2)));
    sim.readdress(B, nbma(33));
    sim.run(1500);
    sim.readdress(A, nbma(22));
    sim.run(8000);
    let told = |sent: &Sent| sent.is(PacketType::PurgeRequest) && sent.from == nbma(1) && sent.to == nbma(22);
    assert!(sim.wire.iter().any(told));
}

/// The answer of one who is registered no more is nobody's.
#[test]
fn an_answer_of_one_who_has_left_is_not_passed_on() {
    let mut sim = square(215);
    sim.nodes[3].alive = false;
    sim.ping(A, ip("10.2.0.5"), ip("10.4.0.5"));
    sim.run(20);
    let to_hub = |sent: &&Sent| sent.is(PacketType::ResolutionRequest) && sent.to == nbma(1);
    let id = sim.wire.iter().find(to_hub).unwrap().message.header.request_id;
    let own = Cie { prefix_len: 32, proto: Some(overlay(MALLORY)), ..Cie::default() };
    let leave = header(PacketType::PurgeRequest, 9, MALLORY, "10.255.0.1");
    sim.inject(nbma(MALLORY), 0, &Builder::new(&leave).cie(&own).finish());
    let reply = Header { src_nbma: nbma(2), ..header(PacketType::ResolutionReply, id, 2, "10.4.0.5") };
    let lie = Cie { prefix_len: 24, holding_time: 60, ..place(MALLORY, BYSTANDER) };
    let before = sim.wire.len();
    sim.inject(nbma(MALLORY), 0, &Builder::new(&reply).cie(&lie).finish());
    assert!(!sim.wire[before..].iter().any(|sent| sent.is(PacketType::ResolutionReply)));
}

#[test]
fn ids_of_questions_do_not_follow_each_other() {
    let mut sim = square(206);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(2100);
    sim.ping(A, ip("10.2.0.5"), ip("10.4.0.5"));
    sim.run(50);
    let asked = |sent: &&Sent| sent.is(PacketType::ResolutionRequest) && sent.from == nbma(2);
    let ids: Vec<_> = sim.wire.iter().filter(asked).map(|sent| sent.message.header.request_id).collect();
    assert_eq!(ids.len(), 4, "two to the hub, one straight to each egress");
    assert!(ids.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) > 1000), "{ids:?}");
}

/// Phase 2: the neighbour that leads to the hub meanwhile goes, or the kernel would never ask again.
#[test]
fn the_kernel_asks_again_after_a_refusal() {
    let mut sim = Net::new(207);
    for n in 1..=3 {
        let config = if n == 1 { hub(1) } else { spoke(n, NO_LAN) };
        sim.add(nhrp::Config { phase: Phase::Two, ..config });
    }
    sim.run(500);
    let needed = |sim: &mut Net| sim.input(A, Input::ResolveNeeded { link: LINK, overlay: overlay(3) });
    needed(&mut sim);
    sim.run(50);
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(3));
    // The egress leaves; its name is refused while it is away.
    sim.input(B, Input::Withdraw);
    sim.run(100);
    assert!(!sim.nodes[A].neighbours.contains_key(&overlay(3)));
    needed(&mut sim);
    sim.run(50);
    needed(&mut sim);
    assert_eq!(sim.snapshot(A).shortcuts[0].phase, ShortcutPhase::Negative);
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(1), "by the hub meanwhile");
    sim.run(61_000);
    assert!(!sim.nodes[A].neighbours.contains_key(&overlay(3)));
}

/// A declared prefix outlives an announcement of the same.
#[test]
fn what_is_declared_stays_when_it_is_no_longer_announced() {
    let mut sim = Net::new(208);
    let lan = net("10.2.0.0/24");
    let external = External { name: "branch".into(), overlay: vec![overlay(2)], prefixes: vec![lan] };
    sim.add(nhrp::Config { external: vec![external], ..hub(1) });
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.run(500);
    sim.input(A, Input::Configure(Box::new(spoke(2, NO_LAN))));
    sim.run(500);
    assert_eq!(sim.nodes[0].routes.get(&(lan, RouteKind::Registered)), Some(&overlay(2)));
}

/// A hub that has restarted never tells a list that lacks those who are still registered.
#[test]
fn a_hub_that_restarts_tells_its_whole_list_at_once() {
    let mut sim = square(209);
    sim.watch(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.restart(0, 100);
    // A registers at once: the flow is watched.
    sim.input(A, Input::Configure(Box::new(spoke(2, &["10.2.0.0/24", "10.22.0.0/24"]))));
    sim.run(500);
    assert!(sim.nodes[B].routes.contains_key(&(net("10.22.0.0/24"), RouteKind::Announced)));
}

/// Phase 2: a neighbour that leads to the hub meanwhile and becomes a binding's own goes once, with that.
#[test]
fn a_neighbour_goes_once() {
    let mut sim = Net::new(211);
    for n in 1..=3 {
        let config = if n == 1 { hub(1) } else { spoke(n, NO_LAN) };
        sim.add(nhrp::Config { phase: Phase::Two, ..config });
    }
    sim.run(500);
    sim.nodes[B].alive = false;
    sim.input(A, Input::ResolveNeeded { link: LINK, overlay: overlay(3) });
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(1), "by the hub meanwhile");
    let mapped = StaticBinding { overlay: overlay(3), nbma: nbma(3), prefixes: Vec::new() };
    let config = |statics| nhrp::Config { phase: Phase::Two, statics, ..spoke(2, NO_LAN) };
    sim.input(A, Input::Configure(Box::new(config(vec![mapped]))));
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(3));
    sim.input(A, Input::Configure(Box::new(config(Vec::new()))));
    assert!(!sim.nodes[A].neighbours.contains_key(&overlay(3)));
    // The question is given up; the kernel here knows of no second neighbour.
    sim.run(120_000);
}
