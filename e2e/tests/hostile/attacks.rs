//! The forged packets, and what must be counted for each.

use std::net::{Ipv4Addr, Ipv6Addr};

use e2e::lab::inject::{Nhrp, data_in_gre, ext, in_gre, registration_of_ipv6, seal};
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, KEY};

use super::{
    ERROR_INDICATION, FREE, PURGE_REPLY, PURGE_REQUEST, REGISTRATION_REPLY, REGISTRATION_REQUEST,
    RESOLUTION_REPLY, RESOLUTION_REQUEST, TRAFFIC_INDICATION,
};

const LAN_A: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
const LAN_B: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 10);
/// Behind nobody.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 9);

/// What is sent, and what must be counted for it.
pub(crate) struct Attack {
    pub(crate) what: &'static str,
    /// Outer source address: the attacker's own, or somebody else's.
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    /// NHRP packets; data packets have their GRE header already.
    pub(crate) packets: Vec<Vec<u8>>,
    /// Reason as `show ip nhrp traffic` prints it; `None`: any reasons, as many as packets in all.
    pub(crate) reason: Option<&'static str>,
}

impl Attack {
    /// The packets as they stand behind the IP header.
    pub(crate) fn in_gre(&self) -> Vec<Vec<u8>> {
        // A GRE header with a key begins with 0x2000, an NHRP packet with its address family.
        let whole = |p: &Vec<u8>| if p.starts_with(&[0x20, 0]) { p.clone() } else { in_gre(Some(KEY), p) };
        self.packets.iter().map(whole).collect()
    }
}

/// `from` claims an overlay address at itself.
pub(crate) fn registration(from: Ipv4Addr, address: Ipv4Addr) -> Nhrp {
    Nhrp::new(REGISTRATION_REQUEST, from, address, HUB).entry(32, from, None)
}

/// `source` (at `nbma`) asks for `destination`.
fn request(nbma: Ipv4Addr, source: Ipv4Addr, destination: Ipv4Addr) -> Nhrp {
    let flags = 0xc802;
    Nhrp { flags, ..Nhrp::new(RESOLUTION_REQUEST, nbma, source, destination).entry(32, nbma, None) }
}

/// All of them.
pub(crate) fn attacks(mallory: Ipv4Addr, hub: Ipv4Addr, a: Ipv4Addr, b: Ipv4Addr) -> Vec<Attack> {
    let mut all = unreadable(mallory, hub);
    all.extend(registrations(mallory, hub, a, b));
    all.extend(resolutions(mallory, hub, a, b));
    all.extend(purges_and_errors(mallory, hub, a, b));
    all.extend(redirects(mallory, hub, a));
    all
}

fn attack(
    what: &'static str,
    from: Ipv4Addr,
    to: Ipv4Addr,
    packets: Vec<Vec<u8>>,
    reason: &'static str,
) -> Attack {
    Attack { what, from, to, packets, reason: Some(reason) }
}

fn unreadable(mallory: Ipv4Addr, hub: Ipv4Addr) -> Vec<Attack> {
    let good = registration(mallory, FREE).bytes();
    let cut = |length: usize| good.get(..length).unwrap_or(&good).to_vec();
    let of_kind = |kind: u8| Nhrp { kind, ..registration(mallory, FREE) }.bytes();
    let spoilt = |at: usize, value: u8, right_sum: bool| {
        let mut bytes = good.clone();
        bytes.splice(at..=at, [value]);
        if right_sum {
            seal(&mut bytes);
        }
        bytes
    };
    vec![
        attack(
            "a registration cut short at every length",
            mallory,
            hub,
            // The kernel itself drops what is shorter than 4 bytes behind the GRE header.
            (4..good.len()).map(cut).collect(),
            "malformed packet",
        ),
        attack(
            "unknown packet types",
            mallory,
            hub,
            [0, 9, 77, 255].map(of_kind).to_vec(),
            "unknown packet type",
        ),
        attack(
            "wrong checksums",
            mallory,
            hub,
            (20..good.len()).map(|at| spoilt(at, good[at] ^ 0x10, false)).collect(),
            "wrong checksum",
        ),
        attack(
            "other NHRP versions",
            mallory,
            hub,
            [0, 2, 255].map(|v| spoilt(16, v, true)).to_vec(),
            "unknown NHRP version",
        ),
        Attack { what: "garbage", from: mallory, to: hub, packets: garbage(300), reason: None },
    ]
}

