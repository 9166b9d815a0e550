//! The story that `make demo` tells, as a test: every step of every chapter held.

use std::time::Duration;

use anyhow::ensure;
use e2e::demo;
use e2e::ring4::{Needs, ring4};

#[test]
fn every_chapter_of_the_demo_holds() {
    ring4(Needs { deadline: Duration::from_secs(600), ..demo::NEEDS }, |lab, clusters| {
        let status = demo::tell(lab, clusters);
        ensure!(status == 0, "the story ended with status {status}: the failed step is named above");
        Ok(())
    });
}
