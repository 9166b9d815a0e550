//! A trial over a restart of the agent: beside its socket on tmpfs, mode 0600, since it may hold passwords for NHRP. Keys and
//! certificates are not in it: those that are there now count.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crds::DmvpnEndpointSpec;
use k8s_openapi::ByteString;
use nhrp::Time;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Lifelines, RETURN_MS, Stage, TRIAL_MS, Trial, same};
use crate::source::DesiredEndpoint;

/// What is written.
#[derive(Serialize, Deserialize)]
struct Kept {
    before: Side,
    change: Side,
    needs: Lifelines,
    lost: Option<(Lifelines, String)>,
}

#[derive(Serialize, Deserialize)]
struct Side {
    spec: DmvpnEndpointSpec,
    passwords: Vec<ByteString>,
}

impl Side {
    fn new(endpoint: &DesiredEndpoint) -> Self {
        let passwords = endpoint.passwords.iter().cloned().map(ByteString).collect();
        Self { spec: endpoint.spec.clone(), passwords }
    }

    fn endpoint(self, like: &DesiredEndpoint) -> DesiredEndpoint {
        let passwords = self.passwords.into_iter().map(|it| it.0).collect();
        DesiredEndpoint { spec: self.spec, passwords, ..like.clone() }
    }
}

fn path(dir: &Path, network: &str) -> PathBuf {
    dir.join(format!("trial-{network}.json"))
}

/// Writes it, by rename.
///
/// # Errors
/// Those of the file system.
pub fn save(dir: &Path, network: &str, trial: &Trial) -> std::io::Result<()> {
    // Of a change that is in force because nothing else works there is nothing to go back to in a hurry.
    let lost =
        trial.lost.clone().filter(|_| trial.rolled_back || matches!(trial.stage, Stage::Returned { .. }));
    let kept =
        Kept { before: Side::new(&trial.before), change: Side::new(&trial.change), needs: trial.needs, lost };
    let target = path(dir, network);
    let temporary = target.with_extension("json.new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(&kept)?)?;
    std::fs::rename(&temporary, &target)
}

/// Takes up what an earlier run was about when it ended: `wanted` is what is wanted now. `None`: there is nothing to
/// take up.
pub fn resume(dir: &Path, wanted: &DesiredEndpoint, now: Time) -> Option<Trial> {
    let path = path(dir, &wanted.spec.network);
    let kept: Kept = match std::fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(kept)) => kept,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        other => {
            let error = other.map(|decoded| decoded.err().map(|it| it.to_string()));
            warn!(path = %path.display(), ?error, "a change on trial cannot be read: it is taken as it is");
            return None;
        }
    };
    let before = kept.before.endpoint(wanted);
    if same(&before, wanted) {
        return None;
    }
    let is_that = same(&kept.change.endpoint(wanted), wanted);
    let mut trial = Trial::new(before, wanted.clone(), kept.needs, now);
    if let Some(lost) = kept.lost.filter(|_| is_that) {
        trial.stage = Stage::Returned { until: now.after(RETURN_MS + TRIAL_MS) };
        trial.lost = Some(lost);
        trial.rolled_back = true;
    }
    Some(trial)
}

/// Forgets it.
pub fn remove(dir: &Path, network: &str) {
    let _ = std::fs::remove_file(path(dir, network));
}
