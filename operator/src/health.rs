//! `/healthz` and `/readyz`: whether watches and passes get on, and whether the first lists are complete. Who leads is no
//! matter of either.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::progress::Progress;

/// Starts the server.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(listen: SocketAddr, progress: Arc<Progress>) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: use another --health-listen"))?;
    let (alive, synced) = (progress.clone(), progress);
    let app = Router::new()
        .route("/healthz", get(|| async move { answer(alive.alive(Instant::now())) }))
        .route("/readyz", get(|| async move { answer(synced.synced()) }));
    Ok(tokio::spawn(async move {
        // Ends with the process.
        let _ = axum::serve(listener, app).await;
    }))
}

fn answer(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")),
    }
}
