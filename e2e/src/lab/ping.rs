//! A stream of pings: what was lost, how long the gaps were, and when the path got shorter.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::host::{self, Host};
use super::process::Process;
use crate::paths;

/// A ping that runs in the background.
#[derive(Debug)]
pub struct Ping {
    process: Process,
    target: IpAddr,
    count: u32,
    interval: Duration,
    /// Ends it early when it is there.
    stop: PathBuf,
    /// Held as long as the process may still have to pass it: what a pipe holds goes with its last opener.
    _gate: Option<Arc<Gate>>,
}

/// One reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reply {
    /// Number of the request, from 1.
    pub sequence: u32,
    /// TTL of the reply as it arrived: tells how many routers the way back had.
    pub ttl: u8,
    /// When it arrived, since the Unix epoch by the guest's clock.
    pub time: Duration,
    /// Round trip.
    pub round_trip: Duration,
}

/// What a finished ping saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whom it asked.
    pub target: IpAddr,
    /// Requests sent.
    pub sent: u32,
    /// Different requests answered.
    pub received: u32,
    /// Replies to a request that had been answered already.
    pub duplicates: u32,
    /// Other lines that ping printed (unreachable, time exceeded, …).
    pub errors: Vec<String>,
    /// First reply to each request, in the order of arrival.
    pub replies: Vec<Reply>,
}

impl Ping {
    /// Starts `count` (at most 65535) pings from `host` to `target`, one each `interval`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(host: &Host, target: IpAddr, count: u32, interval: Duration) -> Result<Self> {
        Self::start_at(host, target, count, interval, None)
    }

    /// Starts several pings at the same moment: all processes stand ready before the first packet leaves. Started
    /// one after the other, the first could have changed the path before the second begins.
    ///
    /// # Errors
    /// When one cannot be started; then none runs.
    pub fn start_together(ways: &[(&Host, IpAddr)], count: u32, interval: Duration) -> Result<Vec<Self>> {
        let gate = Arc::new(Gate::new()?);
        let mut pings = Vec::new();
        for &(host, target) in ways {
            pings.push(Self::start_at(host, target, count, interval, Some(&gate))?);
        }
        for ping in &mut pings {
            ping.process.wait_for_log("ready", Duration::from_secs(20))?;
        }
        gate.open(ways.len())?;
        Ok(pings)
    }

    /// IPv4 by our own [`super::pinger`], which keeps time; IPv6 by the machine's ping.
    fn start_at(
        host: &Host,
        target: IpAddr,
        count: u32,
        interval: Duration,
        gate: Option<&Arc<Gate>>,
    ) -> Result<Self> {
        let stop = new_path("stop");
        let mut command = if target.is_ipv4() {
            let mut command = host.command(paths::program("dmvpn-lab")?);
            command.arg("ping").arg("--stop").arg(&stop);
            command.args([target.to_string(), count.to_string()]);
            command.arg(interval.as_micros().to_string());
            if let Some(gate) = gate {
                command.arg(&gate.path);
            }
            command
        } else {
            let mut command = host.command("sh");
            let wait = gate.map(|g| format!("echo ready; read -r _ <'{}'; ", g.path.display()));
            let script = wait.unwrap_or_default() + "exec \"$@\"";
            command.args(["-c", &script, "ping", "ping", "-n", "-D", "-W", "2", "-c", &count.to_string()]);
            command.args(["-i", &format!("{:.3}", interval.as_secs_f64()), &target.to_string()]);
            command
        };
        command.stdin(Stdio::null());
        // A file of its own for each run: logs are appended to.
        let label = (1..)
            .map(|n: u32| format!("ping-{target}.{n}"))
            .find(|label| !host.out().join(format!("{}-{label}.log", host.name())).exists())
            .context("file name")?;
        let process = host.spawn_command(&label, command)?;
        Ok(Self { process, target, count, interval, stop, _gate: gate.cloned() })
    }

    /// What it saw so far.
    #[must_use]
    pub fn so_far(&self) -> Report {
        parse(self.target, &self.process.log())
    }

    /// Waits until request `sequence` or a later one has been answered.
    ///
    /// # Errors
    /// When that does not happen before the deadline.
    pub fn wait_for_reply(&self, sequence: u32, deadline: Duration) -> Result<()> {
        let what = format!("reply {sequence} of {}", self.target);
        crate::wait::until(deadline, &what, || {
            let report = self.so_far();
            let last = report.replies.last().map_or(0, |r| r.sequence);
            crate::wait::ensure(last >= sequence, || format!("last reply {last}, {:?}", report.errors))
        })
    }

    /// Sends no more, waits for the replies that are on their way, and returns what it saw (IPv4 only).
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn stop(self) -> Result<Report> {
        File::create(&self.stop).with_context(|| self.stop.display().to_string())?;
        self.finish()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When it takes far longer than it should, or ping printed no summary.
    pub fn finish(mut self) -> Result<Report> {
        let usual = self.interval * self.count;
        self.process.wait(usual * 4 + Duration::from_secs(15))?;
        let report = self.so_far();
        ensure!(report.sent > 0, "ping {} gave no summary: {}", self.target, self.process.log());
        Ok(report)
    }
}

