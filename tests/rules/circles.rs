//! Files that import each other in a circle: none can be read, tested or moved without the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::modules::{Crate, Imports};

/// The circles among a crate's files. A folder's `mod.rs` and its own children may refer to each other, as they are one thing;
/// the children among each other may not form a circle, nor may one lead out of the folder and back.
fn circles(imports: &Imports) -> BTreeSet<BTreeSet<&str>> {
    let mut found = components(imports, |_, _| true);
    found.retain(|circle| !is_family(circle));
    found.append(&mut components(imports, |file, other| !is_child(file, other) && !is_child(other, file)));
    found
}

/// Groups of files of which each leads to each other one by the imports that count.
fn components(imports: &Imports, counts: impl Fn(&str, &str) -> bool) -> BTreeSet<BTreeSet<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (file.as_str(), reached_from(file, imports, &counts))).collect();
    let mut groups = BTreeSet::new();
    for (file, others) in &reached {
        let leads_back = |other: &&str| reached[*other].contains(*file);
        let group: BTreeSet<&str> = others.iter().copied().filter(leads_back).collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    groups
}

/// What a file imports, what that imports, and so on.
fn reached_from<'a>(
    file: &'a str,
    imports: &'a Imports,
    counts: &impl Fn(&str, &str) -> bool,
) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![file];
    while let Some(file) = waiting.pop() {
        for other in imports[file].iter().filter(|other| counts(file, other)) {
            if reached.insert(other.as_str()) {
                waiting.push(other);
            }
        }
    }
    reached
}

/// Whether they are one `mod.rs` and its own children.
fn is_family(files: &BTreeSet<&str>) -> bool {
    files.iter().any(|parent| files.iter().all(|file| file == parent || is_child(file, parent)))
}

/// Whether a file is a child of the folder of which the other is the `mod.rs`.
fn is_child(file: &str, parent: &str) -> bool {
    let Some(folder) = parent.strip_suffix("/mod.rs") else { return false };
    let module = file.strip_suffix("/mod.rs").unwrap_or(file);
    Path::new(module).parent() == Some(Path::new(folder))
}

/// Who imports whom within a circle.
fn describe(circle: &BTreeSet<&str>, imports: &Imports) -> String {
    let line = |file: &&str| {
        let others = imports[*file].iter().map(String::as_str).filter(|other| circle.contains(*other));
        format!("{file} → {}", others.collect::<Vec<_>>().join(", "))
    };
    circle.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut found = Vec::new();
    for root in crate::roots() {
        let imports = Crate::read(&root).imports();
        let src = root.parent().unwrap().display();
        found.extend(circles(&imports).iter().map(|circle| format!("{src}: {}", describe(circle, &imports))));
    }
    assert!(found.is_empty(), "move what they share to a file of its own:\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of files of which each line says what one imports.
    fn circles_of(lines: &[&str]) -> Vec<String> {
        let words = |line: &&str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        let lines: Vec<Vec<String>> = lines.iter().map(words).collect();
        let mut imports: Imports =
            lines.iter().flatten().map(|file| (file.clone(), BTreeSet::new())).collect();
        for line in &lines {
            imports.insert(line[0].clone(), line[1..].iter().cloned().collect());
        }
        circles(&imports).iter().map(|circle| describe(circle, &imports)).collect()
    }

    #[test]
    fn a_circle_is_named_with_all_its_files() {
        assert!(circles_of(&["a.rs b.rs c.rs", "b.rs c.rs"]).is_empty());
        assert_eq!(
            circles_of(&["a.rs b.rs", "b.rs c.rs d.rs", "c.rs a.rs"]),
            ["a.rs → b.rs; b.rs → c.rs; c.rs → a.rs"]
        );
        assert_eq!(circles_of(&["lib.rs a.rs", "a.rs lib.rs"]), ["a.rs → lib.rs; lib.rs → a.rs"]);
    }

    #[test]
    fn a_folder_and_its_own_children_may_refer_to_each_other() {
        assert!(
            circles_of(&["x/mod.rs x/a.rs x/b/mod.rs", "x/a.rs x/mod.rs", "x/b/mod.rs x/mod.rs"]).is_empty()
        );
        assert_eq!(
            circles_of(&["x/mod.rs x/a.rs", "x/a.rs x/b.rs x/mod.rs", "x/b.rs x/a.rs"]),
            ["x/a.rs → x/b.rs; x/b.rs → x/a.rs"]
        );
        assert_eq!(
            circles_of(&["x/mod.rs y.rs", "y.rs x/a.rs", "x/a.rs x/mod.rs"]),
            ["x/a.rs → x/mod.rs; x/mod.rs → y.rs; y.rs → x/a.rs"]
        );
        assert_eq!(
            circles_of(&["x/mod.rs x/b/c.rs", "x/b/c.rs x/mod.rs"]),
            ["x/b/c.rs → x/mod.rs; x/mod.rs → x/b/c.rs"]
        );
    }
}
