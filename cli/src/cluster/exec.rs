//! `dmvpn-agent show -o json` in an agent's pod.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt};
use view::Report;

use super::pods::AgentPod;
use super::{PodError, why};

const COMMAND: [&str; 4] = ["dmvpn-agent", "show", "-o", "json"];
/// Bytes of the largest report that is read.
const LARGEST: u64 = 256 << 20;
/// Bytes that wait in the pipe between connection and reader.
const BUFFER: usize = 1 << 20;

/// Asks one agent.
///
/// # Errors
/// What stands in the way.
pub(super) async fn report(client: Client, agent: &AgentPod) -> Result<Report, PodError> {
    let pod = agent.to_string();
    if let Some(state) = &agent.not_ready {
        return Err(PodError::NotReady { pod, state: state.clone() });
    }
    let params = AttachParams {
        container: agent.container.clone(),
        stdout: true,
        stderr: true,
        max_stdout_buf_size: Some(BUFFER),
        ..AttachParams::default()
    };
    let api = Api::<Pod>::namespaced(client, &agent.namespace);
    let started = api.exec(&agent.name, COMMAND, &params).await;
    let mut process = started.map_err(|error| PodError::Exec { pod: pod.clone(), why: refused(&error) })?;
    let status = process.take_status();
    let (stdout, stderr) = (process.stdout(), process.stderr());
    // Both at once: one that is not read would stop the other.
    let (answer, complaint) = tokio::join!(all(stdout), all(stderr));
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    let failed = |why: String| PodError::Failed { pod: pod.clone(), why };
    match status {
        Some(status) if status.status.as_deref() == Some("Success") => {}
        Some(status) => return Err(failed(said(&status, &complaint))),
        None => {
            let end = process.join().await.err().map(|error| error.to_string());
            return Err(failed(end.unwrap_or_else(|| "the connection ended before the command did".into())));
        }
    }
    serde_json::from_slice(&answer).map_err(|error| PodError::Foreign { pod, what: error.to_string() })
}

async fn all(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // An error of the connection is told by the status, or by there being none.
        let _ = stream.take(LARGEST).read_to_end(&mut bytes).await;
    }
    bytes
}

/// What the agent's program complained of, else what the kubelet says.
fn said(status: &Status, complaint: &[u8]) -> String {
    let complaint = String::from_utf8_lossy(complaint);
    let lines = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
    if lines.is_empty() { status.message.clone().unwrap_or_default() } else { lines }
}

fn refused(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code >= 500 => {
            format!("{}: can the API server reach the kubelet of the node?", why(error))
        }
        _ => why(error),
    }
}
