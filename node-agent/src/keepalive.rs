//! What keepalives say of the other end of a point-to-point tunnel: counted as Cisco does. Pure.

use crds::network::Keepalive;

/// Counts of one tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent from here.
    pub sent: u64,
    /// Of those, come back.
    pub returned: u64,
    /// The other end's that went back to it.
    pub answered: u64,
    /// Sent since the last one that came back.
    missed: u32,
    down: bool,
}

impl Tally {
    /// The time of the next one has come: whether the other end counts as away from now on. It is to be sent then.
    pub fn tick(&mut self, settings: &Keepalive) {
        if self.missed >= u32::from(settings.retries) {
            self.down = true;
        }
        self.sent += 1;
        self.missed = self.missed.saturating_add(1);
    }

    /// One came back.
    pub fn heard(&mut self) {
        self.returned += 1;
        self.missed = 0;
        self.down = false;
    }

    /// How many did not come back, if the other end counts as away.
    pub fn unanswered(&self) -> Option<u32> {
        // The last one is under way.
        self.down.then(|| self.missed.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_row_and_one_is_enough_to_come_back() {
        let settings = Keepalive { period_seconds: 10, retries: 3 };
        let mut tally = Tally::default();
        for _ in 0..2 {
            for _ in 0..3 {
                tally.tick(&settings);
                assert_eq!(tally.unanswered(), None);
            }
            tally.tick(&settings);
            assert_eq!(tally.unanswered(), Some(3), "with the fourth, 30 s after the first");
            tally.tick(&settings);
            assert_eq!(tally.unanswered(), Some(4));
            tally.heard();
            assert_eq!(tally.unanswered(), None);
        }
        // Losses that are not in a row.
        for _ in 0..10 {
            tally.tick(&settings);
            tally.tick(&settings);
            tally.heard();
            assert_eq!(tally.unanswered(), None);
        }
        assert_eq!((tally.sent, tally.returned), (30, 12));
    }
}
