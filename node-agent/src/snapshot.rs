//! The NHRP snapshot: what the engine knew, beside the agent's socket (on tmpfs, so that it lives exactly as long as
//! the kernel state that it describes). It holds no secret.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use nhrp::{Snapshot, Time};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// What is written.
#[derive(Serialize, Deserialize)]
struct Saved<S> {
    version: u32,
    /// `CLOCK_BOOTTIME` in milliseconds when it was taken.
    taken_at: u64,
    snapshot: S,
}

/// Bytes that are written at once.
const PIECE: usize = 32 << 10;
/// Version of the file; another version is ignored (the kernel's state and the peers' next registrations make up for it).
const VERSION: u32 = 2;

/// Directory of snapshots for an agent that listens on `socket`.
pub fn directory(socket: &Path) -> PathBuf {
    socket.parent().unwrap_or_else(|| Path::new(".")).to_path_buf()
}

fn path(dir: &Path, network: &str) -> PathBuf {
    dir.join(format!("nhrp-{network}.json"))
}

/// Writes a snapshot, by rename, so that a reader sees the old one or the new one.
///
/// # Errors
/// Those of the file system.
pub fn save(dir: &Path, network: &str, snapshot: &impl Serialize, now: Time) -> std::io::Result<()> {
    let saved = Saved { version: VERSION, taken_at: now.0, snapshot };
    let target = path(dir, network);
    let temporary = target.with_extension("json.new");
    // Piece by piece: with ten thousand spokes it is megabytes.
    let mut file = BufWriter::with_capacity(PIECE, File::create(&temporary)?);
    serde_json::to_writer(&mut file, &saved)?;
    file.flush()?;
    std::fs::rename(&temporary, &target)
}

/// The last snapshot and its age in milliseconds; `None` if there is none that can be used (said in the log).
pub fn load(dir: &Path, network: &str, now: Time) -> Option<(Snapshot, u64)> {
    let path = path(dir, network);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => {
            warn!(path = %path.display(), error = %e, "NHRP snapshot cannot be read: starting without");
            return None;
        }
    };
    let saved: Saved<Snapshot> = match serde_json::from_slice(&bytes) {
        Ok(saved) => saved,
        Err(e) => {
            warn!(path = %path.display(), error = %e, "NHRP snapshot cannot be decoded: starting without");
            return None;
        }
    };
    if saved.version != VERSION || saved.taken_at > now.0 {
        warn!(path = %path.display(), "NHRP snapshot is of another version or another boot: starting without");
        return None;
    }
    Some((saved.snapshot, now.0 - saved.taken_at))
}

/// Forgets a snapshot, and what was on trial.
pub fn remove(dir: &Path, network: &str) {
    crate::trial::kept::remove(dir, network);
    let _ = std::fs::remove_file(path(dir, network));
}
