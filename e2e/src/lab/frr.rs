//! FRR as a foreign NHRP peer: zebra, nhrpd and staticd on a host, with a GRE link made by hand.
//!
//! FRR's own `tunnel source` wipes key and TTL of the link, so the link is ours. Each host has a path space
//! (`-N HOST`: its own sockets below /var/run/frr), and each daemon gets its file by `-f`: it would ignore it
//! beside an /etc/frr/frr.conf.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use serde_json::Value;

use super::host::{self, Host};
use super::process::Process;
use crate::wait;

const DAEMONS: &str = "/usr/lib/frr";
const RUNTIME: &str = "/var/run/frr";
const START: Duration = Duration::from_secs(30);
/// The NFLOG group that nhrpd listens on for its redirects; it is in [`make_gre`]'s rule and in the
/// configuration as `nhrp nflog-group 1`.
pub const NFLOG_GROUP: u16 = 1;

/// FRR running on a host; its daemons stop when dropped.
#[derive(Debug)]
pub struct Frr {
    host: Host,
    daemons: Vec<(String, Process)>,
}

impl Frr {
    /// Starts zebra, staticd and nhrpd with one configuration text (each takes the lines it knows), and
    /// returns when all three answer.
    ///
    /// # Errors
    /// When FRR is not installed, or a daemon ends or stays silent.
    pub fn start(host: &Host, configuration: &str) -> Result<Self> {
        Self::start_daemons(host, &["zebra", "staticd", "nhrpd"], configuration)
    }

    /// As [`Self::start`], with other daemons (zebra first).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_daemons(host: &Host, daemons: &[&str], configuration: &str) -> Result<Self> {
        let runtime = Path::new(RUNTIME).join(host.name());
        fs::create_dir_all(&runtime).with_context(|| format!("create {}", runtime.display()))?;
        let config = runtime.join("frr.conf");
        fs::write(&config, configuration)?;
        // The daemons drop to this user.
        host::run(Command::new("chown").args(["-R", "frr:frr", RUNTIME]))?;
        let mut frr = Self { host: host.clone(), daemons: Vec::new() };
        for daemon in daemons {
            frr.start_daemon(daemon)?;
        }
        Ok(frr)
    }

    /// Stops all daemons and starts them with another configuration.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_with(&mut self, configuration: &str) -> Result<()> {
        let names: Vec<_> = self.daemons.iter().map(|(name, _)| name.clone()).collect();
        self.daemons.clear();
        fs::write(Path::new(RUNTIME).join(self.host.name()).join("frr.conf"), configuration)?;
        names.iter().try_for_each(|name| self.start_daemon(name))
    }

    /// Starts one daemon (again) and waits until it answers.
    ///
    /// # Errors
    /// When it ends or stays silent.
    pub fn start_daemon(&mut self, daemon: &str) -> Result<()> {
        let runtime = Path::new(RUNTIME).join(self.host.name());
        let mut command = self.host.command(Path::new(DAEMONS).join(daemon));
        command.args(["-N", self.host.name(), "--log", "stdout"]);
        command.arg("-f").arg(runtime.join("frr.conf"));
        command.arg("-i").arg(runtime.join(format!("{daemon}.pid")));
        let mut process = self.host.spawn_command(daemon, command)?;
        wait::until(START, &format!("{daemon} of {} to answer", self.host.name()), || {
            if let Some(status) = process.try_wait()? {
                return Ok(Err(anyhow::anyhow!("{daemon} ended ({status}): {}", process.log())));
            }
            self.vtysh_of(daemon, "show version").map(|_| Ok(()))
        })??;
        self.daemons.push((daemon.to_owned(), process));
        Ok(())
    }

    /// `kill -9` of one daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_daemon(&mut self, daemon: &str) -> Result<()> {
        let at = self.daemons.iter().position(|(name, _)| name == daemon).context("no such daemon")?;
        let (_, mut process) = self.daemons.remove(at);
        process.kill().map(drop)
    }

    /// Process id of a daemon (inside the guest).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, daemon: &str) -> Result<u32> {
        let found = self.daemons.iter().find(|(name, _)| name == daemon);
        found.map(|(_, process)| process.pid()).with_context(|| format!("{daemon} does not run"))
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Runs one command and returns what FRR prints.
    ///
    /// # Errors
    /// When vtysh fails, or FRR says that it does not know the command.
    pub fn vtysh(&self, command: &str) -> Result<String> {
        self.host.run(&["vtysh", "-N", self.host.name(), "-c", command])
    }

    /// Runs a `show … json` command.
    ///
    /// # Errors
    /// When vtysh fails or does not print JSON.
    pub fn vtysh_json(&self, command: &str) -> Result<Value> {
        let text = self.vtysh_of("nhrpd", &format!("{command} json"))?;
        // Before a table of shortcuts its heading for people is printed (8.4).
        let json = text.find('{').and_then(|start| text.get(start..)).unwrap_or_default();
        serde_json::from_str(json).with_context(|| format!("{command} json: {text:?}"))
    }

    /// nhrpd's cache: one entry an overlay address.
    ///
    /// # Errors
    /// As [`Self::vtysh_json`].
    pub fn nhrp_cache(&self) -> Result<Vec<CacheEntry>> {
        self.cache_of("ip")
    }

    /// The same of a family (`ip` or `ipv6`).
    fn cache_of(&self, family: &str) -> Result<Vec<CacheEntry>> {
        let value = self.vtysh_json(&format!("show {family} nhrp cache"))?;
        let table = value["table"].as_array().context("no table in nhrpd's answer")?;
        let entry = |entry: &Value| CacheEntry {
            kind: text(entry, "type"),
            protocol: text(entry, "protocol"),
            nbma: text(entry, "nbma"),
        };
        Ok(table.iter().map(entry).collect())
    }

    /// nhrpd's shortcuts: prefix and overlay next hop of those that stand (FRR calls them `dynamic`, and
    /// `incomplete` those that wait for an answer).
    ///
    /// # Errors
    /// As [`Self::vtysh_json`].
    pub fn shortcuts(&self) -> Result<Vec<(String, String)>> {
        let value = self.vtysh_json("show ip nhrp shortcut")?;
        let all = value["table"].as_array().cloned().unwrap_or_default();
        let standing = all.iter().filter(|entry| entry["type"] != "incomplete");
        Ok(standing.map(|entry| (text(entry, "prefix"), text(entry, "via"))).collect())
    }

    /// Waits until nhrpd has a shortcut of that prefix to `via`.
    ///
    /// # Errors
    /// When the deadline passes; with the shortcuts.
    pub fn wait_for_shortcut(&self, prefix: Ipv4Net, via: Ipv4Addr, deadline: Duration) -> Result<()> {
        let what = format!("a shortcut to {prefix} at {}", self.host.name());
        wait::until(deadline, &what, || {
            let all = self.shortcuts()?;
            let wanted = (prefix.to_string(), via.to_string());
            wait::ensure(all.contains(&wanted), || format!("{all:?}, {:?}", self.nhrp_cache()))
        })
    }

    /// Waits until nhrpd has an entry for `overlay` of a kind (`dynamic`, `nhs`, `cached`, …), and returns it.
    ///
    /// # Errors
    /// When the deadline passes; with the cache.
    pub fn wait_for_cache(
        &self,
        kind: &str,
        overlay: impl Into<IpAddr>,
        deadline: Duration,
    ) -> Result<CacheEntry> {
        let overlay = overlay.into();
        let what = format!("{kind} {overlay} in the NHRP cache of {}", self.host.name());
        wait::until(deadline, &what, || {
            let cache = self.cache_of(if overlay.is_ipv4() { "ip" } else { "ipv6" })?;
            let wanted = cache.iter().find(|e| e.kind == kind && e.protocol == overlay.to_string());
            wanted.cloned().with_context(|| format!("{cache:?}"))
        })
    }

    fn vtysh_of(&self, daemon: &str, command: &str) -> Result<String> {
        self.host.run(&["vtysh", "-N", self.host.name(), "-d", daemon, "-c", command])
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        // zebra last: the others complain when it goes first.
        while self.daemons.pop().is_some() {}
    }
}

