//! Which room may know which: the drawing in the README, checked against what Cargo was told. Within a room no files import
//! each other in a circle, and in the service each module imports only what is below it.

#![allow(clippy::unwrap_used)]

mod circles;
mod compute;
mod modules;
mod source;
mod system_calls;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// How exposed the service's unit may be, in tenths, as systemd counts: what is left is what starting shims and workers takes.
const EXPOSURE_MAX: &str = "47";

/// Crates of this workspace that each may use. One that is not named may use all.
const RULES: [(&str, &[&str]); 19] = [
    ("agent-protocol", &[]),
    ("cloud", &[]),
    ("confinement", &[]),
    ("image", &["image-work", "shares"]),
    ("image-work", &[]),
    ("kata-agent", &["agent-protocol"]),
    ("kata-shim", &["agent-protocol", "confinement", "shim-control", "vmm"]),
    ("kata-worker", &["confinement", "image-work"]),
    ("model", &[]),
    ("network", &["process", "shares"]),
    ("oslo", &[]),
    ("process", &[]),
    ("sandbox", &["process", "shim-control"]),
    ("shares", &[]),
    ("shim-control", &[]),
    ("vmm", &[]),
    ("volume", &["process"]),
    ("zun-kata-compute", &["cloud", "image", "model", "network", "oslo", "sandbox", "shares", "volume"]),
    ("cloud-tests", &["agent-protocol", "image", "image-work", "model", "network", "oslo", "sandbox", "vmm"]),
];

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(cloud_tests::top())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// The `main.rs` or `lib.rs` of each crate that has a folder `src`.
fn roots() -> Vec<PathBuf> {
    let packages = packages();
    let targets = packages.iter().flat_map(|package| package["targets"].as_array().unwrap());
    let roots = targets.map(|target| PathBuf::from(target["src_path"].as_str().unwrap()));
    roots.filter(|root| root.parent().is_some_and(|folder| folder.ends_with("src"))).collect()
}

#[test]
fn the_unit_takes_from_the_service_what_it_does_not_need() {
    let unit = cloud_tests::top().join("etc/systemd/zun-kata-compute.service");
    let analyze = ["security", "--offline=true", "--threshold", EXPOSURE_MAX];
    let output = Command::new("systemd-analyze").args(analyze).arg(unit).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn rooms_know_only_the_rooms_below() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let rules: BTreeMap<&str, &[&str]> = RULES.into();
    assert_eq!(names, rules.keys().copied().collect(), "a crate has no rule");
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let uses =
            package["dependencies"].as_array().unwrap().iter().map(|used| used["name"].as_str().unwrap());
        let strangers: Vec<_> =
            uses.filter(|used| names.contains(used) && !rules[name].contains(used)).collect();
        assert!(strangers.is_empty(), "{name} must not use {strangers:?}");
    }
}

#[test]
fn files_stay_small() {
    fn visit(folder: &Path, long: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                visit(&path, long);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let lines = std::fs::read_to_string(&path).unwrap().lines().count();
                if lines > 500 {
                    long.push(format!("{}: {lines} lines", path.display()));
                }
            }
        }
    }
    let mut long = Vec::new();
    for room in ["agent", "driver", "tests"] {
        visit(&cloud_tests::top().join(room), &mut long);
    }
    assert!(long.is_empty(), "look for the seam: {long:?}");
}
