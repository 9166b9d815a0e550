//! Objects from YAML text, for agents that run from a directory: checked by the schema as the API server
//! would, then decoded. Whatever cannot be used names file, line, object, field, value and cure.

use std::fmt;

use crds::{DmvpnNetwork, DmvpnSpoke, GROUP, schema};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

/// An object of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A network.
    Network(Box<DmvpnNetwork>),
    /// A spoke.
    Spoke(Box<DmvpnSpoke>),
    /// A Secret; `stringData` has been moved to `data`.
    Secret(Box<Secret>),
    /// Something that is not for us.
    Ignored {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// Why a document cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file.
    pub file: String,
    /// 1-based line, where known.
    pub line: Option<usize>,
    /// 1-based column, where known.
    pub column: Option<usize>,
    /// `DmvpnSpoke/west-lan`; empty when the YAML does not parse.
    pub object: String,
    /// Path of the field; empty when the whole document is meant.
    pub field: String,
    /// The value at fault, as JSON, shortened.
    pub value: String,
    /// Cause and cure.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Reads all documents of a YAML text; one that is wrong does not stop the others. Lists (`kind: List`) are
/// taken apart. What is not of our group and no Secret is [`Object::Ignored`].
pub fn parse(text: &str, file: &str) -> Vec<Result<Object, Problem>> {
    let mut objects = Vec::new();
    for document in documents(text) {
        match serde_saphyr::from_str::<Value>(&document.text) {
            Ok(Value::Null) => {}
            Ok(value) => read(value, file, document.line, &mut objects),
            Err(e) => objects.push(Err(malformed(&e, file, document.line))),
        }
    }
    objects
}

/// A document and the line that it begins on, from 0.
struct Document {
    line: usize,
    text: String,
}

/// A line that begins with `---` begins a document, even inside of a block text (YAML 1.2 section 9.1.2).
fn documents(text: &str) -> Vec<Document> {
    let mut all = vec![Document { line: 0, text: String::new() }];
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let marker = line == "---" || line.starts_with("--- ") || line.starts_with("---\t");
        if marker {
            all.push(Document { line: number, text: String::new() });
        }
        if let Some(last) = all.last_mut() {
            // the marker's line stays, so that lines count right and "--- {a: b}" keeps its content
            last.text.push_str(line.strip_prefix("---").filter(|_| marker).unwrap_or(line));
            last.text.push('\n');
        }
    }
    let blank =
        |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim_end() == "...";
    all.retain(|d| !d.text.lines().all(blank));
    all
}

fn malformed(error: &serde_saphyr::Error, file: &str, offset: usize) -> Problem {
    let location = error.location();
    // the first line says it; what follows is a picture of the place
    let text = error.without_snippet().to_string();
    let cause = text.lines().next().unwrap_or_default().to_owned();
    Problem {
        file: file.to_owned(),
        line: location.map(|l| l.line() as usize + offset),
        column: location.map(|l| l.column() as usize),
        message: format!("not YAML: {cause}: correct the line; nothing of this document is used"),
        ..Problem::default()
    }
}

fn read(mut value: Value, file: &str, line: usize, objects: &mut Vec<Result<Object, Problem>>) {
    if value["kind"] == "List" && value["apiVersion"] == "v1" {
        if let Some(items) = value["items"].as_array_mut() {
            items.drain(..).for_each(|item| read(item, file, line, objects));
        }
        return;
    }
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let problem = |field: &str, shown: Option<&Value>, message: String| Problem {
        file: file.to_owned(),
        line: Some(line + 1),
        object: format!("{}/{name}", if kind.is_empty() { "object" } else { &kind }),
        field: field.to_owned(),
        value: shown.map(schema::show).unwrap_or_default(),
        message,
        ..Problem::default()
    };
    let api = value["apiVersion"].as_str().unwrap_or_default();
    let group = api.split('/').next().unwrap_or_default();
    if !value.is_object() || kind.is_empty() {
        let message = "not a Kubernetes object: it needs apiVersion, kind and metadata.name".to_owned();
        objects.push(Err(problem("kind", value.get("kind"), message)));
        return;
    }
    if api == "v1" && kind == "Secret" {
        objects.push(secret(&value).map_err(|e| problem("data", None, e)));
        return;
    }
    // one of our kinds under a wrong apiVersion must not be ignored in silence
    let ours = group == GROUP || schema::KINDS.contains(&kind.as_str());
    if !ours || matches!(kind.as_str(), "DmvpnEndpoint" | "DmvpnAddress") {
        objects.push(Ok(Object::Ignored { kind: kind.clone(), name: name.clone() }));
        return;
    }
    let errors = schema::check(&kind, &value);
    if !errors.is_empty() {
        for error in errors {
            let problem = problem(&error.field, None, error.message);
            objects.push(Err(Problem { value: error.value, ..problem }));
        }
        return;
    }
    let mut pruned = value.clone();
    schema::prune(&mut pruned);
    let typed = match kind.as_str() {
        "DmvpnNetwork" => serde_json::from_value(pruned).map(|n| Object::Network(Box::new(n))),
        _ => serde_json::from_value(pruned).map(|s| Object::Spoke(Box::new(s))),
    };
    objects.push(typed.map_err(|e| problem("", None, format!("{e}: correct the object"))));
}

