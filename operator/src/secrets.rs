//! The secrets endpoint: `GET /v1/secrets` over TLS. An agent shows its projected token; the API server says whose it is
//! and which node it is bound to (TokenReview), and the answer holds the Secrets of networks with an endpoint on that node,
//! nothing else. So agents need no right to read Secrets. Served by every replica.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use crds::endpoint::Desired;
use crds::secrets::{AUDIENCE, NetworkSecrets, NodeSecrets, PATH};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::args::RunArgs;
use crate::credentials;
use crate::pass::{Snapshot, name};
use crate::progress::Progress;
use crate::watch::Stores;

/// Key of a token's claim that names the node.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Connections at a time.
const CONNECTIONS: usize = 256;
/// How long a connection lasts, TLS and all.
const CONNECTION: Duration = Duration::from_secs(15);

#[derive(Clone)]
struct Server {
    client: Client,
    stores: Stores,
    progress: Arc<Progress>,
    namespace: String,
    /// User name of the agents' ServiceAccount.
    agents: String,
}

/// Starts the server. It answers once it is given a certificate.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(
    client: Client,
    args: &RunArgs,
    stores: Stores,
    progress: Arc<Progress>,
) -> anyhow::Result<watch::Sender<Option<Arc<ServerConfig>>>> {
    let listen = args.secrets_listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: use another --secrets-listen"))?;
    let (sender, config) = watch::channel(None);
    let namespace = args.namespace.clone();
    let agents = format!("system:serviceaccount:{namespace}:{}", args.agent_service_account);
    let server = Server { client, stores, progress, namespace, agents };
    let app = Router::new().route(PATH, get(answer)).with_state(server);
    tokio::spawn(accept(listener, config, app));
    Ok(sender)
}

async fn accept(listener: TcpListener, config: watch::Receiver<Option<Arc<ServerConfig>>>, app: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "no connection can be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        // Without a certificate the connection is closed: the agent tries again.
        let Some(config) = config.borrow().clone() else { continue };
        let app = app.clone();
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(CONNECTION, connection(stream, config, app)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%peer, error = format!("{error:#}"), "connection ended"),
                Err(_) => debug!(%peer, "connection took too long"),
            }
        });
    }
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, app: Router) -> anyhow::Result<()> {
    let stream = TlsAcceptor::from(config).accept(stream).await.context("TLS")?;
    hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new())
        .http1_only()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// Why an agent gets nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

async fn answer(State(server): State<Server>, headers: HeaderMap) -> Result<Response, Refusal> {
    let unavailable = |why: String| Refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    let token = bearer(&headers)?;
    server.progress.synced().map_err(unavailable)?;
    let review = TokenReview {
        spec: TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: Some(token) },
        ..TokenReview::default()
    };
    let reviews = Api::<TokenReview>::all(server.client.clone());
    let reviewed =
        tokio::time::timeout(Duration::from_secs(5), reviews.create(&PostParams::default(), &review)).await;
    let status = match reviewed {
        Ok(Ok(review)) => review.status.unwrap_or_default(),
        Ok(Err(error)) => {
            warn!(%error, "a token cannot be reviewed");
            return Err(unavailable("the token cannot be reviewed: the API server refuses".to_owned()));
        }
        Err(_) => {
            return Err(unavailable(
                "the token cannot be reviewed: the API server does not answer".to_owned(),
            ));
        }
    };
    let node = node_of(&status, &server.agents).inspect_err(|refusal| {
        info!(status = refusal.0.as_u16(), why = refusal.1, "refused Secrets");
    })?;
    let secrets = secrets_of(&server.stores.of_node(&server.namespace, &node), &node);
    debug!(node, networks = secrets.networks.len(), "handed out Secrets");
    Ok(([(CACHE_CONTROL, "no-store")], Json(secrets)).into_response())
}

fn bearer(headers: &HeaderMap) -> Result<String, Refusal> {
    let text = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(token.trim().to_owned())
        }
        _ => Err(Refusal(StatusCode::UNAUTHORIZED, "show a token: Authorization: Bearer TOKEN".to_owned())),
    }
}

