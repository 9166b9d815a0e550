//! The kernel room's own checks (`dataplane/examples/probe`) against the guest's kernel: links, tables, monitor
//! and its losses, NHRP packets, redirect capture, nft; each looked at from outside too.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{paths, ring3};

#[test]
fn the_kernel_does_what_the_data_plane_asks_of_it() {
    ring3(|_| {
        let output = Command::new(paths::example("probe")?).output().context("probe")?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "probe ended with {}: {}", output.status, last_line(&text)?);
        for part in ["create", "batch", "events", "NHRP socket", "lookup"] {
            ensure!(text.lines().any(|l| l.starts_with("ok") && l.contains(part)), "nothing about {part}");
        }
        ensure!(last_line(&text)?.starts_with("every check held"), "{}", last_line(&text)?);
        Ok(())
    });
}

fn last_line(text: &str) -> Result<&str> {
    text.lines().last().context("probe printed nothing")
}
