//! The files of a crate, and which of them imports which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::source::Source;

/// For each file, named by its path below `src`, the files that it imports.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

/// A crate's files, found through their `mod` declarations: those that are compiled only for tests are not among them.
#[derive(Default)]
pub struct Crate {
    /// The first is the root.
    files: Vec<File>,
}

struct File {
    name: String,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    source: Source,
}

/// What a path leads to.
enum Found {
    /// The module that is this file.
    Module(usize),
    /// Something that this file defines.
    Item(usize),
}

impl Crate {
    /// Reads a crate from its `main.rs` or `lib.rs` on.
    pub fn read(root: &Path) -> Self {
        let mut read = Self::default();
        let (src, name) = (root.parent().unwrap(), root.file_name().unwrap());
        read.add(src, name.into(), Path::new(""), None);
        read
    }

    /// Reads a file, and those that it declares, which are in `folder`.
    fn add(&mut self, src: &Path, file: PathBuf, folder: &Path, parent: Option<usize>) -> usize {
        let text = std::fs::read_to_string(src.join(&file));
        let source = Source::parse(&text.unwrap_or_else(|e| panic!("{}: {e}", src.join(&file).display())));
        let modules = source.modules.clone();
        let index = self.files.len();
        let name = file.display().to_string();
        self.files.push(File { name, parent, children: BTreeMap::new(), source });
        for module in modules {
            let below = folder.join(&module);
            let plain = below.with_extension("rs");
            let file = if src.join(&plain).exists() { plain } else { below.join("mod.rs") };
            let child = self.add(src, file, &below, Some(index));
            self.files[index].children.insert(module, child);
        }
        index
    }

    /// Which file imports which. A `mod` declaration does not count, nor does a re-export of what is below the module.
    pub fn imports(&self) -> Imports {
        (0..self.files.len()).map(|file| (self.files[file].name.clone(), self.imports_of(file))).collect()
    }

    fn imports_of(&self, file: usize) -> BTreeSet<String> {
        let source = &self.files[file].source;
        let imported = source.imports.iter().filter_map(|import| {
            let target = self.file_of(file, &import.path)?;
            let is_export = import.is_public && self.is_below(target, file);
            (!is_export).then_some(target)
        });
        let named = source.paths.iter().filter_map(|path| self.file_of(file, path));
        let others = imported.chain(named).filter(|target| *target != file);
        others.map(|target| self.files[target].name.clone()).collect()
    }

    fn is_below(&self, file: usize, module: usize) -> bool {
        let mut parents = std::iter::successors(Some(file), |file| self.files[*file].parent);
        parents.any(|parent| parent == module)
    }

    /// The file that defines what a path in `file` names. A path into another crate leads to none.
    fn file_of(&self, file: usize, path: &[String]) -> Option<usize> {
        match self.resolve(file, path)? {
            Found::Module(file) | Found::Item(file) => Some(file),
        }
    }

    fn resolve(&self, file: usize, path: &[String]) -> Option<Found> {
        let (first, rest) = path.split_first()?;
        let File { parent, children, source, .. } = &self.files[file];
        match first.as_str() {
            "crate" => self.follow(0, rest),
            "self" => self.follow(file, rest),
            "super" => self.follow((*parent)?, rest),
            name if children.contains_key(name) || source.import_of(name).is_some() => {
                self.follow(file, path)
            }
            _ => None,
        }
    }

    /// Follows a path from a module on: to its children, and through what it imports or re-exports.
    fn follow(&self, module: usize, path: &[String]) -> Option<Found> {
        let Some((name, rest)) = path.split_first() else { return Some(Found::Module(module)) };
        let File { parent, children, source, .. } = &self.files[module];
        if name == "super" {
            return self.follow((*parent)?, rest);
        }
        if let Some(child) = children.get(name) {
            return self.follow(*child, rest);
        }
        let Some(import) = source.import_of(name) else { return Some(Found::Item(module)) };
        match self.resolve(module, &import.path)? {
            Found::Module(module) => self.follow(module, rest),
            item @ Found::Item(_) => Some(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The imports of a crate with these files.
    fn imports(files: &[(&str, &str)]) -> Imports {
        let src = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = src.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Crate::read(&src.path().join("lib.rs")).imports()
    }

    #[test]
    fn an_import_leads_to_the_file_that_defines_it() {
        let found = imports(&[
            ("lib.rs", "mod a; mod b; mod folder; #[cfg(test)] mod simulation; pub use a::{A, B};"),
            ("a.rs", "use crate::folder::Deep; use serde::Serialize; fn f() { Serialize::g(); }"),
            ("b.rs", "use super::A; use crate::folder; fn f() { folder::Other::g(); folder::child::h(); }"),
            ("simulation.rs", "use crate::a::A;"),
            ("folder/mod.rs", "pub mod child; mod deep; pub use deep::Deep; pub struct Other;"),
            ("folder/child.rs", "use super::{Deep, super::b}; #[cfg(test)] mod tests { use crate::a::A; }"),
            ("folder/deep.rs", "use rand::rand; pub struct Deep; fn f() { rand::g(); }"),
        ]);
        let expected: [(&str, &[&str]); 6] = [
            ("lib.rs", &[]),
            ("a.rs", &["folder/deep.rs"]),
            ("b.rs", &["a.rs", "folder/child.rs", "folder/mod.rs"]),
            ("folder/mod.rs", &[]),
            ("folder/child.rs", &["b.rs", "folder/deep.rs"]),
            ("folder/deep.rs", &[]),
        ];
        let set =
            |files: &[&str]| -> BTreeSet<String> { files.iter().map(|file| (*file).to_owned()).collect() };
        let expected: Imports =
            expected.into_iter().map(|(file, files)| (file.to_owned(), set(files))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_module_may_use_its_children() {
        let found =
            imports(&[("lib.rs", "mod a; use a::A; pub use crate::a::A as B;"), ("a.rs", "pub struct A;")]);
        assert_eq!(found["lib.rs"], BTreeSet::from(["a.rs".to_owned()]));
    }
}