/// The node that a reviewed token is bound to.
fn node_of(status: &TokenReviewStatus, agents: &str) -> Result<String, Refusal> {
    let ours = status.audiences.iter().flatten().any(|a| a == AUDIENCE);
    if status.authenticated != Some(true) || !ours {
        let why = status.error.as_deref().unwrap_or("it is not valid");
        return Err(Refusal(StatusCode::UNAUTHORIZED, format!("the token is not for {AUDIENCE}: {why}")));
    }
    let user = status.user.clone().unwrap_or_default();
    let username = user.username.unwrap_or_default();
    if username != agents {
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            format!("{username} gets no Secrets: only {agents} does"),
        ));
    }
    match user.extra.unwrap_or_default().get(NODE_NAME).map(Vec::as_slice) {
        Some([node]) if !node.is_empty() => Ok(node.clone()),
        _ => Err(Refusal(
            StatusCode::FORBIDDEN,
            "the token names no node: use one that is bound to a pod".to_owned(),
        )),
    }
}

/// The Secrets of networks that have an endpoint on a node.
fn secrets_of(snapshot: &Snapshot, node: &str) -> NodeSecrets {
    let mut answer = NodeSecrets::default();
    let here: BTreeSet<&str> = snapshot
        .endpoints
        .iter()
        .filter(|e| e.spec.node_name == node && e.spec.desired == Desired::Present)
        .map(|e| e.spec.network.as_str())
        .collect();
    let secrets: BTreeMap<&str, &Secret> = snapshot.secrets.iter().map(|s| (name(s), s)).collect();
    for network in snapshot.networks.iter().filter(|n| here.contains(name(*n))) {
        let found = credentials::resolve(name(network), &network.spec, &snapshot.namespace, &secrets);
        if let Some(revision) = found.revision {
            let secrets =
                NetworkSecrets { revision, nhrp_passwords: found.passwords, ipsec_keys: found.keys };
            answer.networks.insert(name(network).to_owned(), secrets);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;

    const AGENTS: &str = "system:serviceaccount:dmvpn-system:dmvpn-agent";

    fn review(user: &str, audience: &str, nodes: Option<&[&str]>) -> TokenReviewStatus {
        let extra =
            nodes.map(|n| BTreeMap::from([(NODE_NAME.to_owned(), n.iter().map(|n| (*n).into()).collect())]));
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.to_owned()]),
            user: Some(UserInfo { username: Some(user.to_owned()), extra, ..UserInfo::default() }),
            error: None,
        }
    }

    #[test]
    fn only_an_agent_on_a_node_gets_through() {
        let asked = |status: &TokenReviewStatus| node_of(status, AGENTS).map_err(|r| r.0.as_u16());
        assert_eq!(asked(&review(AGENTS, AUDIENCE, Some(&["west-1"]))), Ok("west-1".to_owned()));
        let invalid =
            TokenReviewStatus { authenticated: None, ..review(AGENTS, AUDIENCE, Some(&["west-1"])) };
        for (status, code) in [
            (invalid, 401),
            (review(AGENTS, "https://kubernetes.default.svc", Some(&["west-1"])), 401),
            (review("system:serviceaccount:other:dmvpn-agent", AUDIENCE, Some(&["west-1"])), 403),
            (review("system:admin", AUDIENCE, Some(&["west-1"])), 403),
            (review(AGENTS, AUDIENCE, None), 403),
            (review(AGENTS, AUDIENCE, Some(&[])), 403),
            (review(AGENTS, AUDIENCE, Some(&["a", "b"])), 403),
            (review(AGENTS, AUDIENCE, Some(&[""])), 403),
        ] {
            assert_eq!(asked(&status), Err(code), "{status:?}");
        }
    }

    #[test]
    fn a_token_is_asked_for() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map_err(|r| r.0.as_u16())
        };
        assert_eq!(with("Bearer abc"), Ok("abc".to_owned()));
        assert_eq!(with("bearer abc "), Ok("abc".to_owned()));
        assert_eq!(with("Bearer "), Err(401));
        assert_eq!(with("Basic abc"), Err(401));
        assert_eq!(bearer(&HeaderMap::new()).map_err(|r| r.0.as_u16()), Err(401));
    }
}
