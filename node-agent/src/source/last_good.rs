//! The last version of each object that worked.
//!
//! A file that does not parse, and an object that is refused, leave their last good version in force; only an object
//! that is really gone is gone.

use std::collections::{BTreeMap, BTreeSet};

use compile::manifest::{self, Object};
use crds::Reason;
use crds::network::DmvpnNetwork;
use crds::spoke::DmvpnSpoke;
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

/// Memory of what worked.
#[derive(Debug, Default)]
pub(super) struct LastGood {
    objects: Objects,
}

impl LastGood {
    /// Parses the files; where one (or a document in it) is bad, what it gave last is taken instead.
    pub(super) fn merge(&self, files: BTreeMap<String, Result<String, String>>) -> (Objects, Vec<Problem>) {
        let mut objects = Objects::default();
        let mut problems = Vec::new();
        for (file, text) in files {
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    let message = format!("{error}; what it gave last stays in force");
                    problems.push(problem(file.clone(), "", Reason::FileUnreadable, message));
                    self.keep_file(&file, &mut objects);
                    continue;
                }
            };
            for document in manifest::parse(&text, &file) {
                match document {
                    Ok(object) => objects.add(&file, object, &mut problems),
                    Err(bad) => {
                        let message = format!("{bad}; what it gave last stays in force");
                        let (object, reason) = if bad.object.is_empty() {
                            self.keep_file(&file, &mut objects);
                            (file.clone(), Reason::NotYaml)
                        } else {
                            self.keep_object(&bad.object, &mut objects);
                            (bad.object, Reason::Invalid)
                        };
                        problems.push(problem(object, &bad.field, reason, message));
                    }
                }
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

    fn keep_file(&self, file: &str, objects: &mut Objects) {
        let old = &self.objects;
        let from = |f: &String| f.as_str() == file;
        objects
            .networks
            .extend(old.networks.iter().filter(|(_, v)| from(&v.0)).map(|(k, v)| (k.clone(), v.clone())));
        objects
            .spokes
            .extend(old.spokes.iter().filter(|(_, v)| from(&v.0)).map(|(k, v)| (k.clone(), v.clone())));
        for (name, _) in old.secret_files.iter().filter(|(_, f)| from(f)) {
            self.keep_object(&format!("Secret/{name}"), objects);
        }
    }

    fn keep_object(&self, object: &str, objects: &mut Objects) {
        let Some((kind, name)) = object.split_once('/') else { return };
        let old = &self.objects;
        match kind {
            "DmvpnNetwork" => {
                objects.networks.extend(old.networks.get(name).map(|v| (name.to_owned(), v.clone())));
            }
            "DmvpnSpoke" => objects.spokes.extend(old.spokes.get(name).map(|v| (name.to_owned(), v.clone()))),
            "Secret" => {
                objects.secrets.extend(old.secrets.get(name).map(|v| (name.to_owned(), v.clone())));
                objects.secret_files.extend(old.secret_files.get(name).map(|v| (name.to_owned(), v.clone())));
            }
            _ => {}
        }
    }
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
