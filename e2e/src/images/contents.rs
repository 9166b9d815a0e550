//! What goes into the images: programs of ours and of this machine, with the libraries that they load.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{guest, paths};

const PAUSE: &str = include_str!("pause.c");

/// A program and where it lies in an image.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) source: PathBuf,
    /// Path in the image, without the first slash.
    pub(super) target: &'static str,
    /// By their path here, which is that in the image too: the loader looks for them there.
    pub(super) libraries: Vec<PathBuf>,
}

impl Program {
    /// A program of ours.
    pub(super) fn own(name: &str, target: &'static str) -> Result<Self> {
        Self::at(paths::program(name)?, target)
    }

    /// A program of this machine.
    pub(super) fn installed(name: &str, target: &'static str) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
        let found = dirs.map(|dir| dir.join(name)).find(|file| file.is_file());
        Self::at(found.with_context(|| format!("{name} is not installed: e2e/scripts/bootstrap.sh"))?, target)
    }

    fn at(source: PathBuf, target: &'static str) -> Result<Self> {
        let libraries = libraries(&source)?;
        Ok(Self { source, target, libraries })
    }

    /// Copies program and libraries without their debug information to `dir`, and returns the copies by their
    /// path in the image.
    pub(super) fn stripped(&self, dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
        let program = dir.join(self.target.replace('/', "-"));
        run(Command::new("strip").arg("-o").arg(&program).arg(&self.source))?;
        let mut files = BTreeMap::from([(self.target.to_owned(), program)]);
        for library in &self.libraries {
            let target = library.to_string_lossy().trim_start_matches('/').to_owned();
            // What Debian installs is stripped already.
            files.insert(target, library.clone());
        }
        Ok(files)
    }
}

/// strongSwan's plugins that its daemon loads: those that the chart's configuration names
/// (`charts/dmvpn/templates/charon.yaml`).
const PLUGINS: [&str; 21] = [
    "aes",
    "sha1",
    "sha2",
    "hmac",
    "kdf",
    "gcm",
    "openssl",
    "random",
    "nonce",
    "drbg",
    "pem",
    "pkcs1",
    "pkcs8",
    "x509",
    "pubkey",
    "constraints",
    "revocation",
    "kernel-netlink",
    "socket-default",
    "counters",
    "vici",
];

/// strongSwan's IKE daemon as Debian has it. Its plugins are in no list of libraries: it opens them itself.
pub(super) fn charon() -> Result<Program> {
    let mut charon = Program::installed("charon-systemd", "usr/sbin/charon-systemd")?;
    for plugin in PLUGINS {
        let file = PathBuf::from(format!("/usr/lib/ipsec/plugins/libstrongswan-{plugin}.so"));
        ensure!(file.is_file(), "{} is not installed: e2e/scripts/bootstrap.sh", file.display());
        charon.libraries.extend(libraries(&file)?);
        charon.libraries.push(file);
    }
    charon.libraries.sort();
    charon.libraries.dedup();
    Ok(charon)
}

/// Compiles the program that holds namespaces.
pub(super) fn compile_pause(dir: &Path) -> Result<PathBuf> {
    let (source, program) = (dir.join("pause.c"), dir.join("pause"));
    fs::write(&source, PAUSE)?;
    run(Command::new("gcc").args(["-Os", "-static", "-s", "-o"]).arg(&program).arg(&source))?;
    fs::remove_file(source)?;
    Ok(program)
}

/// Everything that the loader maps for `program`, itself included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = run(Command::new("ldd").arg(program))?;
    let mut libraries = parse_ldd(&text).with_context(|| format!("ldd {}: {text}", program.display()))?;
    libraries.sort();
    Ok(libraries)
}

/// `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-….so.2 (0x…)`; `linux-vdso.so.1 (0x…)` has no file.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        ensure!(!line.ends_with("not found"), "{line}");
        let path = line.rsplit_once(" (0x").map_or(line, |(path, _)| path);
        let path = path.split_once(" => ").map_or(path, |(_, path)| path);
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(|w| guest::quote(&w.to_string_lossy())).collect();
        let program = command.get_program().to_string_lossy().into_owned();
        bail!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007f16110e7000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1610dd8000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f16110e9000)
";
        let found = parse_ldd(text).unwrap();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert!(parse_ldd("\tlibnone.so.1 => not found\n").is_err());
    }
}