/// One line of nhrpd's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// `local`, `nhs`, `dynamic`, `cached`, …
    pub kind: String,
    /// Overlay address.
    pub protocol: String,
    /// NBMA address; `-` for a local one.
    pub nbma: String,
}

fn text(entry: &Value, name: &str) -> String {
    entry[name].as_str().unwrap_or_default().to_owned()
}

/// A multipoint GRE link for FRR: `ttl 64`, the key if there is one, a /32 address; and the NFLOG rule that
/// shows nhrpd what it should redirect (threshold 1, else it hears of it up to a second late).
///
/// # Errors
/// With what `ip` or `nft` printed.
pub fn make_gre(
    host: &Host,
    device: &str,
    local: Ipv4Addr,
    key: Option<u32>,
    overlay: Ipv4Addr,
) -> Result<()> {
    let key = key.map_or_else(String::new, |k| format!("key {k}"));
    host.ip_batch(&[
        format!("link add {device} type gre {key} ttl 64 local {local}"),
        format!("addr add {overlay}/32 dev {device}"),
        // nhrpd would take a link-local address for the overlay's, find that it is no host's, and do no IPv6.
        format!("link set {device} addrgenmode none"),
        format!("link set {device} arp on mtu 1400 up"),
    ])?;
    redirect_rule(host, "ip", device)
}

/// An IPv6 overlay address on that link, and the NFLOG rule for IPv6.
///
/// # Errors
/// With what `ip` or `nft` printed.
pub fn make_gre6(host: &Host, device: &str, overlay: Ipv6Addr) -> Result<()> {
    host.ip(&format!("addr add {overlay}/128 dev {device} nodad"))?;
    redirect_rule(host, "ip6", device)
}

fn redirect_rule(host: &Host, family: &str, device: &str) -> Result<()> {
    host.nft(&format!(
        "table {family} frr_redirect {{
            chain hairpin {{
                type filter hook forward priority 0; policy accept;
                iifname \"{device}\" oifname \"{device}\" limit rate 20/second log group {NFLOG_GROUP} \
                 snaplen 128 queue-threshold 1
            }}
        }}
"
    ))
}
