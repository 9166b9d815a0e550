//! The story that `make demo` tells, as a test: every step of every chapter held.

use std::time::Duration;

use anyhow::ensure;
use e2e::demo;
use e2e::ring3::{Needs, ring3_with};

#[test]
fn every_chapter_of_the_demo_holds() {
    ring3_with(Needs { memory_mib: 1536, deadline: Duration::from_secs(300) }, |lab| {
        let status = demo::tell(lab);
        ensure!(status == 0, "the story ended with status {status}: the failed step is named above");
        Ok(())
    });
}
