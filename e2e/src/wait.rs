//! Waiting for a condition with a deadline: the only place of the lab that sleeps.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

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

/// Calls `probe` every 100 ms for as long as `window` lasts: for what must stay as it is.
///
/// # Errors
/// With the first failure of `probe`: names `what` was to stay, and for how long it did.
pub fn stays(window: Duration, what: &str, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        probe().with_context(|| format!("{what}, {:.1} s long", start.elapsed().as_secs_f64()))?;
        let left = window.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
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
    fn what_does_not_stay_is_named() {
        let mut calls = 0;
        let mut probe = |last: u32| {
            stays(Duration::from_millis(250), "calm", || {
                calls += 1;
                ensure(calls <= last, || format!("call {calls}"))
            })
        };
        assert!(probe(100).is_ok());
        let text = format!("{:#}", probe(5).unwrap_err());
        assert!(text.contains("calm") && text.contains("call"), "{text}");
        assert!(calls >= 3, "looked only {calls} times");
    }

    #[test]
    fn names_what_was_waited_for_and_the_last_reason() {
        let failed = until(Duration::from_millis(20), "a miracle", || -> Result<()> { bail!("nothing yet") });
        let text = format!("{:#}", failed.unwrap_err());
        assert!(text.contains("a miracle") && text.contains("nothing yet"), "{text}");
    }
}
