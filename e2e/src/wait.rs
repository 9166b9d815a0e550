//! Waiting for a condition with a deadline: the only place of the lab that sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `probe` until it returns `Ok`, at first every 2 ms, later every 100 ms.
///
/// # Errors
/// When `deadline` has passed: names `what` was waited for, how long, and the last reason of `probe`.
pub fn until<T>(deadline: Duration, what: &str, probe: impl FnMut() -> Result<T>) -> Result<T> {
    until_max(deadline, Duration::from_millis(100), what, probe)
}

/// As [`until`], but never longer than `max_pause` between two calls: for conditions whose time is measured.
///
/// # Errors
/// As [`until`].
pub fn until_max<T>(
    deadline: Duration,
    max_pause: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        let reason = match probe() {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        let spent = start.elapsed();
        if spent >= deadline {
            bail!("waited {:.1} s for {what}; last seen: {reason:#}", spent.as_secs_f64());
        }
        std::thread::sleep(pause.min(deadline - spent));
        pause = (pause * 3 / 2).min(max_pause);
    }
}

/// `Ok(())` if `condition` holds, else an error made by `seen`: for probes of [`until`].
///
/// # Errors
/// When the condition does not hold.
pub fn ensure(condition: bool, seen: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { bail!("{}", seen()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_value_as_soon_as_it_is_there() {
        let mut calls = 0;
        let value = until(Duration::from_secs(5), "the third call", || {
            calls += 1;
            ensure(calls == 3, || format!("call {calls}")).map(|()| calls)
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn names_what_was_waited_for_and_the_last_reason() {
        let failed = until(Duration::from_millis(20), "a miracle", || -> Result<()> { bail!("nothing yet") });
        let text = format!("{:#}", failed.unwrap_err());
        assert!(text.contains("a miracle") && text.contains("nothing yet"), "{text}");
    }
}
