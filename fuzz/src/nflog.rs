//! The reader of logged packets: what the kernel writes, with packets of strangers in it.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use nhrp::{Config, Engine, Input, LinkId, Output, Phase, StaticBinding, Time, Uniqueness};

thread_local! {
    /// A hub with two spokes; a hairpin leaves nothing behind but a time.
    static HUB: RefCell<(Engine, Time)> = RefCell::new((Engine::new(config(), 1, Time(1)), Time(1)));
}

fn config() -> Config {
    let spoke = |last: u8| StaticBinding {
        overlay: IpAddr::from([10, 255, 0, last]),
        nbma: IpAddr::from([198, 51, 100, last]),
        prefixes: Vec::new(),
    };
    Config {
        link: LinkId(7),
        nbma: Some(Ipv4Addr::new(192, 0, 2, 2).into()),
        phase: Phase::Three,
        server: true,
        local: vec![IpAddr::from([10, 255, 0, 1])],
        overlay: Vec::new(),
        subnets: Vec::new(),
        nhs: Vec::new(),
        statics: vec![spoke(11), spoke(12)],
        external: Vec::new(),
        holding_time: 60,
        fixed_hubs: false,
        fallback_seconds: 0,
        names: Vec::new(),
        hub_list: Vec::new(),
        child_hubs: Vec::new(),
        advertise: Vec::new(),
        beside: Vec::new(),
        across: Vec::new(),
        registration_interval: None,
        unique: false,
        uniqueness: Uniqueness::Identity,
        authentication: Vec::new(),
        mtu: 1400,
        request: None,
        pool: None,
        own_groups: Vec::new(),
        groups: std::collections::BTreeSet::new(),
        members: None,
    }
}

/// Reads a datagram, and gives the engine each packet that was in it.
///
/// # Panics
/// If reader or engine do.
pub fn nflog(bytes: &[u8]) {
    let found = dataplane::packets(bytes);
    HUB.with_borrow_mut(|(engine, now)| {
        *now = now.after(10_000);
        for hairpin in found {
            assert!(hairpin.packet.len() <= bytes.len());
            engine.handle_input(*now, Input::Hairpin { link: LinkId(7), packet: hairpin.packet });
            while let Some(output) = engine.poll_output() {
                if let Output::Send { bytes, .. } = output {
                    assert!(nhrp::wire::Packet::parse(&bytes).is_ok());
                }
            }
        }
        engine.handle_timeout(*now);
        while engine.poll_output().is_some() {}
    });
}
