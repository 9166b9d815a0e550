//! Structural validation: types, required and unknown fields, enums, bounds, formats and list keys of an
//! OpenAPI v3 schema as CustomResourceDefinitions have it.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{FieldError, show, unknown};
use crate::net::{Cidr, parse_address};

/// Checks `object` against a root schema; `metadata` is left to the caller.
pub(super) fn check(schema: &Value, object: &Value, errors: &mut Vec<FieldError>) {
    let Some(map) = object.as_object() else {
        errors.push(FieldError::new(
            "",
            Some(object),
            "must be an object with apiVersion, kind, metadata and spec",
        ));
        return;
    };
    let mut checker = Checker { errors };
    checker.object("", schema, map);
}

/// The value at a path such as `spec.hubs[0].nbma`. Keys of maps may have dots themselves.
pub(super) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.strip_prefix('.').unwrap_or(path);
    if path.is_empty() {
        return Some(object);
    }
    if let Some((index, rest)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) {
        return at(object.get(index.parse::<usize>().ok()?)?, rest);
    }
    let fits = |rest: &&str| rest.is_empty() || rest.starts_with(['.', '[']);
    object
        .as_object()?
        .iter()
        .find_map(|(name, value)| at(value, path.strip_prefix(name.as_str()).filter(fits)?))
}

/// The name nearest to `name`, if it is near enough to be a slip.
pub(super) fn nearest<'a>(name: &str, all: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    all.into_iter()
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut last = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let here = (last + usize::from(from != *to)).min(left + 1).min(*cell + 1);
            last = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or_default()
}

struct Checker<'a> {
    errors: &'a mut Vec<FieldError>,
}

