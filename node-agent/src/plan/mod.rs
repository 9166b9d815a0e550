//! Pure planning: an endpoint (and what the engine found out) becomes the set of kernel objects that should be there.
//!
//! Nothing here does I/O: `wanted` builds the set, [`diff`] compares it with a dump, [`nhrp`] makes the engine's
//! configuration, [`over6`] puts the outer header into routes where the underlay is IPv6, [`pins`] keeps the tunnel's own
//! packets on the underlay, and [`keep`] what the node lives by, [`behind`] is for nodes without a tunnel of their own, [`several`] keeps networks apart, [`shaping`] says what a hub sends how fast to whom, [`adopt`] fills gaps of a snapshot from the kernel after a
//! restart.

pub mod adopt;
pub mod behind;
pub mod certificate;
pub mod diff;
pub mod ipsec;
pub mod keep;
pub mod nhrp;
pub mod over6;
pub mod pins;
pub mod sas;
pub mod several;
pub mod shaping;
pub mod sources;
pub mod wanted;

pub use self::nhrp::{NhrpFacts, nhrp_config};
pub use wanted::{Metrics, Wanted};
