//! Ending processes by their id, with everything below them. Never by name.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

/// Sends `signal` (`TERM`, `KILL`) to one process; that it is gone already is no failure.
pub fn signal(pid: u32, signal: &str) {
    signal_all(&[pid], signal);
}

/// Kills `pid` and all that descends from it. The list is made before the first is killed: children of a dead
/// parent could not be found any more.
pub fn kill_tree(pid: u32) {
    signal_all(&tree(pid), "KILL");
}

/// `pid` and its descendants.
#[must_use]
pub fn tree(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        if let Some(parent) = parent(child) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&current) = all.get(next) {
        all.extend(children.remove(&current).unwrap_or_default());
        next += 1;
    }
    all
}

/// The parent of a process, from `/proc/PID/stat`; the name in brackets may hold anything, blanks included.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn signal_all(pids: &[u32], signal: &str) {
    // The shell's own kill: the program of that name is not on every machine.
    let _ = Command::new("sh")
        .args(["-c", r#"s=$1; shift; for p do kill -s "$s" "$p"; done"#, "kill", signal])
        .args(pids.iter().map(u32::to_string))
        .stderr(std::process::Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_whole_tree_is_found_and_killed() {
        let mut top =
            Command::new("sh").args(["-c", "sh -c 'sleep 60; true' & sleep 60; true"]).spawn().unwrap();
        let found = crate::wait::until(Duration::from_secs(10), "the children", || {
            let tree = tree(top.id());
            crate::wait::ensure(tree.len() == 4, || format!("{tree:?}")).map(|()| tree)
        });
        kill_tree(top.id());
        top.wait().unwrap();
        for pid in found.unwrap() {
            let gone = crate::wait::until(Duration::from_secs(10), "its end", || {
                // A zombie that its new parent has not collected is as good as gone.
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let state = stat.rsplit_once(") ").map(|(_, s)| s.starts_with('Z'));
                crate::wait::ensure(state.unwrap_or(true), || stat)
            });
            gone.unwrap();
        }
    }
}
