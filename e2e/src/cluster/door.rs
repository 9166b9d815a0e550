//! The way to a control plane's programs: run here, or asked of the helper outside the guest.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::control_plane::Plan;

/// How a program ended and what it printed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program in the control plane's network to its end.
pub(super) fn run(plan: &Plan, program: &str, arguments: &[&str], input: &str) -> Result<Reply> {
    let mut command = plan.command(program)?;
    command.args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("standard input")?;
    let output = std::thread::scope(|scope| {
        // Beside the reading of its output: it may print before it has read all. That it closes early shows in
        // its status.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    })?;
    Ok(Reply {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
