//! Which module of the service may import which.

use std::collections::{BTreeMap, BTreeSet};

use crate::modules::{Crate, Imports};

/// What each file or folder of `driver/compute/src` may import, from the top down: a rule may name only modules below its own, so
/// that the arrows go one way.
const RULES: &[(&str, &str)] = &[
    // The process: a command, or the service from its start to its end. Nothing below knows that it is a process.
    ("main", "cli options service"),
    (
        "service",
        "assembly console containers creations error heartbeat host_names manager metrics options orphans periodic rows services \
         zun",
    ),
    // Commands for operators work beside a service that may run: they use what it is made of, but no container's life, turns or
    // requests. Of `zun` they take how a port's owner is named.
    ("cli", "belongings error host_facts images networking options record rows zun"),
    // What the service does by itself, from time to time and at its start.
    (
        "periodic",
        "belongings containers engine error heartbeat images interfaces options resources rows stray_allocations zun",
    ),
    ("orphans", "containers engine error zun"),
    ("heartbeat", "options rows"),
    // The only place that knows all parts: it makes them and gives each the few that it needs.
    (
        "assembly",
        "belongings console containers creations engine error executor health images interfaces lifecycle options pins resources \
         rows rpc services stray_allocations volumes zun",
    ),
    // Zun's requests are parsed, and handed to the module that does them: no row, no record, no service of the cloud.
    ("rpc", "containers counted creations engine error images interfaces lifecycle operation turns zun"),
    // What containers need of Zun, Neutron, Cinder, Placement and registries. It is given to `containers` behind traits, so that
    // another control plane can stand in its place.
    (
        "zun",
        "belongings console containers engine error executor health host_facts images interfaces kept lifecycle networking \
         options pins record resources rows turns volumes",
    ),
    ("console", "containers counted error options"),
    // The life of a container: it is decided, carried out and written down, and nothing here knows of RPC, images, volumes,
    // networks or any other service of the cloud. The simulation runs it with fakes of these.
    ("containers", "creations engine error executor host_names lifecycle operation record rows turns"),
    // Services with the few parts that they use. They know nothing of requests, nor of who asks them.
    ("interfaces", "engine error networking options record"),
    ("stray_allocations", "belongings creations engine error"),
    ("belongings", "engine error kept networking pins volumes"),
    ("health", "engine error lifecycle"),
    ("images", "error executor options record rows turns"),
    ("resources", "error host_facts host_names options pins rows"),
    // What a sandbox needs done on this host, on its record alone: no row, and not who carries decisions out. A turn says when
    // to give up a wait.
    ("engine", "error networking options record turns volumes"),
    ("volumes", "error options record"),
    // The only writer of a container's state: what it writes is decided above it.
    ("executor", "error operation rows"),
    ("rows", "error"),
    // What this host keeps in files.
    ("creations", "error kept"),
    ("host_names", "error kept"),
    ("record", "error kept lifecycle networking options"),
    ("kept", "error"),
    // Pure decisions: whoever has rows and records gives what they say as values.
    ("lifecycle", "error"),
    // Neutron's ports and this host's interfaces, whoever they are for.
    ("networking", "error"),
    // Facts and words that everything may use.
    ("pins", "error host_facts options"),
    ("services", "options"),
    ("error", "options turns"),
    ("options", "host_facts"),
    ("host_facts", ""),
    ("counted", ""),
    ("manager", ""),
    ("metrics", ""),
    ("operation", ""),
    ("turns", ""),
];

/// The names of a rule.
fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

/// The file or folder of `src` that a file is, or is in.
fn module(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn imports() -> Imports {
    Crate::read(&cloud_tests::top().join("driver/compute/src/main.rs")).imports()
}

#[test]
fn modules_import_what_their_rules_allow() {
    let rules: BTreeMap<&str, BTreeSet<&str>> =
        RULES.iter().map(|(module, allowed)| (*module, words(allowed))).collect();
    let imports = imports();
    let modules: BTreeSet<&str> = imports.keys().map(|file| module(file)).collect();
    assert_eq!(modules, rules.keys().copied().collect(), "a module has no rule, or a rule no module");
    let mut forbidden = Vec::new();
    for (file, others) in &imports {
        let allowed = &rules[module(file)];
        let is_allowed = |other: &str| module(other) == module(file) || allowed.contains(module(other));
        forbidden.extend(
            others.iter().filter(|other| !is_allowed(other)).map(|other| format!("{file} → {other}")),
        );
    }
    assert!(forbidden.is_empty(), "no rule allows these imports: {forbidden:#?}");
}

#[test]
fn rules_allow_only_what_is_below() {
    let mut below = BTreeSet::new();
    for (module, allowed) in RULES.iter().rev() {
        let others: Vec<_> = words(allowed).difference(&below).copied().collect();
        assert!(others.is_empty(), "{module} must not import {others:?}: no such module is below it");
        below.insert(*module);
    }
}
