//! Images are imported once, here, into a store as containerd keeps it; nodes use that store and import nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs in mounts of its own: where /run is memory, which overlayfs takes, whatever this machine's disk is.
const SCRIPT: &str = r#"
store=$1 log=$2
shift 2
mount -t tmpfs -o mode=755 tmpfs /run
cat >/run/config.toml <<END
version = 2
root = "/run/store"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
END
containerd -c /run/config.toml >"$log" 2>&1 &
pid=$!
trap 'kill $pid; wait $pid || true' EXIT
for ((i = 0; ; i++)); do
    ctr version >/dev/null 2>&1 && break
    kill -0 $pid && [ $i -lt 300 ] || { echo "containerd does not answer" >&2; exit 1; }
    sleep 0.1
done
for image; do ctr -n k8s.io images import --snapshotter overlayfs "$image" >>"$log"; done
trap - EXIT
kill $pid
wait $pid || true
cp -a /run/store/. "$store"
"#;

/// Imports `images` into a new store in the folder `store`.
pub(super) fn bake(images: &[PathBuf], store: &Path, log: &Path) -> Result<()> {
    std::fs::create_dir_all(store)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-ec", SCRIPT, "bake"]);
    command.arg(store).arg(log).args(images).stdin(Stdio::null());
    let output = command.output().context("start unshare")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let end: Vec<&str> = text.lines().rev().take(5).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        bail!("images could not be imported: {}\n{}", errors.trim(), end.join("\n"));
    }
    Ok(())
}
