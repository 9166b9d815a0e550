//! `crdgen`: writes what is generated from the types: the CustomResourceDefinitions and the reference pages.
//!
//! - `crdgen` prints the definitions;
//! - `crdgen ROOT` writes `charts/dmvpn/files/crds` and `docs/reference` below ROOT (the repository);
//! - `crdgen --check ROOT` fails if the files there differ from what would be written, or are too many.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const DEFINITIONS: &str = "charts/dmvpn/files/crds";
const REFERENCE: &str = "docs/reference";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let definitions = match crds::schema::files() {
        Ok(files) => files,
        Err(e) => return fail(&format!("cannot write the definitions as YAML: {e}")),
    };
    let outcome = match args.as_slice() {
        [] => {
            for (_, text) in definitions {
                print!("---\n{text}");
            }
            return ExitCode::SUCCESS;
        }
        ["--check", root] => check(&files(Path::new(root), definitions), Path::new(root)),
        [root] if !root.starts_with('-') => write(&files(Path::new(root), definitions)),
        _ => return fail("usage: crdgen [[--check] ROOT]"),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn files(root: &Path, definitions: Vec<(String, String)>) -> BTreeMap<PathBuf, String> {
    let definitions = definitions.into_iter().map(|(name, text)| (root.join(DEFINITIONS).join(name), text));
    let pages = crds::docs::pages().into_iter().map(|(name, text)| (root.join(REFERENCE).join(name), text));
    definitions.chain(pages).collect()
}

fn write(files: &BTreeMap<PathBuf, String>) -> Result<(), String> {
    for (path, text) in files {
        let dir = path.parent().unwrap_or(path);
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn check(files: &BTreeMap<PathBuf, String>, root: &Path) -> Result<(), String> {
    let mut stale = Vec::new();
    for (path, text) in files {
        if fs::read_to_string(path).ok().as_ref() != Some(text) {
            stale.push(path.display().to_string());
        }
    }
    for dir in [DEFINITIONS, REFERENCE] {
        let entries = fs::read_dir(root.join(dir)).map_err(|e| format!("{dir}: {e}"))?;
        let extra = entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| !files.contains_key(p));
        stale.extend(extra.map(|p| format!("{} (not generated any more)", p.display())));
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!("not up to date, run `cargo run -p crds --bin crdgen .`: {}", stale.join(", ")))
}

fn fail(message: &str) -> ExitCode {
    eprintln!("crdgen: {message}");
    ExitCode::FAILURE
}
