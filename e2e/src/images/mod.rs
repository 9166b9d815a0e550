//! The images that the lab's nodes run: made of files that are here, without a registry.
//!
//! | image | what is in it |
//! |---|---|
//! | `lab.local/pause:1` | the program that holds a pod's namespaces (`pause.c`) |
//! | `lab.local/dmvpn-operator:1` | our operator and the libraries that it loads |
//! | `lab.local/dmvpn-charon:1` | strongSwan's IKE daemon of this machine, its plugins, their libraries |
//! | `lab.local/dmvpn-agent:1`, `:2` | our agent, `nft`, their libraries; the second differs in a label: an upgrade |
//!
//! Each is a file as `docker save` writes it ([`archive`]); all are also imported into one store of containerd
//! (`bake.rs`), which nodes use as it is. They lie below `target/e2e/images` in a folder that is named by what they
//! were made from, and are made again when a program, a library or this module has changed.

pub mod archive;
mod bake;
mod contents;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::paths;
use archive::Image;
use contents::Program;

/// The image that holds a pod's namespaces.
pub const PAUSE: &str = "lab.local/pause:1";
/// The operator's image.
pub const OPERATOR: &str = "lab.local/dmvpn-operator:1";
/// The agent's image.
pub const AGENT: &str = "lab.local/dmvpn-agent:1";
/// The IKE daemon's image.
pub const CHARON: &str = "lab.local/dmvpn-charon:1";
/// The agent's image after an upgrade.
pub const AGENT_2: &str = "lab.local/dmvpn-agent:2";

/// Names the folder of the images for what runs inside a guest.
pub const ENV: &str = "DMVPN_LAB_IMAGES";
/// How many sets are kept: a guest that is still running may use an older one.
const KEPT: usize = 3;
/// What makes the images, so that they are made again when it changes.
const SOURCES: [&str; 5] = [
    include_str!("mod.rs"),
    include_str!("archive.rs"),
    include_str!("contents.rs"),
    include_str!("bake.rs"),
    include_str!("pause.c"),
];

/// A set of images that is complete.
#[derive(Clone, Debug)]
pub struct Images {
    dir: PathBuf,
    made: bool,
}

impl Images {
    /// The images for what is built and installed now; made if there is no such set.
    ///
    /// # Errors
    /// When a program is missing or the import fails; says which.
    pub fn build() -> Result<Self> {
        let inputs = Inputs::find()?;
        let top = paths::results()?.join("images");
        fs::create_dir_all(&top).with_context(|| format!("create {}", top.display()))?;
        // Tests run side by side: one makes the images, the others wait.
        let lock = File::create(top.join("lock"))?;
        lock.lock().context("lock of the images")?;
        let dir = top.join(inputs.key()?);
        let made = !dir.exists();
        if made {
            let new = top.join("new");
            if new.exists() {
                fs::remove_dir_all(&new)?;
            }
            inputs.make(&new)?;
            fs::rename(&new, &dir)?;
            remove_old(&top)?;
        }
        Ok(Self { dir, made })
    }

    /// Inside a guest: the images that the process outside has named.
    ///
    /// # Errors
    /// When it has named none.
    pub fn given() -> Result<Self> {
        let dir = std::env::var_os(ENV).map(PathBuf::from);
        let dir = dir.with_context(|| format!("{ENV} is not set: this guest was started without images"))?;
        Ok(Self { dir, made: false })
    }

    /// The folder with the archives.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether they were made just now.
    #[must_use]
    pub fn made(&self) -> bool {
        self.made
    }

    /// The store as containerd keeps it.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// The program that holds namespaces, for a node's own.
    #[must_use]
    pub fn pause(&self) -> PathBuf {
        self.dir.join("pause")
    }

