//! Keepalives of one tunnel link: sent where they are asked for, answered in any case, by a task of its own.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crds::network::Keepalive as Settings;
use dataplane::{Keepalive, KeepaliveSocket};
use tokio::sync::mpsc;
use tracing::debug;

use crate::keepalive::Tally;

/// Answers to a peer a second at most: a keepalive is not sent more often than once.
const ANSWERS: u32 = 5;
/// Peers that are answered in a second: more than a hub of Phase 1 has, and no more memory than they need.
const PEERS: usize = 16_384;

/// What a driver is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Index of the link.
    pub link: u32,
    /// Our underlay address.
    pub local: Ipv4Addr,
    /// The other end of a point-to-point link.
    pub remote: Option<Ipv4Addr>,
    /// GRE key.
    pub key: Option<u32>,
    /// The VRF of the underlay.
    pub vrf: Option<String>,
    /// How the other end is watched, if it is.
    pub settings: Option<Settings>,
}

/// The task, and what it counts.
#[derive(Debug)]
pub struct KeepaliveDriver {
    line: Line,
    tally: Arc<Mutex<Tally>>,
    task: tokio::task::JoinHandle<()>,
}

impl KeepaliveDriver {
    /// Opens the sockets and starts the task; `news` hears the network's name when the other end goes or comes.
    ///
    /// # Errors
    /// When a socket cannot be opened (no CAP_NET_RAW, link gone).
    pub fn start(network: &str, line: Line, news: mpsc::Sender<String>) -> Result<Self, dataplane::Error> {
        let socket = KeepaliveSocket::open(line.link, line.local, line.vrf.as_deref())?;
        let tally = Arc::new(Mutex::new(Tally::default()));
        let watch = Watch {
            network: network.to_owned(),
            line: line.clone(),
            socket,
            tally: Arc::clone(&tally),
            news,
            token: rand_token(),
        };
        Ok(Self { line, tally, task: tokio::spawn(watch.run()) })
    }

    /// What it was started for.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// What it has counted.
    pub fn tally(&self) -> Tally {
        self.tally.lock().map(|tally| *tally).unwrap_or_default()
    }
}

impl Drop for KeepaliveDriver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watch {
    network: String,
    line: Line,
    socket: KeepaliveSocket,
    tally: Arc<Mutex<Tally>>,
    news: mpsc::Sender<String>,
    /// Of those that are sent: what comes back without it is somebody else's.
    token: [u8; 8],
}

impl Watch {
    async fn run(self) {
        let settings = self.line.settings.clone().filter(|_| self.line.remote.is_some());
        let period = settings.as_ref().map_or(1, |it| it.period_seconds.max(1));
        let mut clock = tokio::time::interval(Duration::from_secs(period.into()));
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut answered = HashMap::new();
        loop {
            tokio::select! {
                _ = clock.tick(), if settings.is_some() => {
                    if let Some(settings) = &settings {
                        self.change(|tally| tally.tick(settings)).await;
                        self.ask().await;
                    }
                }
                _ = second.tick(), if !answered.is_empty() => answered.clear(),
                received = self.socket.receive() => match received {
                    Ok(all) => {
                        for one in all {
                            self.take(one, &mut answered).await;
                        }
                    }
                    Err(error) => {
                        // ENETDOWN while the link is down.
                        debug!(network = self.network, %error, "keepalives");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    /// `answered`: how often each peer was answered within this second.
    async fn take(&self, one: Keepalive, answered: &mut HashMap<Ipv4Addr, u32>) {
        match one {
            Keepalive::Returned(token) if token == self.token => self.change(Tally::heard).await,
            Keepalive::Returned(_) => {}
            Keepalive::Asked { to, .. } if answered.len() >= PEERS && !answered.contains_key(&to) => {}
            Keepalive::Asked { to, packet } => {
                let count = answered.entry(to).or_default();
                *count += 1;
                if *count > ANSWERS {
                    return;
                }
                match self.socket.answer(to, &packet).await {
                    Ok(()) => self.change(|tally| tally.answered += 1).await,
                    Err(error) => debug!(network = self.network, %error, "keepalive not answered"),
                }
            }
        }
    }

    async fn ask(&self) {
        let Some(remote) = self.line.remote else { return };
        if let Err(error) = self.socket.ask(remote, self.line.key, &self.token).await {
            debug!(network = self.network, %error, "keepalive not sent");
        }
    }

    async fn change(&self, change: impl FnOnce(&mut Tally)) {
        let Ok((before, after)) = self.tally.lock().map(|mut tally| {
            let before = tally.unanswered();
            change(&mut tally);
            (before, tally.unanswered())
        }) else {
            return;
        };
        if before.is_some() != after.is_some() {
            let _ = self.news.send(self.network.clone()).await;
        }
    }
}

fn rand_token() -> [u8; 8] {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()).to_be_bytes()
}
