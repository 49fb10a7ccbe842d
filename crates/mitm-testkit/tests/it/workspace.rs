//! The crates keep their ranks: the table of ARCHITECTURE.md, compared with the manifests.
//!
//! A crate uses the crates of its row and what those use. The manifests are read line by line, which
//! is enough for the plain form they are kept in, and keeps a TOML parser out of the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rank, crate, and the crates of ours that it names. Crates to come are listed already.
const TABLE: &[(u8, &str, &[&str])] = &[
    (0, "flow", &[]),
    (1, "options", &["flow"]),
    (1, "codec", &["flow"]),
    (1, "filter", &["flow"]),
    (1, "flowfile", &["flow"]),
    (1, "tls", &["flow"]),
    (2, "contentviews", &["flow", "codec"]),
    (2, "proxy", &["flow", "options", "codec", "filter", "tls"]),
    (2, "pathod", &["codec", "tls"]),
    (3, "addon", &["proxy", "filter"]),
    (4, "addons", &["addon", "flowfile", "contentviews"]),
    (5, "python", &["addons", "pathod"]),
    (5, "console", &["addons"]),
    (5, "web", &["addons"]),
    (6, "cli", &["python", "console", "web", "pathod", "addons"]),
    (7, "wheel", &["cli", "python"]),
];

/// Libraries that are kept in a few crates, with the crates that may use them.
const CONTAINED: &[(&str, &[&str])] = &[
    ("pyo3", &["python", "wheel"]),
    ("ratatui", &["console"]),
    ("crossterm", &["console"]),
    ("axum", &["web"]),
    ("openssl", &["tls"]),
    ("openssl-sys", &["tls"]),
];

#[derive(Debug, Default)]
struct Manifest {
    dependencies: BTreeSet<String>,
    dev_dependencies: BTreeSet<String>,
    inherits_lints: bool,
}

#[test]
fn every_crate_is_in_the_table_and_inherits_the_lints() {
    for (name, manifest) in manifests() {
        assert!(name == "testkit" || rank(&name).is_some(), "mitm-{name} has no rank");
        assert!(manifest.inherits_lints, "mitm-{name} does not inherit the workspace's lints");
    }
}

#[test]
fn dependencies_point_down() {
    for (name, manifest) in manifests() {
        let allowed = reachable(&name);
        for dependency in ours(&manifest.dependencies) {
            assert!(dependency != "testkit", "mitm-{name}: mitm-testkit is for tests only");
            assert!(
                name == "testkit" || allowed.contains(dependency),
                "mitm-{name} must not use mitm-{dependency}"
            );
        }
        for dependency in ours(&manifest.dev_dependencies) {
            assert!(
                dependency == "testkit" || dependency == name || allowed.contains(dependency),
                "tests of mitm-{name} must not use mitm-{dependency}"
            );
        }
    }
}

#[test]
fn ranks_rise_along_every_row() {
    for (own, name, uses) in TABLE {
        for used in *uses {
            assert!(rank(used).is_some_and(|rank| rank < *own), "{name} uses {used}");
        }
    }
}

#[test]
fn the_core_does_not_know_the_runtime() {
    for (name, manifest) in manifests() {
        if rank(&name).is_some_and(|rank| rank < 2) && name != "tls" {
            assert!(!manifest.dependencies.contains("tokio"), "mitm-{name} depends on tokio");
        }
    }
}

#[test]
fn heavy_libraries_stay_where_they_belong() {
    for (name, manifest) in manifests() {
        for (library, homes) in CONTAINED {
            assert!(
                homes.contains(&name.as_str()) || !manifest.dependencies.contains(*library),
                "mitm-{name} depends on {library}"
            );
        }
    }
}

fn rank(name: &str) -> Option<u8> {
    TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
}

fn reachable(name: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<&str> = vec![name];
    while let Some(next) = todo.pop() {
        for used in TABLE.iter().filter(|row| row.1 == next).flat_map(|row| row.2) {
            if found.insert(*used) {
                todo.push(used);
            }
        }
    }
    found
}

fn ours(dependencies: &BTreeSet<String>) -> impl Iterator<Item = &str> {
    dependencies.iter().filter_map(|name| name.strip_prefix("mitm-"))
}

/// Returns the manifests by folder name without the prefix.
fn manifests() -> BTreeMap<String, Manifest> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folders: Vec<PathBuf> = fs::read_dir(crates).unwrap().map(|e| e.unwrap().path()).collect();
    let found: BTreeMap<_, _> = folders
        .iter()
        .filter(|folder| folder.join("Cargo.toml").is_file())
        .map(|folder| {
            let folder_name = folder.file_name().unwrap().to_str().unwrap();
            let (name, manifest) = parse(&fs::read_to_string(folder.join("Cargo.toml")).unwrap());
            assert_eq!(folder_name, name, "a folder is named like its package");
            (name.strip_prefix("mitm-").unwrap().to_owned(), manifest)
        })
        .collect();
    assert!(found.len() > 1);
    found
}

fn parse(text: &str) -> (String, Manifest) {
    let mut section = "";
    let mut name = "";
    let mut manifest = Manifest::default();
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_matches(['[', ']']);
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = key.trim().split('.').next().unwrap();
        match section {
            "package" if key == "name" => name = value.trim().trim_matches('"'),
            "lints" if key == "workspace" => manifest.inherits_lints = true,
            "dev-dependencies" => drop(manifest.dev_dependencies.insert(key.to_owned())),
            other if other.ends_with("dependencies") => {
                manifest.dependencies.insert(key.to_owned());
            }
            _ => {}
        }
    }
    (name.to_owned(), manifest)
}
