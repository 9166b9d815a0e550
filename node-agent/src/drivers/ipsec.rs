//! The IKE daemon: told what to hold, asked for SAs that are missing, listened to.
//!
//! Its loss takes nothing away: SAs are the kernel's. When it comes back it is told everything again and asked what it
//! has. Whatever it says by itself only makes us ask for its list of SAs, which is the truth; its log alone says why
//! something failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use vici::{Client, Failure, Message, Notice};

use crate::plan::ipsec::{self, CHILD, Loaded, PREFIX, Secret, Step, Wish, parse_name};
use crate::plan::sas::{IkeTrouble, SaState};

/// What is told by itself, on stock strongSwan.
const EVENTS: &[&str] = &["ike-updown", "child-updown", "ike-rekey", "child-rekey", "log"];
/// Events are gathered for so long before the SAs are listed.
const GATHER: Duration = Duration::from_millis(20);
/// Without any event they are listed this often.
const PATROL: Duration = Duration::from_secs(30);
/// A peer that is not reached is tried again after this…
const RETRY: Duration = Duration::from_secs(1);
/// … doubled up to that.
const RETRY_MAX: Duration = Duration::from_secs(8);
/// Trouble of one connection is written to the log this often at most.
const QUIET: Duration = Duration::from_secs(10);
/// What nobody wants any more is kept so long: it may come back, and an agent that has just started may not know yet.
const LINGER: Duration = Duration::from_secs(10);

/// The task.
#[derive(Debug)]
pub struct IpsecDriver {
    wanted: watch::Sender<Wish>,
    look: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl IpsecDriver {
    /// Starts it for the daemon that listens at `socket`, or will; `state` hears what is known.
    pub fn start(socket: &Path, state: watch::Sender<Arc<SaState>>) -> Self {
        let (client, notices) = vici::start(socket, EVENTS, vici::Options::default());
        let (wanted, receiver) = watch::channel(Wish::default());
        let now = Instant::now();
        let look = Arc::new(Notify::new());
        let driver = Driver {
            client,
            look: Arc::clone(&look),
            wanted: receiver,
            out: state,
            known: SaState::unknown(),
            connected: false,
            loaded: Loaded::default(),
            unwanted: BTreeMap::new(),
            key_ids: BTreeMap::new(),
            replaced: Vec::new(),
            tries: BTreeMap::new(),
            told: BTreeMap::new(),
            sync_at: None,
            list_at: now,
        };
        Self { wanted, look, task: tokio::spawn(driver.run(notices)) }
    }

    /// What is wished of the daemon from now on.
    pub fn want(&self, wanted: Wish) {
        self.wanted.send_if_modified(|old| {
            let differs = *old != wanted;
            *old = wanted;
            differs
        });
    }
}

impl IpsecDriver {
    /// Has the SAs listed now: somebody is there of whom nothing is known. The daemon leaves out what it is at work on.
    pub fn look(&self) {
        self.look.notify_one();
    }
}

impl Drop for IpsecDriver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    client: Client,
    look: Arc<Notify>,
    wanted: watch::Receiver<Wish>,
    out: watch::Sender<Arc<SaState>>,
    known: SaState,
    connected: bool,
    loaded: Loaded,
    /// Since when a connection is loaded that nobody wants.
    unwanted: BTreeMap<String, Instant>,
    /// What the daemon calls the key of a network's certificate.
    key_ids: BTreeMap<String, String>,
    /// Keys of certificates whose connections are about to get others.
    replaced: Vec<String>,
    /// When a peer may be tried again, and the pause after that.
    tries: BTreeMap<String, (Instant, Duration)>,
    /// When trouble of a connection was last written to the log.
    told: BTreeMap<String, Instant>,
    sync_at: Option<Instant>,
    list_at: Instant,
}