impl Checker<'_> {
    fn fault(&mut self, path: &str, value: &Value, message: impl Into<String>) {
        self.errors.push(FieldError::new(path, Some(value), message));
    }

    fn value(&mut self, path: &str, schema: &Value, value: &Value) {
        let wanted = schema["type"].as_str().unwrap_or_default();
        match (wanted, value) {
            ("object", Value::Object(map)) => self.object(path, schema, map),
            ("array", Value::Array(list)) => self.list(path, schema, list),
            ("string", Value::String(text)) => self.text(path, schema, value, text),
            ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {
                self.number(path, schema, value);
            }
            ("number", Value::Number(_)) => self.number(path, schema, value),
            ("boolean", Value::Bool(_)) => {}
            _ => self.fault(path, value, wrong_type(wanted, value)),
        }
        self.choice(path, schema, value);
    }

    fn object(&mut self, path: &str, schema: &Value, map: &Map<String, Value>) {
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                self.errors.push(FieldError::new(&join(path, name), None, missing(properties.get(name))));
            }
        }
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true
            || (properties.is_empty() && schema.get("additionalProperties").is_none());
        for (name, value) in map {
            let child = join(path, name);
            match (properties.get(name), schema.get("additionalProperties")) {
                (Some(schema), _) => self.value(&child, schema, value),
                (None, Some(schema)) if schema.is_object() => self.value(&child, schema, value),
                // the root's, which the API server knows besides the schema
                (None, _)
                    if open
                        || (path.is_empty()
                            && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")) => {}
                (None, _) => {
                    let all: Vec<&str> = properties.keys().map(String::as_str).collect();
                    let near = nearest(name, all.iter().copied());
                    self.fault(&child, value, unknown("field", &all.join(", "), near));
                }
            }
        }
        let size = map.len() as u64;
        if schema["minProperties"].as_u64().is_some_and(|min| size < min) {
            self.fault(
                path,
                &Value::Object(map.clone()),
                "must not be empty: add an entry or remove the field",
            );
        }
        if let Some(max) = schema["maxProperties"].as_u64().filter(|max| size > *max) {
            self.fault(
                path,
                &Value::Object(map.clone()),
                format!("has {size} entries: at most {max} are allowed"),
            );
        }
    }

    fn list(&mut self, path: &str, schema: &Value, list: &[Value]) {
        let size = list.len() as u64;
        let whole = || Value::Array(list.to_vec());
        if let Some(min) = schema["minItems"].as_u64().filter(|min| size < *min) {
            self.fault(path, &whole(), format!("has {size} entries: at least {min} is needed"));
        }
        if let Some(max) = schema["maxItems"].as_u64().filter(|max| size > *max) {
            self.fault(path, &whole(), format!("has {size} entries: at most {max} are allowed"));
            return;
        }
        for (i, item) in list.iter().enumerate() {
            self.value(&format!("{path}[{i}]"), &schema["items"], item);
        }
        self.unique(path, schema, list);
    }

    /// `set`: no entry twice; `map`: no two entries with the same keys.
    fn unique(&mut self, path: &str, schema: &Value, list: &[Value]) {
        let keys: Vec<&str> = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Vec::new(),
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array();
                keys.into_iter().flatten().filter_map(Value::as_str).collect()
            }
            _ => return,
        };
        let mut seen = HashSet::new();
        for (i, item) in list.iter().enumerate() {
            let (place, key) = match keys.as_slice() {
                [] => (format!("{path}[{i}]"), item.to_string()),
                keys => (
                    format!("{path}[{i}].{}", keys.join(",")),
                    keys.iter().map(|k| item[*k].to_string()).collect::<Vec<_>>().join(" "),
                ),
            };
            if !seen.insert(key) {
                let value = keys.first().map_or(item, |k| &item[*k]);
                self.fault(&place, value, format!("is in {path} twice: remove one of them or change it"));
            }
        }
    }

    fn text(&mut self, path: &str, schema: &Value, value: &Value, text: &str) {
        let size = text.chars().count() as u64;
        if let Some(min) = schema["minLength"].as_u64().filter(|min| size < *min) {
            let cure = if size == 0 { ": give a value or remove the field" } else { "" };
            self.fault(path, value, format!("has {size} characters, at least {min} are needed{cure}"));
            return;
        }
        if let Some(max) = schema["maxLength"].as_u64().filter(|max| size > *max) {
            self.fault(path, value, format!("has {size} characters: shorten it to at most {max}"));
            return;
        }
        let formats: Vec<&str> = match schema["anyOf"].as_array() {
            Some(any) => any.iter().filter_map(|s| s["format"].as_str()).collect(),
            None => schema["format"].as_str().into_iter().collect(),
        };
        let faults: Vec<String> = formats.iter().filter_map(|f| format_fault(f, text)).collect();
        if !formats.is_empty() && faults.len() == formats.len() {
            self.fault(path, value, faults.first().cloned().unwrap_or_default());
        }
    }

    fn number(&mut self, path: &str, schema: &Value, value: &Value) {
        let (min, max) = (&schema["minimum"], &schema["maximum"]);
        let Some(number) = value.as_f64() else { return };
        let low = min.as_f64().is_some_and(|min| number < min);
        let high = max.as_f64().is_some_and(|max| number > max);
        if low || high {
            let range = match (min.is_number(), max.is_number()) {
                (true, true) => format!("must be {min}-{max}"),
                (true, false) => format!("must be at least {min}"),
                _ => format!("must be at most {max}"),
            };
            self.fault(path, value, range);
        }
    }

    fn choice(&mut self, path: &str, schema: &Value, value: &Value) {
        let Some(all) = schema["enum"].as_array() else { return };
        let Some(text) = value.as_str() else { return };
        if all.contains(value) {
            return;
        }
        let names: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
        let hint =
            nearest(text, names.iter().copied()).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
        self.fault(path, value, format!("must be one of {}{hint}", names.join(", ")));
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn missing(schema: Option<&Value>) -> String {
    let description = schema.and_then(|s| s["description"].as_str()).unwrap_or_default();
    match description.split("\n\n").next().unwrap_or_default() {
        "" => "is missing: add it".to_owned(),
        what => format!("is missing: add it ({})", what.replace('\n', " ").trim_end_matches('.')),
    }
}

/// Says what is wanted, what was given and how to mend it.
pub(super) fn wrong_type(wanted: &str, value: &Value) -> String {
    let given = match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let (what, cure) = match (wanted, value) {
        ("integer", Value::String(s)) if s.parse::<i64>().is_ok() => {
            ("a whole number", ": remove the quotes")
        }
        ("integer", Value::Number(_)) => ("a whole number", ": leave out the fraction"),
        ("integer" | "number", _) => ("a whole number", ""),
        ("boolean", _) => ("true or false", " (without quotes)"),
        ("string", Value::Number(_) | Value::Bool(_)) => ("a text", ": put it into quotes"),
        ("string", _) => ("a text", ""),
        ("array", _) => ("a list", ": write [ ... ] or lines that begin with '-'"),
        _ => ("an object", ": write fields as name: value"),
    };
    format!("must be {what}, not {given}{cure}; got {}", show(value))
}

/// Why `text` is not of a format; `None` when it is, or when the format asks for nothing.
fn format_fault(format: &str, text: &str) -> Option<String> {
    match format {
        "cidr" => text.parse::<Cidr>().err().map(|e| e.to_string()),
        "ipv4" | "ipv6" => match parse_address(text) {
            Ok(address) if address.is_ipv4() == (format == "ipv4") => None,
            Ok(_) => Some(format!("{text}: must be an address of the other family")),
            Err(e) => Some(e.to_string()),
        },
        "date-time" => match text.parse::<k8s_openapi::jiff::Timestamp>() {
            Ok(_) => None,
            Err(_) => Some(format!("{text}: must be a time such as 2026-01-31T12:00:00Z")),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let fields = ["overlay", "hubs", "tunnel", "holdTimeSeconds"];
        assert_eq!(nearest("hub", fields), Some("hubs"));
        assert_eq!(nearest("holdtimeSecond", fields), Some("holdTimeSeconds"));
        assert_eq!(nearest("routing", fields), None);
    }

    #[test]
    fn paths_lead_to_values() {
        let object = serde_json::json!({"spec": {"hubs": [{"nbma": [1, 2]}], "a": {"b.c/d": 3}}});
        assert_eq!(at(&object, "spec.hubs[0].nbma[1]"), Some(&Value::from(2)));
        assert_eq!(at(&object, "spec.hubs[1].nbma"), None);
        assert_eq!(at(&object, "spec.a.b.c/d"), Some(&Value::from(3)));
    }
}
