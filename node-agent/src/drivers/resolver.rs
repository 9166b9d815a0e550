//! Host names of hubs: resolved beside the agent's task, again every [`REFRESH`]; every [`RETRY`] after a failure, and
//! while a hub is silent: it may have moved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::warn;

/// How often a name is resolved again.
const REFRESH: Duration = Duration::from_secs(60);
/// After a failure, or while a hub is silent.
const RETRY: Duration = Duration::from_secs(5);

/// A name's addresses changed.
#[derive(Debug)]
pub struct Resolved {
    /// The name.
    pub name: String,
    /// Its addresses, sorted; never empty (a failure keeps the last answer).
    pub addresses: Vec<IpAddr>,
}

/// Resolves the names that it is given.
#[derive(Debug)]
pub struct Resolver {
    tasks: BTreeMap<String, tokio::task::JoinHandle<()>>,
    to: mpsc::Sender<Resolved>,
    hurry: watch::Sender<bool>,
}

impl Resolver {
    /// Answers go to `to`.
    pub fn new(to: mpsc::Sender<Resolved>) -> Self {
        Self { tasks: BTreeMap::new(), to, hurry: watch::Sender::new(false) }
    }

    /// The names wanted from now on.
    pub fn want(&mut self, names: &BTreeSet<String>) {
        self.tasks.retain(|name, task| {
            let keep = names.contains(name);
            if !keep {
                task.abort();
            }
            keep
        });
        for name in names {
            let (to, hurry) = (self.to.clone(), self.hurry.subscribe());
            self.tasks.entry(name.clone()).or_insert_with(|| tokio::spawn(resolve(name.clone(), to, hurry)));
        }
    }

    /// Whether some hub is silent: then names are resolved at once, and often.
    pub fn hurry(&self, silent: bool) {
        self.hurry.send_if_modified(|hurry| std::mem::replace(hurry, silent) != silent);
    }
}

async fn resolve(name: String, to: mpsc::Sender<Resolved>, mut hurry: watch::Receiver<bool>) {
    let mut last = Vec::new();
    loop {
        let pause = match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(found) => {
                let mut addresses: Vec<IpAddr> = found.map(|a| a.ip()).collect();
                addresses.sort_unstable();
                addresses.dedup();
                if addresses.is_empty() {
                    RETRY
                } else {
                    if addresses != last {
                        last.clone_from(&addresses);
                        if to.send(Resolved { name: name.clone(), addresses }).await.is_err() {
                            return;
                        }
                    }
                    if *hurry.borrow_and_update() { RETRY } else { REFRESH }
                }
            }
            Err(error) => {
                warn!(name, %error, "hub's name cannot be resolved");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = hurry.changed() => if changed.is_err() { return },
        }
    }
}
