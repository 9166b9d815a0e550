//! What was written to the API server, by whom: read from its audit log.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// One request that was to change something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Who asked, e.g. `system:serviceaccount:dmvpn-system:dmvpn-operator`.
    pub user: String,
    /// The pod whose token it was; empty if it was no pod's.
    pub pod: String,
    /// `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// Plural name of the kind, with the subresource after a slash.
    pub resource: String,
    /// Name of the object; empty in a create.
    pub name: String,
    /// HTTP status of the answer.
    pub code: i64,
}

/// All writes in the log. A last line that is still being written is left out.
pub(super) fn read(log: &Path) -> Result<Vec<Write>> {
    let text = match fs::read_to_string(log) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", log.display())),
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| parse(line).with_context(|| format!("audit log: {line}"))).collect()
}

fn parse(line: &str) -> Result<Write> {
    let event: Value = serde_json::from_str(line)?;
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let subresource = text("/objectRef/subresource");
    let mut resource = text("/objectRef/resource");
    if !subresource.is_empty() {
        resource = format!("{resource}/{subresource}");
    }
    Ok(Write {
        user: text("/user/username"),
        pod: text("/user/extra/authentication.kubernetes.io~1pod-name/0"),
        verb: text("/verb"),
        resource,
        name: text("/objectRef/name"),
        code: event.pointer("/responseStatus/code").and_then(Value::as_i64).unwrap_or_default(),
    })
}
