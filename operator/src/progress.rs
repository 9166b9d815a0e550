//! Whether watches and passes get on: what `/healthz` answers from, and what can be logged about it.
//!
//! Alive is not "the process runs": a watch that fails for minutes while the API answers others, or a pass that does not
//! end, is a reason to start anew. An API server that is away is none.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::metrics::Page;

/// How long a single watch may fail while the API answers.
const WATCH_PATIENCE: Duration = Duration::from_secs(180);
/// How long a pass may be without getting on.
const PASS_PATIENCE: Duration = Duration::from_secs(120);

/// What is known of one watch.
#[derive(Clone, Debug)]
pub struct WatchState {
    /// When it last gave an event.
    pub last_event: Option<Instant>,
    /// Since when it has been failing, and the last error.
    pub failing: Option<(Instant, String)>,
    /// Whether its first list is complete.
    pub synced: bool,
    /// Whether its task ended, which it never should.
    pub ended: bool,
}

#[derive(Debug, Default)]
struct State {
    watches: BTreeMap<&'static str, WatchState>,
    pass_got_on: Option<Instant>,
    api_answered: Option<Instant>,
    passes: u32,
    passing: Duration,
    /// Writes by kind and what came of them.
    writes: BTreeMap<(&'static str, &'static str), u32>,
}

/// Progress of watches and passes.
#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

impl Progress {
    /// A watch begins.
    pub fn watch_started(&self, name: &'static str) {
        let new = WatchState { last_event: None, failing: None, synced: false, ended: false };
        self.with(|s| s.watches.insert(name, new));
    }

    /// A watch gave an event; `synced`: its list is complete.
    pub fn watch_event(&self, name: &'static str, synced: bool, now: Instant) {
        self.watch(name, |w| {
            w.last_event = Some(now);
            w.failing = None;
            w.synced |= synced;
        });
    }

    /// A watch failed; it goes on by itself.
    pub fn watch_failed(&self, name: &'static str, error: String, now: Instant) {
        self.watch(name, |w| {
            let since = w.failing.as_ref().map_or(now, |(since, _)| *since);
            w.failing = Some((since, error));
        });
    }

    /// A watch's task ended.
    pub fn watch_ended(&self, name: &'static str) {
        self.watch(name, |w| w.ended = true);
    }

    /// A pass begins, or has got on.
    pub fn pass_gets_on(&self, now: Instant) {
        self.with(|s| s.pass_got_on = Some(now));
    }

    /// The pass is over, and took so long, with what it wrote.
    pub fn pass_ended(&self, took: Duration) {
        self.with(|s| {
            s.pass_got_on = None;
            s.passes = s.passes.saturating_add(1);
            s.passing += took;
        });
    }

    /// An object of a kind was written (`ok`), or not (`outdated`: somebody else wrote meanwhile; `error`).
    pub fn wrote(&self, kind: &'static str, result: &'static str) {
        self.with(|s| *s.writes.entry((kind, result)).or_default() += 1);
    }

    /// Tells how all of it gets on.
    pub fn tell(&self, page: &mut Page) {
        self.with(|s| {
            page.family(
                "dmvpn_operator_pass_seconds",
                "summary",
                "Passes, and how long they took with their writes.",
            );
            page.line("dmvpn_operator_pass_seconds_sum", &[], s.passing.as_secs_f64());
            page.line("dmvpn_operator_pass_seconds_count", &[], f64::from(s.passes));
            page.family("dmvpn_operator_writes_total", "counter", "Writes by kind and result.");
            for ((kind, result), count) in &s.writes {
                page.line(
                    "dmvpn_operator_writes_total",
                    &[("kind", kind), ("result", result)],
                    f64::from(*count),
                );
            }
            page.family(
                "dmvpn_operator_watch_failing",
                "gauge",
                "1: the watch fails, or has not listed yet.",
            );
            for (name, watch) in &s.watches {
                let failing = watch.failing.is_some() || watch.ended || !watch.synced;
                let labels = [("watch", *name)];
                page.line("dmvpn_operator_watch_failing", &labels, f64::from(u8::from(failing)));
            }
        });
    }

    /// The API server answered something.
    pub fn api_answered(&self, now: Instant) {
        self.with(|s| s.api_answered = Some(now));
    }

    /// Whether all first lists are complete; else the names of those that are not.
    ///
    /// # Errors
    /// Names the watches that are not synced.
    pub fn synced(&self) -> Result<(), String> {
        self.with(|s| {
            let open: Vec<&str> = s.watches.iter().filter(|(_, w)| !w.synced).map(|(n, _)| *n).collect();
            if open.is_empty() { Ok(()) } else { Err(format!("not listed yet: {}", open.join(", "))) }
        })
    }

    /// Whether the first list of one watch is complete.
    pub fn watch_synced(&self, name: &str) -> bool {
        self.with(|s| s.watches.get(name).is_some_and(|w| w.synced))
    }

    /// Whether everything gets on.
    ///
    /// # Errors
    /// Says what is stuck.
    pub fn alive(&self, now: Instant) -> Result<(), String> {
        self.with(|s| {
            if let Some(started) = s.pass_got_on.filter(|at| now.duration_since(*at) > PASS_PATIENCE) {
                return Err(format!("a pass has not got on for {} s", now.duration_since(started).as_secs()));
            }
            let api = s.api_answered.is_some_and(|at| now.duration_since(at) < Duration::from_secs(30));
            for (name, watch) in &s.watches {
                if watch.ended {
                    return Err(format!("the watch of {name} has ended"));
                }
                if let Some((since, error)) = &watch.failing
                    && api
                    && now.duration_since(*since) > WATCH_PATIENCE
                {
                    let spent = now.duration_since(*since).as_secs();
                    return Err(format!("the watch of {name} has failed for {spent} s: {error}"));
                }
            }
            Ok(())
        })
    }

    fn watch(&self, name: &'static str, change: impl FnOnce(&mut WatchState)) {
        self.with(|s| {
            if let Some(watch) = s.watches.get_mut(name) {
                change(watch);
            }
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // Nothing panics while it is held.
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_watch_or_pass_is_told_and_an_api_that_is_away_is_not() {
        let (progress, t0) = (Progress::default(), Instant::now());
        let at = |s: u64| t0 + Duration::from_secs(s);
        progress.watch_started("nodes");
        assert!(progress.synced().is_err());
        progress.watch_event("nodes", true, t0);
        assert_eq!((progress.synced(), progress.alive(at(10_000))), (Ok(()), Ok(())));

        progress.watch_failed("nodes", "403".into(), at(1));
        progress.watch_failed("nodes", "403".into(), at(100));
        assert_eq!(progress.alive(at(400)), Ok(()), "the API does not answer anybody");
        progress.api_answered(at(395));
        assert_eq!(progress.alive(at(400)), Err("the watch of nodes has failed for 399 s: 403".into()));
        progress.watch_event("nodes", false, at(401));
        assert_eq!(progress.alive(at(402)), Ok(()));

        progress.pass_gets_on(at(500));
        assert_eq!(progress.alive(at(510)), Ok(()));
        assert!(progress.alive(at(621)).is_err());
        progress.pass_ended(Duration::from_millis(250));
        progress.watch_ended("nodes");
        assert_eq!(progress.alive(at(621)), Err("the watch of nodes has ended".into()));
    }
}
