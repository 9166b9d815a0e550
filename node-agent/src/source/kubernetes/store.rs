//! What the API said, and what follows from it. Pure: no clock, no I/O.
//!
//! Of each endpoint there is what is *in force* (the last version that could be used, with its Secrets) and the
//! *latest* that the API showed. They differ while the latest cannot be decoded or lacks its Secrets; an object that
//! has vanished leaves only what is in force.

use std::collections::{BTreeMap, BTreeSet};

use crds::endpoint::Desired as Wish;
use crds::secrets::{NodeSecrets, REVISION_ANNOTATION};
use crds::{DmvpnEndpointSpec, DmvpnEndpointStatus, Reason};
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use serde::Deserialize;
use view::Problem;

use super::super::directory::problem;
use super::super::{Desired, DesiredEndpoint, Origin};
use super::file::Kept;
use super::secrets::{Answer, Wanted};
use crate::plan::ipsec::Secret;

/// What the status writer has to know of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// Why its latest version is not in force.
    pub bad: Option<Bad>,
    /// Its Secrets.
    pub credentials: Credentials,
    /// The status that it has.
    pub status: DmvpnEndpointStatus,
}

/// Why a version of an object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Reason.
    pub reason: Reason,
    /// Cause and cure.
    pub message: String,
}

/// Whether the Secrets of an endpoint are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// It refers to none.
    #[default]
    None,
    /// They are.
    Ready,
    /// They are not, or there are newer ones: why they cannot be had.
    Lacking(String),
    /// They were asked for just now, for the first time since the agent started, and what an earlier run has left is in
    /// force meanwhile.
    Asked,
}

/// One endpoint.
#[derive(Debug, Default)]
struct Held {
    in_force: Option<DesiredEndpoint>,
    latest: Option<Latest>,
}

#[derive(Debug)]
struct Latest {
    uid: String,
    generation: i64,
    revision: String,
    spec: Result<DmvpnEndpointSpec, String>,
    status: DmvpnEndpointStatus,
}

/// What Secrets of a network hold.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    revision: String,
    passwords: Vec<Vec<u8>>,
    keys: Vec<Secret>,
}

/// What the API said, and what follows.
#[derive(Debug)]
pub struct Store {
    node: String,
    held: BTreeMap<String, Held>,
    known: BTreeMap<String, Known>,
    /// Why the operator gives no Secrets, empty: nothing is known against it.
    refusal: String,
    /// It has answered or refused since the agent started.
    answered: bool,
    /// Names of a list that has begun.
    listing: Option<BTreeSet<String>>,
    listed: bool,
    unreachable: bool,
    restored: bool,
}

impl Store {
    /// A store that knows what an earlier run of the agent has left.
    pub(super) fn new(node: &str, kept: Option<Vec<Kept>>) -> Self {
        let restored = kept.is_some();
        let mut store = Self {
            node: node.to_owned(),
            held: BTreeMap::new(),
            known: BTreeMap::new(),
            refusal: String::new(),
            answered: false,
            listing: None,
            listed: false,
            unreachable: false,
            restored,
        };
        for kept in kept.unwrap_or_default() {
            let endpoint = kept.endpoint();
            let Some(origin) = &endpoint.origin else { continue };
            // Of a protected tunnel the keys are lacking all the same: the IKE daemon has them, and no file does.
            if !endpoint.passwords.is_empty() {
                let (revision, passwords) = (kept.revision.clone(), endpoint.passwords.clone());
                let known = Known { revision, passwords, keys: Vec::new() };
                store.known.insert(endpoint.spec.network.clone(), known);
            }
            let held = Held { in_force: Some(endpoint.clone()), latest: None };
            store.held.insert(origin.object.clone(), held);
        }
        store
    }

