//! The CustomResourceDefinitions as they are committed and applied: what the derive makes of the types,
//! tidied.

use std::sync::LazyLock;

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{DmvpnAddress, DmvpnEndpoint, DmvpnNetwork, DmvpnSpoke};

/// Kinds, in the order in which they are documented.
pub const KINDS: [&str; 4] = ["DmvpnNetwork", "DmvpnSpoke", "DmvpnEndpoint", "DmvpnAddress"];

static DEFINITIONS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    [DmvpnNetwork::crd(), DmvpnSpoke::crd(), DmvpnEndpoint::crd(), DmvpnAddress::crd()]
        .into_iter()
        .map(|crd| tidy(serde_json::to_value(crd).unwrap_or_default()))
        .collect()
});

/// The CustomResourceDefinitions of all kinds.
pub fn definitions() -> &'static [Value] {
    &DEFINITIONS
}

/// The `openAPIV3Schema` of a kind; `None` for a kind that is not ours.
pub fn open_api(kind: &str) -> Option<&'static Value> {
    let crd = DEFINITIONS.iter().find(|crd| crd["spec"]["names"]["kind"] == kind)?;
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema")
}

/// File name and YAML text of all CustomResourceDefinitions.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn files() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    definitions()
        .iter()
        .map(|crd| {
            let plural = crd["spec"]["names"]["plural"].as_str().unwrap_or_default();
            Ok((format!("dmvpn.io_{plural}.yaml"), serde_saphyr::to_string(crd)?))
        })
        .collect()
}

fn tidy(mut crd: Value) -> Value {
    if let Some(root) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        tidy_schema(root);
        if let Some(root) = root.as_object_mut() {
            if let Some(spec) = root.get("properties").and_then(|p| p["spec"]["description"].as_str()) {
                root.insert("description".into(), spec.into());
            }
            // kstatus: a new object is in progress from its first second
            if let Some(status) = root.get_mut("properties").and_then(|p| p.get_mut("status")) {
                status["default"] = json!({"observedGeneration": -1});
                status["properties"]["observedGeneration"]["default"] = json!(-1);
            }
        }
    }
    crd
}

fn tidy_schema(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else { return };
    // lines of a paragraph are one text for `kubectl explain`
    if let Some(text) = node.get("description").and_then(Value::as_str) {
        let paragraphs = text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
        let text = paragraphs.collect::<Vec<_>>().join("\n\n");
        node.insert("description".into(), text.into());
    }
    // null is the same as absent: the API server prunes it
    node.remove("nullable");
    if node.get("default") == Some(&Value::Null) {
        node.remove("default");
    }
    for bound in ["minimum", "maximum"] {
        // the derive writes 255.0
        if let Some(whole) = node.get(bound).and_then(Value::as_f64).filter(|v| v.fract() == 0.0) {
            node.insert(bound.into(), json!(whole as i64));
        }
    }
    tidy_format(node);
    for child in ["properties", "additionalProperties", "items"] {
        let Some(child) = node.get_mut(child) else { continue };
        match child {
            Value::Object(map) if !is_schema(map) => map.values_mut().for_each(tidy_schema),
            other => tidy_schema(other),
        }
    }
}

/// `properties` is a map of schemas, `items` and `additionalProperties` are schemas: a schema has a type that
/// is a text.
fn is_schema(map: &Map<String, Value>) -> bool {
    map.get("type").is_some_and(Value::is_string)
}

/// Formats that kubectl does not know become bounds.
fn tidy_format(node: &mut Map<String, Value>) {
    let format = node.get("format").and_then(Value::as_str).unwrap_or_default().to_owned();
    let highest: i64 = match format.as_str() {
        "uint8" => u8::MAX.into(),
        "uint16" => u16::MAX.into(),
        "uint32" => u32::MAX.into(),
        "ip" => {
            node.remove("format");
            node.insert("anyOf".into(), json!([{"format": "ipv4"}, {"format": "ipv6"}]));
            node.insert("minLength".into(), json!(2));
            node.insert("maxLength".into(), json!(45));
            return;
        }
        _ => return,
    };
    node.remove("format");
    node.entry("minimum").or_insert(json!(0));
    node.entry("maximum").or_insert(json!(highest));
}
