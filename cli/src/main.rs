//! `kubectl-dmvpn`, kubectl's plugin, asks the agents of a cluster; the same program installed as `dmvpn` asks the agent
//! on this machine over its unix socket. Either prints the answer as Cisco's `show` commands do, or as JSON.

#![forbid(unsafe_code)]

mod agent;
mod args;
mod cluster;
mod join;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use thiserror::Error;
use view::{Filter, Report, Show};

use crate::agent::AgentError;
use crate::args::{Args, Asked, Output, Whom};
use crate::cluster::{Answer, Cluster, ClusterError, PodError};
use crate::join::{JoinError, Wish};

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let alone = |outcome: Result<String, Error>| match outcome {
        Ok(text) => (text, Vec::new()),
        Err(error) => (String::new(), vec![error]),
    };
    let (text, errors) = match (args.wish(), args.whom()) {
        (Asked::Table(show, filter), Whom::Socket(socket)) => {
            alone(local(args.output, show, &filter, &socket))
        }
        (Asked::Table(show, filter), Whom::Cluster(cluster)) => remote(args.output, show, &filter, &cluster),
        (Asked::Join(wish), Whom::Cluster(cluster)) => alone(joined(args.output, &cluster, &wish)),
        (Asked::Join(_), Whom::Socket(_)) => alone(Err(Error::JoinsByCluster)),
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
fn local(output: Output, show: Show, filter: &Filter, socket: &Path) -> Result<String, Error> {
    let report = filter.apply(&agent::report(socket)?)?;
    match output {
        Output::Text => Ok(view::render(&report, show)),
        Output::Json => pretty(&view::json(&report, show)?),
    }
}

/// Agents of a cluster: what could be had, and what went wrong with the others.
fn remote(output: Output, show: Show, filter: &Filter, cluster: &Cluster) -> (String, Vec<Error>) {
    match cluster::reports(cluster) {
        Ok(answers) => {
            let (reports, errors) = sift(answers, filter, !cluster.nodes.is_empty());
            match gather(output, &reports, show) {
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

/// The file for another member; what else is to be known goes to standard error.
fn joined(output: Output, cluster: &Cluster, wish: &Wish) -> Result<String, Error> {
    let joined = join::join(cluster, wish)?;
    for remark in &joined.remarks {
        let _ = writeln!(io::stderr(), "note: {remark}");
    }
    if output == Output::Json {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": joined.documents});
        return pretty(&list);
    }
    let mut text = joined.heading;
    for document in &joined.documents {
        let yaml = serde_saphyr::to_string(document).map_err(|error| Error::Yaml(error.to_string()))?;
        text = format!("{text}---\n{yaml}");
    }
    Ok(text)
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
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("join asks a cluster: leave --socket (or DMVPN_SOCKET) out")]
    JoinsByCluster,
    #[error("node {node}: {source}")]
    Pod { node: String, source: PodError },
    #[error(transparent)]
    Filter(#[from] view::NoSuchTunnel),
    #[error("the report cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the file cannot be written as YAML: {0}")]
    Yaml(String),
    #[error("cannot write the answer: {0}")]
    Write(#[from] io::Error),
}
