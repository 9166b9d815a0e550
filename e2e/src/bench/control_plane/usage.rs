//! What operator and API server use, and what is written: from `/proc` and from the API server's own metrics.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::Cluster;

/// Ticks of the kernel's CPU accounting in a second: the same on every Linux that users see.
const TICKS: f64 = 100.0;

/// Of a process, from `/proc`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    /// CPU seconds, of user and system.
    pub(super) cpu: f64,
    /// Resident memory in MiB: now, and at the most so far.
    pub(super) resident: f64,
    /// See `resident`.
    pub(super) peak: f64,
}

/// Of one process.
pub(super) fn of(pid: u32) -> Result<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mib = |key: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).context("/proc/PID/status")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold spaces.
    let rest = stat.rsplit_once(") ").context("/proc/PID/stat")?.1;
    let mut fields = rest.split(' ').skip(11).map(str::parse::<f64>);
    let (user, system) = (fields.next().context("utime")??, fields.next().context("stime")??);
    Ok(Process { cpu: (user + system) / TICKS, resident: mib("VmRSS:")?, peak: mib("VmHWM:")? })
}

/// The API server's metrics at one moment.
#[derive(Clone, Debug)]
pub(super) struct ApiServer {
    /// CPU seconds.
    pub(super) cpu: f64,
    /// Resident memory in MiB.
    pub(super) resident: f64,
    /// Requests that change something stored, by verb and resource (subresource after a slash).
    writes: BTreeMap<String, f64>,
}

impl ApiServer {
    pub(super) fn read(cluster: &Cluster) -> Result<Self> {
        let text = cluster.kubectl(&["get", "--raw", "/metrics"])?;
        let value = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.with_context(|| format!("no {name}"))?.parse().context("a number")
        };
        Ok(Self {
            cpu: value("process_cpu_seconds_total")?,
            resident: value("process_resident_memory_bytes")? / f64::from(1 << 20),
            writes: writes(&text),
        })
    }

    /// Writes since an earlier moment, Leases excluded.
    pub(super) fn writes_since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        let new = self.writes.iter().map(|(what, count)| {
            (what.clone(), count - earlier.writes.get(what).copied().unwrap_or_default())
        });
        new.filter(|(_, count)| *count > 0.0).collect()
    }
}

/// `apiserver_request_total` of what is stored.
fn writes(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("apiserver_request_total{") else { continue };
        let Some((labels, count)) = rest.rsplit_once("} ") else { continue };
        let label = |name: &str| {
            let start = labels.find(&format!("{name}=\""))? + name.len() + 2;
            labels[start..].split('"').next()
        };
        let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else { continue };
        // Reviews and tokens are asked by POST, and nothing of them is stored.
        let asked = resource.ends_with("reviews") || label("subresource") == Some("token");
        if !["POST", "PUT", "PATCH", "APPLY", "DELETE"].contains(&verb) || resource == "leases" || asked {
            continue;
        }
        let slash = label("subresource").filter(|it| !it.is_empty()).map(|it| format!("/{it}"));
        let what = format!("{verb} {resource}{}", slash.unwrap_or_default());
        *found.entry(what).or_default() += count.parse::<f64>().unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_and_questions_are_not() {
        let line = |verb: &str, resource: &str, sub: &str, count: u32| {
            format!(
                "apiserver_request_total{{code=\"200\",component=\"apiserver\",resource=\"{resource}\",\
                 subresource=\"{sub}\",verb=\"{verb}\",version=\"v1\"}} {count}\n"
            )
        };
        let text = line("APPLY", "dmvpnspokes", "status", 7)
            + &line("APPLY", "dmvpnspokes", "status", 3)
            + &line("PUT", "leases", "", 9)
            + &line("WATCH", "nodes", "", 9)
            + &line("POST", "tokenreviews", "", 9)
            + &line("POST", "serviceaccounts", "token", 9);
        let all = writes(&text);
        assert_eq!(all, BTreeMap::from([("APPLY dmvpnspokes/status".to_owned(), 10.0)]));
    }
}