/// A path that nobody uses, in the guest's own memory: a pipe on the results folder would not be one.
fn new_path(what: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ping-{what}-{}-{number}", std::process::id()))
}

/// A pipe at which processes wait: one line lets one of them go.
#[derive(Debug)]
struct Gate {
    path: PathBuf,
    pipe: File,
}

impl Gate {
    fn new() -> Result<Self> {
        let path = new_path("gate");
        host::run(Command::new("mkfifo").arg(&path))?;
        // Open for both: neither side then waits for the other one to open it.
        let pipe = File::options().read(true).write(true).open(&path).context("open the gate")?;
        Ok(Self { path, pipe })
    }

    fn open(&self, waiting: usize) -> Result<()> {
        let lines = "\n".repeat(waiting);
        (&self.pipe).write_all(lines.as_bytes()).context("open the gate")
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        // Only there if it was stopped.
        let _ = std::fs::remove_file(&self.stop);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Pings both ways at the same time, to the end: (a → b, b → a).
///
/// # Errors
/// When one of them cannot be started or does not end.
pub fn both_ways(
    a: (&Host, IpAddr),
    b: (&Host, IpAddr),
    count: u32,
    interval: Duration,
) -> Result<(Report, Report)> {
    let mut pings = Ping::start_together(&[(a.0, b.1), (b.0, a.1)], count, interval)?.into_iter();
    let (there, back) = (pings.next().context("there")?, pings.next().context("back")?);
    Ok((there.finish()?, back.finish()?))
}

impl Report {
    /// Requests without an answer.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.sent.saturating_sub(self.received)
    }

    /// The longest time without any reply, between the first and the last.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.replies.windows(2).filter_map(|pair| match pair {
            [a, b] => Some(b.time.saturating_sub(a.time)),
            _ => None,
        });
        gaps.max().unwrap_or_default()
    }

    /// Mean time from one reply to the next: whether the pings were as dense as asked for.
    #[must_use]
    pub fn mean_interval(&self) -> Duration {
        let (Some(first), Some(last)) = (self.replies.first(), self.replies.last()) else {
            return Duration::ZERO;
        };
        last.time.saturating_sub(first.time) / last.sequence.saturating_sub(first.sequence).max(1)
    }

    /// Routers on the way back for the first and the last reply, if senders start at TTL 64.
    #[must_use]
    pub fn hops(&self) -> Option<(u8, u8)> {
        let first = self.replies.first()?.ttl;
        let last = self.replies.last()?.ttl;
        Some((64_u8.saturating_sub(first), 64_u8.saturating_sub(last)))
    }

    /// The first reply that came another way than the one before it, and its time since the first reply.
    #[must_use]
    pub fn switch(&self) -> Option<(Reply, Duration)> {
        let first = self.replies.first()?;
        let changed = self.replies.windows(2).find_map(|pair| match pair {
            [a, b] if a.ttl != b.ttl => Some(*b),
            _ => None,
        })?;
        Some((changed, changed.time.saturating_sub(first.time)))
    }

    /// Fails unless every request was answered and ping reported nothing else.
    ///
    /// # Errors
    /// With what was lost.
    pub fn ensure_nothing_lost(&self) -> Result<()> {
        ensure!(self.lost() == 0 && self.errors.is_empty(), "{self}; missing: {:?}", self.missing());
        Ok(())
    }

    /// Sequence numbers without an answer.
    #[must_use]
    pub fn missing(&self) -> Vec<u32> {
        let answered: std::collections::HashSet<u32> = self.replies.iter().map(|r| r.sequence).collect();
        (1..=self.sent).filter(|n| !answered.contains(n)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} received, {} lost", self.sent, self.received, self.lost())?;
        write!(f, ", one every {:.1} ms", self.mean_interval().as_secs_f64() * 1000.0)?;
        write!(f, ", longest gap {} ms", self.longest_gap().as_millis())?;
        if let Some((before, after)) = self.hops() {
            write!(f, ", hops {before} before and {after} after")?;
        }
        if let Some((reply, after)) = self.switch() {
            write!(f, ", path changed at ping {} ({} ms)", reply.sequence, after.as_millis())?;
        }
        if let Some(error) = self.errors.first() {
            write!(f, ", {} errors, the first: {error}", self.errors.len())?;
        }
        Ok(())
    }
}

