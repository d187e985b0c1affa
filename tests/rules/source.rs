//! What a source file says of others: the modules that it declares, what it imports, and the paths in its code. It reads
//! tokens and no grammar, which is enough for sources that compile. Comments, literals and tests do not count.

/// What a file says of others.
#[derive(Debug, Default)]
pub struct Source {
    /// Modules that have a file of their own: `mod name;`.
    pub modules: Vec<String>,
    /// What `use` brings in.
    pub imports: Vec<Import>,
    /// Paths of two segments or more in its code, as they are written.
    pub paths: Vec<Vec<String>>,
}

/// One name of a `use`.
#[derive(Debug, PartialEq)]
pub struct Import {
    /// The path, as it is written.
    pub path: Vec<String>,
    /// What it is called here; a glob has no name.
    pub name: Option<String>,
    /// Whether it is a re-export: `pub use`, `pub(crate) use`.
    pub is_public: bool,
}

impl Source {
    /// Reads the text of a file.
    pub fn parse(text: &str) -> Self {
        let tokens = without_tests(&tokens(text));
        let mut source = Self::default();
        let mut rest = tokens.as_slice();
        let mut before = "";
        while let [token, others @ ..] = rest {
            let after = match (*token, others) {
                ("mod", [name, ";", after @ ..]) => {
                    source.modules.push((*name).to_owned());
                    after
                }
                // `use<'a>` of a type imports nothing.
                ("use", [next, ..]) if *next != "<" => {
                    let is_public = matches!(before, "pub" | ")");
                    source.import(others, &[], is_public)
                }
                (name, ["::", ..]) if is_name(name) && !matches!(before, "::" | ".") => source.path(rest),
                _ => others,
            };
            before = rest[rest.len() - after.len() - 1];
            rest = after;
        }
        source
    }

    /// What is imported under a name. The name of another crate may be the name of what is imported from it.
    pub fn import_of(&self, name: &str) -> Option<&Import> {
        let mut named = self.imports.iter().filter(|import| import.name.as_deref() == Some(name));
        named.find(|import| import.path.first().is_some_and(|first| first != name))
    }

    /// Reads what follows `use`, or one branch of it behind the path `stem`. Gives the tokens behind it.
    fn import<'t, 'a>(&mut self, tokens: &'t [&'a str], stem: &[&str], is_public: bool) -> &'t [&'a str] {
        match tokens {
            ["{", branches @ ..] => self.import_each(branches, stem, is_public),
            // A crate's name follows: the path begins with `::` here too, and leads to no file.
            ["::", rest @ ..] => self.import(rest, &["::"], is_public),
            [name, "::", rest @ ..] => self.import(rest, &[stem, &[*name]].concat(), is_public),
            [name, "as", alias, rest @ ..] => {
                self.add_import(stem, name, alias, is_public);
                rest
            }
            [name, rest @ ..] => {
                self.add_import(stem, name, name, is_public);
                rest
            }
            [] => tokens,
        }
    }

    /// Reads branches up to the closing brace.
    fn import_each<'t, 'a>(
        &mut self,
        mut tokens: &'t [&'a str],
        stem: &[&str],
        is_public: bool,
    ) -> &'t [&'a str] {
        loop {
            tokens = match tokens {
                [] => return tokens,
                ["}", rest @ ..] => return rest,
                [",", rest @ ..] => rest,
                _ => self.import(tokens, stem, is_public),
            };
        }
    }

    fn add_import(&mut self, stem: &[&str], name: &str, alias: &str, is_public: bool) {
        let mut path: Vec<String> = stem.iter().map(|segment| (*segment).to_owned()).collect();
        let mut alias = alias;
        match (name, stem.last()) {
            // `a::{self}` imports `a`.
            ("self", Some(module)) if alias == "self" => alias = module,
            ("self", Some(_)) | ("*", _) => {}
            _ => path.push(name.to_owned()),
        }
        let name = (name != "*").then(|| alias.to_owned());
        self.imports.push(Import { path, name, is_public });
    }

    /// Reads a path in code. Gives the tokens behind it.
    fn path<'t, 'a>(&mut self, tokens: &'t [&'a str]) -> &'t [&'a str] {
        let mut path = vec![tokens[0].to_owned()];
        let mut rest = &tokens[1..];
        while let ["::", name, after @ ..] = rest
            && is_name(name)
        {
            path.push((*name).to_owned());
            rest = after;
        }
        if path.len() > 1 {
            self.paths.push(path);
        }
        rest
    }
}

/// Leaves out each item that only tests have.
fn without_tests<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    const MARK: &[&str] = &["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut rest = tokens;
    while let [token, others @ ..] = rest {
        if rest.starts_with(MARK) {
            rest = after_item(&rest[MARK.len()..]);
        } else {
            kept.push(*token);
            rest = others;
        }
    }
    kept
}