impl Driver {
    async fn run(mut self, mut notices: mpsc::Receiver<Notice>) {
        self.publish();
        loop {
            let wake = self.sync_at.map_or(self.list_at, |at| at.min(self.list_at));
            tokio::select! {
                notice = notices.recv() => {
                    let Some(notice) = notice else { return };
                    self.heard(notice).await;
                    while let Ok(notice) = notices.try_recv() {
                        self.heard(notice).await;
                    }
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.sync_at = Some(Instant::now());
                }
                () = self.look.notified() => self.list_at = Instant::now(),
                () = tokio::time::sleep_until(wake), if self.connected => {}
            }
            if self.connected {
                self.work().await;
            }
            self.publish();
        }
    }

    fn publish(&self) {
        let known = &self.known;
        self.out.send_if_modified(|old| {
            let differs = **old != *known;
            if differs {
                *old = Arc::new(known.clone());
            }
            differs
        });
    }

    async fn heard(&mut self, notice: Notice) {
        match notice {
            Notice::Connected => {
                self.loaded = match look(&self.client).await {
                    Ok(loaded) => loaded,
                    // It went at once: that is told, and when it is there again.
                    Err(Failure::Away(_)) => return,
                    Err(failure) => {
                        warn!(%failure, "what the IKE daemon holds cannot be read: what is stale stays there");
                        Loaded::default()
                    }
                };
                info!("the IKE daemon is there");
                self.connected = true;
                self.known.held = self.loaded.networks();
                self.known.troubles.clear();
                self.key_ids.clear();
                self.replaced.clear();
                self.tries.clear();
                self.sync_at = Some(Instant::now());
                self.list_at = Instant::now();
            }
            Notice::Lost(why) => {
                if self.connected || !self.known.met {
                    info!(why, "the IKE daemon is away: SAs stay as they are in the kernel");
                }
                self.connected = false;
                self.known.unasked = false;
                self.known.away = Some(why);
            }
            Notice::Event(name, message) if name == "log" => self.log(&message),
            Notice::Event(..) | Notice::Missed => self.list_soon(GATHER),
        }
    }

    fn list_soon(&mut self, pause: Duration) {
        self.list_at = self.list_at.min(Instant::now() + pause);
    }

    /// A line of its log: why something failed.
    fn log(&mut self, message: &Message) {
        let name = message.text("ikesa-name").unwrap_or_default();
        let line = message.text("msg").unwrap_or_default();
        let Some(trouble) = IkeTrouble::of(line).filter(|_| parse_name(name).is_some()) else { return };
        let known = self.known.troubles.entry(name.to_owned()).or_insert(trouble);
        // That there is no good certificate is said after what is wrong with the one that there is.
        if trouble != IkeTrouble::Identity || !matches!(*known, IkeTrouble::Authority | IkeTrouble::Invalid) {
            *known = trouble;
        }
        let now = Instant::now();
        if self.told.get(name).is_none_or(|at| now - *at > QUIET) {
            warn!(connection = name, "IKE: {line}");
            self.told.insert(name.to_owned(), now);
        }
        self.list_soon(GATHER);
    }

    async fn work(&mut self) {
        let now = Instant::now();
        if self.sync_at.is_some_and(|at| at <= now) {
            self.sync_at = None;
            let done = self.sync(now).await;
            self.known.held = self.loaded.networks();
            if let Err(failure) = done {
                warn!(%failure, "IKE configuration");
                self.sync_at = Some(Instant::now() + RETRY_MAX);
            }
            self.list_at = now;
        }
        if self.list_at <= now {
            self.list_at = now + PATROL;
            // An SA that it is at work on is left out, unless one must not be missed.
            let all = !self.wanted.borrow().denied.is_empty();
            let how = Message::new().with("noblock", if all { "no" } else { "yes" });
            match self.client.stream("list-sas", "list-sa", how).await {
                Ok(reply) => {
                    let wish = self.wanted.borrow().clone();
                    let denied = self.known.take(&reply.items, &wish.loaded.checked(), &wish.denied);
                    self.end_denied(denied).await;
                }
                Err(failure) => {
                    debug!(%failure, "list-sas");
                    self.list_at = now + RETRY;
                    return;
                }
            }
            self.publish();
            self.initiate().await;
        }
    }

