//! The per-node agent: turns endpoints into kernel state and NHRP, and reports what it sees.
//!
//! ```text
//!   source (directory | API ─► secrets)       kernel monitor   NHRP sockets   NFLOG   resolver
//!        │ watch: Desired                          │ events        │ packets     │       │
//!        ▼                                         ▼               ▼             ▼       ▼
//!   ┌────────────────────────────── agent (one task owns all state) ──────────────────────────┐
//!   │ plan (pure): endpoint ─► Wanted       engine (sans-IO): packets, timers ─► outputs       │
//!   │ plan::diff (pure): Wanted × Observed ─► ops                                              │
//!   └───────┬───────────────────────────────┬──────────────────────┬────────────────┬─────────┘
//!           ▼ ops                           ▼ packets              ▼ watch: Summary ▼ Report (on request)
//!     drivers::kernel                 drivers::nhrp            status (API)     api (unix socket)
//!     drivers::ipsec ◄─► charon (VICI), for protected tunnels
//! ```
//!
//! Data goes one way: what is wanted comes from `source`, is planned without I/O, compared with what the kernel says,
//! and only the difference is written. The engine's outputs change the same `Wanted`, so that a drift (somebody
//! deletes our neighbour), a restart and a new configuration all go through one comparison.

#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod args;
pub mod backoff;
pub mod chatter;
pub mod clock;
pub mod drivers;
pub mod guarded;
pub mod keepalive;
pub mod kubernetes;
pub mod ladder;
pub mod path_mtu;
pub mod plan;
pub mod report;
pub mod run;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod summary;
pub mod trial;
pub mod tunnel;
