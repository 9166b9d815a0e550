//! The operator of one cluster: turns networks, spokes and nodes into endpoints, hands Secrets to agents, and says how it
//! all stands. It talks to the API server only, never to a kernel; packets do not depend on it.
//!
//! ```text
//!   API server ── watches ──► watch (a store a kind; what does not decode is kept as such: decode)
//!        ▲                        │ changed (gathered for 50 ms)
//!        │                        ▼
//!        │                  run: a pass ── silence: which agents do not report
//!        │                        │ Snapshot
//!        │                        ▼
//!        │   pass (pure): compile ─► hold ─► addresses, endpoints ─► status (pure): conditions
//!        │                        │ writes
//!        │                        ▼
//!        └──────────────────── write: in stages, several at once, back-off each ◄── lease: may we?
//!                                 │ notes
//!                                 └──► events
//!
//!   agents ── GET /v1/secrets, token ──► secrets (TLS: certificate) ── credentials ── the same stores
//! ```
//!
//! Every replica watches and serves Secrets; only the holder of the Lease writes. `drain` is a program of its own: it takes
//! the Lease and has all tunnels taken away.

#![forbid(unsafe_code)]

pub mod args;
pub mod certificate;
pub mod credentials;
pub mod decode;
pub mod drain;
pub mod events;
pub mod health;
pub mod lease;
pub mod metrics;
pub mod pass;
pub mod progress;
pub mod proving;
pub mod run;
pub mod secrets;
pub mod silence;
mod status;
#[cfg(test)]
mod testing;
pub mod watch;
pub mod write;
