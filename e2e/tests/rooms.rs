//! Ring 1: who may import whom. Each crate is a room with its own doors; this keeps them shut that must be shut. The map
//! for people is ARCHITECTURE.md; the one that the build holds to is `DOORS` below.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A room and the rooms of ours that it may import. Rooms that do not stand yet are listed with their doors already.
const DOORS: &[(&str, &[&str])] = &[
    ("nhrp", &[]),
    ("nhrp-sim", &["nhrp"]),
    ("vici", &[]),
    ("dataplane", &[]),
    ("crds", &[]),
    ("view", &[]),
    ("compile", &["crds"]),
    ("operator", &["crds", "compile"]),
    ("node-agent", &["crds", "compile", "nhrp", "vici", "dataplane", "view"]),
    ("cli", &["view", "crds"]),
    ("fuzz", &["nhrp", "dataplane"]),
    // The lab may use everything, nothing may use the lab.
    ("e2e", &["nhrp", "vici", "dataplane", "crds", "view", "compile", "operator", "node-agent", "cli"]),
];

/// Rooms without a single `unsafe`.
const SAFE: &[&str] = &["nhrp", "vici", "compile", "view", "crds", "cli", "node-agent", "operator"];

/// What a sans-IO engine and pure functions must not even have at hand, directly or through others: runtimes, sockets,
/// randomness of the system.
const NO_IO: &[&str] = &[
    "async-std",
    "fastrand",
    "getrandom",
    "hyper",
    "libc",
    "mio",
    "netlink-sys",
    "nix",
    "rand",
    "rand_core",
    "rustix",
    "smol",
    "socket2",
    "tokio",
];

/// Lines that a file may have, and from which on it is named as one to be split.
const MOST_LINES: usize = 800;
const MANY_LINES: usize = 400;

#[test]
fn rooms_import_only_through_their_doors() {
    let rooms = Room::all();
    assert!(rooms.len() >= 8, "the workspace has only {} crates: is this its root?", rooms.len());
    let mut wrong = Vec::new();
    for room in rooms.values() {
        let Some((_, doors)) = DOORS.iter().find(|(name, _)| *name == room.name) else {
            wrong
                .push(format!("{} is no room of the map: add it to DOORS and to ARCHITECTURE.md", room.name));
            continue;
        };
        // Dependencies of tests and build scripts count too: a door is a door.
        for import in room.imports.iter().filter(|import| rooms.contains_key(*import)) {
            if !doors.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}, but may import only {doors:?}", room.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn engine_and_pure_rooms_cannot_reach_the_system() {
    for name in ["nhrp", "view"] {
        let at_hand = dependencies(name);
        assert!(at_hand.iter().any(|crate_| crate_ == "serde"), "{name}: {at_hand:?} cannot be all");
        let wrong: Vec<&String> = at_hand.iter().filter(|crate_| NO_IO.contains(&crate_.as_str())).collect();
        assert!(
            wrong.is_empty(),
            "{name} must not have {wrong:?} at hand: hand in what it needs as an argument"
        );
    }
}

#[test]
fn safe_rooms_forbid_unsafe_code() {
    let mut wrong = Vec::new();
    for room in Room::all().values().filter(|room| SAFE.contains(&room.name.as_str())) {
        assert!(!room.roots.is_empty(), "{} has no crate root", room.name);
        for root in &room.roots {
            let text = read(root);
            if !text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
                wrong.push(root.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "without #![forbid(unsafe_code)]:\n{}", wrong.join("\n"));
}

#[test]
fn the_kernel_room_has_one_file_with_unsafe() {
    let rooms = Room::all();
    let files: Vec<PathBuf> =
        sources(&rooms["dataplane"].folder).into_iter().filter(|file| has_unsafe(&read(file))).collect();
    assert!(files.len() <= 1, "unsafe code belongs in one file: {files:?}");
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    let mut count = 0;
    for room in Room::all().values() {
        for file in sources(&room.folder) {
            count += 1;
            let lines = read(&file).lines().count();
            if lines > MANY_LINES {
                long.push((lines, file));
            }
        }
    }
    assert!(count > 20, "only {count} source files: is this the root?");
    long.sort_by_key(|(lines, _)| std::cmp::Reverse(*lines));
    for (lines, file) in &long {
        println!("{lines} lines, want {MANY_LINES}: {}", file.display());
    }
    let wrong: Vec<_> = long.iter().filter(|(lines, _)| *lines > MOST_LINES).collect();
    assert!(wrong.is_empty(), "more than {MOST_LINES} lines: {wrong:?}");
}

/// docs/nhrp-conformance.md names files of `nhrp/src`, and tests by file and function.
#[test]
fn the_conformance_table_names_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = read(&root.join("docs/nhrp-conformance.md"));
    let tests: BTreeSet<String> = Room::all()
        .values()
        .flat_map(|room| sources(&room.folder))
        .flat_map(|file| tests_of(&file))
        .collect();
    let (mut named, mut wrong) = (0, Vec::new());
    for name in
        table.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`').skip(1).step_by(2))
    {
        if name.contains("::") {
            named += 1;
            if !tests.contains(name) {
                wrong.push(name);
            }
        } else if name.ends_with(".rs") && !root.join("nhrp/src").join(name).exists() {
            wrong.push(name);
        }
    }
    assert!(named > 50, "only {named} tests are named");
    assert!(wrong.is_empty(), "not there: {wrong:?}");
}

/// docs/acceptance.md has each case once, says of each whether it is shown, and names tests that there are, and checks
/// within them.
#[test]
fn the_acceptance_table_is_whole_and_names_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = read(&root.join("docs/acceptance.md"));
    let files: Vec<PathBuf> = Room::all().values().flat_map(|room| sources(&room.folder)).collect();
    let tests: BTreeSet<String> = files.iter().flat_map(|file| tests_of(file)).collect();
    let e2e: String =
        files.iter().filter(|file| file.starts_with(root.join("e2e"))).map(|it| read(it)).collect();
    let (mut number, mut wrong) = (0, Vec::new());
    for line in table.lines().filter(|line| line.starts_with("| K-")) {
        number += 1;
        let cells: Vec<_> = line.trim_matches('|').split(" |").map(str::trim).collect();
        let [case, shown, named, missing] = cells[..] else { panic!("four cells: {line}") };
        assert!(case.starts_with(&format!("K-{number:02} ")), "K-{number:02} is missing before {case}");
        let names: Vec<_> = named.split('`').skip(1).step_by(2).collect();
        // What is said to be shown has a test, and what is not whole says what is missing.
        let honest = match shown {
            "yes" => !names.is_empty() && missing.is_empty(),
            "partly" => !names.is_empty() && !missing.is_empty(),
            "no" => names.is_empty() && !missing.is_empty(),
            _ => false,
        };
        assert!(honest, "{line}");
        wrong.extend(names.into_iter().filter(|name| !tests.contains(*name)).map(str::to_owned));
        let checks = named.split('"').skip(1).step_by(2);
        wrong.extend(checks.filter(|it| !e2e.contains(&format!("(\"{it}\","))).map(str::to_owned));
    }
    assert_eq!(number, 30);
    assert!(wrong.is_empty(), "not there: {wrong:?}");
}

/// `file::function` of each test in a file.
fn tests_of(file: &Path) -> Vec<String> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = read(file);
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line == "#[test]" {
            let name = lines.find_map(|line| line.strip_prefix("fn ")?.split(['(', '<']).next());
            found.extend(name.map(|name| format!("{stem}::{name}")));
        }
    }
    found
}

