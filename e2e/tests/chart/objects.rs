//! What helm rendered, as objects.

use std::collections::BTreeSet;

use serde_json::Value;

/// Objects of one release.
pub(crate) struct Objects(pub(crate) Vec<Value>);

impl Objects {
    pub(crate) fn parse(text: &str) -> Self {
        // One document at a time: together the definitions exceed what the parser admits by default.
        let documents = text.split("\n---\n").filter(|document| {
            document.lines().any(|line| !line.starts_with('#') && !line.trim().is_empty() && line != "---")
        });
        let parse = |document: &str| {
            serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}:\n{document}"))
        };
        Self(documents.map(parse).collect())
    }

    /// `Kind/name` of each.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let names: BTreeSet<String> = self.0.iter().map(name).collect();
        assert_eq!(names.len(), self.0.len(), "two objects have the same kind and name: {names:?}");
        names
    }

    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name} in {:?}", self.names()))
    }

    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// Specs of the pods: operator, agent and, unless it is switched off, drain.
    pub(crate) fn pods(&self) -> Vec<Pod<'_>> {
        let workloads = self.0.iter().filter(|object| object["spec"]["template"].is_object());
        workloads
            .map(|object| {
                let template = &object["spec"]["template"];
                let containers = list(&template["spec"]["containers"]);
                assert_eq!(containers.len(), 1, "{}: one container", name(object));
                assert!(template["spec"]["initContainers"].is_null(), "{}", name(object));
                Pod {
                    owner: name(object),
                    labels: &template["metadata"]["labels"],
                    annotations: &template["metadata"]["annotations"],
                    spec: &template["spec"],
                    container: &containers[0],
                }
            })
            .collect()
    }

    pub(crate) fn pod(&self, owner: &str) -> Pod<'_> {
        let pod = self.pods().into_iter().find(|pod| pod.owner == owner);
        pod.unwrap_or_else(|| panic!("no {owner} in {:?}", self.names()))
    }
}

/// A pod's template.
pub(crate) struct Pod<'a> {
    /// `Kind/name` of what makes the pod.
    pub(crate) owner: String,
    pub(crate) labels: &'a Value,
    pub(crate) annotations: &'a Value,
    pub(crate) spec: &'a Value,
    pub(crate) container: &'a Value,
}

impl Pod<'_> {
    pub(crate) fn args(&self) -> Vec<&str> {
        texts(&self.container["args"])
    }

    /// Value of a variable that is written out.
    pub(crate) fn env(&self, variable: &str) -> Option<&str> {
        let all = list(&self.container["env"]);
        all.iter().find(|entry| entry["name"] == variable).and_then(|entry| entry["value"].as_str())
    }
}

/// `Kind/name`.
pub(crate) fn name(object: &Value) -> String {
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}
