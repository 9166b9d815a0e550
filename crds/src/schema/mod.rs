//! What the API server would say about an object, for boxes that have none: structure, bounds and CEL rules
//! of the CustomResourceDefinitions, each refusal with its field, the value and the cure.

mod definition;
mod structure;

use std::collections::HashMap;
use std::sync::LazyLock;

use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde_json::{Value, json};

pub use definition::{KINDS, definitions, files, open_api};

use crate::{API_VERSION, bounds};

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Path, e.g. `spec.tunnel.key`.
    pub field: String,
    /// The value, as JSON, shortened; empty when there is none.
    pub value: String,
    /// Cause and cure.
    pub message: String,
}

impl FieldError {
    fn new(field: &str, value: Option<&Value>, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), value: value.map(show).unwrap_or_default(), message: message.into() }
    }
}

/// Checks an object as the API server would: structure first and, if that is right, CEL rules. Unknown fields
/// are errors, `null` is the same as absent, defaults are applied before the rules. Empty: the object is
/// valid.
pub fn check(kind: &str, object: &Value) -> Vec<FieldError> {
    let Some(schema) = open_api(kind) else {
        let near = structure::nearest(kind, KINDS);
        return vec![FieldError::new("kind", Some(&json!(kind)), unknown("kind", &KINDS.join(", "), near))];
    };
    let mut object = object.clone();
    prune(&mut object);
    let mut errors = check_head(kind, &object);
    structure::check(schema, &object, &mut errors);
    if errors.is_empty() {
        check_rules(kind, &object, &mut errors);
    }
    errors
}

/// Removes `null` fields, as the API server does.
pub fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

/// A value as JSON, shortened to about 80 characters.
pub fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

fn unknown(what: &str, all: &str, near: Option<&str>) -> String {
    match near {
        Some(near) => format!("unknown {what}: did you mean {near}?"),
        None => format!("unknown {what}: use one of {all}"),
    }
}

/// `apiVersion`, `kind` and `metadata`, which the CRD's schema leaves to the API server.
fn check_head(kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut fault = |field: &str, message: String| {
        let value = object.pointer(&format!("/{}", field.replace('.', "/")));
        errors.push(FieldError::new(field, value, message));
    };
    if object["apiVersion"] != API_VERSION {
        fault("apiVersion", format!("must be {API_VERSION}"));
    }
    if object["kind"] != kind {
        fault("kind", format!("must be {kind}"));
    }
    let name = &object["metadata"]["name"];
    match name.as_str() {
        None if !name.is_null() => {
            let message = structure::wrong_type("string", name);
            fault("metadata.name", message);
        }
        None => fault("metadata.name", "is missing: give the object a name".to_owned()),
        Some(name) if !bounds::is_subdomain(name) => {
            let cure = bounds::pattern_cure(bounds::SUBDOMAIN).unwrap_or_default();
            fault("metadata.name", format!("must be a DNS name of at most 253 characters: {cure}"));
        }
        Some(_) => {}
    }
    for map in ["labels", "annotations"] {
        match &object["metadata"][map] {
            Value::Null => {}
            Value::Object(map) if map.values().all(Value::is_string) => {}
            _ => fault(
                &format!("metadata.{map}"),
                "must be a map of texts: put numbers into quotes".to_owned(),
            ),
        }
    }
    errors
}

/// Schemas with each `pattern` turned into a CEL rule whose message names the cure.
static RULES: LazyLock<HashMap<&'static str, CompiledSchema>> = LazyLock::new(|| {
    KINDS
        .iter()
        .filter_map(|kind| {
            let mut schema = open_api(kind)?.clone();
            patterns_to_rules(&mut schema);
            Some((*kind, compile_schema(&schema)))
        })
        .collect()
});

fn patterns_to_rules(schema: &mut Value) {
    match schema {
        Value::Object(node) => {
            if let Some(pattern) = node.get("pattern").and_then(Value::as_str).map(str::to_owned) {
                let cure = bounds::pattern_cure(&pattern)
                    .map_or_else(|| format!("must match {pattern}"), str::to_owned);
                let rule = json!({"rule": format!("self.matches({})", cel_text(&pattern)), "message": cure});
                if let Some(rules) =
                    node.entry("x-kubernetes-validations").or_insert_with(|| json!([])).as_array_mut()
                {
                    rules.push(rule);
                }
            }
            node.values_mut().for_each(patterns_to_rules);
        }
        Value::Array(list) => list.iter_mut().for_each(patterns_to_rules),
        _ => {}
    }
}

/// A CEL string literal.
fn cel_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn check_rules(kind: &str, object: &Value, errors: &mut Vec<FieldError>) {
    let Some(compiled) = RULES.get(kind) else { return };
    let Err(failures) = Validator::new().validate_compiled(compiled, object, None) else { return };
    for failure in failures {
        let field = failure.field_path.trim_start_matches('.').to_owned();
        let value = structure::at(object, &field);
        let message = value.and_then(|v| bounds::explain(&failure.rule, v)).unwrap_or(failure.message);
        errors.push(FieldError::new(&field, value, message));
    }
}
