//! oslo.config's dialect of INI: options before any section belong to `DEFAULT`, a line that starts with white
//! space continues the value above it, a repeated option is a list, `$name` stands for another option.

use std::collections::BTreeMap;

/// Options by group and name, each with its values in order.
pub type Options = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// A line that is none of the dialect's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct SyntaxError {
    line: usize,
    reason: &'static str,
}

/// Options that stand in no section.
pub const DEFAULT_GROUP: &str = "DEFAULT";
/// Deepest chain of `$name` references.
const REFERENCE_DEPTH: usize = 10;

/// Adds the options of `text` to `options`; an option of a later file replaces that of an earlier one.
pub fn parse(text: &str, options: &mut Options) -> Result<(), SyntaxError> {
    let mut group = DEFAULT_GROUP.to_owned();
    let mut found = Options::new();
    let mut current: Option<(String, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let error = |reason| SyntaxError { line: number, reason };
        let trimmed = line.trim();
        if trimmed.is_empty() {
            current = None;
        } else if trimmed.starts_with('#') || trimmed.starts_with(';') {
        } else if line.starts_with([' ', '\t']) {
            let (group, name) = current.as_ref().ok_or(error("a continuation continues nothing"))?;
            let last = found.get_mut(group).and_then(|names| names.get_mut(name)).and_then(|v| v.last_mut());
            if let Some(value) = last {
                value.push('\n');
                value.push_str(trimmed);
            }
        } else if let Some(name) = trimmed.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or(error("a section's name has no end"))?;
            group = name.to_owned();
            current = None;
        } else {
            let split = trimmed.find(['=', ':']).ok_or(error("an option has no '='"))?;
            let (name, value) = (trimmed[..split].trim(), trimmed[split + 1..].trim());
            if name.is_empty() {
                return Err(error("an option has no name"));
            }
            let value = unquote(value).to_owned();
            found.entry(group.clone()).or_default().entry(name.to_owned()).or_default().push(value);
            current = Some((group.clone(), name.to_owned()));
        }
    }
    for (group, names) in found {
        options.entry(group).or_default().extend(names);
    }
    Ok(())
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

/// Replaces `$name`, `${name}` and `${group.name}` in `value`, an option of `group`; `$$` and `\$` are a dollar
/// sign. What names nothing stays as it is.
pub fn interpolate(value: &str, group: &str, options: &Options) -> String {
    expand(value, group, options, REFERENCE_DEPTH)
}

fn expand(value: &str, group: &str, options: &Options, depth: usize) -> String {
    let mut result = String::new();
    let mut rest = value;
    while let Some(dollar) = rest.find('$') {
        let (before, after) = (&rest[..dollar], &rest[dollar + 1..]);
        if let Some(before) = before.strip_suffix('\\') {
            result.push_str(before);
            result.push('$');
            rest = after;
            continue;
        }
        result.push_str(before);
        let (name, next) = reference(after);
        let target = (depth > 0).then(|| lookup(name, group, options)).flatten();
        match target {
            _ if after.starts_with('$') => {
                result.push('$');
                rest = &after[1..];
            }
            Some((group, value)) => {
                result.push_str(&expand(value, group, options, depth - 1));
                rest = next;
            }
            None => {
                result.push('$');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

/// The name behind a dollar sign, and what follows it.
fn reference(text: &str) -> (&str, &str) {
    if let Some((name, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name, rest);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

/// An option's value: of the named group, or of the same group, or of `DEFAULT`.
fn lookup<'a>(name: &'a str, group: &'a str, options: &'a Options) -> Option<(&'a str, &'a str)> {
    let candidates = match name.split_once('.') {
        Some((group, name)) => [(group, name), (group, name)],
        None => [(group, name), (DEFAULT_GROUP, name)],
    };
    candidates
        .into_iter()
        .find_map(|(group, name)| Some((group, options.get(group)?.get(name)?.last()?.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Options {
        let mut options = Options::new();
        parse(text, &mut options).unwrap();
        options
    }

    #[test]
    fn any_text_is_read_or_refused() {
        bolero::check!().with_type::<String>().for_each(|text| {
            let _ = parse(text, &mut Options::new());
        });
    }

    #[test]
    fn sections_lists_and_continuations_are_read() {
        let options = parsed("debug = true\n[a]\nx=1\nx: 2\n# note\ny = one,\n  two\n[b]\nz = \"q\"\n");
        assert_eq!(options["DEFAULT"]["debug"], ["true"]);
        assert_eq!(options["a"]["x"], ["1", "2"]);
        assert_eq!(options["a"]["y"], ["one,\ntwo"]);
        assert_eq!(options["b"]["z"], ["q"]);
    }

    #[test]
    fn a_later_file_replaces() {
        let mut options = parsed("[a]\nx=1\ny=1\n");
        parse("[a]\nx=2\n", &mut options).unwrap();
        assert_eq!(
            (options["a"]["x"].as_slice(), options["a"]["y"].as_slice()),
            (&["2".into()][..], &["1".into()][..])
        );
    }

    #[test]
    fn references_are_followed() {
        let options = parsed("state_path = /var/lib/zun\nhost = h\n[a]\nhost = g\nloop = $loop\n");
        let value = |text| interpolate(text, "a", &options);
        assert_eq!(value("$state_path/x"), "/var/lib/zun/x");
        assert_eq!(value("$host ${DEFAULT.host} $$host \\$host $unknown"), "g h $host $host $unknown");
        assert!(value("$loop").contains("$loop"), "a loop ends");
    }

    #[test]
    fn nonsense_is_located() {
        let error = |text: &str| parse(text, &mut Options::new()).unwrap_err().to_string();
        assert_eq!(error("a = 1\nnonsense\n"), "line 2: an option has no '='");
        assert_eq!(error("[a\n"), "line 1: a section's name has no end");
        assert_eq!(error("  x\n"), "line 1: a continuation continues nothing");
    }
}
