//! Agents without kernels: the API side of the agent (its `source` and its `status`), one client and one token of a pod
//! each, and in the place of the data plane somebody who says that every tunnel is up.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client, Config};
use node_agent::ladder::Rung;
use node_agent::source::kubernetes::{self as source, Options, secrets::Operator};
use node_agent::source::{Desired, DesiredEndpoint};
use node_agent::status::writer;
use node_agent::summary::{Summary, TunnelSummary};
use tokio::sync::watch;

use super::population::{self, AT_ONCE};
use crate::cluster::product::NAMESPACE;

const ACCOUNT: &str = "dmvpn-agent";
/// Longer than any run.
const TOKEN_SECONDS: i64 = 3 * 3600;

/// Agents that run.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    desired: Vec<watch::Receiver<Arc<Desired>>>,
}

impl Crowd {
    /// Adds the agents of some nodes; `config` says where the API server is, `dir` holds what agents keep.
    pub(super) async fn join(
        &mut self,
        admin: &Client,
        config: &Config,
        dir: &Path,
        nodes: std::ops::Range<u32>,
    ) -> Result<()> {
        let started: Vec<Result<watch::Receiver<Arc<Desired>>>> = futures::stream::iter(nodes)
            .map(|node| agent(admin, config, dir, node))
            .buffered(AT_ONCE)
            .collect()
            .await;
        for agent in started {
            self.desired.push(agent?);
        }
        Ok(())
    }

    /// How many agents have `password` in force for every endpoint that they have.
    pub(super) fn using(&self, password: &str) -> usize {
        let uses = |endpoint: &DesiredEndpoint| {
            endpoint.passwords.first().is_some_and(|it| it.as_slice() == password.as_bytes())
        };
        let all = |desired: &Desired| !desired.endpoints.is_empty() && desired.endpoints.iter().all(uses);
        self.desired.iter().filter(|desired| all(&desired.borrow())).count()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.desired.len()
    }
}

/// Starts one agent.
async fn agent(
    admin: &Client,
    config: &Config,
    dir: &Path,
    number: u32,
) -> Result<watch::Receiver<Arc<Desired>>> {
    let (node, pod) = (population::node(number), population::pod(number));
    let keep_in = dir.join(&node);
    fs::create_dir_all(&keep_in).with_context(|| keep_in.display().to_string())?;
    let token_file = keep_in.join("token");
    fs::write(&token_file, token(admin, &pod, Some(crds::secrets::AUDIENCE)).await?)?;
    let mut config = config.clone();
    config.auth_info = kube::config::AuthInfo {
        token: Some(token(admin, &pod, None).await?.into()),
        ..kube::config::AuthInfo::default()
    };
    let client = Client::try_from(config).context("client of an agent")?;
    Ok(start(client, node, keep_in, token_file))
}

fn start(
    client: Client,
    node: String,
    keep_in: PathBuf,
    token_file: PathBuf,
) -> watch::Receiver<Arc<Desired>> {
    let (to_status, summary) = watch::channel(Arc::<Summary>::default());
    let operator = Operator {
        namespace: NAMESPACE.to_owned(),
        service: "dmvpn-operator".to_owned(),
        ca_config_map: "dmvpn-operator-ca".to_owned(),
        token_file,
    };
    let options = Options { node: node.clone(), keep_in };
    let outlets = source::start(&client, options, operator, summary.clone());
    writer::start(client, &node, outlets.seen, summary);
    let mut desired = outlets.desired;
    let shown = desired.clone();
    tokio::spawn(async move {
        loop {
            let now = desired.borrow_and_update().clone();
            to_status.send_replace(Arc::new(done(now)));
            if desired.changed().await.is_err() {
                return;
            }
        }
    });
    shown
}

/// What an agent says whose kernel does everything at once.
fn done(desired: Arc<Desired>) -> Summary {
    let tunnels: BTreeMap<String, TunnelSummary> =
        desired.endpoints.iter().map(|it| (it.spec.network.clone(), up(it))).collect();
    let gone = desired.removals.iter().map(|it| it.spec.network.clone());
    let gone = gone.filter(|network| !tunnels.contains_key(network)).collect();
    Summary { gone, tunnels, desired, ..Summary::default() }
}

fn up(endpoint: &DesiredEndpoint) -> TunnelSummary {
    let spec = &endpoint.spec;
    TunnelSummary {
        rung: Rung::up(),
        interface: None,
        unknown: None,
        hindrance: None,
        path_mtu: None,
        mtu: Some(spec.tunnel.mtu.into()),
        remark: String::new(),
        leaving: false,
        addresses: spec.addresses.iter().map(|it| it.address).collect(),
        nbma: spec.tunnel.source.address.as_deref().and_then(|it| it.parse().ok()),
        peers: spec.nhs.len(),
        external: Vec::new(),
        prefixes: Vec::new(),
    }
}

/// A token as the kubelet would give it to the agent's pod.
async fn token(admin: &Client, pod: &str, audience: Option<&str>) -> Result<String> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.map(str::to_owned).into_iter().collect(),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.to_owned()),
                uid: None,
            }),
            expiration_seconds: Some(TOKEN_SECONDS),
        },
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(admin.clone(), NAMESPACE);
    let made = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await;
    let made = made.with_context(|| format!("token of {pod}"))?;
    made.status.map(|it| it.token).context("a token")
}
