//! A directory of YAML files as source: the same kinds that one applies to a cluster, Secrets included.
//!
//! Read when it changes (inotify, and every [`PATROL`] whatever inotify says), compiled with the operator's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use compile::{Allocated, Inputs, NodeFacts};
use crds::Reason;
use crds::endpoint::{DmvpnEndpointSpec, EndpointCertificate};
use crds::network::SecretRef;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use notify::Watcher;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use view::Problem;

use super::last_good::{LastGood, Saved};
use super::{Desired, DesiredEndpoint};
use crate::plan::certificate::Certificate;
use crate::plan::ipsec::Secret;

/// Changes are gathered for this long: editors and `cp` make several.
const SETTLE: Duration = Duration::from_millis(50);
/// Without any event the directory is read again this often.
const PATROL: Duration = Duration::from_secs(5);
/// Key of a Secret's data where the reference names none.
const PASSWORD_KEY: &str = "password";
/// The same of a pre-shared key.
const PSK_KEY: &str = "psk";
/// The same of roots.
const CA_KEY: &str = "ca.crt";
/// Keys of a Secret with a certificate.
const CERTIFICATE_KEY: &str = "tls.crt";
/// As above.
const PRIVATE_KEY: &str = "tls.key";
/// Addresses that were allocated, in the state directory.
const ALLOCATED: &str = "addresses.json";
/// Objects that worked last, in the state directory.
const LAST_GOOD: &str = "last-good.json";
/// Files larger than this are refused.
const MAX_FILE: u64 = 8 << 20;

/// What the source needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory.
    pub dir: PathBuf,
    /// This node's name.
    pub node: String,
    /// This node's labels.
    pub labels: BTreeMap<String, String>,
    /// Where allocated addresses are kept.
    pub state_dir: PathBuf,
}

