//! tcpdump on a link of a host, and what it saw so far.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::host::Host;
use super::pcap::{self, Frame};
use super::peek::Peek;
use super::process::Process;
use crate::wait;

/// A running capture; it ends when dropped, and the file stays in the results folder.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts capturing on `device` (or `any`) what matches the tcpdump expression `filter` (may be empty), and
    /// returns when tcpdump listens. The file is `HOST-DEVICE.pcap`, with a number if there is one already.
    ///
    /// # Errors
    /// When tcpdump does not start.
    pub fn start(host: &Host, device: &str, filter: &str) -> Result<Self> {
        let name = (0..)
            .map(|n: u32| match n {
                0 => format!("{}-{device}", host.name()),
                n => format!("{}-{device}.{n}", host.name()),
            })
            .find(|name| !host.out().join(format!("{name}.pcap")).exists())
            .context("file name")?;
        let file = host.out().join(format!("{name}.pcap"));
        fs::write(&file, "").with_context(|| format!("create {}", file.display()))?;
        let mut command = host.command("tcpdump");
        // As root: tcpdump's own user may not write to the results folder.
        command.args(["-i", device, "-n", "-U", "--immediate-mode", "-B", "4096", "-s", "256", "-Z", "root"]);
        command.arg("-w").arg(&file).args(filter.split_whitespace());
        let log = host.out().join(format!("{name}.tcpdump.log"));
        let mut tcpdump = Process::spawn(&format!("tcpdump {name}"), command, &log)?;
        tcpdump.wait_for_log("listening on", Duration::from_secs(20))?;
        Ok(Self { tcpdump, file })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// All packets so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        let bytes = fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        pcap::parse(&bytes)
    }

    /// All packets so far, looked into.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn packets(&self) -> Result<Vec<Peek>> {
        Ok(self.frames()?.iter().map(Peek::of).collect())
    }

    /// How many packets so far are `wanted`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn count(&self, wanted: impl Fn(&Peek) -> bool) -> Result<usize> {
        Ok(self.packets()?.iter().filter(|p| wanted(p)).count())
    }

    /// Waits for the first packet that is `wanted`.
    ///
    /// # Errors
    /// When none comes before the deadline; with the last ones seen.
    pub fn wait_for(&self, deadline: Duration, what: &str, wanted: impl Fn(&Peek) -> bool) -> Result<Peek> {
        wait::until(deadline, what, || {
            let packets = self.packets()?;
            packets.iter().find(|p| wanted(p)).cloned().with_context(|| {
                let tail = &packets[packets.len().saturating_sub(5)..];
                let lines: Vec<String> = tail.iter().map(ToString::to_string).collect();
                format!("{} packets, the last: {}", packets.len(), lines.join(" | "))
            })
        })
    }

    /// Ends the capture and returns everything it saw.
    ///
    /// # Errors
    /// When tcpdump reports packets that it missed: counts would be wrong.
    pub fn stop(mut self) -> Result<Vec<Peek>> {
        self.tcpdump.stop()?;
        let log = self.tcpdump.log();
        let missed = log.lines().find_map(|l| l.strip_suffix(" packets dropped by kernel")).unwrap_or("0");
        anyhow::ensure!(missed == "0", "tcpdump missed {missed} packets: {}", self.file.display());
        self.packets()
    }
}
