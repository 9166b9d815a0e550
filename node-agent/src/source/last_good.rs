//! The last version of each object that worked.
//!
//! A file that does not parse, and an object that is refused, leave their last good version in force; only an object
//! that is really gone is gone.

use std::collections::{BTreeMap, BTreeSet};

use compile::manifest::{self, Object};
use crds::Reason;
use crds::network::DmvpnNetwork;
use crds::spoke::DmvpnSpoke;
use serde::{Deserialize, Serialize};
use view::Problem;

use super::directory::problem;

/// A secret's content.
#[derive(Clone, Default, PartialEq)]
pub(super) struct SecretData {
    /// Label `dmvpn.io/network`.
    pub network: Option<String>,
    /// Key → bytes.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for SecretData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretData").field("network", &self.network).field("keys", &self.data.keys()).finish()
    }
}

/// Objects by name, each with the file that it is from.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    /// Networks.
    pub networks: BTreeMap<String, (String, DmvpnNetwork)>,
    /// Spokes.
    pub spokes: BTreeMap<String, (String, DmvpnSpoke)>,
    /// Secrets.
    pub secrets: BTreeMap<String, SecretData>,
    secret_files: BTreeMap<String, String>,
}

/// What outlives the agent: a restart while a file is broken must not take away what worked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    networks: BTreeMap<String, (String, DmvpnNetwork)>,
    spokes: BTreeMap<String, (String, DmvpnSpoke)>,
}

/// Memory of what worked.
#[derive(Debug, Default)]
pub(super) struct LastGood {
    objects: Objects,
}

impl LastGood {
    /// What an earlier run of the agent held good. (Secrets are never written down.)
    pub(super) fn load(saved: Saved) -> Self {
        let Saved { networks, spokes } = saved;
        Self { objects: Objects { networks, spokes, ..Objects::default() } }
    }

    /// What the next run of the agent has to know.
    pub(super) fn save(&self) -> Saved {
        Saved { networks: self.objects.networks.clone(), spokes: self.objects.spokes.clone() }
    }

    /// Whether this network is as it was when it was last accepted.
    pub(super) fn knows_network(&self, name: &str, network: &DmvpnNetwork) -> bool {
        self.objects.networks.get(name).is_some_and(|(_, old)| old == network)
    }

    /// Whether this spoke is as it was when it was last accepted.
    pub(super) fn knows_spoke(&self, name: &str, spoke: &DmvpnSpoke) -> bool {
        self.objects.spokes.get(name).is_some_and(|(_, old)| old == spoke)
    }