/// Reads the output of `ping -n -D` and of [`super::pinger`].
fn parse(target: IpAddr, text: &str) -> Report {
    let mut report =
        Report { target, sent: 0, received: 0, duplicates: 0, errors: Vec::new(), replies: Vec::new() };
    let mut answered = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(reply) = reply(line) {
            if line.contains("DUP!") || !answered.insert(reply.sequence) {
                report.duplicates += 1;
            } else {
                report.replies.push(reply);
            }
        } else if let Some((sent, _)) = line.split_once(" packets transmitted") {
            report.sent = sent.parse().unwrap_or(0);
        } else if line.starts_with('[') || line.starts_with("From ") || line.starts_with("ping: ") {
            report.errors.push(line.to_owned());
        }
    }
    report.received = u32::try_from(report.replies.len()).unwrap_or(u32::MAX);
    report
}

/// `[1700000000.123456] 64 bytes from 10.0.0.1: icmp_seq=1 ttl=61 time=0.345 ms`
fn reply(line: &str) -> Option<Reply> {
    let (stamp, rest) = line.strip_prefix('[')?.split_once("] ")?;
    if !rest.contains(" bytes from ") {
        return None;
    }
    let field = |name: &str| rest.split_whitespace().find_map(|w| w.strip_prefix(name));
    Some(Reply {
        sequence: field("icmp_seq=")?.parse().ok()?,
        ttl: field("ttl=")?.parse().ok()?,
        time: stamp_time(stamp)?,
        round_trip: Duration::try_from_secs_f64(field("time=")?.parse::<f64>().ok()? / 1000.0).ok()?,
    })
}

/// `SECONDS.MICROSECONDS`, exactly: a float has not enough digits.
fn stamp_time(stamp: &str) -> Option<Duration> {
    let (seconds, micros) = stamp.split_once('.')?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
PING 10.30.0.10 (10.30.0.10) 56(84) bytes of data.
[1700000000.000000] 64 bytes from 10.30.0.10: icmp_seq=1 ttl=61 time=1.50 ms
[1700000000.010000] 64 bytes from 10.30.0.10: icmp_seq=2 ttl=61 time=0.90 ms
[1700000000.011000] 64 bytes from 10.30.0.10: icmp_seq=2 ttl=61 time=1.90 ms (DUP!)
[1700000000.045000] 64 bytes from 10.30.0.10: icmp_seq=4 ttl=62 time=0.50 ms
[1700000000.046000] From 10.20.0.1 icmp_seq=5 Destination Host Unreachable

--- 10.30.0.10 ping statistics ---
5 packets transmitted, 3 received, +1 duplicates, +1 errors, 40% packet loss, time 40ms
";

    #[test]
    fn counts_losses_gaps_and_the_switch() {
        let report = parse("10.30.0.10".parse().unwrap(), OUTPUT);
        assert_eq!((report.sent, report.received, report.lost(), report.duplicates), (5, 3, 2, 1));
        assert_eq!(report.missing(), vec![3, 5]);
        assert_eq!(report.longest_gap(), Duration::from_millis(35));
        assert_eq!(report.mean_interval(), Duration::from_millis(15));
        assert_eq!(report.hops(), Some((3, 2)));
        let (reply, after) = report.switch().unwrap();
        assert_eq!((reply.sequence, after.as_millis()), (4, 45));
        assert_eq!(report.errors.len(), 1);
        assert!(report.ensure_nothing_lost().is_err());
    }
}
