//! Measures the control plane at scale: the part of `make bench` that has a runtime and a client of the API server, which
//! the lab's command does without. Run in namespaces of its own by `dmvpn-lab bench`.

use std::process::ExitCode;

use clap::Parser;
use e2e::apart;
use e2e::bench::control_plane::{self, Scale};

#[derive(Parser)]
#[command(name = "dmvpn-crowd", about = "Measures operator and API server with many nodes and spokes")]
struct Arguments {
    #[command(flatten)]
    scale: Scale,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().scale) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmvpn-crowd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(scale: &Scale) -> anyhow::Result<()> {
    let out = apart::out();
    let out =
        out.ok_or_else(|| anyhow::anyhow!("this is for `dmvpn-lab bench`, which runs it in namespaces"))?;
    let figures = control_plane::alone(&out, scale)?;
    Ok(std::fs::write(out.join(e2e::bench::FIGURES), serde_json::to_string(&figures)?)?)
}
