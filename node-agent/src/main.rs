//! `dmvpn-agent`: see the library for how it is built.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use node_agent::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    node_agent::run::init_log(cli.run.log_json);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dmvpn-agent: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            None => node_agent::run::agent(&cli.run).await,
            Some(Command::Show { .. }) => node_agent::run::show(&cli.run).await,
            Some(Command::Ready) => node_agent::run::ready(&cli.run).await,
            Some(Command::Purge) => node_agent::run::purge(&cli.run).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmvpn-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
