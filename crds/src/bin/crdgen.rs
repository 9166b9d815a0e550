//! `crdgen`: writes the CustomResourceDefinitions.
//!
//! - `crdgen` prints them;
//! - `crdgen DIR` writes one file each into DIR;
//! - `crdgen --check DIR` fails if the files there differ from what would be written.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let files = match crds::schema::files() {
        Ok(files) => files,
        Err(e) => return fail(&format!("cannot write the definitions as YAML: {e}")),
    };
    match args.as_slice() {
        [] => {
            for (_, text) in files {
                print!("---\n{text}");
            }
            ExitCode::SUCCESS
        }
        ["--check", dir] => check(Path::new(dir), &files),
        [dir] if !dir.starts_with('-') => write(Path::new(dir), &files),
        _ => fail("usage: crdgen [[--check] DIR]"),
    }
}

fn write(dir: &Path, files: &[(String, String)]) -> ExitCode {
    if let Err(e) = fs::create_dir_all(dir) {
        return fail(&format!("{}: {e}", dir.display()));
    }
    for (name, text) in files {
        let path = dir.join(name);
        if let Err(e) = fs::write(&path, text) {
            return fail(&format!("{}: {e}", path.display()));
        }
    }
    ExitCode::SUCCESS
}

fn check(dir: &Path, files: &[(String, String)]) -> ExitCode {
    let mut stale = false;
    for (name, text) in files {
        let path = dir.join(name);
        match fs::read_to_string(&path) {
            Ok(there) if there == *text => {}
            Ok(_) => {
                eprintln!("{} differs from the types: run crdgen {}", path.display(), dir.display());
                stale = true;
            }
            Err(e) => {
                eprintln!("{}: {e}: run crdgen {}", path.display(), dir.display());
                stale = true;
            }
        }
    }
    if stale { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("crdgen: {message}");
    ExitCode::FAILURE
}
