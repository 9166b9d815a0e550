//! NHRP for DMVPN (RFC 2332 as Cisco, FRR and OpenNHRP deploy it): wire codec and sans-IO engine.
//!
//! [`wire`] reads and writes packets. [`Engine`] is the protocol: client, server, transit, egress and shortcuts of one
//! tunnel. It has no clock, no sockets and no source of randomness: time and a seed are passed in, packets and inputs
//! go in, [`Output`]s come out, so that the same inputs always give the same outputs and whole networks run in one
//! test.
//!
//! The shell around it:
//! 1. hands over packets ([`Engine::handle_packet`]), inputs ([`Engine::handle_input`]) and the passing of time
//!    ([`Engine::handle_timeout`], due at [`Engine::poll_timeout`]);
//! 2. after each of these takes all of [`Engine::poll_output`] and does it in order: the order is what keeps traffic
//!    from being lost while routes change.

#![forbid(unsafe_code)]

mod engine;
pub mod wire;

pub use engine::{
    Across, AddressRequest, AnnouncedState, BindingState, ByType, ChildHub, ClaimState, Config, Counters,
    DropReason, Engine, Event, External, HubListState, Input, KnownHub, LeaseState, LinkId, Member, Members,
    Multicast, Nhs, NhsPhase, NhsState, Onward, Origin, Output, Phase, Pool, RequesterState, RouteKind, Rule,
    Secret, ShortcutPhase, ShortcutState, Snapshot, Source, StaticBinding, Time, Uniqueness, inner_addresses,
};
pub use wire::{HubEntry, HubNbma, PacketType, Software};
