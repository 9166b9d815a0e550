//! The agent's local API: HTTP/1.1 on a unix socket, read only.
//!
//! `GET /v1/report` answers with [`view::Report`]; `GET /healthz` with `ok` once the agent's task answers, `GET /readyz`
//! once it knows what it has to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

/// A request for the report: the agent's task answers.
pub type ReportRequest = oneshot::Sender<view::Report>;

#[derive(Clone)]
struct Agent {
    to: mpsc::Sender<ReportRequest>,
    ready: watch::Receiver<bool>,
}

/// Listens on `path` (a socket left by an earlier run is replaced; only root may connect).
///
/// # Errors
/// When the directory cannot be made, another agent answers on the socket, or it cannot be bound.
pub fn serve(
    path: &Path,
    to: mpsc::Sender<ReportRequest>,
    ready: watch::Receiver<bool>,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the socket's directory {}", dir.display()))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!(
            "another agent answers on {}: stop it, or give this one another --socket",
            path.display()
        );
    }
    let _ = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let router = Router::new()
        .route("/v1/report", get(report))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .with_state(Agent { to, ready });
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "local API ended");
        }
    }))
}

async fn report(State(agent): State<Agent>) -> Result<Json<view::Report>, StatusCode> {
    ask(&agent.to).await.map(Json)
}

async fn health(State(agent): State<Agent>) -> Result<&'static str, StatusCode> {
    ask(&agent.to).await.map(|_| "ok")
}

async fn readiness(State(agent): State<Agent>) -> Result<&'static str, (StatusCode, &'static str)> {
    match *agent.ready.borrow() {
        true => Ok("ok"),
        false => {
            Err((StatusCode::SERVICE_UNAVAILABLE, "the API server has not told this node's endpoints yet"))
        }
    }
}

async fn ask(to: &mpsc::Sender<ReportRequest>) -> Result<view::Report, StatusCode> {
    let (reply, answer) = oneshot::channel();
    to.send(reply).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}
