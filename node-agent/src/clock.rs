//! The agent's clock: `CLOCK_BOOTTIME`, which neither jumps with the wall clock nor stops while the machine sleeps, and
//! which two runs of the agent on one boot share (so that a snapshot's age is known).

use nhrp::Time;

/// Milliseconds since the machine booted.
pub fn now() -> Time {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000;
    Time(ms)
}

/// Seconds since 1970 by the wall clock: what certificates are valid by, and nothing else of ours.
pub fn wall() -> u64 {
    u64::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec).unwrap_or(0)
}

/// The tokio instant of `at`.
pub fn instant(at: Time) -> tokio::time::Instant {
    tokio::time::Instant::now() + std::time::Duration::from_millis(at.since(now()))
}