fn registrations(mallory: Ipv4Addr, hub: Ipv4Addr, a: Ipv4Addr, b: Ipv4Addr) -> Vec<Attack> {
    let good = || registration(mallory, FREE);
    let reply = Nhrp::new(REGISTRATION_REPLY, a, BRANCH_A, HUB).entry(32, a, None).bytes();
    let v6 = Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, 66);
    vec![
        attack(
            "a registration with an NHS that is somebody else",
            mallory,
            hub,
            vec![Nhrp { destination: Ipv4Addr::new(10, 255, 0, 77), ..good() }.bytes()],
            "addressed to another NHS",
        ),
        attack(
            "a registration with an unknown extension that must be understood",
            mallory,
            hub,
            vec![good().extension(ext::UNKNOWN, b"what").bytes()],
            "unknown compulsory extension",
        ),
        attack(
            "a registration of a family that the hub has no address of",
            mallory,
            hub,
            vec![registration_of_ipv6(mallory, v6, v6)],
            "no local address",
        ),
        attack(
            "a refresh as from branch-b, of a class that the network does not have",
            b,
            hub,
            // A broken list leaves that of branch-b as it is, none would take it away.
            vec![
                registration(b, BRANCH_B)
                    .extension(0x3802, b"\x01\x01\x01\x08platinum")
                    .extension(ext::PREFIXES, &[9; 5])
                    .bytes(),
            ],
            "unknown QoS group",
        ),
        attack(
            "a refresh as from branch-b, with a broken list of prefixes",
            b,
            hub,
            vec![registration(b, BRANCH_B).extension(ext::PREFIXES, &[9; 5]).bytes()],
            "malformed prefix list",
        ),
        attack(
            "a registration reply that nobody asked for, as from the hub",
            hub,
            a,
            vec![reply.clone()],
            "matches no outstanding request",
        ),
        attack(
            "a registration reply to the hub, which registers nowhere",
            b,
            hub,
            vec![reply],
            "matches no outstanding request",
        ),
        attack(
            "a registration at a branch",
            mallory,
            a,
            vec![Nhrp { destination: BRANCH_A, ..good() }.bytes()],
            "this node is not an NHS",
        ),
        attack(
            "branch-b's address, which branch-b still holds",
            mallory,
            hub,
            vec![registration(mallory, BRANCH_B).bytes()],
            "the old holder of the address is being probed",
        ),
    ]
}

fn resolutions(mallory: Ipv4Addr, hub: Ipv4Addr, a: Ipv4Addr, b: Ipv4Addr) -> Vec<Attack> {
    let stable = |source: Ipv4Addr, destination: Ipv4Addr| request(mallory, source, destination);
    let by_hub = |request: Nhrp| request.extension_entry(ext::FORWARD_RECORD, hub, HUB);
    let reply = |nbma: Ipv4Addr| {
        Nhrp::new(RESOLUTION_REPLY, a, BRANCH_A, LAN_B).entry(24, nbma, Some(BRANCH_B)).bytes()
    };
    vec![
        attack(
            "requests of a stranger: in its own name, and to be bound as branch-b or as a LAN host of branch-b",
            mallory,
            hub,
            vec![
                stable(FREE, LAN_A).bytes(),
                stable(BRANCH_B, LAN_A).bytes(),
                stable(LAN_B, LAN_A).bytes(),
                stable(BRANCH_B, LAN_A).extension_entry(ext::NAT, mallory, BRANCH_B).bytes(),
                stable(BRANCH_B, LAN_A).extension_entry(ext::FORWARD_RECORD, b, BRANCH_B).bytes(),
            ],
            "the sender may not say this",
        ),
        attack(
            "requests that the hub has passed on already, or in the hub's name",
            a,
            hub,
            vec![by_hub(request(a, BRANCH_A, LAN_B)).bytes(), request(a, HUB, LAN_B).bytes()],
            "loop",
        ),
        attack(
            "a request with one hop left, as from branch-a",
            a,
            hub,
            vec![Nhrp { hops: 1, ..request(a, BRANCH_A, LAN_B) }.bytes()],
            "hop count exceeded",
        ),
        attack(
            "requests for what is not there, as from branch-a",
            a,
            hub,
            vec![request(a, BRANCH_A, ELSEWHERE).bytes(), request(a, BRANCH_A, FREE).bytes()],
            "no binding for the destination",
        ),
        attack(
            "answers that nobody asked for: from a stranger, as from the hub, as from branch-b",
            mallory,
            a,
            vec![reply(mallory), reply(b)],
            "matches no outstanding request",
        ),
        attack(
            "an answer that nobody asked for, as from the hub",
            hub,
            a,
            vec![reply(mallory)],
            "matches no outstanding request",
        ),
        attack(
            "an answer to branch-a by way of the hub, which asked nobody for it",
            mallory,
            hub,
            vec![reply(mallory)],
            "matches no outstanding request",
        ),
        // It is in the air that a spoke is behind this address: the hub's kernel turns it round, and logs it.
        attack(
            "data from nowhere through the hub to branch-b",
            mallory,
            hub,
            vec![data_in_gre(KEY, ELSEWHERE, LAN_B)],
            "source or destination is not behind a spoke",
        ),
    ]
}

