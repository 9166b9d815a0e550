//! What reads bytes of strangers, as functions from bytes to nothing: each panics if something is wrong.
//!
//! | target | what it feeds |
//! |---|---|
//! | [`decode`] | the codec: an error or a packet, whose parts can be read and written again |
//! | [`engine`] | an engine that has been through something with one more packet: what it sends can be read, what it wants of the kernel makes sense |
//! | [`history`] | an engine with a whole history of packets, inputs and time: slower, and reaches more |
//! | [`nflog`] | the reader of logged packets, and the engine with what it read |
//!
//! `make fuzz SECONDS=n` runs each with libFuzzer (feature `libfuzzer`, see `fuzz.sh`); the test `replay` runs the
//! seeds, and the same few thousand changes of each, without it.

mod decode;
mod engine;
mod history;
mod nflog;
mod seeds;

pub use decode::decode;
pub use engine::engine;
pub use history::history;
pub use nflog::nflog;

/// What can be fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The codec.
    Decode,
    /// The engine, a packet at a time.
    Engine,
    /// The engine over time.
    History,
    /// The reader of NFLOG payloads.
    Nflog,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Decode, Self::Engine, Self::History, Self::Nflog];

    /// As its program is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Engine => "engine",
            Self::History => "history",
            Self::Nflog => "nflog",
        }
    }

    /// What fuzzing starts from: vectors and captures, in the target's own form.
    pub fn seeds(self) -> Vec<Vec<u8>> {
        match self {
            Self::Decode => seeds::packets(),
            Self::Engine => seeds::single_packets(),
            Self::History => seeds::histories(),
            Self::Nflog => seeds::datagrams(),
        }
    }

    /// Writes the seeds into the folder that `FUZZ_SEEDS` names, a file each; a fuzzing program does so before it reads
    /// its corpus.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write_seeds(self) {
        let Some(folder) = std::env::var_os("FUZZ_SEEDS") else { return };
        for (number, seed) in self.seeds().iter().enumerate() {
            let path = std::path::Path::new(&folder).join(format!("seed-{number:03}"));
            if let Err(error) = std::fs::write(&path, seed) {
                panic!("{}: {error}", path.display());
            }
        }
    }

    /// Runs it once.
    pub fn run(self, bytes: &[u8]) {
        match self {
            Self::Decode => decode(bytes),
            Self::Engine => engine(bytes),
            Self::History => history(bytes),
            Self::Nflog => nflog(bytes),
        }
    }
}

/// Makes size and checksum fit, so that what stands behind them is reached. Bytes that cannot be a packet stay.
pub(crate) fn repair(bytes: &mut [u8]) {
    let Ok(size) = u16::try_from(bytes.len()) else { return };
    let [_, _, _, _, _, _, _, _, _, _, size0, size1, sum0, sum1, ..] = bytes else { return };
    [*size0, *size1] = size.to_be_bytes();
    [*sum0, *sum1] = [0, 0];
    let sum = nhrp::wire::checksum(bytes).to_be_bytes();
    if let Some(field) = bytes.get_mut(12..14) {
        field.copy_from_slice(&sum);
    }
}