    /// The archives.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn archives(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "tar") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// `make images`: makes them if needed and says where they are.
///
/// # Errors
/// As [`Images::build`].
pub fn command() -> Result<i32> {
    let start = std::time::Instant::now();
    let images = Images::build()?;
    for archive in images.archives()? {
        println!("{:>7.1} MB  {}", fs::metadata(&archive)?.len() as f64 / 1e6, archive.display());
    }
    let what = if images.made() { "made" } else { "nothing has changed, looked" };
    println!(
        "{what} in {:.1} s; store of the nodes: {}",
        start.elapsed().as_secs_f64(),
        images.store().display()
    );
    Ok(0)
}

struct Inputs {
    operator: Program,
    agent: Program,
    nft: Program,
    charon: Program,
    /// Its version decides what the store looks like.
    containerd: Program,
}

impl Inputs {
    fn find() -> Result<Self> {
        Ok(Self {
            operator: Program::own("dmvpn-operator", "usr/bin/dmvpn-operator")?,
            agent: Program::own("dmvpn-agent", "usr/bin/dmvpn-agent")?,
            nft: Program::installed("nft", "usr/sbin/nft")?,
            charon: contents::charon()?,
            containerd: Program::installed("containerd", "usr/bin/containerd")?,
        })
    }

    /// Changes when a file does. By size and time, as make does: reading them all would take longer than that.
    fn key(&self) -> Result<String> {
        let mut text = SOURCES.concat();
        for program in [&self.operator, &self.agent, &self.nft, &self.charon, &self.containerd] {
            for file in [&program.source].into_iter().chain(&program.libraries) {
                let meta = fs::metadata(file).with_context(|| format!("read {}", file.display()))?;
                let time = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let _ = writeln!(text, "{} {} {}", file.display(), meta.len(), time.as_nanos());
            }
        }
        Ok(archive::sha256(text.as_bytes())[..16].to_owned())
    }

    fn make(&self, dir: &Path) -> Result<()> {
        let work = dir.join("work");
        fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
        let pause = contents::compile_pause(dir)?;
        let mut agent = self.agent.stripped(&work)?;
        agent.extend(self.nft.stripped(&work)?);
        let agent = Image {
            name: AGENT.into(),
            files: agent,
            entrypoint: "/usr/bin/dmvpn-agent".into(),
            // Capabilities of a pod reach a process that is root; it gets none but those that the pod states.
            user: 0,
            labels: version("1"),
        };
        let images = [
            ("agent-2.tar", Image { name: AGENT_2.into(), labels: version("2"), ..agent.clone() }),
            ("agent.tar", agent),
            (
                "charon.tar",
                Image {
                    name: CHARON.into(),
                    files: self.charon.stripped(&work)?,
                    entrypoint: "/usr/sbin/charon-systemd".into(),
                    user: 0,
                    labels: version("1"),
                },
            ),
            (
                "operator.tar",
                Image {
                    name: OPERATOR.into(),
                    files: self.operator.stripped(&work)?,
                    entrypoint: "/usr/bin/dmvpn-operator".into(),
                    user: 65532,
                    labels: version("1"),
                },
            ),
            (
                "pause.tar",
                Image {
                    name: PAUSE.into(),
                    files: [("pause".to_owned(), pause)].into(),
                    entrypoint: "/pause".into(),
                    user: 65535,
                    labels: version("1"),
                },
            ),
        ];
        let mut archives = Vec::new();
        for (file, image) in images {
            let path = dir.join(file);
            image.write(&path)?;
            archives.push(path);
        }
        bake::bake(&archives, &dir.join("store"), &dir.join("containerd.log"))?;
        fs::remove_dir_all(&work)?;
        Ok(())
    }
}

fn version(version: &str) -> BTreeMap<String, String> {
    [("org.opencontainers.image.version".to_owned(), version.to_owned())].into()
}

fn remove_old(top: &Path) -> Result<()> {
    let mut sets = Vec::new();
    for entry in fs::read_dir(top)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sets.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    sets.sort();
    sets.reverse();
    for (_, old) in sets.iter().skip(KEPT) {
        fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
    }
    Ok(())
}
