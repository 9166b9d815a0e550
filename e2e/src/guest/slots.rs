//! As many guests at once as there are CPUs, each on its own: one lock file a CPU in the cache folder. Guests that mostly
//! wait run beside them, one more a CPU.

use std::fs::{self, File, TryLockError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{paths, wait};

/// How long a test waits for a free CPU.
pub const DEADLINE: Duration = Duration::from_secs(900);

/// The right to use one CPU; given back when dropped (or when the process dies).
#[derive(Debug)]
pub struct Slot {
    cpu: usize,
    _lock: File,
}

impl Slot {
    /// The CPU to pin the guest to.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu
    }
}

/// Waits for a free CPU.
///
/// # Errors
/// When none becomes free before the deadline, or the lock files cannot be made.
pub fn acquire(deadline: Duration) -> Result<Slot> {
    acquire_named("cpu", deadline)
}

/// Waits for a CPU on which no other guest waits; one that works may be there.
///
/// # Errors
/// As [`acquire`].
pub fn acquire_waiting(deadline: Duration) -> Result<Slot> {
    acquire_named("waiting", deadline)
}

fn acquire_named(kind: &str, deadline: Duration) -> Result<Slot> {
    let dir = paths::cache().join("slots");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    // Last CPU first: the first one has the most of the machine's own work.
    let mut cpus = allowed_cpus()?;
    cpus.reverse();
    wait::until(deadline, "a free CPU for a guest", || {
        for &cpu in &cpus {
            let lock = File::create(dir.join(format!("{kind}{cpu}.lock")))?;
            match lock.try_lock() {
                Ok(()) => return Ok(Slot { cpu, _lock: lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => bail!("lock: {error}"),
            }
        }
        bail!("all {} have a guest", cpus.len())
    })
}

/// Waits for two free CPUs (one where there is only one): the first for a guest, the other for what runs beside it.
///
/// # Errors
/// As [`acquire`].
pub fn acquire_two(deadline: Duration) -> Result<(Slot, Option<Slot>)> {
    let dir = paths::cache().join("slots");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    // One at a time: two who had one each would wait for each other.
    let turn = File::create(dir.join("two.lock"))?;
    wait::until(deadline, "the turn to take two CPUs", || match turn.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!("somebody else waits for two"),
        Err(TryLockError::Error(error)) => bail!("lock: {error}"),
    })?;
    let guest = acquire(deadline)?;
    let beside = if allowed_cpus()?.len() > 1 { Some(acquire(deadline)?) } else { None };
    Ok((guest, beside))
}

/// The CPUs of this process as a list for `taskset`, without the one that a guest uses if there are others.
///
/// # Errors
/// When the CPUs of this process cannot be told.
pub fn list(without: Option<usize>) -> Result<String> {
    let mut cpus = allowed_cpus()?;
    if cpus.len() > 1 {
        cpus.retain(|cpu| Some(*cpu) != without);
    }
    Ok(cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// The CPUs that this process may run on.
fn allowed_cpus() -> Result<Vec<usize>> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let list =
        status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).context("Cpus_allowed_list")?;
    parse_list(list.trim()).with_context(|| format!("CPU list {list:?}"))
}

/// `0-3,8` → 0, 1, 2, 3, 8.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(from.parse::<usize>().ok()?..=to.parse().ok()?);
    }
    (!cpus.is_empty()).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use super::parse_list;

    #[test]
    fn reads_the_kernels_cpu_lists() {
        assert_eq!(parse_list("0"), Some(vec![0]));
        assert_eq!(parse_list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse_list(""), None);
        assert_eq!(parse_list("a-b"), None);
    }
}
