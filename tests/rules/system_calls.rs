use std::fs;
use std::path::Path;

/// The paper, and in it the heading of each part with the files whose lists it shows.
const PAPER: &str = "etc/doc/system-calls.md";
const PARTS: [(&str, &[&str]); 2] = [
    ("## A shim", &["driver/vmm/src/threads.rs", "driver/shim/src/jail/filter.rs"]),
    ("## An image worker", &["driver/worker/src/filter.rs"]),
];

/// System calls that a file lists, its tests aside: those that they name are forbidden ones.
fn listed(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    let is_of_name = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
    let names = code.split("SYS_").skip(1).map(|rest| rest.chars().take_while(is_of_name).collect());
    names.collect()
}

/// The calls of a part's table: each row begins with one.
fn rows(part: &str) -> Vec<String> {
    let calls = part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    calls.map(|(call, _)| call.to_owned()).collect()
}

#[test]
fn the_paper_of_system_calls_has_a_row_for_each_that_is_listed_and_no_other() {
    let top = cloud_tests::top();
    let paper = fs::read_to_string(top.join(PAPER)).unwrap();
    for (heading, files) in PARTS {
        let part = paper.split_once(heading).unwrap_or_else(|| panic!("{PAPER} has no {heading}")).1;
        let shown = rows(part.split("\n## ").next().unwrap_or_default());
        let listed: Vec<String> = files.iter().flat_map(|file| listed(&top.join(file))).collect();
        for (these, those) in [(&listed, &shown), (&shown, &listed)] {
            let missing: Vec<_> = these.iter().filter(|call| !those.contains(call)).collect();
            assert!(missing.is_empty(), "{PAPER}, {heading}, and {files:?} differ in {missing:?}");
        }
    }
}
