//! The watch on this node's endpoints: never ends, and never takes silence or a refusal for a deletion.

use std::time::Duration;

use crds::DmvpnEndpoint;
use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::backoff::Backoff;

/// The server ends a watch after this long, in seconds; a connection on which nothing comes for longer is dead.
pub const WATCH_SECONDS: u32 = 120;
/// The first list must be there within this time, else the connection is given up.
const LIST: Duration = Duration::from_secs(20);

/// What the watch tells: that something happened to an object, or why the API server does not answer or refuses.
/// Objects are not decoded further: one that cannot be must not stop the others.
pub type Word = Result<Event<DynamicObject>, String>;

/// Watches the endpoints of `node`.
pub(super) fn start(client: Client, node: &str) -> mpsc::Receiver<Word> {
    let api = Api::<DynamicObject>::all_with(client, &ApiResource::erase::<DmvpnEndpoint>(&()));
    // Lists come from the API server's memory: read from its store, each would cost all endpoints of the cluster, and after
    // an outage every agent lists. What is a moment old there, the store of endpoints leaves aside.
    let config = watcher::Config::default().any_semantic();
    let config = config.fields(&format!("spec.nodeName={node}")).timeout(WATCH_SECONDS);
    let (to_source, words) = mpsc::channel(256);
    tokio::spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        loop {
            let mut events = Box::pin(watcher(api.clone(), config.clone()));
            let mut listed = false;
            loop {
                let next = if listed {
                    events.next().await
                } else {
                    let Ok(next) = tokio::time::timeout(LIST, events.next()).await else { break };
                    next
                };
                let word = match next {
                    Some(Ok(event)) => {
                        listed = !matches!(event, Event::Init | Event::InitApply(_));
                        if !matches!(event, Event::Init) {
                            backoff.reset();
                        }
                        Ok(event)
                    }
                    // Too old a version to go on from: routine, the list is made anew.
                    Some(Err(watcher::Error::WatchError(status))) if status.code == 410 => continue,
                    Some(Err(error)) => {
                        // Its causes are in it as sources: the outer text alone says little.
                        let text = anyhow::Error::from(error);
                        if to_source.send(Err(format!("{text:#}"))).await.is_err() {
                            return;
                        }
                        backoff.wait().await;
                        continue;
                    }
                    None => break,
                };
                if to_source.send(word).await.is_err() {
                    return;
                }
            }
            let silent = format!("no answer within {} s", LIST.as_secs());
            if to_source.send(Err(silent)).await.is_err() {
                return;
            }
            backoff.wait().await;
        }
    });
    words
}
