//! values.yaml, its schema and the guide speak of the same keys.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::helm::chart;

#[test]
fn each_value_has_a_schema_and_each_schema_a_default() {
    let schema = schema();
    let in_values = keys("", &defaults());
    let mut in_schema = BTreeSet::new();
    schema_keys("", &schema, &schema, &mut in_schema);
    // Helm's own.
    assert!(in_schema.remove("global"));
    let free = in_schema.difference(&in_values).collect::<Vec<_>>();
    assert!(free.is_empty(), "in the schema, but not in values.yaml: {free:?}");
    // What is below a map of the user's choice (a nodeSelector) has no key of its own in the schema.
    let unknown: Vec<_> = in_values.iter().filter(|key| !covered(key, &in_schema)).collect();
    assert!(unknown.is_empty(), "in values.yaml, but not in the schema: {unknown:?}");
}

#[test]
fn no_part_of_the_schema_is_open_by_oversight() {
    let mut open = Vec::new();
    find_open("", &schema(), &mut open);
    open.sort();
    // Texts by name are the user's; what helm hands over and what Kubernetes defines deeply is not ours to repeat.
    let want = [
        "/definitions/affinity/properties/nodeAffinity",
        "/definitions/affinity/properties/podAffinity",
        "/definitions/affinity/properties/podAntiAffinity",
        "/properties/global",
        "/properties/operator/properties/topologySpreadConstraints/items",
    ];
    assert_eq!(open, want);
}

#[test]
fn the_guide_names_each_value() {
    let guide = fs::read_to_string(e2e::paths::repository().join("docs/kubernetes.md")).unwrap();
    let schema = schema();
    let mut all = BTreeSet::new();
    schema_keys("", &schema, &schema, &mut all);
    all.remove("global");
    let leaves: Vec<_> =
        all.iter().filter(|key| !all.iter().any(|k| k.starts_with(&format!("{key}.")))).collect();
    assert!(leaves.len() > 30, "{leaves:?}");
    // The images have the same keys, and are in one row.
    let row = |key: &str| {
        let key = ["operator", "agent", "charon"]
            .iter()
            .fold(key.to_owned(), |key, part| key.replace(&format!("image.{part}."), "image.*."));
        let both = key.replace("operator.", "*.").replace("agent.", "*.");
        [key, both].iter().any(|key| guide.contains(&format!("`{key}`")))
    };
    let missing: Vec<_> = leaves.iter().filter(|key| !row(key)).collect();
    assert!(missing.is_empty(), "not in docs/kubernetes.md: {missing:?}");
}

fn schema() -> Value {
    let text = fs::read_to_string(chart().join("values.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn defaults() -> Value {
    serde_saphyr::from_str(&fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap()
}

/// Keys of maps, joined by dots.
fn keys(path: &str, value: &Value) -> BTreeSet<String> {
    let Some(fields) = value.as_object() else { return BTreeSet::new() };
    let below = |(key, value): (&String, &Value)| {
        let path = join(path, key);
        let mut all = keys(&path, value);
        all.insert(path);
        all
    };
    fields.iter().flat_map(below).collect()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Keys that our own parts of the schema have; those of Kubernetes (resources, affinity …) are one key each.
fn schema_keys(path: &str, part: &Value, root: &Value, all: &mut BTreeSet<String>) {
    let target = part["$ref"].as_str().map(|reference| &reference["#/definitions/".len()..]);
    let part = match target {
        None => part,
        Some("image") => &root["definitions"]["image"],
        Some(_) => return,
    };
    if path.ends_with("seLinuxOptions") {
        return;
    }
    for (key, below) in part["properties"].as_object().into_iter().flatten() {
        let path = join(path, key);
        all.insert(path.clone());
        schema_keys(&path, below, root, all);
    }
}

fn covered(key: &str, in_schema: &BTreeSet<String>) -> bool {
    let maps = ["resources", "nodeSelector", "seLinuxOptions", "podLabels", "podAnnotations", "affinity"];
    let parent = |key: &str| {
        in_schema.iter().any(|k| key.starts_with(&format!("{k}.")) && maps.iter().any(|m| k.ends_with(m)))
    };
    in_schema.contains(key) || parent(key)
}

/// Objects that take any key.
fn find_open(path: &str, part: &Value, open: &mut Vec<String>) {
    if part["type"] == "object" && part["additionalProperties"].is_null() {
        open.push(path.to_owned());
    }
    match part {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| find_open(&format!("{path}/{key}"), value, open));
        }
        Value::Array(entries) => entries.iter().for_each(|value| find_open(path, value, open)),
        _ => {}
    }
}
