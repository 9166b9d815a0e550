//! What the binary's commands do.

use anyhow::Context;
use dataplane::Kernel;
use dataplane::model::{Op, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

use crate::agent::{Agent, Identity, Inlets};
use crate::args::RunArgs;
use crate::plan::wanted::ALIAS_PREFIX;
use crate::{api, snapshot, source};

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
    let api = api::serve(&args.socket, to_agent)?;
    let desired = source::directory::watch(source::directory::Options {
        dir: args.manifests.clone(),
        node: args.node_name.clone(),
        labels: args.node_labels.iter().cloned().collect(),
        state_dir: args.state_dir.clone(),
    })?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let identity = Identity { node: args.node_name.clone(), snapshots: snapshot::directory(&args.socket) };
    info!(node = args.node_name, manifests = %args.manifests.display(), socket = %args.socket.display(), "dmvpn-agent {}", env!("CARGO_PKG_VERSION"));
    let ended = Agent::run(identity, kernel, Inlets { desired, events, requests }, stop).await;
    api.abort();
    let _ = std::fs::remove_file(&args.socket);
    ended
}

/// Prints the running agent's report.
///
/// # Errors
/// When no agent answers.
pub async fn show(args: &RunArgs) -> anyhow::Result<()> {
    let path = args.socket.display();
    let mut stream = tokio::net::UnixStream::connect(&args.socket)
        .await
        .with_context(|| format!("no agent answers at {path}: is it running, with this --socket?"))?;
    // HTTP/1.0: the answer ends with the connection, no chunks.
    stream.write_all(b"GET /v1/report HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the agent's answer has no body")?;
    anyhow::ensure!(
        head.split(' ').nth(1) == Some("200"),
        "the agent answered: {}",
        head.lines().next().unwrap_or("")
    );
    println!("{body}");
    Ok(())
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
    ops.extend(unreachable.cloned().map(Op::DeleteRoute));
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
    anyhow::ensure!(failed == 0, "{failed} of {} could not be removed", ops.len());
    println!("removed {} links and routes, {} nft tables", ops.len(), tables.len());
    Ok(())
}
