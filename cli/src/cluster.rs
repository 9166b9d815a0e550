//! Agents of a cluster: found by the labels of their pods and asked by running `dmvpn-agent show` in them, so that nothing
//! of ours listens on the network and Kubernetes decides who may ask.

mod exec;
mod pods;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use thiserror::Error;
use tokio::sync::Semaphore;
use view::Report;

use self::pods::{AgentPod, choose};

/// Labels of the agents' pods.
const LABELS: &str = "app.kubernetes.io/name=dmvpn,app.kubernetes.io/component=agent";
/// Connecting to the API server.
const CONNECT: Duration = Duration::from_secs(5);
/// Listing pods, and asking one agent.
const DEADLINE: Duration = Duration::from_secs(20);
/// Agents that are asked at the same time.
const AT_ONCE: usize = 16;

/// Which agents are meant, and how the cluster is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) context: Option<String>,
}

/// What one node answered.
pub(crate) struct Answer {
    pub(crate) node: String,
    pub(crate) report: Result<Report, PodError>,
}

/// Asks the agents that are meant, in the order of their nodes.
///
/// # Errors
/// When no agent can be asked at all.
pub(crate) fn reports(cluster: &Cluster) -> Result<Vec<Answer>, ClusterError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClusterError::Runtime)?;
    runtime.block_on(ask(cluster))
}

async fn ask(cluster: &Cluster) -> Result<Vec<Answer>, ClusterError> {
    let client = client(cluster).await?;
    let api: Api<Pod> = match &cluster.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let params = ListParams::default().labels(LABELS);
    let listed = tokio::time::timeout(DEADLINE, api.list(&params)).await;
    let listed = listed.map_err(|_| ClusterError::Slow)?.map_err(|error| ClusterError::List(why(&error)))?;
    let agents = choose(listed.items);
    let agents = wanted(agents, cluster)?;

    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let tasks: Vec<_> = agents
        .into_iter()
        .map(|agent| {
            let (client, permits) = (client.clone(), Arc::clone(&permits));
            tokio::spawn(async move {
                let _permit = permits.acquire_owned().await;
                let report = match tokio::time::timeout(DEADLINE, exec::report(client, &agent)).await {
                    Ok(report) => report,
                    Err(_) => Err(PodError::Slow { pod: agent.to_string() }),
                };
                Answer { node: agent.node, report }
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.map_err(|error| ClusterError::Runtime(error.into()))?);
    }
    Ok(answers)
}

/// A client for that cluster.
pub(crate) async fn client(cluster: &Cluster) -> Result<Client, ClusterError> {
    let options = KubeConfigOptions { context: cluster.context.clone(), ..KubeConfigOptions::default() };
    let config = match (&cluster.kubeconfig, &cluster.context) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path).map_err(|e| ClusterError::Config(chain(&e)))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(|e| ClusterError::Config(chain(&e)))
        }
        (None, Some(_)) => {
            Config::from_kubeconfig(&options).await.map_err(|e| ClusterError::Config(chain(&e)))
        }
        (None, None) => Config::infer().await.map_err(|e| ClusterError::Config(chain(&e))),
    };
    let mut config = config?;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| ClusterError::Config(why(&error)))
}

/// Those on the nodes that were named, or all.
fn wanted(agents: Vec<AgentPod>, cluster: &Cluster) -> Result<Vec<AgentPod>, ClusterError> {
    if agents.is_empty() {
        let place = match &cluster.namespace {
            Some(namespace) => format!("in namespace {namespace}"),
            None => "in any namespace".to_owned(),
        };
        return Err(ClusterError::NoAgents { place });
    }
    if cluster.nodes.is_empty() {
        return Ok(agents);
    }
    let has = |node: &&String| agents.iter().any(|a| a.node == **node);
    let missing: Vec<_> = cluster.nodes.iter().filter(|n| !has(n)).cloned().collect();
    if !missing.is_empty() {
        let present = agents.into_iter().map(|a| a.node).collect::<Vec<_>>().join(", ");
        return Err(ClusterError::NoSuchNode { missing: missing.join(", "), present });
    }
    Ok(agents.into_iter().filter(|a| cluster.nodes.contains(&a.node)).collect())
}

/// Why nobody could be asked.
#[derive(Debug, Error)]
pub(crate) enum ClusterError {
    #[error("cannot use the kubeconfig: {0}")]
    Config(String),
    #[error("cannot list the agents' pods: {0}")]
    List(String),
    #[error(
        "there is no agent pod ({LABELS}) {place}: is the chart installed, and is this the right --context and --namespace?"
    )]
    NoAgents { place: String },
    #[error("there is no agent pod on node {missing}; there are on {present}")]
    NoSuchNode { missing: String, present: String },
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Slow,
}

/// Why one agent gave no report.
#[derive(Debug, Error)]
pub(crate) enum PodError {
    #[error("pod {pod} is not ready ({state}): see `kubectl describe pod`")]
    NotReady { pod: String, state: String },
    #[error("cannot run a command in pod {pod}: {why}")]
    Exec { pod: String, why: String },
    #[error("`dmvpn-agent show` failed in pod {pod}: {why}")]
    Failed { pod: String, why: String },
    #[error(
        "pod {pod} does not answer as dmvpn-agent does ({what}): are agent and this program of one version?"
    )]
    Foreign { pod: String, what: String },
    #[error("pod {pod} did not answer within {} s: see its log", DEADLINE.as_secs())]
    Slow { pod: String },
}

/// What the API server says, without the form that it is wrapped in.
pub(crate) fn why(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => match status.message.as_str() {
            "" => format!("status {}", status.code),
            message => message.to_owned(),
        },
        other => chain(other),
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}
