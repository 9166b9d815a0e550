//! Looking from outside, and small tools of the checks.

use std::future::Future;
use std::process::Command;
use std::time::{Duration, Instant};

use dataplane::model::{GreLink, KernelEvent, Link, Op};
use dataplane::{Applied, Kernel};
use tokio::sync::mpsc::Receiver;

/// A result whose error is shown and ends the program.
pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Alias of every link that the checks make.
pub(crate) const ALIAS: &str = "dmvpn.io/probe";

/// Fails with a text unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!("{}:{}: {}", file!(), line!(), format!($($text)+)).into());
        }
    };
}

/// Says that something held.
pub(crate) fn held(text: &str) {
    println!("ok  {text}");
}

/// Output of a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} {}: {}", arguments.join(" "), said.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same, as JSON.
pub(crate) fn json(program: &str, arguments: &[&str]) -> Outcome<serde_json::Value> {
    let text = run(program, arguments)?;
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Array(Vec::new()));
    }
    Ok(serde_json::from_str(&text)?)
}

/// Entries of a JSON list.
pub(crate) fn count(value: &serde_json::Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

/// A setting under /proc/sys/net.
pub(crate) fn setting(path: &str) -> Outcome<String> {
    Ok(std::fs::read_to_string(format!("/proc/sys/net/{path}"))?.trim().to_owned())
}

/// A multipoint link of the checks.
pub(crate) fn gre(name: &str, local: &str) -> GreLink {
    GreLink {
        name: name.into(),
        alias: ALIAS.into(),
        local: local.parse().expect("an address"),
        remote: None,
        key: Some(super::KEY),
        ttl: 255,
        copy_dscp: false,
        master: 0,
        underlay: 0,
        mtu: 1400,
        up: true,
    }
}

/// Makes one change that must succeed.
pub(crate) async fn apply(kernel: &Kernel, op: Op) -> Outcome<Applied> {
    let shown = format!("{op:?}");
    let result = kernel.apply(&[op]).await.pop().ok_or("no result")?;
    result.map_err(|e| format!("{shown}: {e}").into())
}

/// Makes a link; its index.
pub(crate) async fn create(kernel: &Kernel, link: GreLink) -> Outcome<u32> {
    match apply(kernel, Op::CreateGre(link)).await? {
        Applied::Link { index } => Ok(index),
        Applied::Done => Err("a created link has no index".into()),
    }
}

/// The link as observed.
pub(crate) async fn observed(kernel: &Kernel, index: u32) -> Outcome<Link> {
    let seen = kernel.observe().await?;
    seen.links.into_iter().find(|l| l.index == index).ok_or_else(|| format!("no link {index}").into())
}

/// Waits for an event, at most 5 s.
pub(crate) async fn event(
    events: &mut Receiver<KernelEvent>,
    what: &str,
    mut wanted: impl FnMut(&KernelEvent) -> bool,
) -> Outcome<KernelEvent> {
    let search = async {
        loop {
            match events.recv().await {
                Some(event) if wanted(&event) => return Ok(event),
                Some(_) => {}
                None => return Err(format!("{what}: the monitor ended").into()),
            }
        }
    };
    within(5, what, search).await?
}

/// Ends with an error after so many seconds.
pub(crate) async fn within<T>(seconds: u64, what: &str, work: impl Future<Output = T>) -> Outcome<T> {
    let limit = Duration::from_secs(seconds);
    tokio::time::timeout(limit, work).await.map_err(|_| format!("{what}: not within {seconds} s").into())
}

/// Waits until a condition holds, at most 5 s.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not within 5 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