    /// The watch tells something.
    pub fn event(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init => self.listing = Some(BTreeSet::new()),
            Event::InitApply(object) => {
                if let Some(names) = &mut self.listing {
                    names.extend(object.metadata.name.clone());
                }
                self.apply(object);
            }
            Event::InitDone => {
                let names = self.listing.take().unwrap_or_default();
                self.listed = true;
                for (name, held) in &mut self.held {
                    if !names.contains(name) {
                        held.latest = None;
                    }
                }
            }
            Event::Apply(object) => self.apply(object),
            Event::Delete(object) => {
                let held = object.metadata.name.and_then(|name| self.held.get_mut(&name));
                if let Some(held) = held {
                    held.latest = None;
                }
            }
        }
        self.settle();
    }

    /// The API server does not answer, or refuses.
    pub fn unreachable(&mut self) {
        self.unreachable = true;
    }

    /// The operator has answered, or could not be asked.
    pub fn answer(&mut self, answer: Answer) {
        self.answered = true;
        match answer {
            Ok(NodeSecrets { networks }) => {
                self.refusal.clear();
                for (network, secrets) in networks {
                    let passwords = secrets.nhrp_passwords.into_iter().map(|p| p.0).collect();
                    let keys = secrets.ipsec_keys.into_iter().map(|key| Secret(key.0)).collect();
                    self.known.insert(network, Known { revision: secrets.revision, passwords, keys });
                }
            }
            Err(error) => self.refusal = error,
        }
        self.settle();
    }

    /// Nothing is left of these networks: what was to be removed and has no object any more is forgotten.
    pub fn gone(&mut self, networks: &BTreeSet<String>) {
        self.held.retain(|_, held| {
            let over =
                |e: &DesiredEndpoint| e.spec.desired == Wish::Absent && networks.contains(&e.spec.network);
            held.latest.is_some() || !held.in_force.as_ref().is_some_and(over)
        });
    }

    /// Whether it is known what has to be done: from the API, or from an earlier run while the API is away.
    pub fn ready(&self) -> bool {
        self.listed || (self.unreachable && self.restored)
    }

    fn apply(&mut self, object: DynamicObject) {
        let Some(name) = object.metadata.name else { return };
        let spec = decode::<DmvpnEndpointSpec>(&object.data, "spec");
        // The selector is the server's; that the object is ours is checked all the same.
        if spec.as_ref().is_ok_and(|spec| spec.node_name != self.node) {
            return;
        }
        let held = self.held.entry(name).or_default();
        let older = |known: &Latest| {
            Some(&known.uid) == object.metadata.uid.as_ref()
                && object.metadata.generation < Some(known.generation)
        };
        if held.latest.as_ref().is_some_and(older) {
            // From an API server that lags behind the one before: what is newer follows by the watch.
            return;
        }
        // Of a version that cannot be decoded the wish to be rid of the tunnel is heard all the same.
        let spec = spec.or_else(|error| {
            let absent = object.data.pointer("/spec/desired").and_then(|d| d.as_str()) == Some("Absent");
            let known = held.in_force.as_ref().filter(|_| absent).map(|e| e.spec.clone());
            known.map(|spec| DmvpnEndpointSpec { desired: Wish::Absent, ..spec }).ok_or(error)
        });
        let annotations = object.metadata.annotations.unwrap_or_default();
        let latest = Latest {
            uid: object.metadata.uid.unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            revision: annotations.get(REVISION_ANNOTATION).cloned().unwrap_or_default(),
            spec,
            // A status that cannot be decoded is as good as none: it is written anew.
            status: decode(&object.data, "status").unwrap_or_default(),
        };
        held.latest = Some(latest);
    }

    /// Puts in force what can be.
    fn settle(&mut self) {
        for (name, held) in &mut self.held {
            let Some(Latest { spec: Ok(spec), generation, .. }) = &held.latest else { continue };
            let (passwords, keys) = match known(&self.known, spec) {
                Some(known) => {
                    let passwords = !spec.nhrp.authentication_secret_refs.is_empty();
                    let passwords = passwords.then(|| known.passwords.clone());
                    let keys = has_keys(spec).then(|| known.keys.clone());
                    (passwords.unwrap_or_default(), keys.unwrap_or_default())
                }
                // A farewell without the password is better than none.
                None if !needs(spec) || spec.desired == Wish::Absent => Default::default(),
                // Without its Secrets the new version would be refused everywhere: the old one stays.
                None => continue,
            };
            let origin = Some(Origin { object: name.clone(), generation: *generation });
            // Certificates are for boxes: `compile::support`.
            let certificate = None;
            held.in_force =
                Some(DesiredEndpoint { spec: spec.clone(), passwords, keys, certificate, origin });
        }
        // What was never in force and is no more leaves no trace.
        self.held.retain(|_, held| held.latest.is_some() || held.in_force.is_some());
    }

    /// What the agent is to do.
    pub fn desired(&self) -> Desired {
        let mut desired = Desired { keep_unnamed: true, ..Desired::default() };
        let mut removals = Vec::new();
        for (name, held) in &self.held {
            desired.problems.extend(self.problem(name, held));
            let Some(endpoint) = &held.in_force else { continue };
            if endpoint.spec.desired == Wish::Absent {
                removals.push(endpoint);
            } else if self.first(&endpoint.spec.network) == Some(name) {
                desired.endpoints.push(endpoint.clone());
            }
        }
        for removal in removals {
            // Another object may want the same network, and each is removed once.
            let network = &removal.spec.network;
            let same = |e: &DesiredEndpoint| e.spec.network == *network;
            if !desired.endpoints.iter().any(same) && !desired.removals.iter().any(same) {
                desired.removals.push(removal.clone());
            }
        }
        desired
    }

    /// The object whose tunnel a network gets: the first by name that wants one.
    fn first(&self, network: &str) -> Option<&String> {
        let wants = |held: &Held| {
            let endpoint = held.in_force.as_ref();
            endpoint.is_some_and(|e| e.spec.network == network && e.spec.desired == Wish::Present)
        };
        self.held.iter().find(|(_, held)| wants(held)).map(|(name, _)| name)
    }

    fn problem(&self, name: &str, held: &Held) -> Option<Problem> {
        let object = format!("DmvpnEndpoint/{name}");
        if let Some(bad) = self.bad(name, held) {
            return Some(problem(object, "spec", bad.reason, bad.message));
        }
        if let (Some(latest), Credentials::Lacking(why)) = (&held.latest, self.credentials(held)) {
            // Only what somebody can do something about is worth a line: a first answer takes a moment.
            let keys = latest.spec.as_ref().is_ok_and(has_keys);
            let field = if keys { "spec.ipsec.pskSecretRefs" } else { "spec.nhrp.authenticationSecretRefs" };
            return (!self.refusal.is_empty() || latest.spec.is_err())
                .then(|| problem(object, field, Reason::SecretsUnavailable, why));
        }
        let present = held.in_force.as_ref().is_some_and(|e| e.spec.desired == Wish::Present);
        let vanished = self.listed && self.listing.is_none() && held.latest.is_none() && present;
        let reason = Reason::EndpointGone;
        vanished.then(|| problem(object, "", reason, format!("{} {}", reason.cause(), reason.cure())))
    }

    /// Why the latest version is not in force.
    fn bad(&self, name: &str, held: &Held) -> Option<Bad> {
        let latest = held.latest.as_ref()?;
        let spec = match &latest.spec {
            Ok(spec) => spec,
            Err(error) => {
                let kept = match held.in_force {
                    Some(_) => "the last good version stays in force",
                    None => "nothing of it is in force",
                };
                let message = format!(
                    "spec cannot be decoded ({error}); {kept}: operator and agent must be of versions that go together"
                );
                return Some(Bad { reason: Reason::Invalid, message });
            }
        };
        if spec.desired == Wish::Absent {
            return None;
        }
        if let Some(first) = self.first(&spec.network).filter(|first| *first != name) {
            let message = format!(
                "{first} is for network {} on this node too and counts, being the first by name: delete one",
                spec.network
            );
            return Some(Bad { reason: Reason::Duplicate, message });
        }
        match self.credentials(held) {
            Credentials::Lacking(why) if known(&self.known, spec).is_none() => {
                Some(Bad { reason: Reason::SecretsUnavailable, message: why })
            }
            _ => None,
        }
    }

    fn credentials(&self, held: &Held) -> Credentials {
        let Some(Latest { spec: Ok(spec), revision, .. }) = &held.latest else { return Credentials::None };
        if !needs(spec) || spec.desired == Wish::Absent {
            return Credentials::None;
        }
        let known = known(&self.known, spec);
        if known.is_some_and(|p| p.revision == *revision) {
            return Credentials::Ready;
        }
        if known.is_none() && !self.answered && held.in_force.is_some() {
            return Credentials::Asked;
        }
        let have = match (known, &held.in_force) {
            (Some(_), _) => "the old ones stay in use",
            (None, Some(_)) => "what is in force stays",
            (None, None) => "the tunnel waits for them",
        };
        let why = match self.refusal.as_str() {
            "" if known.is_some() => "newer Secrets were asked for",
            "" => {
                "the operator has not given the Secrets of the network yet: see its condition CredentialsReady"
            }
            refusal => refusal,
        };
        Credentials::Lacking(format!("{why}; {have}"))
    }

    /// What the status writer has to know: of all objects that are there.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.held.iter().filter_map(|(name, held)| {
            let latest = held.latest.as_ref()?;
            Some(Seen {
                name: name.clone(),
                uid: latest.uid.clone(),
                generation: latest.generation,
                bad: self.bad(name, held),
                credentials: self.credentials(held),
                status: latest.status.clone(),
            })
        });
        seen.collect()
    }

    /// Networks whose Secrets are to be fetched, with the revision.
    pub fn wanted_secrets(&self) -> Wanted {
        let wanted = self.held.values().filter_map(|held| {
            let latest = held.latest.as_ref()?;
            let lacking = matches!(self.credentials(held), Credentials::Lacking(_) | Credentials::Asked);
            let spec = latest.spec.as_ref().ok().filter(|_| lacking)?;
            Some((spec.network.clone(), latest.revision.clone()))
        });
        wanted.collect()
    }

    /// What the next run has to know; `None`: nothing is known yet, what an earlier run has left still counts.
    pub(super) fn kept(&self) -> Option<Vec<Kept>> {
        if !self.listed && !self.restored {
            return None;
        }
        let kept = self.held.values().filter_map(|held| {
            let endpoint = held.in_force.as_ref()?;
            let revision = self.known.get(&endpoint.spec.network).map_or("", |known| known.revision.as_str());
            Kept::new(endpoint, revision)
        });
        Some(kept.collect())
    }
}

/// Whether an endpoint has pre-shared keys.
fn has_keys(spec: &DmvpnEndpointSpec) -> bool {
    spec.ipsec.as_ref().is_some_and(|it| !it.psk_secret_refs.is_empty())
}

/// Whether it refers to Secrets at all.
fn needs(spec: &DmvpnEndpointSpec) -> bool {
    has_keys(spec) || !spec.nhrp.authentication_secret_refs.is_empty()
}

/// What is known for an endpoint, if that is enough: an operator of before tells no keys.
fn known<'a>(all: &'a BTreeMap<String, Known>, spec: &DmvpnEndpointSpec) -> Option<&'a Known> {
    all.get(&spec.network).filter(|known| !has_keys(spec) || !known.keys.is_empty())
}

fn decode<T: for<'de> Deserialize<'de>>(data: &serde_json::Value, part: &str) -> Result<T, String> {
    T::deserialize(data.get(part).unwrap_or(&serde_json::Value::Null)).map_err(|error| error.to_string())
}
