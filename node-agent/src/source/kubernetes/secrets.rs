//! The client of the operator's secrets endpoint. The agent may not read Secrets; the operator gives it those of the
//! networks that have an endpoint on this node, and knows the node by the agent's token.
//!
//! The operator's pods are reached directly (no kube-proxy is needed), found by the Service's EndpointSlices. Its
//! certificate is checked against the CA that it publishes in a ConfigMap, which only the API server could change.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use crds::secrets::{NodeSecrets, PATH};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tracing::{debug, info};

use crate::backoff::Backoff;

/// Networks whose Secrets are wanted, with the revision.
pub type Wanted = BTreeMap<String, String>;
/// What the operator has answered, or why it has not.
pub type Answer = Result<NodeSecrets, String>;

/// Name of the Service's port.
const PORT: &str = "secrets";
/// Key of the CA in its ConfigMap.
const CA_KEY: &str = "ca.crt";
/// One question to the API server or to one of the operator's pods.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of the largest answer that is read.
const LARGEST: usize = 4 << 20;

/// Where the operator is and how it is known.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Its namespace.
    pub namespace: String,
    /// Its Service.
    pub service: String,
    /// ConfigMap with its CA.
    pub ca_config_map: String,
    /// The agent's token for it.
    pub token_file: PathBuf,
}

/// Fetches whenever something is wanted, again and again until it is there.
pub(super) fn start(
    client: Client,
    operator: Operator,
    mut wanted: watch::Receiver<Wanted>,
) -> mpsc::Receiver<Answer> {
    let (to_source, answers) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        loop {
            while wanted.borrow_and_update().is_empty() {
                backoff.reset();
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            let answer = fetch(&client, &operator).await;
            match &answer {
                Ok(secrets) => info!(networks = ?secrets.networks.keys(), "Secrets from the operator"),
                Err(error) => debug!("Secrets: {error:#}"),
            }
            if to_source.send(answer.map_err(|error| format!("{error:#}"))).await.is_err() {
                return;
            }
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = backoff.wait() => {}
            }
        }
    });
    answers
}

/// Asks once.
///
/// # Errors
/// What stands in the way, in one line.
pub async fn fetch(client: &Client, operator: &Operator) -> anyhow::Result<NodeSecrets> {
    let Operator { namespace, service, .. } = operator;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = in_time(slices.list(&params))
        .await
        .with_context(|| format!("EndpointSlices of Service {namespace}/{service}"))?;
    let addresses = addresses(&slices.items);
    if addresses.is_empty() {
        bail!(
            "Service {namespace}/{service} has no ready pod with a port named {PORT}: is the operator running?"
        );
    }
    let name = &operator.ca_config_map;
    let map = in_time(Api::<ConfigMap>::namespaced(client.clone(), namespace).get(name))
        .await
        .with_context(|| format!("ConfigMap {namespace}/{name}"))?;
    let ca = map.data.unwrap_or_default().remove(CA_KEY).with_context(|| {
        format!("ConfigMap {namespace}/{name} has no key {CA_KEY} yet: the operator's leader writes it")
    })?;
    let tls = tls(&ca).with_context(|| format!("ConfigMap {namespace}/{name}, key {CA_KEY}"))?;
    let server = ServerName::try_from(format!("{service}.{namespace}.svc")).context("name of the Service")?;
    // Read each time: the kubelet renews it.
    let token = std::fs::read_to_string(&operator.token_file)
        .with_context(|| format!("--token-file {}", operator.token_file.display()))?;
    ask_one_of(&addresses, &tls, &server, token.trim()).await
}

/// Asks one address after the other until one answers.
async fn ask_one_of(
    addresses: &[SocketAddr],
    tls: &TlsConnector,
    server: &ServerName<'static>,
    token: &str,
) -> anyhow::Result<NodeSecrets> {
    let mut last = anyhow::anyhow!("not asked");
    for address in addresses {
        match in_time(ask(*address, tls, server.clone(), token)).await {
            Ok(secrets) => return Ok(secrets),
            Err(error) => last = error.context(format!("operator at {address}")),
        }
    }
    Err(last)
}

async fn in_time<T, E>(asked: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let answer = tokio::time::timeout(DEADLINE, asked).await;
    Ok(answer.with_context(|| format!("no answer within {} s", DEADLINE.as_secs()))??)
}

/// Addresses of the ready pods. Which is asked first differs from time to time, so that one that is ill is not asked by
/// everybody.
fn addresses(slices: &[EndpointSlice]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let port = ports.filter(|p| p.name.as_deref() == Some(PORT)).find_map(|p| p.port);
        let Some(port) = port.and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let addresses = endpoint.addresses.iter().filter(|_| ready);
            found
                .extend(addresses.filter_map(|a| a.parse::<IpAddr>().ok()).map(|a| SocketAddr::new(a, port)));
        }
    }
    found.sort_unstable();
    found.dedup();
    let first = usize::try_from(crate::clock::now().0).unwrap_or(0) % found.len().max(1);
    found.rotate_left(first);
    found
}

fn tls(ca: &str) -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.context("is no PEM")?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "holds no certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn ask(
    address: SocketAddr,
    tls: &TlsConnector,
    server: ServerName<'static>,
    token: &str,
) -> anyhow::Result<NodeSecrets> {
    let host = server.to_str().into_owned();
    let stream = TcpStream::connect(address).await.context("no connection")?;
    let stream = tls.connect(server, stream).await.context("TLS")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped; an error of the connection reaches the request.
    tokio::spawn(connection);
    let mut bearer = header::HeaderValue::from_str(&format!("Bearer {token}"))
        .context("the token holds characters that no token has")?;
    bearer.set_sensitive(true);
    let request = Request::get(PATH)
        .header(header::HOST, host)
        .header(header::AUTHORIZATION, bearer)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?.to_bytes();
    if !status.is_success() {
        let text: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
        bail!("answered {status}: {text}");
    }
    // The error of a JSON parser may quote what it parsed: not into a log.
    serde_json::from_slice(&body).map_err(|error| {
        anyhow::anyhow!("the answer cannot be decoded (line {}, {:?})", error.line(), error.classify())
    })
}

#[cfg(test)]
mod tests;
