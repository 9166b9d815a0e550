//! Where things are: cache, results, our own binaries.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Set inside a guest: `guest` or `native`.
pub const INSIDE: &str = "DMVPN_LAB_INSIDE";
/// Set inside a guest: the results folder as the guest sees it.
pub const OUT: &str = "DMVPN_LAB_OUT";
/// Set inside a guest: the same folder as the machine outside sees it, for messages.
pub const OUT_OUTSIDE: &str = "DMVPN_LAB_OUT_OUTSIDE";

/// Whether this process runs inside a guest (or the namespaces that stand for one).
#[must_use]
pub fn inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// The results folder of this run; only inside a guest.
///
/// # Errors
/// Outside a guest.
pub fn out() -> Result<PathBuf> {
    env::var_os(OUT).map(PathBuf::from).with_context(|| format!("{OUT} is not set: not inside a guest"))
}

/// A path below [`out`] as a reader outside the guest finds it.
#[must_use]
pub fn outside(path: &Path) -> PathBuf {
    let (Some(inner), Some(outer)) = (env::var_os(OUT), env::var_os(OUT_OUTSIDE)) else {
        return path.to_owned();
    };
    match path.strip_prefix(Path::new(&inner)) {
        // Joined part by part: joining an empty rest would add a slash.
        Ok(rest) => rest.iter().fold(PathBuf::from(outer), |path, part| path.join(part)),
        Err(_) => path.to_owned(),
    }
}

/// `${XDG_CACHE_HOME:-~/.cache}/dmvpn`: what takes long to make and is not ours.
#[must_use]
pub fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = base.unwrap_or_else(|| {
        PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache")
    });
    base.join("dmvpn")
}

/// The folder that holds this build's programs (`target/debug`).
///
/// # Errors
/// When the running program does not lie in such a folder.
pub fn profile_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("own path")?;
    let dir = exe.parent().context("own folder")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("profile folder")? } else { dir };
    Ok(dir.to_owned())
}

/// The folder of our programs: `$DMVPN_BIN_DIR`, else [`profile_dir`].
///
/// # Errors
/// As [`profile_dir`].
pub fn program_dir() -> Result<PathBuf> {
    env::var_os("DMVPN_BIN_DIR").map(PathBuf::from).map_or_else(profile_dir, Ok)
}

/// A program of ours, built by `cargo build --workspace --bins`.
///
/// # Errors
/// When it has not been built; says how.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = program_dir()?.join(name);
    if !path.is_file() {
        bail!("{} is not there: cargo build --workspace --bins", path.display());
    }
    Ok(path)
}

/// An example program of ours, built by `cargo build --workspace --examples`.
///
/// # Errors
/// When it has not been built; says how.
pub fn example(name: &str) -> Result<PathBuf> {
    let path = program_dir()?.join("examples").join(name);
    if !path.is_file() {
        bail!("{} is not there: cargo build --workspace --examples", path.display());
    }
    Ok(path)
}

/// The folder for results of runs, `target/e2e`.
///
/// # Errors
/// As [`profile_dir`].
pub fn results() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("target folder")?.join("e2e"))
}

/// The root of the repository that this program was built from.
#[must_use]
pub fn repository() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}