    /// Parses the files; where one (or a document in it) is bad, what it gave last is taken instead.
    pub(super) fn merge(&self, files: BTreeMap<String, Result<String, String>>) -> (Objects, Vec<Problem>) {
        let mut objects = Objects::default();
        let mut problems = Vec::new();
        for (file, text) in files {
            let text = match text {
                // An editor or a full disk leaves such a file; whoever means it removes the file.
                Ok(text) if text.trim().is_empty() && self.gave(&file) => {
                    Err("empty: write it, or remove the file".to_owned())
                }
                text => text,
            };
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    let kept = self.keep_file(&file, &mut objects);
                    let message = format!("{error}; {}", in_force(kept));
                    problems.push(problem(file, "", Reason::FileUnreadable, message));
                    continue;
                }
            };
            let mut malformed = Vec::new();
            for document in manifest::parse(&text, &file) {
                match document {
                    Ok(object) => objects.add(&file, object, &mut problems),
                    Err(bad) if bad.object.is_empty() => malformed.push(bad),
                    Err(bad) => {
                        let message =
                            format!("{bad}; {}", in_force(self.keep_object(&bad.object, &mut objects)));
                        problems.push(problem(bad.object, &bad.field, Reason::Invalid, message));
                    }
                }
            }
            // Which object it was to be is unknown: all that the file gave and does not give now stays.
            let kept = !malformed.is_empty() && self.keep_file(&file, &mut objects);
            for bad in malformed {
                let message = format!("{bad}; {}", in_force(kept));
                problems.push(problem(file.clone(), &bad.field, Reason::NotYaml, message));
            }
        }
        (objects, problems)
    }

    /// Puts the last good version in the place of each refused object; true if something was exchanged.
    pub(super) fn substitute(&self, objects: &mut Objects, refused: &BTreeSet<String>) -> bool {
        let mut exchanged = false;
        for name in refused {
            let Some((kind, name)) = name.split_once('/') else { continue };
            match kind {
                "DmvpnNetwork" => {
                    if let Some(old) = self.objects.networks.get(name) {
                        exchanged |= objects
                            .networks
                            .insert(name.to_owned(), old.clone())
                            .is_some_and(|n| n.1 != old.1);
                    }
                }
                "DmvpnSpoke" => {
                    if let Some(old) = self.objects.spokes.get(name) {
                        exchanged |=
                            objects.spokes.insert(name.to_owned(), old.clone()).is_some_and(|n| n.1 != old.1);
                    }
                }
                _ => {}
            }
        }
        exchanged
    }

    /// Remembers what was accepted.
    pub(super) fn accept(&mut self, objects: &Objects, refused: &BTreeSet<String>) {
        self.objects = objects.clone();
        self.objects.networks.retain(|name, _| !refused.contains(&format!("DmvpnNetwork/{name}")));
        self.objects.spokes.retain(|name, _| !refused.contains(&format!("DmvpnSpoke/{name}")));
    }

    /// Whether a file gave something last.
    fn gave(&self, file: &str) -> bool {
        let from = |f: &String| f == file;
        let old = &self.objects;
        old.networks.values().any(|v| from(&v.0))
            || old.spokes.values().any(|v| from(&v.0))
            || old.secret_files.values().any(from)
    }

    /// Adds what a file gave last, where there is nothing newer; true if it gave something.
    fn keep_file(&self, file: &str, objects: &mut Objects) -> bool {
        let old = &self.objects;
        let from = |f: &String| f == file;
        let networks =
            old.networks.iter().filter(|(_, v)| from(&v.0)).map(|(n, _)| format!("DmvpnNetwork/{n}"));
        let spokes = old.spokes.iter().filter(|(_, v)| from(&v.0)).map(|(n, _)| format!("DmvpnSpoke/{n}"));
        let secrets = old.secret_files.iter().filter(|(_, f)| from(f)).map(|(n, _)| format!("Secret/{n}"));
        for object in networks.chain(spokes).chain(secrets) {
            self.keep_object(&object, objects);
        }
        self.gave(file)
    }

    /// Adds the last good version of an object, unless there is a newer one; false if there is none.
    fn keep_object(&self, object: &str, objects: &mut Objects) -> bool {
        let old = &self.objects;
        match object.split_once('/') {
            Some(("DmvpnNetwork", name)) => keep(name, &old.networks, &mut objects.networks),
            Some(("DmvpnSpoke", name)) => keep(name, &old.spokes, &mut objects.spokes),
            Some(("Secret", name)) => {
                keep(name, &old.secret_files, &mut objects.secret_files)
                    && keep(name, &old.secrets, &mut objects.secrets)
            }
            _ => false,
        }
    }
}

fn keep<T: Clone>(name: &str, old: &BTreeMap<String, T>, new: &mut BTreeMap<String, T>) -> bool {
    let Some(value) = old.get(name) else { return false };
    new.entry(name.to_owned()).or_insert_with(|| value.clone());
    true
}

fn in_force(kept: bool) -> &'static str {
    if kept { "what it gave last stays in force" } else { "nothing of it is in force" }
}

impl Objects {
    fn add(&mut self, file: &str, object: Object, problems: &mut Vec<Problem>) {
        let mut twice = |kind: &str, name: &str, first: &str| {
            let message = format!("is in {first} and in {file}: the first one counts; remove one");
            problems.push(problem(format!("{kind}/{name}"), "metadata.name", Reason::Duplicate, message));
        };
        match object {
            Object::Network(network) => {
                let name = network.metadata.name.clone().unwrap_or_default();
                match self.networks.get(&name) {
                    Some((first, _)) => twice("DmvpnNetwork", &name, first),
                    None => drop(self.networks.insert(name, (file.to_owned(), *network))),
                }
            }
            Object::Spoke(spoke) => {
                let name = spoke.metadata.name.clone().unwrap_or_default();
                match self.spokes.get(&name) {
                    Some((first, _)) => twice("DmvpnSpoke", &name, first),
                    None => drop(self.spokes.insert(name, (file.to_owned(), *spoke))),
                }
            }
            Object::Secret(secret) => {
                let name = secret.metadata.name.clone().unwrap_or_default();
                if let Some(first) = self.secret_files.get(&name) {
                    twice("Secret", &name, first);
                    return;
                }
                let network = secret.metadata.labels.and_then(|l| l.get("dmvpn.io/network").cloned());
                let mut data: BTreeMap<_, _> =
                    secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect();
                data.extend(
                    secret.string_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())),
                );
                self.secrets.insert(name.clone(), SecretData { network, data });
                self.secret_files.insert(name, file.to_owned());
            }
            Object::Ignored { .. } => {}
        }
    }
}