    /// Ends SAs of identities that may have none: at once, with one word to the peer.
    async fn end_denied(&self, ids: Vec<String>) {
        for id in ids {
            let end = Message::new().with("ike-id", &id).with("force", "yes").with("timeout", "-1");
            match gone(self.client.call("terminate", end).await) {
                Ok(()) => info!(id, "SA of a denied identity ended"),
                Err(failure) => debug!(id, %failure, "terminate"),
            }
        }
    }

    /// Makes what it holds equal to what is wanted.
    async fn sync(&mut self, now: Instant) -> Result<(), Failure> {
        let Wish { loaded: mut wanted, over, denied: _ } = self.wanted.borrow_and_update().clone();
        let asked = wanted.clone();
        self.unwanted.retain(|name, _| !wanted.connections.contains_key(name));
        for (name, old) in &self.loaded.connections {
            if wanted.connections.contains_key(name) {
                continue;
            }
            if parse_name(name).is_some_and(|(network, _)| over.contains(network)) {
                continue;
            }
            let until = *self.unwanted.entry(name.clone()).or_insert(now) + LINGER;
            let in_use = parse_name(name).is_some_and(|(network, peer)| {
                let here =
                    wanted.connections.keys().any(|it| parse_name(it).is_some_and(|(n, _)| n == network));
                // The other end may still send by it: it ends by itself when nobody does.
                here && peer.is_some_and(|peer| self.known.secured(network, peer))
            });
            if in_use || until > now {
                let again = if in_use { now + PATROL } else { until };
                self.sync_at = Some(self.sync_at.map_or(again, |at| at.min(again)));
                wanted.connections.insert(name.clone(), old.clone());
            }
        }
        for (id, old) in &self.loaded.keys {
            // With the connections that need it.
            let network = id.rsplit_once('-').map_or("", |(network, _)| network);
            let used = wanted.connections.keys().any(|it| it.split('/').next() == Some(network));
            if used && !wanted.keys.keys().any(|it| it.rsplit_once('-').is_some_and(|(n, _)| n == network)) {
                wanted.keys.insert(id.clone(), old.clone());
            }
        }
        for (network, old) in &self.loaded.private {
            let used = wanted.connections.keys().any(|it| parse_name(it).is_some_and(|(n, _)| n == network));
            if used && !wanted.private.contains_key(network) {
                wanted.private.insert(network.clone(), old.clone());
            }
        }
        let mut good = Ok(());
        for step in ipsec::steps(&wanted, &self.loaded) {
            if let Step::DropConnection(name) = &step
                && parse_name(name).is_some_and(|(network, _)| over.contains(network))
            {
                end_sas(&self.client, name, true).await?;
            }
            let name = match &step {
                Step::PutConnection(name, _) => Some(name.clone()),
                _ => None,
            };
            match self.step(step).await {
                Err(away @ Failure::Away(_)) => return Err(away),
                // One that it does not take (proposals that it has no plugin for, say) keeps no other away.
                Err(failure) => {
                    if let Some(name) = name {
                        self.known.troubles.insert(name, IkeTrouble::Proposal);
                    }
                    good = Err(failure);
                }
                Ok(()) => {}
            }
        }
        for id in std::mem::take(&mut self.replaced) {
            if !self.key_ids.values().any(|used| *used == id) {
                gone(self.client.call("unload-key", Message::new().with("id", id)).await)?;
                info!("the key of a former certificate unloaded");
            }
        }
        if good.is_ok() {
            self.known.told = asked;
        }
        good
    }

