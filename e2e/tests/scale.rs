//! The control plane's part of `make bench` at a small size: everything converges, nothing is written where nothing changes,
//! changes arrive, agents get a new key, a new operator changes nothing. How long it takes is judged by `make bench`: this
//! is a build for debugging, on a machine that does other things.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::bench::control_plane::{self, Scale};
use e2e::ring2::{Needs, ring2_with};

#[test]
fn three_hundred_spokes_converge_and_then_nothing_is_written() {
    ring2_with(Needs { scheduler: false, deadline: Duration::from_secs(400) }, |cluster| {
        let scale = Scale { nodes: 20, spokes: 300, steady: 20, changes: 10 };
        let figures = control_plane::measure(cluster, &scale)?;
        for figure in &figures {
            println!("{}: {} {}", figure.name, figure.value, figure.unit);
        }
        let value = |name: &str| {
            let found = figures.iter().find(|figure| figure.name == name);
            found.map(|figure| figure.value).with_context(|| format!("no {name}"))
        };
        for quiet in ["scale.steady.writes", "scale.restart.writes"] {
            ensure!(value(quiet)? == 0.0, "{quiet}: {}", value(quiet)?);
        }
        // An address, a spoke's status and that of its network; an endpoint and what its agent says of it.
        ensure!(value("scale.one-more.300.writes")? < 12.0, "{}", value("scale.one-more.300.writes")?);
        ensure!(value("scale.node-to-status.p99")? < 10_000.0, "{}", value("scale.node-to-status.p99")?);
        ensure!(value("scale.operator.memory.peak")? < 200.0, "{}", value("scale.operator.memory.peak")?);
        Ok(())
    });
}