/// A Secret; `data` wants base64, `stringData` is plain and wins, as in Kubernetes.
fn secret(value: &Value) -> Result<Object, String> {
    let mut secret: Secret = serde_json::from_value(value.clone())
        .map_err(|e| format!("{e}: values of data are base64; use stringData for plain text"))?;
    if secret.metadata.name.as_deref().unwrap_or_default().is_empty() {
        return Err("metadata.name is missing: give the Secret a name".to_owned());
    }
    for (key, plain) in secret.string_data.take().unwrap_or_default() {
        secret.data.get_or_insert_default().insert(key, ByteString(plain.into_bytes()));
    }
    Ok(Object::Secret(Box::new(secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOKE: &str = "apiVersion: dmvpn.io/v1alpha1\nkind: DmvpnSpoke\nmetadata: {name: a}\nspec:\n  \
        networkRef: {name: branches}\n  placement: {type: Node, nodeName: a}\n";

    fn problems(text: &str) -> Vec<Problem> {
        parse(text, "x.yaml").into_iter().filter_map(Result::err).collect()
    }

    #[test]
    fn a_document_that_does_not_parse_names_its_line_and_stops_no_other() {
        let text = format!("# comment\n---\n{SPOKE}---\nkind: [\n---\n{SPOKE}");
        let objects = parse(&text, "x.yaml");
        assert_eq!(objects.iter().filter(|o| matches!(o, Ok(Object::Spoke(_)))).count(), 2);
        let all = problems(&text);
        assert_eq!(all.len(), 1, "{all:?}");
        let line = all[0].line.unwrap();
        assert!((9..=11).contains(&line), "{all:?}");
        assert!(all[0].to_string().starts_with(&format!("x.yaml:{line}:")), "{}", all[0]);
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let all = problems(&format!("{SPOKE}  placement: {{type: External}}\n"));
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].message.contains("duplicate"), "{}", all[0]);
    }

    #[test]
    fn refusals_name_object_field_value_and_cure() {
        let text = format!("{SPOKE}  subnets: [{{cidr: 10.20.0.5/24}}]\n");
        let all = problems(&text);
        assert_eq!(
            all[0].to_string(),
            "x.yaml:1: DmvpnSpoke/a: spec.subnets[0].cidr = \"10.20.0.5/24\": 10.20.0.5/24: host bits set; did you mean \
             10.20.0.0/24"
        );
        let all = problems(&SPOKE.replace("networkRef", "networkref"));
        assert!(
            all.iter().any(|p| p.field == "spec.networkref" && p.message.contains("did you mean networkRef"))
        );
        let all = problems(&SPOKE.replace("v1alpha1", "v1"));
        assert!(all.iter().any(|p| p.field == "apiVersion" && p.message.contains("dmvpn.io/v1alpha1")));
        let all = problems(&SPOKE.replace("DmvpnSpoke", "DmvpnSpok"));
        assert!(all.iter().any(|p| p.field == "kind" && p.message.contains("did you mean DmvpnSpoke")));
        let all = problems(&SPOKE.replace("dmvpn.io/v1alpha1", "v1"));
        assert!(all.iter().any(|p| p.field == "apiVersion"), "{all:?}");
        assert_eq!(problems("hello").len(), 1);
    }

    #[test]
    fn other_objects_are_ignored_and_secrets_read() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: v1\nkind: Secret\n\
                    metadata: {name: s}\ndata: {a: YWFh}\nstringData: {password: s3cret}\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: p}}\n";
        let objects = parse(text, "x.yaml");
        assert_eq!(objects[0], Ok(Object::Ignored { kind: "ConfigMap".into(), name: "c".into() }));
        let Ok(Object::Secret(secret)) = &objects[1] else { panic!("{objects:?}") };
        assert_eq!(secret.data.as_ref().unwrap()["password"].0, b"s3cret");
        assert_eq!(secret.data.as_ref().unwrap()["a"].0, b"aaa");
        assert_eq!(objects[2], Ok(Object::Ignored { kind: "Pod".into(), name: "p".into() }));
        assert_eq!(
            problems("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'not base64!'}\n").len(),
            1
        );
    }

    #[test]
    fn null_is_the_same_as_absent() {
        let objects = parse(&format!("{SPOKE}  subnets: null\n  suspend:\n"), "x.yaml");
        assert!(matches!(objects.as_slice(), [Ok(Object::Spoke(_))]), "{objects:?}");
    }
}
