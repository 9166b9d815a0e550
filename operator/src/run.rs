//! What the running operator does: starts the tasks and makes passes until it is told to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::args::RunArgs;
use crate::events::{States, Teller};
use crate::lease::{self, Holder};
use crate::pass;
use crate::progress::Progress;
use crate::proving::Proving;
use crate::silence::Silence;
use crate::watch::Stores;
use crate::write::Writer;
use crate::{certificate, health, metrics, secrets};

/// How long changes are gathered before a pass.
const GATHER: Duration = Duration::from_millis(50);
/// A pass at least so often: it costs little and writes nothing where nothing is to be done.
const AT_LEAST: Duration = Duration::from_secs(30);

/// Log to standard error, filtered by `RUST_LOG` (default `info`).
pub fn init_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(false).init();
    }
}

/// A client of the API server, from the pod's ServiceAccount or KUBECONFIG.
///
/// # Errors
/// When there is neither.
pub async fn client() -> anyhow::Result<Client> {
    // Only the first call in a process can set it, and each sets the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = kube::Config::infer()
        .await
        .context("no way to the API server: run in a pod with a ServiceAccount, or set KUBECONFIG")?;
    Client::try_from(config).context("the client of the API server cannot be made")
}

/// Resolves when the process is told to stop.
///
/// # Errors
/// When signals cannot be received.
pub fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, with the cure.
pub async fn operator(args: RunArgs) -> anyhow::Result<()> {
    let stop = told_to_stop()?;
    let client = client().await?;
    let progress = Arc::new(Progress::default());
    let stores = Stores::watch(&client, &args, &progress);
    let _health = health::serve(args.health_listen, progress.clone()).await?;
    let identity = args.identity();
    info!(namespace = args.namespace, identity, "dmvpn-operator {}", env!("CARGO_PKG_VERSION"));

    let (until, leadership) = lease::channel();
    if let Some(listen) = args.metrics_listen {
        metrics::serve(listen, stores.clone(), progress.clone(), leadership.clone()).await?;
    }
    let (stopping, mut stopped) = watch::channel(false);
    let holder = Holder::new(client.clone(), &args.namespace, &args.lease, identity.clone());
    let holding = tokio::spawn(lease::hold(holder, until, progress.clone(), async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }));
    let server = secrets::serve(client.clone(), &args, stores.clone(), progress.clone()).await?;
    let keeping = tokio::spawn(certificate::keep(
        client.clone(),
        args.clone(),
        stores.clone(),
        leadership.clone(),
        server,
    ));

    let teller = Teller::start(client.clone(), identity);
    let passes = Passes {
        stores,
        namespace: args.namespace,
        writer: Writer::new(client, leadership.clone(), teller.clone(), progress.clone()),
        leadership,
        teller,
        progress,
        silence: Silence::default(),
        proving: Proving::default(),
        states: States::default(),
    };
    tokio::select! {
        () = stop => info!("stopping"),
        () = passes.run() => {}
    }
    // First the writes end (they have: the passes are dropped), then the Lease goes.
    keeping.abort();
    stopping.send_replace(true);
    holding.await.context("the Lease's task ended badly")
}

/// Makes passes.
struct Passes {
    stores: Stores,
    namespace: String,
    writer: Writer,
    leadership: lease::Leadership,
    teller: Teller,
    progress: Arc<Progress>,
    silence: Silence,
    proving: Proving,
    states: States,
}

impl Passes {
    async fn run(mut self) {
        let changed = self.stores.changed.clone();
        let mut next = Instant::now() + AT_LEAST;
        loop {
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(GATHER).await,
                () = self.leadership.changed() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
            let now = Instant::now();
            self.progress.pass_gets_on(now);
            next = self.pass(now).await.unwrap_or(now + AT_LEAST).min(now + AT_LEAST);
            self.progress.pass_ended(now.elapsed());
        }
    }

    /// One pass. Returns when the next one is due, whatever happens.
    async fn pass(&mut self, now: Instant) -> Option<Instant> {
        if self.progress.synced().is_err() {
            return None;
        }
        let mut snapshot = self.stores.snapshot(&self.namespace);
        // Watched by every replica, so that a new leader neither tells old news nor waits anew.
        let (silent, waits) = self.silence.observe(&snapshot, now);
        snapshot.silent = silent;
        let (unproven, proven) = self.proving.observe(&snapshot.endpoints, now);
        snapshot.unproven = unproven;
        let waits = [waits, proven].into_iter().flatten().min();
        let told = self.states.observe(&snapshot.endpoints);
        if !self.leadership.may_write() {
            return waits;
        }
        // Only the leader remembers: what was bad before it led is told by it too.
        let unread = self.states.unread(&snapshot.bad_endpoints);
        for (object, note) in told.into_iter().chain(unread) {
            self.teller.tell(object, note);
        }
        let writes = pass::plan(&snapshot, &Time(Timestamp::now()));
        let again = self.writer.carry_out(writes).await;
        [waits, again].into_iter().flatten().min()
    }
}
