//! `dmvpn-operator`: see the library for how it is built.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use operator::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    operator::run::init_log(cli.run.log_json);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dmvpn-operator: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            None => operator::run::operator(cli.run).await,
            Some(Command::Drain { timeout_seconds }) => {
                operator::drain::drain(&cli.run, timeout_seconds).await
            }
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmvpn-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
