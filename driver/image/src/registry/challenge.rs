//! What a registry asks for before it answers (RFC 9110 §11.6.1).

/// One way to be let in.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A name and a password.
    Basic,
    /// A token of the server at `realm` (the distribution project's token specification).
    Bearer {
        /// Where tokens are given, a URL.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

/// The challenges of one header that this client can meet.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        let after = after.trim_start_matches([' ', '\t']);
        rest = match (after.strip_prefix('='), found.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = quoted_or_token(value.trim_start_matches([' ', '\t']));
                parameters.push((word.to_ascii_lowercase(), value));
                after
            }
            // A value of nothing.
            (Some(after), None) => after,
            (None, _) => {
                found.push((word.to_ascii_lowercase(), Vec::new()));
                after
            }
        };
    }
    found.into_iter().filter_map(|(scheme, parameters)| Challenge::of(&scheme, parameters)).collect()
}

impl Challenge {
    fn of(scheme: &str, parameters: Vec<(String, String)>) -> Option<Self> {
        let take =
            |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        match scheme {
            "basic" => Some(Self::Basic),
            "bearer" => {
                let (service, scope) = (take("service"), take("scope"));
                take("realm").map(|realm| Self::Bearer { realm, service, scope })
            }
            _ => None,
        }
    }
}

/// A value and what follows it.
fn quoted_or_token(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[place + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.into(), service: own(service), scope: own(scope) }
    }

    #[test]
    fn what_registries_send_is_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/busybox:pull"),
        );
        assert_eq!(parse(hub), [expected]);
        assert_eq!(parse(r#"Basic realm="a, b=c""#), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Negotiate, BEARER Realm=https://r/t , scope = "a \"b\"", Basic realm=x"#),
            [bearer("https://r/t", None, Some("a \"b\"")), Challenge::Basic]
        );
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in ["", ",", "=", "=\"x", "Bearer", "Bearer service=x", "Digest realm=\"x\"", "Bearer realm"]
        {
            assert_eq!(parse(text), [], "{text}");
        }
        assert_eq!(parse("Bearer realm=\"never ends"), [bearer("never ends", None, None)]);
    }

    #[test]
    fn anything_is_read_to_its_end() {
        bolero::check!().with_type::<String>().for_each(|text| {
            parse(text);
        });
    }
}
