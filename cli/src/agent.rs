//! The agent's socket: one HTTP/1.1 request over a unix socket, with a deadline.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use view::Report;

/// Asks the agent for its report.
///
/// # Errors
/// [`AgentError`] says in one line what is wrong and what cures it.
pub(crate) fn report(socket: &Path) -> Result<Report, AgentError> {
    let fails = |source| AgentError::Io { path: socket.into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fails)?;
    let answer = runtime.block_on(async { tokio::time::timeout(DEADLINE, fetch(socket)).await });
    let body = answer.map_err(|_| AgentError::Slow(socket.into()))??;
    serde_json::from_slice(&body)
        .map_err(|error| AgentError::Foreign { path: socket.into(), what: error.to_string() })
}

async fn fetch(socket: &Path) -> Result<Bytes, AgentError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| AgentError::connect(socket, error))?;
    let foreign = |what: String| AgentError::Foreign { path: socket.into(), what };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| foreign(error.to_string()))?;
    // The task ends with the runtime; an error of the connection reaches the request.
    tokio::spawn(connection);

    let request = Request::get("/v1/report")
        .header(header::HOST, "agent")
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| foreign(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| foreign(error.to_string()))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::SERVICE_UNAVAILABLE => return Err(AgentError::Busy(socket.into())),
        status => return Err(foreign(format!("status {status}"))),
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    Ok(body.map_err(|error| foreign(error.to_string()))?.to_bytes())
}

/// Why there is no report.
#[derive(Debug, Error)]
pub(crate) enum AgentError {
    #[error("the agent at {} is not ready: it is starting or stopping, ask again in a moment", .0.display())]
    Busy(PathBuf),
    #[error("may not open {}: run this as root or as a user who may read and write the socket", .0.display())]
    Denied(PathBuf),
    #[error("{} does not answer as dmvpn-agent does ({what}): is the path right, and are both of one version?", .path.display())]
    Foreign { path: PathBuf, what: String },
    #[error("cannot talk to the agent at {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("no agent answers at {}: is dmvpn-agent running? name its socket with --socket PATH or DMVPN_SOCKET", .0.display())]
    Missing(PathBuf),
    #[error("the agent at {} did not answer within {} s: it hangs or is overloaded, see its log", .0.display(), DEADLINE.as_secs())]
    Slow(PathBuf),
}

impl AgentError {
    fn connect(socket: &Path, source: io::Error) -> Self {
        let path = socket.into();
        match source.kind() {
            // A socket file whose agent is gone refuses; the cure is the same.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::Missing(path),
            io::ErrorKind::PermissionDenied => Self::Denied(path),
            _ => Self::Io { path, source },
        }
    }
}

/// From connecting to the last byte.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of the largest answer that is read: an agent with 100 000 cache entries stays below.
const LARGEST: usize = 256 << 20;
