//! When the link of a tunnel is made to shape, and what came of it.

use nhrp::Time;
use tracing::warn;

use super::Tunnel;

/// After a failure it is tried again this soon, in milliseconds, after each further one twice as late, …
const RETRY_MS: u64 = 1_000;
/// … but not later than this. What others change of the link is looked at whenever they do.
const RETRY_MAX_MS: u64 = 60_000;

impl Tunnel {
    /// Whether something has changed that its link may have to shape in another way for. After a failure all is looked at
    /// again, soon enough: changes do not make that sooner.
    pub fn is_to_be_shaped(&self, now: Time) -> bool {
        let waits = self.reshape_at.is_some_and(|at| at > now);
        self.link != 0 && !waits && self.wanted.as_ref().is_some_and(|wanted| wanted.shaping.is_stirred())
    }

    /// When it may be tried again to make its link shape, at `now` or later.
    pub fn reshape_at(&self, now: Time) -> Time {
        self.reshape_at.map_or(now, |at| at.max(now))
    }

    /// Notes what came of making its link shape: `refused` is why it does not as is wanted. Whether that is news of a
    /// refusal.
    pub fn shaping_tried(&mut self, refused: Option<String>, now: Time) -> bool {
        let news = refused.is_some() && refused != self.unshaped;
        self.refusals = if refused.is_some() { self.refusals.saturating_add(1) } else { 0 };
        self.reshape_at = refused.as_ref().map(|_| now.after(retry_ms(self.refusals)));
        self.unshaped = refused;
        news
    }

    /// What is to be borne in mind of how it is configured, of where it has its source (said once in the log), and of who
    /// is not shaped.
    pub fn mark(&mut self, source: String) {
        if !source.is_empty() && !self.remark.starts_with(&source) {
            warn!(network = self.spec.network, "{source}");
        }
        let rest = self.wanted.as_ref().map(|wanted| wanted.shaping.remark()).unwrap_or_default();
        self.remark = [source, rest].into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join("; ");
    }
}

/// How long after so many refusals in a row it is tried again.
fn retry_ms(refusals: u32) -> u64 {
    (RETRY_MS << refusals.saturating_sub(1).min(16)).min(RETRY_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::retry_ms;

    #[test]
    fn a_refusal_that_lasts_is_tried_once_a_minute() {
        let all: Vec<_> = [1, 2, 3, 6, 7, 8, u32::MAX].into_iter().map(retry_ms).collect();
        assert_eq!(all, [1_000, 2_000, 4_000, 32_000, 60_000, 60_000, 60_000]);
    }
}
