//! The seeds of each fuzzing target, and the same few thousand changes of each in every run.

use fuzz::Target;

/// Changes tried of each seed.
const CHANGES: u32 = 40;

#[test]
fn decode() {
    replay(Target::Decode);
}

#[test]
fn engine() {
    replay(Target::Engine);
}

#[test]
fn history() {
    replay(Target::History);
}

#[test]
fn nflog() {
    replay(Target::Nflog);
}

fn replay(target: Target) {
    let seeds = target.seeds();
    assert!(seeds.len() > 5, "only {} seeds", seeds.len());
    let mut random = 0x9e37_79b9_u32;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random as usize
    };
    for seed in &seeds {
        target.run(seed);
        for _ in 0..CHANGES {
            let mut changed = seed.clone();
            for _ in 0..=next() % 3 {
                let at = next() % changed.len().max(1);
                match next() % 4 {
                    0 => changed.truncate(at),
                    1 => changed.insert(at.min(changed.len()), next() as u8),
                    _ => {
                        if let Some(byte) = changed.get_mut(at) {
                            *byte = next() as u8;
                        }
                    }
                }
            }
            target.run(&changed);
        }
    }
}

/// The seeds say what they are meant to: else fuzzing starts from nothing.
#[test]
fn seeds_reach_what_they_are_for() {
    let packets = Target::Decode.seeds();
    let readable = packets.iter().filter(|packet| nhrp::wire::Packet::parse(packet).is_ok()).count();
    assert!(readable > 60, "{readable} of {}", packets.len());
    let logged: usize = Target::Nflog.seeds().iter().map(|datagram| dataplane::packets(datagram).len()).sum();
    assert_eq!(logged, 8, "four alone and four in one datagram");
}