#[test]
fn unsafe_is_told_from_words_about_it() {
    for code in
        ["unsafe { f() }", "pub unsafe fn f() {}", "    let x = unsafe{ 1 };", "unsafe impl Send for X {}"]
    {
        assert!(has_unsafe(code), "{code}");
    }
    for code in
        ["#![forbid(unsafe_code)]", "// unsafe { }", "/// unsafe", "let unsafely = 1;", "f(); // unsafe", ""]
    {
        assert!(!has_unsafe(code), "{code}");
    }
}

/// A crate of the workspace.
struct Room {
    name: String,
    folder: PathBuf,
    /// Names of its dependencies of every kind.
    imports: Vec<String>,
    /// Its library and programs.
    roots: Vec<PathBuf>,
}

impl Room {
    fn all() -> BTreeMap<String, Self> {
        let out = cargo(&["metadata", "--format-version", "1", "--offline", "--no-deps"]);
        let metadata: Value = serde_json::from_str(&out).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        packages.iter().map(Self::new).map(|room| (room.name.clone(), room)).collect()
    }

    fn new(package: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = |key: &str| package[key].as_array().unwrap().iter();
        let is_root = |target: &&Value| {
            let kinds = target["kind"].as_array().unwrap();
            kinds.iter().any(|kind| ["lib", "bin", "rlib", "cdylib"].contains(&kind.as_str().unwrap()))
        };
        Self {
            name: text(&package["name"]),
            folder: Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().into(),
            imports: list("dependencies").map(|dependency| text(&dependency["name"])).collect(),
            roots: list("targets").filter(is_root).map(|target| text(&target["src_path"]).into()).collect(),
        }
    }
}

/// Names of all crates that a crate is built with, its own name left out; those of tests do not count.
fn dependencies(name: &str) -> Vec<String> {
    let tree = cargo(&["tree", "--offline", "-e", "normal", "-p", name, "--prefix", "none", "-f", "{p}"]);
    tree.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

fn cargo(words: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let out = Command::new(env!("CARGO")).args(words).current_dir(root).output().unwrap();
    assert!(out.status.success(), "cargo {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Every Rust file below a folder, without what was built.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("target")) {
                found.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The keyword `unsafe` outside line comments.
fn has_unsafe(text: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .any(|code| code.split(|c| !is_word(c)).any(|word| word == "unsafe"))
}
