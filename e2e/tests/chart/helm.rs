//! Calls helm, without a cluster.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::objects::Objects;

/// Release and namespace where a test does not care.
pub(crate) const RELEASE: &str = "dmvpn";
pub(crate) const NAMESPACE: &str = "dmvpn-system";

/// The chart's folder.
pub(crate) fn chart() -> PathBuf {
    e2e::paths::repository().join("charts/dmvpn")
}

/// What is rendered for these values (YAML), the definitions left out: they are most of it, and the same for all values.
pub(crate) fn render(values: &str) -> Objects {
    render_as(RELEASE, NAMESPACE, values)
}

/// As [`render`], as another release.
pub(crate) fn render_as(release: &str, namespace: &str, values: &str) -> Objects {
    rendered(release, namespace, values, &["--set", "crds.install=false"])
}

/// What is rendered for these values, all of it.
pub(crate) fn render_all(values: &str) -> Objects {
    rendered(RELEASE, NAMESPACE, values, &[])
}

fn rendered(release: &str, namespace: &str, values: &str, words: &[&str]) -> Objects {
    let text = template(release, namespace, values, words)
        .unwrap_or_else(|error| panic!("helm refuses {values:?} as {release}: {error}"));
    assert!(
        !text.contains("<no value>") && !text.contains("<nil>"),
        "a hole in what {values:?} renders:\n{text}"
    );
    Objects::parse(&text)
}

/// Why these values are refused.
pub(crate) fn refusal(values: &str) -> String {
    match template(RELEASE, NAMESPACE, values, &[]) {
        Ok(_) => panic!("{values:?} is not refused"),
        Err(error) => error,
    }
}

fn template(release: &str, namespace: &str, values: &str, words: &[&str]) -> Result<String, String> {
    let chart = chart().display().to_string();
    let common = ["template", release, &chart, "--namespace", namespace, "--values", "-"];
    helm(&[&common, words].concat(), values)
}

/// Runs helm with `input`; its standard output, or else its standard error.
pub(crate) fn helm(words: &[&str], input: &str) -> Result<String, String> {
    // Neither this machine's clusters nor its helm settings have a part in this.
    let nowhere = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helm");
    let mut child = Command::new(program())
        .args(words)
        .env("KUBECONFIG", "/dev/null")
        .env("HELM_CACHE_HOME", &nowhere)
        .env("HELM_CONFIG_HOME", &nowhere)
        .env("HELM_DATA_HOME", &nowhere)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("helm runs");
    // A helm that refuses its command line does not read on.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let out = child.wait_with_output().expect("helm ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("helm writes UTF-8");
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let script = e2e::paths::repository().join("e2e/scripts/kubernetes.sh");
        let out = Command::new(&script).arg("path").output().expect("kubernetes.sh runs");
        assert!(out.status.success(), "helm is not built: {} build", script.display());
        Path::new(String::from_utf8(out.stdout).expect("a path").trim()).join("helm")
    })
}
