//! The load of `make bench` at a small size: all spokes are answered, their neighbours are in the kernel, refreshes are
//! answered too. What it takes is not judged here: this is a build for debugging, on a machine that does other things.

use anyhow::ensure;
use e2e::bench::{self, Part, Scale};
use e2e::ring3;

#[test]
fn a_small_load_registers_and_refreshes() {
    ring3(|lab| {
        let scale = Scale { spokes: vec![300], parts: vec![Part::Hubs], foreign: false };
        let figures = bench::measure(lab, &scale)?;
        for name in ["registrations.new.300", "registrations.refresh.300", "memory.per-spoke.300"] {
            let figure = figures.iter().find(|figure| figure.name == name);
            ensure!(figure.is_some_and(|figure| figure.value > 0.0), "{name}: {figures:?}");
        }
        Ok(())
    });
}
