//! A change on trial: what this node lives by has to work on under it, else what was in force before comes back.
//!
//! ```text
//!   change ─► Trying ──holds──► (kept)
//!                └─lost─► Returned ──helps──► RolledBack ──later, or lost again──► Trying
//!                             └─does not─► Unproven ──holds──► (kept)
//!                                             └─later─► Returned
//! ```
//!
//! Pure. What was lost and does not come back by the return was not lost by the change: then the change is in force, and as
//! long as no hub answers the return is tried again now and then: it costs nothing. A change that was rolled back is tried again as soon as what
//! was in force before has lost the hub too (both ends change a key, one after the other), and else seldom, since each
//! try may cost [`RETRY_MS`] of traffic.

pub mod kept;

use std::fmt;

use nhrp::Time;
use serde::{Deserialize, Serialize};

use crate::source::DesiredEndpoint;

/// For so long a change has to show that everything works under it, in milliseconds.
pub const TRIAL_MS: u64 = 10_000;
/// For so long one that was rolled back is tried again, in milliseconds.
pub const RETRY_MS: u64 = 5_000;
/// For so long a return has to show that it helps, in milliseconds.
pub const RETURN_MS: u64 = 5_000;
/// So long before a time is over the hubs are asked once more, in milliseconds.
const LAST_WORD_MS: u64 = 2_000;
/// What was in force before is asked this often whether it still works, in milliseconds.
const WATCH_MS: u64 = 10_000;
/// The next try, or return, comes after this time, in milliseconds, then after four times as long, and so on…
const AGAIN_MS: u64 = 60_000;
/// … up to this while what was in force before works…
const SELDOM_MS: u64 = 3_600_000;
/// … and up to this while nothing does.
const LOST_MS: u64 = 300_000;

/// What a node lives by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifelines {
    /// One hub at least answers.
    pub hub: bool,
    /// The way to the default gateways is that of the underlay.
    pub gateway: bool,
    /// The API server takes connections.
    pub api: bool,
}

impl Lifelines {
    /// What of it is not in `has`.
    pub fn without(self, has: Self) -> Self {
        Self { hub: self.hub && !has.hub, gateway: self.gateway && !has.gateway, api: self.api && !has.api }
    }

    /// Whether it is nothing.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Lifelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            [(self.hub, "its hubs"), (self.gateway, "its default gateway"), (self.api, "its API server")];
        let names: Vec<_> = names.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        f.write_str(&names.join(" and "))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Trying { until: Time },
    Returned { until: Time },
    RolledBack { since: Time, again: Time },
    Unproven { again: Time },
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing new.
    Stay,
    /// The other endpoint is in force now.
    Switched,
    /// The change is kept; there is nothing on trial any more.
    Kept,
}

/// One change on trial.
#[derive(Debug)]
pub struct Trial {
    before: DesiredEndpoint,
    change: DesiredEndpoint,
    needs: Lifelines,
    stage: Stage,
    /// When the hubs were asked first under what is in force now; `None`: the kernel does not know of it yet.
    asked: Option<Time>,
    /// When they are asked next.
    ask_at: Time,
    /// How often a return has been looked back on.
    rounds: u32,
    /// What was lost under the change, and what was said of it.
    lost: Option<(Lifelines, String)>,
    rolled_back: bool,
}

/// Whether two endpoints say the same, whatever version of the object they are from.
pub fn same(a: &DesiredEndpoint, b: &DesiredEndpoint) -> bool {
    a.spec == b.spec && a.passwords == b.passwords && a.keys == b.keys && a.certificate == b.certificate
}

impl Trial {
    /// `change` is about to take the place of `before`, under which `needs` worked.
    pub fn new(before: DesiredEndpoint, change: DesiredEndpoint, needs: Lifelines, now: Time) -> Self {
        let until = now.after(TRIAL_MS);
        Self {
            before,
            change,
            needs,
            stage: Stage::Trying { until },
            asked: None,
            ask_at: now,
            rounds: 0,
            lost: None,
            rolled_back: false,
        }
    }

    /// The endpoint that is in force.
    pub fn in_force(&self) -> &DesiredEndpoint {
        match self.stage {
            Stage::Trying { .. } | Stage::Unproven { .. } => &self.change,
            Stage::Returned { .. } | Stage::RolledBack { .. } => &self.before,
        }
    }

    /// The endpoint that worked.
    pub fn before(&self) -> &DesiredEndpoint {
        &self.before
    }

    /// The same change is asked for again, maybe by another version of its object; false: it is another one.
    pub fn is_about(&mut self, change: &DesiredEndpoint) -> bool {
        let same = same(&self.change, change);
        if same {
            self.change.origin.clone_from(&change.origin);
        }
        same
    }

