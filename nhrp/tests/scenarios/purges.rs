//! Purges: who was told hears of it, from whom it believes it, until it has said so.

use nhrp::wire::{Builder, Cie, Header, MAX_HOPS, PrefixChunk, ext, flags, list_flags};
use nhrp::{DropReason, Event, Input, PacketType};

use super::net::*;

const A: usize = 1;
const B: usize = 2;
const MALLORY: u32 = 66;

fn header(packet_type: PacketType, src: u32, at: u32, dst: std::net::IpAddr) -> Header {
    Header {
        packet_type,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: 901,
        src_nbma: nbma(at),
        src_proto: overlay(src),
        dst_proto: dst,
    }
}

fn triangle(seed: u64, behind_b: &[&str]) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.add(spoke(3, behind_b));
    sim.run(500);
    sim
}

fn shortcuts(sim: &Net, index: usize) -> Vec<String> {
    sim.snapshot(index).shortcuts.iter().map(|it| it.prefix.to_string()).collect()
}

/// All purges were acknowledged: nothing is repeated any more.
fn quiet(sim: &mut Net) -> bool {
    let purges = sim.count(PacketType::PurgeRequest);
    sim.run(5_000);
    sim.count(PacketType::PurgeRequest) == purges
}

#[test]
fn one_of_two_prefixes_is_taken_back() {
    let mut sim = triangle(110, &["10.3.0.0/24", "10.4.0.0/24"]);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    sim.ping(A, ip("10.2.0.5"), ip("10.4.0.5"));
    sim.run(50);
    assert_eq!(shortcuts(&sim, A), ["10.3.0.0/24", "10.4.0.0/24"]);
    sim.input(B, Input::Configure(Box::new(spoke(3, &["10.4.0.0/24"]))));
    sim.run(100);
    assert_eq!(shortcuts(&sim, A), ["10.4.0.0/24"], "what was asked first is remembered too");
    assert_eq!(sim.path(A, ip("10.4.0.5")).unwrap(), [A, B]);
    assert!(quiet(&mut sim));
}

#[test]
fn a_new_address_of_the_egress_is_told() {
    let mut sim = triangle(111, &["10.3.0.0/24"]);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(3));
    sim.readdress(B, nbma(30));
    let took = sim.until(2_000, |sim| shortcuts(sim, A).is_empty());
    assert!(took >= 900, "the old address gets its second: {took}");
    assert!(sim.has_event(A, |event| matches!(event, Event::Purged { by, .. } if *by == nbma(1))));
    assert!(quiet(&mut sim));
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(30));
}

/// A requester is bound nowhere at the egress: the snapshot keeps where it asked from, and for how long.
#[test]
fn requesters_outlive_a_restart_of_the_egress_and_of_the_hub() {
    let mut sim = triangle(112, &["10.3.0.0/24"]);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    let snapshot = sim.restart(B, 2_000);
    let told = snapshot.bindings.iter().find(|it| it.overlay == overlay(3)).unwrap();
    let requester = told.requesters.iter().find(|it| it.asked == ip("10.3.0.5")).unwrap();
    assert_eq!((requester.overlay, requester.nbma), (overlay(2), nbma(2)));
    assert_eq!(requester.prefix, net("10.3.0.0/24"));
    assert!((59_900..60_000).contains(&requester.left_ms), "{}", requester.left_ms);
    // The hub away: only the egress itself can tell.
    sim.nodes[0].alive = false;
    sim.input(B, Input::Withdraw);
    sim.run(100);
    assert_eq!(shortcuts(&sim, A), [""; 0]);

    let mut sim = triangle(113, &["10.3.0.0/24"]);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    sim.restart(0, 2_000);
    // The egress forgets: only the hub can tell.
    sim.nodes[B].alive = false;
    let gone = header(PacketType::PurgeRequest, 3, 3, overlay(1));
    sim.inject(nbma(3), 0, &Builder::new(&gone).cie(&Cie { prefix_len: 0xff, ..Cie::default() }).finish());
    sim.run(100);
    assert_eq!(shortcuts(&sim, A), [""; 0]);
    // What the requester has forgotten by itself is not remembered for it.
    let mut sim = triangle(114, &["10.3.0.0/24"]);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    sim.restart(B, 61_000);
    assert!(sim.snapshot(B).bindings.iter().all(|it| it.requesters.is_empty()));
}

#[test]
fn only_the_hub_that_was_asked_may_purge() {
    let mut sim = Net::new(115);
    let with = |n: u32, behind: &str| {
        let mut config = spoke(n, &[behind]);
        config.nhs.push(nhs(2));
        config
    };
    sim.add(hub(1));
    let a = sim.add(with(3, "10.3.0.0/24"));
    let b = sim.add(with(4, "10.4.0.0/24"));
    sim.add(hub(2));
    sim.run(1000);
    sim.ping(a, ip("10.3.0.5"), ip("10.4.0.5"));
    sim.run(50);
    assert_eq!(sim.path(a, ip("10.4.0.5")).unwrap(), [a, b]);
    let purge = |by: u32| {
        let cie = Cie { prefix_len: 24, proto: Some(ip("10.4.0.0")), ..Cie::default() };
        Builder::new(&header(PacketType::PurgeRequest, by, by, overlay(3))).cie(&cie).finish()
    };
    sim.inject(nbma(2), a, &purge(2));
    assert_eq!(sim.snapshot(a).counters.dropped(DropReason::NotOwner), 1);
    assert_eq!(shortcuts(&sim, a), ["10.4.0.0/24"], "a hub, but none that was asked");
    sim.inject(nbma(1), a, &purge(1));
    assert_eq!(shortcuts(&sim, a), [""; 0]);
}