    async fn step(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::PutKey(id, key) => {
                self.client.call("load-shared", Secret::message(&key, &id)).await?;
                info!(id, "pre-shared key loaded");
                self.loaded.keys.insert(id, Some(key));
            }
            Step::PutPrivate(network, key) => {
                let loaded = self.client.call("load-key", key.message()).await?.message;
                info!(network, "key of the certificate loaded");
                let id = loaded.text("id").unwrap_or_default().to_owned();
                self.replaced.extend(self.key_ids.insert(network.clone(), id));
                self.loaded.private.insert(network, key);
            }
            Step::DropPrivate(network) => {
                self.replaced.extend(self.key_ids.remove(&network));
                self.loaded.private.remove(&network);
            }
            Step::DropKey(id) => {
                drop_key(&self.client, &id).await?;
                info!(id, "pre-shared key unloaded");
                self.loaded.keys.remove(&id);
            }
            Step::PutConnection(name, connection) => {
                self.client.call("load-conn", connection.message(&name)).await?;
                info!(name, "IKE connection loaded");
                self.loaded.connections.insert(name, Some(connection));
            }
            Step::DropConnection(name) => {
                debug!(name, "IKE connection not wanted any more");
                drop_connection(&self.client, &name).await?;
                self.loaded.connections.remove(&name);
                self.unwanted.remove(&name);
                self.known.troubles.remove(&name);
            }
        }
        Ok(())
    }

    /// Asks for the SAs that are wanted and not there.
    async fn initiate(&mut self) {
        let wanted = self.wanted.borrow().loaded.clone();
        self.tries.retain(|name, _| wanted.connections.contains_key(name));
        self.told.retain(|name, _| wanted.connections.contains_key(name));
        let now = Instant::now();
        for name in wanted.connections.keys() {
            let Some((network, Some(peer))) = parse_name(name) else { continue };
            if !self.loaded.connections.contains_key(name) {
                continue;
            }
            if self.known.secured(network, peer) {
                self.tries.remove(name);
                continue;
            }
            let (at, pause) = self.tries.get(name).copied().unwrap_or((now, RETRY));
            if at > now || self.known.connecting.contains(name) {
                // One that is on its way ends with an event or a line of the log.
                self.list_soon(at.max(now + RETRY) - now);
                continue;
            }
            self.tries.insert(name.clone(), (now + pause, (pause * 2).min(RETRY_MAX)));
            self.list_soon(pause);
            // −1: the answer comes at once, what becomes of it is told by events.
            let ask = Message::new()
                .with("child", CHILD)
                .with("ike", name)
                .with("timeout", "-1")
                .with("init-limits", "no");
            match self.client.call("initiate", ask).await {
                Ok(_) => debug!(name, "IKE initiated"),
                Err(failure) => debug!(name, %failure, "IKE not initiated"),
            }
        }
    }
}

/// Takes everything of ours out of the daemon.
///
/// # Errors
/// When it does not answer.
pub async fn purge(socket: &Path) -> Result<(), Failure> {
    let (client, _notices) = vici::start(socket, &[], vici::Options::default());
    let found = look(&client).await?;
    for name in found.connections.keys() {
        drop_connection(&client, name).await?;
    }
    for id in found.keys.keys() {
        drop_key(&client, id).await?;
    }
    Ok(())
}

/// What of ours it holds.
async fn look(client: &Client) -> Result<Loaded, Failure> {
    let connections = client.call("get-conns", Message::new()).await?.message;
    let keys = client.call("get-shared", Message::new()).await?.message;
    let ours = |list: Vec<&str>| -> Vec<String> {
        list.into_iter().filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect()
    };
    Ok(Loaded {
        connections: ours(connections.list("conns")).into_iter().map(|name| (name, None)).collect(),
        keys: ours(keys.list("keys")).into_iter().map(|id| (id, None)).collect(),
        // The daemon does not say whose a key is.
        private: BTreeMap::new(),
    })
}

async fn drop_key(client: &Client, id: &str) -> Result<(), Failure> {
    gone(client.call("unload-shared", Message::new().with("id", id)).await)
}

/// Unloads a connection and ends its SAs.
async fn drop_connection(client: &Client, name: &str) -> Result<(), Failure> {
    gone(client.call("unload-conn", Message::new().with("name", name)).await)?;
    end_sas(client, name, false).await
}

/// Ends the SAs of a connection: `now`, with one word to the peer, or when the peer has confirmed it.
async fn end_sas(client: &Client, name: &str, now: bool) -> Result<(), Failure> {
    let end = Message::new().with("ike", name).with("timeout", "-1");
    let end = if now { end.with("force", "yes") } else { end };
    gone(client.call("terminate", end).await)
}

/// What was not there needs no taking away.
fn gone<T>(result: Result<T, Failure>) -> Result<(), Failure> {
    match result {
        Ok(_) | Err(Failure::Refused(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}
