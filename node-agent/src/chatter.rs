//! Keeps the log readable (and its writing cheap) when thousands of peers come or go at once: so many lines a second,
//! then how many more there were.

use nhrp::Time;

/// Lines in one second.
const LINES: u32 = 50;
const SECOND_MS: u64 = 1_000;

/// What was written in the second that runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chatter {
    over: Time,
    written: u32,
    held: u64,
}

impl Chatter {
    /// Whether one more line may be written; counts it in any case.
    pub fn may_write(&mut self, now: Time) -> bool {
        if now >= self.over {
            *self = Self { over: now.after(SECOND_MS), written: 0, held: self.held };
        }
        let may = self.written < LINES;
        if may {
            self.written += 1;
        } else {
            self.held += 1;
        }
        may
    }

    /// How many lines were held back, once the second is over; asked again it is `None`.
    pub fn held(&mut self, now: Time) -> Option<u64> {
        let due = self.due()? <= now;
        due.then(|| std::mem::take(&mut self.held))
    }

    /// When to ask for [`Self::held`].
    pub fn due(&self) -> Option<Time> {
        (self.held > 0).then_some(self.over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_summed_up_and_the_next_second_is_free() {
        let mut chatter = Chatter::default();
        let written = (0..1000).filter(|_| chatter.may_write(Time(5_000))).count();
        assert_eq!(written, 50);
        assert_eq!((chatter.due(), chatter.held(Time(5_999))), (Some(Time(6_000)), None));
        assert_eq!((chatter.held(Time(6_000)), chatter.held(Time(6_000))), (Some(950), None));
        assert!(chatter.may_write(Time(6_000)));
    }
}