/// A hub between hubs: it tells on, in its own name, what it passed on, and no more than that.
#[test]
fn purges_go_back_along_the_way_of_the_request() {
    let mut sim = Net::new(116);
    let h = sim.add(hub(1));
    let own = Cie { prefix_len: 0xff, holding_time: 600, ..Cie::default() };
    let register = |n: u32, prefixes: &[&str]| {
        let chunk = PrefixChunk {
            flags: list_flags::FIRST,
            prefixes: prefixes.iter().map(|prefix| net(prefix)).collect(),
            ..PrefixChunk::default()
        };
        Builder::new(&header(PacketType::RegistrationRequest, n, n, overlay(1)))
            .cie(&own)
            .extension(false, ext::PREFIXES, &chunk.encode())
            .finish()
    };
    // Hubs of two regions, and a spoke.
    sim.inject(nbma(11), h, &register(11, &["10.2.0.0/16"]));
    sim.inject(nbma(12), h, &register(12, &["10.3.0.0/16"]));
    sim.inject(nbma(MALLORY), h, &register(MALLORY, &["10.66.0.0/16"]));
    let ask = |id: u32, dst: &str| {
        let by = Cie { nbma: Some(nbma(11)), proto: Some(overlay(11)), ..Cie::default() };
        let mut request = header(PacketType::ResolutionRequest, 50, 50, ip(dst));
        (request.flags, request.request_id) = (flags::AUTHORITATIVE, id);
        Builder::new(&request).cie(&own).extension_cies(true, ext::FORWARD_RECORD, &[by]).finish()
    };
    sim.inject(nbma(11), h, &ask(1, "10.3.0.5"));
    sim.inject(nbma(11), h, &ask(2, "10.3.7.5"));
    sim.inject(nbma(11), h, &ask(3, "10.66.0.5"));
    let requests = sim.wire.iter().filter(|sent| sent.is(PacketType::ResolutionRequest));
    assert_eq!(requests.map(|sent| sent.to).collect::<Vec<_>>(), [nbma(12), nbma(12), nbma(MALLORY)]);
    let purge = |by: u32, prefix: &str| {
        let prefix = net(prefix);
        let cie = Cie { prefix_len: prefix.prefix_len(), proto: Some(prefix.addr()), ..Cie::default() };
        Builder::new(&header(PacketType::PurgeRequest, by, by, overlay(1))).cie(&cie).finish()
    };
    let passed = |sim: &Net| {
        let purges = sim.wire.iter().filter(|sent| sent.is(PacketType::PurgeRequest));
        let purges = purges.map(|sent| {
            let header = sent.message.header;
            assert_eq!((header.src_proto, header.src_nbma), (overlay(1), nbma(1)), "in its own name");
            let prefixes: Vec<_> =
                sent.message.cies.iter().map(|cie| cie.prefix_of(cie.proto.unwrap()).to_string()).collect();
            (sent.to, header.dst_proto, prefixes.join(" "))
        });
        purges.collect::<Vec<_>>()
    };
    // A region's hub takes back one LAN of it.
    sim.inject(nbma(12), h, &purge(12, "10.3.0.0/24"));
    assert_eq!(passed(&sim), [(nbma(11), overlay(50), "10.3.0.0/24".to_owned())]);
    sim.inject(nbma(12), h, &purge(12, "10.3.0.0/24"));
    assert_eq!(passed(&sim).len(), 1, "once");
    // Whoever purges what is not its own, or everything, reaches those who asked for its own.
    sim.inject(nbma(MALLORY), h, &purge(MALLORY, "10.3.7.0/24"));
    assert_eq!(passed(&sim).len(), 1);
    sim.inject(nbma(MALLORY), h, &purge(12, "10.3.7.0/24"));
    assert_eq!(passed(&sim).len(), 1, "in the name of another");
    sim.inject(nbma(MALLORY), h, &purge(MALLORY, "10.64.0.0/10"));
    assert_eq!(passed(&sim)[1..], [(nbma(11), overlay(50), "10.66.0.0/16".to_owned())]);
    // Not acknowledged: again, with the same ids, until the time is over.
    sim.run(4_000);
    assert_eq!(passed(&sim).len(), 6);
    let ack = |sent: &Sent| {
        let mut reply = sent.message.clone();
        reply.header.packet_type = PacketType::PurgeReply;
        reply.encode()
    };
    let acks: Vec<_> =
        sim.wire.iter().filter(|sent| sent.is(PacketType::PurgeRequest)).take(2).map(ack).collect();
    sim.inject(nbma(MALLORY), h, &acks[0]);
    assert_eq!(sim.snapshot(h).counters.dropped(DropReason::WrongSender), 1);
    acks.iter().for_each(|ack| sim.inject(nbma(11), h, ack));
    sim.run(100_000);
    assert_eq!(passed(&sim).len(), 6);
}
