//! The workspace's dependencies run one way; see ARCHITECTURE.md.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// What each crate may depend on inside the workspace, for use and for tests alike.
const ARROWS: [(&str, &[&str]); 7] = [
    (
        "shardgate",
        &["shardgate-proto", "shardgate-replicate", "shardgate-replicate-proto", "shardgate-shard"],
    ),
    (
        "shardgate-bench",
        &["shardgate-proto", "shardgate-replicate", "shardgate-replicate-proto", "shardgate-shard"],
    ),
    ("shardgate-proto", &[]),
    ("shardgate-replicate", &["shardgate-replicate-proto", "shardgate-shard"]),
    ("shardgate-replicate-proto", &[]),
    ("shardgate-shard", &[]),
    ("shardgate-sim", &["shardgate-replicate", "shardgate-replicate-proto"]),
];

/// Crates that only the runtime may name.
const RUNTIME_ONLY: [&str; 2] = ["glommio", "io-uring"];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON of cargo metadata");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages
        .iter()
        .map(|package| {
            let list = package["dependencies"].as_array().expect("a list of dependencies");
            (name(package), list.iter().map(name).collect())
        })
        .collect()
}

#[test]
fn crates_depend_on_each_other_one_way() {
    let dependencies = dependencies();
    let known: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(dependencies.keys().collect::<Vec<_>>(), known, "a crate without arrows");
    for (name, allowed) in ARROWS {
        for dependency in dependencies[name].iter().filter(|name| known.contains(&name.as_str())) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not use {dependency}");
        }
    }
}

#[test]
fn only_the_runtime_names_its_ring_and_executor() {
    for (name, list) in dependencies() {
        let named = RUNTIME_ONLY.iter().any(|crate_name| list.iter().any(|it| it == crate_name));
        assert_eq!(named, name == "shardgate-shard", "{name}: {list:?}");
    }
}
