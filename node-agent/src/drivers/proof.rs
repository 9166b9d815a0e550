//! Whether the hubs take what this node shows of itself now: SAs that are there outlast a change of keys or certificates, and
//! say nothing of it. So a hub is met once more, by an IKE_SA without a child (RFC 6023) beside the one that is in use,
//! which is ended again at once. Nothing of what is in use is touched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nhrp::Time;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;
use vici::{Client, Message, Notice};

use crate::plan::ipsec::Loaded;
use crate::plan::sas::IkeTrouble;

/// How long a hub has to answer, in milliseconds.
const ANSWER_MS: u64 = 2_500;
/// A refusal is tried again after this: the other end may be about to change too.
const AGAIN: Duration = Duration::from_millis(1_000);
/// So long after a failure its reason may still come.
const LOG: Duration = Duration::from_millis(500);
/// For so long in all.
const LIMIT: Duration = Duration::from_secs(12);
/// What the name of such a connection ends with.
const SUFFIX: &str = "/proof";

/// What came of a try.
#[derive(Clone, Debug)]
pub struct Proved {
    /// Name of the network.
    pub network: String,
    /// What it was started for.
    pub asked: Time,
    /// Why all hubs refuse, and the daemon's words; `None`: one takes it, or nothing is known against it.
    pub refused: Option<(IkeTrouble, String)>,
}

/// Starts trying with the hubs among what the daemon at `socket` was told (`loaded`), until one of them takes it.
pub fn start(socket: PathBuf, (network, asked): (String, Time), loaded: Loaded, to: mpsc::Sender<Proved>) {
    tokio::spawn(async move {
        let tell = |refused| {
            let proved = Proved { network: network.clone(), asked, refused };
            let to = to.clone();
            async move { to.send(proved).await.is_ok() }
        };
        tries(&socket, &loaded, tell).await;
    });
}

async fn tries<F: Future<Output = bool>>(
    socket: &Path,
    loaded: &Loaded,
    tell: impl Fn(Option<(IkeTrouble, String)>) -> F,
) {
    let (client, mut notices) = vici::start(socket, &["log"], vici::Options::default());
    let end = Instant::now() + LIMIT;
    let connected = async { while !matches!(notices.recv().await, Some(Notice::Connected) | None) {} };
    if tokio::time::timeout_at(end, connected).await.is_err() {
        return;
    }
    while Instant::now() < end {
        let mut refused = None;
        let mut taken = false;
        for (name, connection) in loaded.connections.iter().filter(|(name, _)| name.contains('/')) {
            let Some(connection) = connection else { continue };
            let name = format!("{name}{SUFFIX}");
            let one = one(&client, &mut notices, &name, connection.childless(&name)).await;
            debug!(name, ?one, "met once more");
            match one {
                None => taken = true,
                trouble => refused = refused.or(trouble),
            }
        }
        let again = refused.is_some() && !taken;
        if !tell(refused.filter(|_| !taken)).await || !again {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Meets one hub; why it refuses, if it does. One that says nothing is no refusal: NHRP will say so.
async fn one(
    client: &Client,
    notices: &mut mpsc::Receiver<Notice>,
    name: &str,
    connection: Message,
) -> Option<(IkeTrouble, String)> {
    while notices.try_recv().is_ok() {}
    let mut said = None;
    if client.call("load-conn", connection).await.is_ok() {
        let timeout = ANSWER_MS.to_string();
        let ask = Message::new().with("ike", name).with("timeout", &timeout).with("init-limits", "no");
        let met = client.call("initiate", ask).await;
        // The log may come after the answer.
        let last = Instant::now() + if met.is_err() { LOG } else { Duration::ZERO };
        while said.is_none()
            && let Ok(Some(notice)) = tokio::time::timeout_at(last, notices.recv()).await
        {
            let Notice::Event(_, message) = notice else { continue };
            let of_it = message.text("ikesa-name") == Some(name);
            let line = message.text("msg").unwrap_or_default();
            let trouble = IkeTrouble::of(line).filter(|it| of_it && *it != IkeTrouble::Silence);
            said = said.or_else(|| Some((trouble?, line.to_owned())));
        }
        said = said.filter(|_| met.is_err());
    }
    let end = Message::new().with("ike", name).with("timeout", "-1").with("force", "yes");
    // What is not there needs no end.
    let _ = client.call("terminate", end).await;
    let _ = client.call("unload-conn", Message::new().with("name", name)).await;
    said
}
