//! A container image as a file: one layer, a configuration and a manifest, in the form of `docker save`.
//! The same content gives the same bytes, so that an image keeps its id until something in it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Nothing in an image tells when it was made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What an image consists of.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name with tag.
    pub name: String,
    /// Files by their path in the image, without the first slash; each readable and executable by all.
    pub files: BTreeMap<String, PathBuf>,
    /// The program that is run.
    pub entrypoint: String,
    /// The user it is run as.
    pub user: u32,
    /// Labels of the configuration.
    pub labels: BTreeMap<String, String>,
}

impl Image {
    /// Writes the image to `path`.
    ///
    /// # Errors
    /// When a file cannot be read or `path` not be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let layer = self.layer().with_context(|| format!("layer of {}", self.name))?;
        let layer_digest = sha256(&layer);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": CREATED,
            "config": {
                "Entrypoint": [self.entrypoint],
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "User": self.user.to_string(),
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
            "history": [{"created": CREATED}],
        })
        .to_string();
        let (config_file, layer_file) =
            (format!("{}.json", sha256(config.as_bytes())), format!("{layer_digest}/layer.tar"));
        let manifest =
            json!([{"Config": config_file, "RepoTags": [self.name], "Layers": [layer_file]}]).to_string();
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut archive = Builder::new(file);
        append(&mut archive, &config_file, config.as_bytes(), 0o644)?;
        append(&mut archive, &layer_file, &layer, 0o644)?;
        append(&mut archive, "manifest.json", manifest.as_bytes(), 0o644)?;
        archive.into_inner().with_context(|| format!("write {}", path.display())).map(drop)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        // Where a runtime mounts something, so that the root may be read-only.
        let mut dirs: BTreeSet<&str> = ["dev", "etc", "proc", "run", "sys", "tmp", "var", "var/run"].into();
        for path in self.files.keys() {
            dirs.extend(path.match_indices('/').map(|(end, _)| &path[..end]));
        }
        for dir in dirs {
            let mode = if dir == "tmp" { 0o1777 } else { 0o755 };
            let mut header = header(EntryType::Directory, 0, mode);
            layer.append_data(&mut header, format!("{dir}/"), &[][..])?;
        }
        for (path, source) in &self.files {
            let data = fs::read(source).with_context(|| format!("read {}", source.display()))?;
            append(&mut layer, path, &data, 0o755)?;
        }
        Ok(layer.into_inner()?)
    }
}

fn append<W: std::io::Write>(to: &mut Builder<W>, path: &str, data: &[u8], mode: u32) -> Result<()> {
    let mut header = header(EntryType::Regular, data.len() as u64, mode);
    Ok(to.append_data(&mut header, path, data)?)
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header
}

/// As lower-case hexadecimal digits.
pub(super) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// This machine's, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image(program: PathBuf) -> Image {
        Image {
            name: "lab.local/test:1".into(),
            files: [("usr/bin/test".into(), program)].into(),
            entrypoint: "/usr/bin/test".into(),
            user: 65532,
            labels: BTreeMap::new(),
        }
    }

    fn entries(data: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(data);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), data)
        });
        entries.collect()
    }

    #[test]
    fn the_manifest_leads_to_the_configuration_and_that_to_the_layer() {
        let dir = std::env::temp_dir().join(format!("dmvpn-image-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let program = dir.join("program");
        fs::write(&program, "a program").unwrap();
        image(program.clone()).write(&dir.join("one.tar")).unwrap();
        image(program).write(&dir.join("again.tar")).unwrap();
        let archive = fs::read(dir.join("one.tar")).unwrap();
        assert!(archive == fs::read(dir.join("again.tar")).unwrap(), "the same content, other bytes");
        fs::remove_dir_all(&dir).unwrap();

        let files = entries(&archive);
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "lab.local/test:1");
        let config = manifest[0]["Config"].as_str().unwrap();
        assert_eq!(config, format!("{}.json", sha256(&files[config])));
        let layer = &files[manifest[0]["Layers"][0].as_str().unwrap()];
        let config: serde_json::Value = serde_json::from_slice(&files[config]).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(layer)));
        assert_eq!((&config["config"]["User"], &config["os"]), (&json!("65532"), &json!("linux")));
        let inside = entries(layer);
        assert_eq!(inside["usr/bin/test"], b"a program");
        assert!(inside.contains_key("usr/bin/") && inside.contains_key("tmp/"), "{:?}", inside.keys());
    }
}
