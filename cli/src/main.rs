//! `dmvpn` (installed as `kubectl-dmvpn` beside kubectl): asks the agent on this machine over its unix socket and prints
//! the answer as Cisco's `show` commands do, or as JSON.

#![forbid(unsafe_code)]

mod agent;
mod args;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use thiserror::Error;

use crate::agent::AgentError;
use crate::args::{Args, Output};

fn main() -> ExitCode {
    let args = Args::parse();
    match answer(&args).and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit status says it all the same.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(args: &Args) -> Result<String, Error> {
    let (show, filter) = args.wish();
    let report = agent::report(&args.socket)?;
    let report = filter.apply(&report)?;
    match args.output {
        Output::Text => Ok(view::render(&report, show)),
        Output::Json => {
            let value = view::json(&report, show)?;
            Ok(serde_json::to_string_pretty(&value)? + "\n")
        }
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `dmvpn show dmvpn | head` closes the pipe early: nothing is wrong.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[derive(Debug, Error)]
enum Error {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Filter(#[from] view::NoSuchTunnel),
    #[error("the report cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the answer: {0}")]
    Write(#[from] io::Error),
}
