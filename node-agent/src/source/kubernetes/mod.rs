//! The API server as source: the DmvpnEndpoints of this node, and their Secrets from the operator.
//!
//! [`Store`] (pure) knows what the API said and makes of it what the agent is to do; the task here feeds it with the
//! [`watch`], with answers of the operator ([`secrets`]) and with what an earlier run has left ([`file`]). An API that
//! is away, forbids or has lost the objects changes nothing: only `desired: Absent` takes a tunnel away.

mod file;
pub mod secrets;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch as channel};
use tracing::{info, warn};

pub use file::NAME as LAST_GOOD;
pub use store::{Bad, Credentials, Seen, Store};
pub use watch::{WATCH_SECONDS, Word};

use super::Desired;
use crate::summary::Summary;

/// What the source needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// Directory of the last good configuration; on tmpfs, since it holds passwords.
    pub keep_in: PathBuf,
}

/// What comes out of the source.
#[derive(Debug)]
pub struct Outlets {
    /// For the agent.
    pub desired: channel::Receiver<Arc<Desired>>,
    /// For the status writer.
    pub seen: channel::Receiver<Arc<Vec<Seen>>>,
    /// Whether the agent knows what it has to do: from the API, or from an earlier run while the API is away.
    pub ready: channel::Receiver<bool>,
}

/// Where the source listens.
#[derive(Debug)]
pub struct Inlets {
    /// What the watch tells.
    pub words: mpsc::Receiver<Word>,
    /// What the operator answers.
    pub secrets: mpsc::Receiver<secrets::Answer>,
    /// What the agent has done.
    pub summary: channel::Receiver<Arc<Summary>>,
}

/// Watches this node's endpoints and runs the source.
pub fn start(
    client: &kube::Client,
    options: Options,
    operator: secrets::Operator,
    summary: channel::Receiver<Arc<Summary>>,
) -> Outlets {
    let words = watch::start(client.clone(), &options.node);
    let (to_client, wanted) = channel::channel(secrets::Wanted::default());
    let secrets = secrets::start(client.clone(), operator, wanted);
    run(options, Inlets { words, secrets, summary }, to_client)
}

/// Runs the source on what comes through `inlets`; `to_client` is told which Secrets are wanted.
pub fn run(options: Options, mut inlets: Inlets, to_client: channel::Sender<secrets::Wanted>) -> Outlets {
    let file = file::File::new(&options.keep_in);
    let mut store = Store::new(&options.node, file.load());
    let (to_agent, desired) = channel::channel(Arc::new(store.desired()));
    let (to_status, seen) = channel::channel(Arc::default());
    let (to_probe, ready) = channel::channel(false);
    let mut kept = file;
    tokio::spawn(async move {
        let mut reachable = true;
        loop {
            store.gone(&inlets.summary.borrow_and_update().gone);
            publish(&store, &to_agent, &to_status, &to_client);
            kept.save(&store.kept());
            tokio::select! {
                word = inlets.words.recv() => match word {
                    Some(Ok(event)) => {
                        store.event(event);
                        if !reachable {
                            reachable = true;
                            info!("the API server answers again");
                        }
                    }
                    Some(Err(error)) => {
                        if reachable {
                            reachable = false;
                            warn!(error, "endpoints cannot be watched: what is configured stays in force");
                        }
                        store.unreachable();
                    }
                    None => return,
                },
                Some(answer) = inlets.secrets.recv() => store.answer(answer),
                changed = inlets.summary.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            // What came meanwhile is taken in one go: a list is one change.
            while let Ok(word) = inlets.words.try_recv() {
                match word {
                    Ok(event) => store.event(event),
                    Err(_) => store.unreachable(),
                }
            }
            to_probe.send_if_modified(|ready| std::mem::replace(ready, *ready || store.ready()) != *ready);
        }
    });
    Outlets { desired, seen, ready }
}

fn publish(
    store: &Store,
    to_agent: &channel::Sender<Arc<Desired>>,
    to_status: &channel::Sender<Arc<Vec<Seen>>>,
    to_client: &channel::Sender<secrets::Wanted>,
) {
    let (desired, seen, wanted) = (store.desired(), store.seen(), store.wanted_secrets());
    super::directory::tell(&to_agent.borrow().problems, &desired.problems);
    to_agent.send_if_modified(|old| replace(old, desired));
    to_status.send_if_modified(|old| replace(old, seen));
    to_client.send_if_modified(|old| {
        let changed = *old != wanted;
        *old = wanted;
        changed
    });
}

fn replace<T: PartialEq>(old: &mut Arc<T>, new: T) -> bool {
    let changed = **old != new;
    if changed {
        *old = Arc::new(new);
    }
    changed
}
