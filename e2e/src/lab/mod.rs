//! Hosts, links, peers, captures, pings, kernel dumps: the pieces that scenarios are made of.
//!
//! A host is a network namespace with its own `/etc` overlay ([`host`]); links are veth pairs made by
//! [`Lab::link`]; [`agent`] drives our own agent, [`frr`] FRR as a foreign NHRP peer, [`charon`] the IKE daemon, [`authority`] issues its certificates; [`capture`], [`pcap`]
//! and [`peek`] look at the wire, [`inject`] sends what no honest peer does, [`groups`] multicast; [`ping`] measures loss, gaps and
//! the moment a path changes; [`dump`] compares kernel tables.
//! On failure [`Lab::evidence`] writes what every host looked like.

pub mod agent;
pub mod authority;
pub mod capture;
pub mod charon;
pub mod dump;
pub mod frr;
pub mod groups;
pub mod host;
pub mod inject;
pub mod pcap;
pub mod peek;
pub mod ping;
pub mod pinger;
pub mod process;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};

pub use agent::{Agent, InCluster};
pub use capture::Capture;
pub use dump::Dump;
pub use frr::Frr;
pub use host::Host;
pub use peek::Peek;
pub use ping::Ping;
pub use process::Process;

type Collector = Box<dyn Fn() -> String + Send>;

/// All hosts of one run, and its results folder.
pub struct Lab {
    out: PathBuf,
    hosts: Mutex<Vec<Host>>,
    collectors: Mutex<Vec<(String, Collector)>>,
}

impl Lab {
    /// A lab without hosts whose results go to `out`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(out: PathBuf) -> Result<Self> {
        fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
        Ok(Self { out, hosts: Mutex::default(), collectors: Mutex::default() })
    }

    /// The results folder: logs and captures go here.
    #[must_use]
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Makes a host: a network namespace of that name that forwards IPv4 and IPv6.
    ///
    /// # Errors
    /// When the name is taken or the namespace cannot be made.
    pub fn host(&self, name: &str) -> Result<Host> {
        let host = Host::create(name, &self.out)?;
        lock(&self.hosts).push(host.clone());
        Ok(host)
    }

    /// All hosts, in the order they were made.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        lock(&self.hosts).clone()
    }

    /// Joins two hosts by a veth pair and brings both ends up.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn link(&self, a: &Host, a_device: &str, b: &Host, b_device: &str) -> Result<()> {
        a.ip_batch(&[
            format!("link add {a_device} type veth peer name {b_device} netns {}", b.name()),
            format!("link set {a_device} up"),
        ])?;
        b.ip(&format!("link set {b_device} up"))
    }

    /// Something more to be written down on failure: `collect` is called then, its text goes to `name`.
    pub fn on_failure(&self, name: &str, collect: impl Fn() -> String + Send + 'static) {
        lock(&self.collectors).push((name.to_owned(), Box::new(collect)));
    }

    /// Writes the kernel tables of every host (counters included), `why`, and what [`Self::on_failure`] asked
    /// for to the folder `evidence`, beside the logs and captures that are there already.
    ///
    /// # Errors
    /// When the folder cannot be written. A host that cannot be read is noted in its file.
    pub fn evidence(&self, why: &str) -> Result<PathBuf> {
        let dir = self.out.join("evidence");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("why.txt"), format!("{why}\n"))?;
        for host in self.hosts() {
            fs::write(dir.join(format!("{}.txt", host.name())), dump::for_reading(&host))?;
        }
        for (name, collect) in lock(&self.collectors).iter() {
            fs::write(dir.join(name), collect())?;
        }
        if let Ok(dmesg) = std::process::Command::new("dmesg").output() {
            fs::write(dir.join("dmesg.txt"), dmesg.stdout)?;
        }
        Ok(self.out.clone())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in lock(&self.hosts).iter() {
            host.remove();
        }
    }
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("out", &self.out).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// A panic of another test thread while it held the lock leaves plain lists behind: still good to read.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