fn purges_and_errors(mallory: Ipv4Addr, hub: Ipv4Addr, a: Ipv4Addr, b: Ipv4Addr) -> Vec<Attack> {
    let purge = |length: u8, address: Ipv4Addr, to: Ipv4Addr| {
        Nhrp::new(PURGE_REQUEST, mallory, FREE, to).entry(length, mallory, Some(address)).bytes()
    };
    let unreachable = |source: Ipv4Addr, observer: Ipv4Addr| {
        let about = request(a, BRANCH_A, LAN_B).bytes();
        Nhrp::new(ERROR_INDICATION, observer, source, BRANCH_A).error(6, &about).bytes()
    };
    vec![
        attack(
            "a purge of the branches' addresses, at the hub",
            mallory,
            hub,
            vec![purge(32, BRANCH_B, HUB), purge(32, BRANCH_A, HUB)],
            "purge not from the owner",
        ),
        attack(
            "purges of branch-b's address and LAN, at branch-a, which has a direct path to it",
            mallory,
            a,
            vec![purge(32, BRANCH_B, BRANCH_A), purge(24, LAN_B, BRANCH_A), purge(8, LAN_B, BRANCH_A)],
            "purge not from the owner",
        ),
        attack(
            "purge replies to nothing",
            mallory,
            hub,
            vec![Nhrp::new(PURGE_REPLY, hub, HUB, BRANCH_A).entry(32, hub, Some(BRANCH_A)).bytes()],
            "matches no outstanding request",
        ),
        attack(
            "errors about requests that are not outstanding: as from the hub",
            hub,
            a,
            vec![unreachable(HUB, hub)],
            "matches no outstanding request",
        ),
        attack(
            "errors about requests that are not outstanding: as from the egress, to be passed on",
            b,
            hub,
            vec![unreachable(BRANCH_B, b)],
            "matches no outstanding request",
        ),
        attack(
            "an error that says nothing",
            mallory,
            a,
            vec![Nhrp::new(ERROR_INDICATION, mallory, FREE, BRANCH_A).error(6, &[0; 12]).bytes()],
            "malformed packet",
        ),
    ]
}

fn redirects(mallory: Ipv4Addr, hub: Ipv4Addr, a: Ipv4Addr) -> Vec<Attack> {
    let indication = |source: Ipv4Addr, destination: Ipv4Addr| {
        Nhrp::new(TRAFFIC_INDICATION, hub, HUB, BRANCH_A).about(source, destination).bytes()
    };
    vec![
        attack(
            "a redirect from one who is no hub",
            mallory,
            a,
            vec![indication(LAN_A, ELSEWHERE), indication(LAN_A, LAN_B)],
            "not from the one who may send it",
        ),
        attack(
            "a redirect to the hub",
            mallory,
            hub,
            vec![indication(LAN_B, LAN_A)],
            "not from the one who may send it",
        ),
        attack(
            "a redirect with the hub's source address, about traffic of others",
            hub,
            a,
            vec![indication(LAN_B, ELSEWHERE), indication(ELSEWHERE, LAN_B), indication(LAN_A, hub)],
            "redirect for traffic that is not ours",
        ),
        attack(
            "a redirect with the hub's source address, about traffic that goes directly",
            hub,
            a,
            vec![indication(LAN_A, LAN_B)],
            "a shortcut exists or is being asked for",
        ),
    ]
}

/// Bytes without sense (xorshift), of 4 to 199 in a row.
fn garbage(count: usize) -> Vec<Vec<u8>> {
    let mut state: u32 = 0x2545_f491;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..count)
        .map(|_| {
            let length = next() % 196 + 4;
            (0..length).map(|_| next().to_be_bytes()[1]).collect()
        })
        .collect()
}