/// Reads the directory once and then whenever it changes.
///
/// # Errors
/// When the directory cannot be read or watched at the start.
pub fn watch(options: Options) -> anyhow::Result<watch::Receiver<Arc<Desired>>> {
    let dir = options.dir.display();
    anyhow::ensure!(options.dir.is_dir(), "--manifests {dir}: no such directory: make it, or name another");
    let (to_task, mut changes) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an access, not a change.
        if !matches!(&event, Ok(e) if e.kind.is_access()) {
            let _ = to_task.try_send(());
        }
    })
    .context("file watch (inotify)")?;
    watcher
        .watch(&options.dir, notify::RecursiveMode::NonRecursive)
        .with_context(|| format!("--manifests {}: cannot be watched", options.dir.display()))?;
    let mut reader = Reader::new(options);
    let (sender, receiver) = watch::channel(Arc::new(reader.read()));
    tokio::spawn(async move {
        // Dropped with the task: events end then.
        let _watcher = watcher;
        loop {
            tokio::select! {
                changed = changes.recv() => {
                    if changed.is_none() {
                        return;
                    }
                    tokio::time::sleep(SETTLE).await;
                    while changes.try_recv().is_ok() {}
                }
                () = tokio::time::sleep(PATROL) => {}
            }
            let desired = reader.read();
            let changed = |old: &mut Arc<Desired>| {
                let differs = **old != desired;
                if differs {
                    *old = Arc::new(desired);
                }
                differs
            };
            sender.send_if_modified(changed);
            if sender.is_closed() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Reads and compiles, remembering what worked last.
#[derive(Debug)]
pub struct Reader {
    options: Options,
    last: LastGood,
    endpoints: BTreeMap<String, DesiredEndpoint>,
    problems: Vec<Problem>,
    allocated: Vec<Allocated>,
    saved: Saved,
}

impl Reader {
    /// A reader that knows what an earlier run of the agent left: addresses allocated, objects that were good.
    pub fn new(options: Options) -> Self {
        let allocated = load(&options.state_dir, ALLOCATED);
        let saved: Saved = load(&options.state_dir, LAST_GOOD);
        let last = LastGood::load(saved.clone());
        Self { options, last, endpoints: BTreeMap::new(), problems: Vec::new(), allocated, saved }
    }

    /// Reads the directory.
    pub fn read(&mut self) -> Desired {
        let files = match read_files(&self.options.dir) {
            Ok(files) => files,
            Err(message) => {
                let dir = self.options.dir.display().to_string();
                let problem = problem(dir, "", Reason::DirectoryUnreadable, message);
                return self.finish(vec![problem], None);
            }
        };
        let (mut objects, mut problems) = self.last.merge(files);
        let mut compiled = self.compile(&objects);
        let refused_now = refused(&compiled);
        problems.extend(findings(&compiled));
        if self.last.substitute(&mut objects, &refused_now) {
            compiled = self.compile(&objects);
        }
        self.last.accept(&objects, &refused(&compiled));
        if compiled.allocations != self.allocated {
            self.allocated.clone_from(&compiled.allocations);
            save(&self.options.state_dir, ALLOCATED, &self.allocated);
        }
        let good = self.last.save();
        if good != self.saved {
            save(&self.options.state_dir, LAST_GOOD, &good);
            self.saved = good;
        }
        let mut endpoints = BTreeMap::new();
        for endpoint in compiled.endpoints.into_iter().filter(|e| e.spec.node_name == self.options.node) {
            let network = endpoint.spec.network.clone();
            match secrets(&endpoint.spec, &objects.secrets) {
                Ok(Credentials { passwords, keys, certificate }) => {
                    let spec = endpoint.spec;
                    endpoints.insert(
                        network,
                        DesiredEndpoint { spec, passwords, keys, certificate, origin: None },
                    );
                }
                Err(missing) => {
                    problems.push(missing);
                    // Without its password the new endpoint would be refused everywhere: the old one stays.
                    if let Some(old) = self.endpoints.get(&network) {
                        endpoints.insert(network, old.clone());
                    }
                }
            }
        }
        self.finish(problems, Some(endpoints))
    }

    fn finish(
        &mut self,
        mut problems: Vec<Problem>,
        endpoints: Option<BTreeMap<String, DesiredEndpoint>>,
    ) -> Desired {
        problems.dedup();
        tell(&self.problems, &problems);
        self.problems.clone_from(&problems);
        if let Some(endpoints) = endpoints {
            self.endpoints = endpoints;
        }
        Desired { endpoints: self.endpoints.values().cloned().collect(), problems, ..Desired::default() }
    }

    fn compile(&self, objects: &super::last_good::Objects) -> compile::Compiled {
        let node = NodeFacts {
            name: self.options.node.clone(),
            labels: self.options.labels.clone(),
            ready: true,
            ..NodeFacts::default()
        };
        let networks = objects.networks.iter().map(|(name, (_, network))| {
            let mut network = network.clone();
            network.metadata.creation_timestamp = age(self.last.knows_network(name, &network));
            network
        });
        let spokes = objects.spokes.iter().map(|(name, (_, spoke))| {
            let mut spoke = spoke.clone();
            spoke.metadata.creation_timestamp = age(self.last.knows_spoke(name, &spoke));
            spoke
        });
        compile::compile(&Inputs {
            reached: Vec::new(),
            networks: networks.collect(),
            spokes: spokes.collect(),
            nodes: vec![node],
            addresses: self.allocated.clone(),
            in_use: Vec::new(),
        })
    }
}

/// Of two objects that contradict each other the younger is at fault. Files have no age that means anything: what is
/// in force already is older than what is new or changed, so that a slip never takes away what works.
fn age(in_force: bool) -> Option<Time> {
    // No time at all sorts first.
    (!in_force).then_some(Time(Timestamp::UNIX_EPOCH))
}

/// Files ending in .yaml or .yml, by name. Unreadable ones carry the error.
fn read_files(dir: &Path) -> Result<BTreeMap<String, Result<String, String>>, String> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)
        .map_err(|e| format!("cannot be read ({e}): the last good configuration stays"))?
    {
        let entry = entry.map_err(|e| e.to_string())?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if !yaml || name.starts_with('.') {
            continue;
        }
        // Follows links: a mounted ConfigMap or Secret is made of them.
        let text = match std::fs::metadata(&path) {
            Ok(m) if !m.is_file() => continue,
            Ok(m) if m.len() > MAX_FILE => Err(format!("larger than {MAX_FILE} bytes: split it")),
            Ok(_) => std::fs::read_to_string(&path).map_err(|e| e.to_string()),
            // Removed between listing and reading. A link that leads nowhere is no removal.
            Err(_) if std::fs::symlink_metadata(&path).is_err() => continue,
            Err(e) => Err(e.to_string()),
        };
        files.insert(name, text);
    }
    Ok(files)
}

/// What was not accepted, as `Kind/name`.
fn refused(compiled: &compile::Compiled) -> BTreeSet<String> {
    let bad = compiled.conditions.iter().filter(|c| !c.accepted());
    bad.map(|c| format!("{}/{}", c.kind, c.name)).collect()
}

/// What compile found wrong; what only waits (a site that is elsewhere) is not.
fn findings(compiled: &compile::Compiled) -> Vec<Problem> {
    let mut problems = Vec::new();
    for object in &compiled.conditions {
        let name = format!("{}/{}", object.kind, object.name);
        let faults = object.faults();
        problems.extend(faults.map(|f| problem(name.clone(), &f.field, f.reason, f.message.clone())));
    }
    problems
}

/// Logs the problems that are new.
pub(super) fn tell(old: &[Problem], new: &[Problem]) {
    for p in new.iter().filter(|p| !old.contains(p)) {
        warn!(object = p.object, field = p.field, reason = p.reason, "{}", p.message);
    }
    if new.is_empty() && !old.is_empty() {
        info!("all configuration is good again");
    }
}

pub(super) fn problem(object: String, field: &str, reason: Reason, message: impl Into<String>) -> Problem {
    Problem { object, field: field.to_owned(), reason: reason.to_string(), message: message.into() }
}

/// Values of Secrets, in the order of the references.
type Values = Vec<Vec<u8>>;

/// What an endpoint's Secrets hold, each list in the order of its references.
struct Credentials {
    passwords: Values,
    keys: Vec<Secret>,
    certificate: Option<Arc<Certificate>>,
}

/// The Secrets of an endpoint.
fn secrets(
    spec: &DmvpnEndpointSpec,
    secrets: &BTreeMap<String, super::last_good::SecretData>,
) -> Result<Credentials, Problem> {
    let passwords = &spec.nhrp.authentication_secret_refs;
    let passwords = values(spec, "spec.nhrp.authenticationSecretRefs", passwords, PASSWORD_KEY, secrets)?;
    let keys = spec.ipsec.as_ref().map(|it| it.psk_secret_refs.as_slice()).unwrap_or_default();
    let keys = values(spec, "spec.ipsec.authentication.pskSecretRefs", keys, PSK_KEY, secrets)?;
    let keys = keys.into_iter().map(Secret).collect();
    let certificate = spec.ipsec.as_ref().and_then(|it| it.certificate.as_ref());
    let certificate = certificate.map(|it| certificates(spec, it, secrets)).transpose()?;
    Ok(Credentials { passwords, keys, certificate })
}

/// The node's own certificate with its key, and the roots.
fn certificates(
    spec: &DmvpnEndpointSpec,
    settings: &EndpointCertificate,
    secrets: &BTreeMap<String, super::last_good::SecretData>,
) -> Result<Arc<Certificate>, Problem> {
    const FIELD: &str = "spec.ipsec.authentication.certificate";
    let roots = values(spec, &format!("{FIELD}.caSecretRefs"), &settings.ca_secret_refs, CA_KEY, secrets)?;
    let name = &settings.secret_ref.name;
    let list = format!("{FIELD}.secretRef");
    let own = |key: &str| {
        let reference = SecretRef { name: name.clone(), key: Some(key.to_owned()) };
        values(spec, &list, &[reference], key, secrets).map(|values| values.concat())
    };
    Certificate::read(&own(CERTIFICATE_KEY)?, &own(PRIVATE_KEY)?, &roots).map(Arc::new).map_err(|why| {
        let at_fault = if why.starts_with(CA_KEY) { format!("{FIELD}.caSecretRefs") } else { list };
        let object = format!("DmvpnNetwork/{}", spec.network);
        problem(object, &at_fault, Reason::CertificateUnusable, format!("{at_fault}: {why}"))
    })
}

fn values(
    spec: &DmvpnEndpointSpec,
    list: &str,
    references: &[SecretRef],
    default_key: &str,
    secrets: &BTreeMap<String, super::last_good::SecretData>,
) -> Result<Values, Problem> {
    let mut values = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        let object = format!("DmvpnNetwork/{}", spec.network);
        let field = format!("{list}[{index}]");
        let name = &reference.name;
        let key = reference.key.as_deref().unwrap_or(default_key);
        let Some(secret) = secrets.get(name) else {
            let message =
                format!("Secret {name} is not there: add it (its label dmvpn.io/network: {})", spec.network);
            return Err(problem(object, &field, Reason::SecretMissing, message));
        };
        if secret.network.as_deref() != Some(spec.network.as_str()) {
            let message = format!(
                "Secret {name} lacks the label dmvpn.io/network: {}, without which it is not used",
                spec.network
            );
            return Err(problem(object, &field, Reason::SecretNotLabelled, message));
        }
        let Some(value) = secret.data.get(key).filter(|v| !v.is_empty()) else {
            let message = format!("Secret {name} has no key {key}: put the secret there");
            return Err(problem(object, &field, Reason::SecretKeyMissing, message));
        };
        values.push(value.clone());
    }
    Ok(values)
}

fn load<T: Default + DeserializeOwned>(dir: &Path, file: &str) -> T {
    let path = dir.join(file);
    let Ok(bytes) = std::fs::read(&path) else { return T::default() };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        warn!(path = %path.display(), %error, "cannot be decoded: starting without what an earlier run knew");
        T::default()
    })
}

fn save(dir: &Path, file: &str, what: &impl Serialize) {
    let path = dir.join(file);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let temporary = path.with_extension("json.new");
        std::fs::write(&temporary, serde_json::to_vec_pretty(what)?)?;
        std::fs::rename(&temporary, &path)
    };
    if let Err(error) = write() {
        warn!(path = %path.display(), %error, "not kept: the next start will not know it");
    }
}
