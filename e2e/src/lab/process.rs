//! A background process: output to a file, ended by its id when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guest::processes;
use crate::wait;

/// How long a process may take to end on SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A running command. Dropping it stops it: SIGTERM, then SIGKILL.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started or the log not be written.
    pub fn spawn(label: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {label}: {command:?}"))?;
        Ok(Self { label: label.to_owned(), child, log: log.to_owned() })
    }

    /// What it is called in messages and logs.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its process id (inside the guest).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that its output goes to.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far (with what earlier processes of the same label printed).
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// `None` while it runs.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it has printed `text`.
    ///
    /// # Errors
    /// When it ends first or the deadline passes; with the end of its log.
    pub fn wait_for_log(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("{:?} in the log of {}", text, self.label);
        let seen = wait::until(deadline, &what, || {
            if self.log().contains(text) {
                return Ok(Ok(()));
            }
            match self.child.try_wait()? {
                Some(status) => Ok(Err(status)),
                None => bail!("{}", self.log_end()),
            }
        })?;
        seen.or_else(|status| bail!("{} ended ({status}) without {text:?}: {}", self.label, self.log_end()))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the deadline passes.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.label);
        wait::until(deadline, &what, || self.child.try_wait()?.context("still running"))
    }

    /// Asks it to end, then kills it. Returns how it ended.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        processes::signal(self.pid(), "TERM");
        match self.wait(GRACE) {
            Ok(status) => Ok(status),
            Err(_) => self.kill(),
        }
    }

    /// `kill -9`, as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// The last five lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing to be done about a failure here; the guest's end takes what is left.
        let _ = self.stop();
    }
}