    /// Whether the change on trial is another proof of who this node is, or of who the hubs are: SAs that are there say
    /// nothing of it.
    pub fn is_of_proof(&self) -> bool {
        let (a, b) = (&self.before, &self.change);
        let identities = |it: &DesiredEndpoint| -> Vec<_> {
            let own = it.spec.addresses.iter().map(|it| it.identity.clone());
            own.chain(it.spec.nhs.iter().map(|hub| hub.identity.clone())).collect()
        };
        let trying = matches!(self.stage, Stage::Trying { .. });
        let differs = a.keys != b.keys
            || a.certificate != b.certificate
            || a.spec.ipsec != b.spec.ipsec
            || identities(a) != identities(b);
        trying && b.spec.ipsec.is_some() && differs
    }

    /// What has to work.
    pub fn needs(&self) -> Lifelines {
        self.needs
    }

    /// When the hubs were asked first under what is in force now: what works has to have shown it since then. `None`: the
    /// kernel does not know of it yet.
    pub fn asked(&self) -> Option<Time> {
        self.asked
    }

    /// Whether what worked once does: any sign of life will do, however old.
    pub fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::RolledBack { .. })
    }

    /// What is in force is in the kernel: whether the hubs are to be asked now.
    pub fn ask(&mut self, now: Time) -> bool {
        if now < self.ask_at {
            return false;
        }
        self.ask_at = match (self.stage, self.asked) {
            (Stage::Trying { until } | Stage::Returned { until }, None) => {
                Time(until.0.saturating_sub(LAST_WORD_MS)).max(now.after(1))
            }
            (Stage::Trying { until } | Stage::Returned { until }, Some(_)) => until,
            (Stage::RolledBack { .. } | Stage::Unproven { .. }, _) => now.after(WATCH_MS),
        };
        self.asked.get_or_insert(now);
        true
    }

    /// Looks at what works (`has`); `said` is what is known of what does not.
    pub fn step(&mut self, has: Lifelines, said: &str, now: Time) -> Step {
        let lost = self.needs.without(has);
        match self.stage {
            Stage::Trying { until } if now >= until => {
                if lost.is_empty() {
                    return Step::Kept;
                }
                self.lost = Some((lost, said.to_owned()));
                self.switch(Stage::Returned { until: now.after(RETURN_MS) }, now)
            }
            Stage::Returned { until } => match self.lost {
                // What was lost is what has to come back.
                Some((gone, _)) if gone.without(has).is_empty() => {
                    self.stage = Stage::RolledBack { since: now, again: now.after(self.later(SELDOM_MS)) };
                    self.ask_at = now.after(WATCH_MS);
                    self.rolled_back = true;
                    Step::Switched
                }
                _ if now >= until => {
                    self.rolled_back = false;
                    // An API server that is away is no reason to touch a tunnel that works.
                    self.needs = Lifelines { hub: lost.hub, ..Lifelines::default() };
                    let again = now.after(self.later(LOST_MS));
                    self.switch(Stage::Unproven { again }, now)
                }
                _ => Step::Stay,
            },
            Stage::RolledBack { since, again } if now >= again || self.follows(has, since, now) => {
                self.switch(Stage::Trying { until: now.after(RETRY_MS) }, now)
            }
            Stage::Unproven { .. } if self.asked.is_some() && lost.is_empty() => Step::Kept,
            Stage::Unproven { again } if now >= again => {
                self.switch(Stage::Returned { until: now.after(RETURN_MS) }, now)
            }
            _ => Step::Stay,
        }
    }

    fn switch(&mut self, stage: Stage, now: Time) -> Step {
        self.stage = stage;
        self.asked = None;
        self.ask_at = now;
        Step::Switched
    }

    /// The hubs, which the change lost, are lost without it too.
    fn follows(&self, has: Lifelines, since: Time, now: Time) -> bool {
        let by_change = self.lost.as_ref().is_some_and(|(lost, _)| lost.hub);
        by_change && !has.hub && now.since(since) >= WATCH_MS
    }

    fn later(&mut self, most: u64) -> u64 {
        let times = 4_u64.saturating_pow(self.rounds);
        self.rounds += 1;
        AGAIN_MS.saturating_mul(times).min(most)
    }

    /// When to look again.
    pub fn next(&self) -> Time {
        let end = match self.stage {
            Stage::Trying { until } | Stage::Returned { until } => until,
            Stage::RolledBack { again, .. } | Stage::Unproven { again } => again,
        };
        end.min(self.ask_at)
    }

    /// Why the change is not in force, with the cure; `None`: it is, or it is not known yet whether it may be. While it is
    /// tried again it is still the one that was rolled back.
    pub fn why(&self) -> Option<String> {
        let (lost, said) = self.lost.as_ref().filter(|_| self.rolled_back)?;
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        Some(format!(
            "under the change this node lost {lost}{said}, so that what was in force before is in force again: {}",
            crds::Reason::RolledBack.cure()
        ))
    }
}

#[cfg(test)]
mod tests;