/// What follows an item: it ends with a semicolon, or with the brace that closes its body.
fn after_item<'t, 'a>(tokens: &'t [&'a str]) -> &'t [&'a str] {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(*token, ";" | "}") {
            return &tokens[at + 1..];
        }
    }
    &[]
}

fn is_name(token: &str) -> bool {
    token.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
}

/// Words, numbers, literals and signs, without white space and comments.
fn tokens(mut text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    while !text.is_empty() {
        let (token, rest) = text.split_at(length(text));
        let is_comment = token.starts_with("//") || token.starts_with("/*");
        if !is_comment && !token.starts_with(char::is_whitespace) {
            tokens.push(token);
        }
        text = rest;
    }
    tokens
}

/// The length of what `text` begins with. It is not empty.
fn length(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + "*/".len());
    }
    if text.starts_with("::") {
        return "::".len();
    }
    let literal = raw_string(text).or_else(|| string(text)).or_else(|| character(text));
    literal.unwrap_or_else(|| word(text))
}

/// A word or a number, else one sign.
fn word(text: &str) -> usize {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    end.max(text.chars().next().map_or(0, char::len_utf8))
}

/// `r"…"`, `br#"…"#`.
fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let body = rest.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(rest.len() - body.len()));
    let body = body.strip_prefix('"')?;
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(text.len() - body.len() + length)
}

/// `"…"`, `b"…"`.
fn string(text: &str) -> Option<usize> {
    let body = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('"')?;
    Some(text.len() - body.len() + closed(body, '"'))
}

/// `'…'`, `b'…'`. A lifetime is none.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('b').unwrap_or(text).strip_prefix('\'')?;
    let is_literal = body.starts_with('\\') || body.chars().nth(1) == Some('\'');
    is_literal.then(|| text.len() - body.len() + closed(body, '\''))
}

/// The length of a literal's body with the quote that closes it, which no backslash precedes.
fn closed(body: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in body.char_indices() {
        if letter == quote && !is_escaped {
            return at + 1;
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(text: &str) -> Vec<String> {
        let shown = |import: Import| {
            let name = import.name.unwrap_or("*".into());
            let export = if import.is_public { "pub " } else { "" };
            format!("{export}{} = {name}", import.path.join("::"))
        };
        Source::parse(text).imports.into_iter().map(shown).collect()
    }

    fn paths(text: &str) -> Vec<String> {
        Source::parse(text).paths.iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn each_name_of_a_use_is_an_import() {
        assert_eq!(imports("use crate::a::B;"), ["crate::a::B = B"]);
        assert_eq!(imports("use super::a::{self, B as C};"), ["super::a = a", "super::a::B = C"]);
        assert_eq!(
            imports("use crate::{a, b::{c::D, e::*,},};"),
            ["crate::a = a", "crate::b::c::D = D", "crate::b::e = *"]
        );
        assert_eq!(imports("use self::a as b; use c;"), ["self::a = b", "c = c"]);
        assert_eq!(imports("pub use a::B; pub(crate) use a::C;"), ["pub a::B = B", "pub a::C = C"]);
        assert_eq!(imports("use ::volume::Connector;"), ["::::volume::Connector = Connector"]);
        assert!(imports("fn f() -> impl Sized + use<'_> {}").is_empty());
    }

    #[test]
    fn paths_in_code_are_found() {
        let text = "fn f(a: &crate::x::Y) -> z::Result<()> { b::c(d.e::<F>()); Vec::<super::G>::new(); }";
        assert_eq!(paths(text), ["crate::x::Y", "z::Result", "b::c", "super::G"]);
        assert_eq!(paths("#[from] crate::error::Error"), ["crate::error::Error"]);
    }

    #[test]
    fn comments_and_literals_are_skipped() {
        let text = r###"
            // crate::a::b
            /* use crate::a; */ mod one;
            const TEXT: &str = "\"use crate::a;";
            const RAW: &[u8] = br#"use crate::"a";"#;
            const QUOTES: [char; 3] = ['"', '\'', '\\'];
            fn f<'a>(text: &'a str) -> &'a str { two::g(b'"', text) }
        "###;
        let source = Source::parse(text);
        assert_eq!(source.modules, ["one"]);
        assert_eq!((source.imports, source.paths), (vec![], vec![vec!["two".to_owned(), "g".to_owned()]]));
    }

    #[test]
    fn what_only_tests_have_is_skipped() {
        let text = "
            #[cfg(test)]
            mod simulation;
            mod kept;
            #[cfg(test)]
            #[allow(unused)]
            impl A { fn f() { crate::a::f([0; 2]); } }
            #[cfg(test)]
            mod tests { use crate::b; fn g() {} }
            use crate::c;
        ";
        let source = Source::parse(text);
        assert_eq!(source.modules, ["kept"]);
        assert!(source.paths.is_empty(), "{:?}", source.paths);
        assert_eq!(imports(text), ["crate::c = c"]);
    }
}
