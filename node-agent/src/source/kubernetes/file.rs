//! The last good configuration, for an agent that starts while the API server is away. It holds NHRP passwords, and no
//! keys: mode 0600, beside the agent's socket on tmpfs, so that it is gone with the kernel state that it describes.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crds::DmvpnEndpointSpec;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::super::{DesiredEndpoint, Origin};

/// Name of the file.
pub const NAME: &str = "last-endpoints.json";
/// Version of the file; another version is ignored.
const VERSION: u32 = 1;

/// One endpoint as it is in force.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    origin: Origin,
    spec: DmvpnEndpointSpec,
    passwords: Vec<ByteString>,
    /// Revision of the Secrets that the passwords are from.
    pub(super) revision: String,
}

impl Kept {
    pub(super) fn new(endpoint: &DesiredEndpoint, revision: &str) -> Option<Self> {
        Some(Self {
            origin: endpoint.origin.clone()?,
            spec: endpoint.spec.clone(),
            passwords: endpoint.passwords.iter().cloned().map(ByteString).collect(),
            revision: revision.to_owned(),
        })
    }

    pub(super) fn endpoint(&self) -> DesiredEndpoint {
        DesiredEndpoint {
            spec: self.spec.clone(),
            passwords: self.passwords.iter().map(|p| p.0.clone()).collect(),
            // Pre-shared keys are in no file: the IKE daemon has them, and the operator tells them again.
            keys: Vec::new(),
            certificate: None,
            origin: Some(self.origin.clone()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    endpoints: Vec<Kept>,
}

/// The file, and what was written last.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    written: Option<Vec<u8>>,
}

impl File {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join(NAME), written: None }
    }

    /// What an earlier run has left; `None`: nothing that can be used (said in the log).
    pub(super) fn load(&self) -> Option<Vec<Kept>> {
        let path = self.path.display();
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(%path, %error, "last good configuration cannot be read: waiting for the API server");
                return None;
            }
        };
        match serde_json::from_slice::<Content>(&bytes) {
            Ok(content) if content.version == VERSION => Some(content.endpoints),
            Ok(content) => {
                warn!(%path, version = content.version, "last good configuration is of another version of the agent");
                None
            }
            Err(error) => {
                warn!(%path, %error, "last good configuration cannot be decoded: waiting for the API server");
                None
            }
        }
    }

    /// Writes it if it has changed, by rename; `None` (nothing is known yet) leaves it alone.
    pub(super) fn save(&mut self, endpoints: &Option<Vec<Kept>>) {
        let Some(endpoints) = endpoints else { return };
        let content = Content { version: VERSION, endpoints: endpoints.clone() };
        let written = serde_json::to_vec(&content).map_err(std::io::Error::from).and_then(|bytes| {
            if self.written.as_ref() != Some(&bytes) {
                self.write(&bytes)?;
                self.written = Some(bytes);
            }
            Ok(())
        });
        if let Err(error) = written {
            let path = self.path.display();
            warn!(%path, %error, "last good configuration not kept: an agent that starts without API will not know it");
        }
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let temporary = self.path.with_extension("json.new");
        let _ = std::fs::remove_file(&temporary);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        std::fs::rename(&temporary, &self.path)
    }
}
