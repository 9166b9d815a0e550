//! What an agent shows: as types ([`Report`], the answer of the agent's socket) and as text in the layout that
//! Cisco IOS-XE users and their parsers know.
//!
//! Everything here is a pure function of a [`Report`]: no clock, no files, no network. Two programs share it, the
//! command line tool and the agent's own `show`, so both print the same.
//!
//! What we add to Cisco's layout (reason and cure of a tunnel that is not up, our own counters) stands on lines of its
//! own that begin with blanks and a capital letter; parsers written for Cisco's tables pass over them.

#![forbid(unsafe_code)]

mod duration;
mod filter;
mod json;
mod peers;
pub mod report;
mod show_dmvpn;
mod show_dmvpn_detail;
mod show_ip_nhrp;
mod show_ip_nhrp_brief;
mod show_ip_nhrp_nhs;
mod show_ip_nhrp_summary;
mod show_ip_nhrp_traffic;
mod show_problems;
mod text;

pub use duration::{Since, clock};
pub use filter::{Filter, NoSuchTunnel};
pub use json::json;
pub use report::{
    Attributes, CacheEntry, CacheKind, Group, Keepalive, Nhs, NhsStatus, Peer, Problem, Report, Role,
    Software, State, Traffic, Tunnel,
};
pub use show_dmvpn::show_dmvpn;
pub use show_dmvpn_detail::show_dmvpn_detail;
pub use show_ip_nhrp::{show_ip_nhrp, show_ip_nhrp_detail};
pub use show_ip_nhrp_brief::show_ip_nhrp_brief;
pub use show_ip_nhrp_nhs::{show_ip_nhrp_nhs, show_ip_nhrp_nhs_detail};
pub use show_ip_nhrp_summary::show_ip_nhrp_summary;
pub use show_ip_nhrp_traffic::show_ip_nhrp_traffic;
pub use show_problems::show_problems;

/// The table that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// `show dmvpn`
    Dmvpn,
    /// `show dmvpn detail`
    DmvpnDetail,
    /// `show ip nhrp`, `show ipv6 nhrp`
    Nhrp(Family),
    /// `show ip nhrp brief`
    NhrpBrief(Family),
    /// `show ip nhrp detail`
    NhrpDetail(Family),
    /// `show ip nhrp nhs`
    NhrpNhs(Family),
    /// `show ip nhrp nhs detail`
    NhrpNhsDetail(Family),
    /// `show ip nhrp summary`
    NhrpSummary(Family),
    /// `show ip nhrp traffic` (both families together, as one NHRP instance serves both)
    NhrpTraffic,
    /// `show problems` (ours)
    Problems,
}

/// Family of the overlay addresses that are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `show ip …`
    Ipv4,
    /// `show ipv6 …`
    Ipv6,
}

/// Prints one table. Narrow the report first ([`Filter::apply`]) when only some tunnels are wanted.
pub fn render(report: &Report, show: Show) -> String {
    match show {
        Show::Dmvpn => show_dmvpn(report),
        Show::DmvpnDetail => show_dmvpn_detail(report),
        Show::Nhrp(family) => show_ip_nhrp(report, family),
        Show::NhrpBrief(family) => show_ip_nhrp_brief(report, family),
        Show::NhrpDetail(family) => show_ip_nhrp_detail(report, family),
        Show::NhrpNhs(family) => show_ip_nhrp_nhs(report, family),
        Show::NhrpNhsDetail(family) => show_ip_nhrp_nhs_detail(report, family),
        Show::NhrpSummary(family) => show_ip_nhrp_summary(report, family),
        Show::NhrpTraffic => show_ip_nhrp_traffic(report),
        Show::Problems => show_problems(report),
    }
}
