//! Waiting between attempts: longer each time, and never in step with other nodes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Doubles from `first` to `most`; each wait is between half and the whole of it.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// One that has not waited yet.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait now.
    pub fn step(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        // Every hasher of the standard library has its own random keys.
        let random = u32::try_from(RandomState::new().build_hasher().finish() % 1000).unwrap_or(0);
        whole / 2 + whole / 2 * random / 1000
    }

    /// Waits.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.step()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_until_it_worked() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        for whole in [100, 200, 350, 350] {
            let step = backoff.step();
            assert!(step >= ms(whole / 2) && step < ms(whole), "{step:?} of {whole} ms");
        }
        backoff.reset();
        assert!(backoff.step() < ms(100));
    }
}
