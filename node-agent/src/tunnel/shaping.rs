//! When the link of a tunnel is made to shape, and what came of it.

use nhrp::Time;
use tracing::warn;

use super::Tunnel;

/// After a failure it is tried again this soon, in milliseconds.
const RETRY_MS: u64 = 1_000;

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
        self.reshape_at = refused.as_ref().map(|_| now.after(RETRY_MS));
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
