//! What the binary's commands do.

use std::sync::Arc;

use anyhow::Context;
use dataplane::Kernel;
use dataplane::model::{Op, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::agent::{Agent, Identity, Inlets, Stop};
use crate::args::{ClusterArgs, RunArgs};
use crate::drivers::api_server::ApiServer;
use crate::plan::pins;
use crate::plan::wanted::ALIAS_PREFIX;
use crate::source::Desired;
use crate::summary::Summary;
use crate::{api, drivers, kubernetes, snapshot, source, status};

/// Log to standard error, filtered by `RUST_LOG` (default `info`).
pub fn init_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(false).init();
    }
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, with the cure.
pub async fn agent(args: &RunArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        !args.node_name.is_empty(),
        "--node-name (or NODE_NAME) is needed: the name that DmvpnSpokes use"
    );
    let (kernel, events) = Kernel::open().await.context("kernel")?;
    let (to_agent, requests) = mpsc::channel(16);
    let (to_status, summary) = watch::channel(Arc::<Summary>::default());
    let source = if args.kubernetes { cluster(args, summary).await? } else { directory(args)? };
    let api = api::serve(&args.socket, to_agent, source.ready)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = source.client;
    let stop = async move {
        let terminated = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => false,
        };
        let ClusterArgs { operator_namespace, daemon_set, .. } = &args.cluster;
        match client {
            Some(client)
                if terminated && kubernetes::being_removed(&client, operator_namespace, daemon_set).await =>
            {
                Stop::Leave
            }
            _ => Stop::Keep,
        }
    };
    let identity = Identity {
        node: args.node_name.clone(),
        snapshots: snapshot::directory(&args.socket),
        vici: args.vici.clone(),
        api_server: source.api_server,
    };
    let from =
        if args.kubernetes { "the API server".to_owned() } else { args.manifests.display().to_string() };
    info!(node = args.node_name, from, socket = %args.socket.display(), "dmvpn-agent {}", env!("CARGO_PKG_VERSION"));
    let inlets = Inlets { desired: source.desired, events, requests };
    let ended = Agent::run(identity, kernel, inlets, to_status, stop).await;
    api.abort();
    let _ = std::fs::remove_file(&args.socket);
    if ended? == Stop::Leave {
        let _ = std::fs::remove_file(snapshot::directory(&args.socket).join(source::kubernetes::LAST_GOOD));
    }
    Ok(())
}

/// Where endpoints come from, and what comes with that.
struct Source {
    desired: watch::Receiver<Arc<Desired>>,
    ready: watch::Receiver<bool>,
    client: Option<kube::Client>,
    api_server: Option<ApiServer>,
}

fn directory(args: &RunArgs) -> anyhow::Result<Source> {
    let desired = source::directory::watch(source::directory::Options {
        dir: args.manifests.clone(),
        node: args.node_name.clone(),
        labels: args.node_labels.iter().cloned().collect(),
        state_dir: args.state_dir.clone(),
    })?;
    // It was read before it is watched.
    let (_, ready) = watch::channel(true);
    Ok(Source { desired, ready, client: None, api_server: None })
}

async fn cluster(args: &RunArgs, summary: watch::Receiver<Arc<Summary>>) -> anyhow::Result<Source> {
    let (client, api_server) = kubernetes::client().await?;
    let keep_in = snapshot::directory(&args.socket);
    std::fs::create_dir_all(&keep_in)
        .with_context(|| format!("cannot make the socket's directory {}", keep_in.display()))?;
    let options = source::kubernetes::Options { node: args.node_name.clone(), keep_in };
    let operator = source::kubernetes::secrets::Operator {
        namespace: args.cluster.operator_namespace.clone(),
        service: args.cluster.operator_service.clone(),
        ca_config_map: args.cluster.ca_config_map.clone(),
        token_file: args.cluster.token_file.clone(),
    };
    let outlets = source::kubernetes::start(&client, options, operator, summary.clone());
    status::writer::start(client.clone(), &args.node_name, outlets.seen, summary);
    let api_server = Some(api_server);
    Ok(Source { desired: outlets.desired, ready: outlets.ready, client: Some(client), api_server })
}

/// Prints the running agent's report.
///
/// # Errors
/// When no agent answers.
pub async fn show(args: &RunArgs) -> anyhow::Result<()> {
    println!("{}", get(args, "/v1/report").await?);
    Ok(())
}

/// Asks the running agent whether it knows what it has to do.
///
/// # Errors
/// When no agent answers, or it does not know yet.
pub async fn ready(args: &RunArgs) -> anyhow::Result<()> {
    get(args, "/readyz").await.map(drop)
}

/// One question to the running agent.
async fn get(args: &RunArgs, what: &str) -> anyhow::Result<String> {
    let path = args.socket.display();
    let mut stream = tokio::net::UnixStream::connect(&args.socket)
        .await
        .with_context(|| format!("no agent answers at {path}: is it running, with this --socket?"))?;
    // HTTP/1.0: the answer ends with the connection, no chunks.
    stream.write_all(format!("GET {what} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the agent's answer has no body")?;
    anyhow::ensure!(
        head.split(' ').nth(1) == Some("200"),
        "the agent answered: {}; {body}",
        head.lines().next().unwrap_or("")
    );
    Ok(body.to_owned())
}

/// Takes away everything of ours in this network namespace.
///
/// # Errors
/// When the kernel refuses something; the rest is still removed.
pub async fn purge(args: &RunArgs) -> anyhow::Result<()> {
    let (kernel, _events) = Kernel::open().await.context("kernel")?;
    let observed = kernel.observe().await.context("kernel state")?;
    let ours: Vec<_> = observed.links.iter().filter(|l| l.alias.starts_with(ALIAS_PREFIX)).collect();
    let mut ops: Vec<_> = ours.iter().map(|l| Op::DeleteLink { index: l.index }).collect();
    let unreachable = observed.routes.iter().filter(|r| r.target == Target::Unreachable);
    let pinned = observed.routes.iter().filter(|r| pins::is_pin(r, &observed));
    ops.extend(unreachable.chain(pinned).cloned().map(Op::DeleteRoute));
    let mut failed = 0;
    for (op, result) in ops.iter().zip(kernel.apply(&ops).await) {
        if let Err(error) = result {
            eprintln!("{op:?}: {error}");
            failed += 1;
        }
    }
    let tables = dataplane::nft::tables().await?;
    for table in &tables {
        dataplane::nft::load(&dataplane::nft::remove_table(table)).await?;
    }
    let dir = snapshot::directory(&args.socket);
    for link in &ours {
        snapshot::remove(&dir, link.alias.trim_start_matches(ALIAS_PREFIX));
    }
    let _ = std::fs::remove_file(dir.join(source::kubernetes::LAST_GOOD));
    // Not asked to be there: without it there is nothing of ours in it.
    if args.vici.exists() {
        drivers::ipsec::purge(&args.vici).await.context("what the IKE daemon holds of ours")?;
    }
    anyhow::ensure!(failed == 0, "{failed} of {} could not be removed", ops.len());
    println!("removed {} links and routes, {} nft tables", ops.len(), tables.len());
    Ok(())
}
