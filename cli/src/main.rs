//! `kubectl-dmvpn`, kubectl's plugin, asks the agents of a cluster; the same program installed as `dmvpn` asks the agent
//! on this machine over its unix socket. Either prints the answer as Cisco's `show` commands do, or as JSON.

#![forbid(unsafe_code)]

mod agent;
mod args;
mod cluster;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value};
use thiserror::Error;
use view::{Filter, Report, Show};

use crate::agent::AgentError;
use crate::args::{Args, Output, Whom};
use crate::cluster::{Answer, Cluster, ClusterError, PodError};

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let (text, errors) = match args.whom() {
        Whom::Socket(socket) => match local(&args, &socket) {
            Ok(text) => (text, Vec::new()),
            Err(error) => (String::new(), vec![error]),
        },
        Whom::Cluster(cluster) => remote(&args, &cluster),
    };
    let printed = print(&text);
    let mut good = true;
    for error in errors.into_iter().chain(printed.err()) {
        good = false;
        // Standard error may be closed; the exit status says it all the same.
        let _ = writeln!(io::stderr(), "error: {error}");
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The agent of this machine.
fn local(args: &Args, socket: &Path) -> Result<String, Error> {
    let (show, filter) = args.wish();
    let report = filter.apply(&agent::report(socket)?)?;
    match args.output {
        Output::Text => Ok(view::render(&report, show)),
        Output::Json => pretty(&view::json(&report, show)?),
    }
}

/// Agents of a cluster: what could be had, and what went wrong with the others.
fn remote(args: &Args, cluster: &Cluster) -> (String, Vec<Error>) {
    let (show, filter) = args.wish();
    match cluster::reports(cluster) {
        Ok(answers) => {
            let (reports, errors) = sift(answers, &filter, !cluster.nodes.is_empty());
            match gather(args.output, &reports, show) {
                Ok(text) => (text, errors),
                Err(error) => (String::new(), errors.into_iter().chain([error]).collect()),
            }
        }
        Err(error) => (String::new(), vec![error.into()]),
    }
}

/// Reports, narrowed. That a node has no such tunnel is an error only where the node was named, or where no node has it.
fn sift(answers: Vec<Answer>, filter: &Filter, named: bool) -> (Vec<(String, Report)>, Vec<Error>) {
    let (mut reports, mut errors, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for Answer { node, report } in answers {
        match report.map(|report| filter.apply(&report)) {
            Ok(Ok(report)) => reports.push((node, report)),
            Ok(Err(none)) => without.push(Error::Filter(none)),
            Err(source) => errors.push(Error::Pod { node, source }),
        }
    }
    if named || reports.is_empty() {
        errors.extend(without);
    }
    (reports, errors)
}

/// Text: each node under a line that names it. JSON: an object by node, with what the local program would print.
fn gather(output: Output, reports: &[(String, Report)], show: Show) -> Result<String, Error> {
    match output {
        Output::Text => {
            let parts = reports.iter().map(|(node, r)| format!("Node: {node}\n{}", view::render(r, show)));
            Ok(parts.collect::<Vec<_>>().join("\n"))
        }
        Output::Json if reports.is_empty() => Ok(String::new()),
        Output::Json => {
            let parts = reports.iter().map(|(node, r)| Ok((node.clone(), view::json(r, show)?)));
            let parts: Map<String, Value> = parts.collect::<Result<_, serde_json::Error>>()?;
            pretty(&Value::Object(parts))
        }
    }
}

fn pretty(value: &Value) -> Result<String, Error> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
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
    Cluster(#[from] ClusterError),
    #[error("node {node}: {source}")]
    Pod { node: String, source: PodError },
    #[error(transparent)]
    Filter(#[from] view::NoSuchTunnel),
    #[error("the report cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the answer: {0}")]
    Write(#[from] io::Error),
}
