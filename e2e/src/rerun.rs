//! A test that runs itself again somewhere else: its name, its results folder, its command line.

use std::any::type_name;
use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::paths;

/// A test and the program that holds it.
pub(crate) struct Rerun {
    pub(crate) test: String,
    exe: PathBuf,
}

impl Rerun {
    /// The test whose body is the closure type `F`: the closure has to stand directly in the test function.
    pub(crate) fn of<F>() -> Result<Self> {
        Ok(Self { test: test_name::<F>(), exe: env::current_exe().context("own path")? })
    }

    /// `target/e2e/PROGRAM/TEST`.
    pub(crate) fn results(&self) -> Result<PathBuf> {
        let binary = self.exe.file_stem().and_then(|s| s.to_str()).unwrap_or("test");
        // Without the hash that cargo puts at the end.
        let binary = binary.rsplit_once('-').map_or(binary, |(name, _)| name);
        Ok(paths::results()?.join(binary).join(self.test.replace("::", ".")))
    }

    /// The words that run this test alone.
    pub(crate) fn words(&self) -> Vec<String> {
        let exe = self.exe.to_string_lossy().into_owned();
        let rest = ["--exact", &self.test, "--nocapture", "--include-ignored", "--test-threads=1"];
        [exe].into_iter().chain(rest.map(str::to_owned)).collect()
    }

    /// The same as one line of a shell.
    pub(crate) fn script(&self) -> String {
        let words: Vec<String> = self.words().iter().map(|w| crate::guest::quote(w)).collect();
        format!("exec {}", words.join(" "))
    }
}

/// `crate::module::test::{{closure}}` → `module::test`.
fn test_name<F>() -> String {
    let name = type_name::<F>();
    let name = name.split("::{{closure}}").next().unwrap_or(name);
    name.split_once("::").map_or(name, |(_, rest)| rest).to_owned()
}
