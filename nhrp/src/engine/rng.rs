//! A small generator (SplitMix64) for request ids and jitter: seeded by the shell, so that runs can be repeated.

#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `ms` less up to a tenth: periodic timers spread but are never late.
    pub(crate) fn jitter(&mut self, ms: u64) -> u64 {
        ms - self.next() % (ms / 10 + 1)
    }
}
