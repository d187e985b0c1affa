use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

const DEFAULT_PORT: u16 = 5672;

/// A broker's address with its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Broker {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
}

/// oslo.messaging's `transport_url`: `rabbit://user:password@host:port[,user:password@host:port…]/vhost[?query]`.
#[derive(Clone, PartialEq, Eq)]
pub struct TransportUrl {
    /// The brokers of one cluster.
    pub brokers: Vec<Broker>,
    /// The virtual host.
    pub virtual_host: String,
    /// Whether the query asks for TLS (`ssl=1`).
    pub tls: bool,
}

/// Why a text is no transport URL. It does not repeat the text, which holds a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("transport_url is not valid: {0}")]
pub struct ParseTransportUrlError(&'static str);

impl FromStr for TransportUrl {
    type Err = ParseTransportUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(ParseTransportUrlError("it has no scheme"))?;
        if !matches!(scheme, "rabbit" | "amqp" | "kombu") {
            return Err(ParseTransportUrlError("only rabbit:// is supported"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, virtual_host) = rest.split_once('/').unwrap_or((rest, ""));
        let brokers = hosts.split(',').map(broker).collect::<Result<Vec<_>, _>>()?;
        let tls = query.split('&').any(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            name == "ssl" && matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
        });
        let virtual_host = match decode(virtual_host)? {
            name if name.is_empty() => "/".to_owned(),
            name => name,
        };
        Ok(Self { brokers, virtual_host, tls })
    }
}

fn broker(text: &str) -> Result<Broker, ParseTransportUrlError> {
    let (credentials, address) = text.rsplit_once('@').unwrap_or(("guest:guest", text));
    let (username, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| ParseTransportUrlError("a port is not a number"))?)
        }
        _ => (address, DEFAULT_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(ParseTransportUrlError("a host is missing"));
    }
    Ok(Broker { host: host.to_owned(), port, username: decode(username)?, password: decode(password)? })
}

fn decode(text: &str) -> Result<String, ParseTransportUrlError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| ParseTransportUrlError("it is not UTF-8"))
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for TransportUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.brokers, self.virtual_host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> TransportUrl {
        text.parse().unwrap()
    }

    #[test]
    fn any_text_is_read_or_refused() {
        bolero::check!().with_type::<String>().for_each(|text| {
            for text in [text.clone(), format!("rabbit://{text}")] {
                if let Ok(url) = text.parse::<TransportUrl>() {
                    assert!(!url.brokers.is_empty(), "{text}");
                }
            }
        });
    }

    #[test]
    fn several_hosts_are_read() {
        let url = url("rabbit://u:p%40ss@a:1,v:q@[::1]:2,c/vh?ssl=1");
        assert_eq!(url.brokers.len(), 3);
        assert_eq!((url.brokers[0].password.as_str(), url.brokers[0].port), ("p@ss", 1));
        assert_eq!((url.brokers[1].host.as_str(), url.brokers[1].port), ("::1", 2));
        assert_eq!((url.brokers[2].username.as_str(), url.brokers[2].port), ("guest", 5672));
        assert_eq!((url.virtual_host.as_str(), url.tls), ("vh", true));
    }

    #[test]
    fn the_default_virtual_host_is_the_root() {
        assert_eq!(url("rabbit://a").virtual_host, "/");
        assert_eq!(url("rabbit://a/").virtual_host, "/");
        assert_eq!(url("rabbit://a/%2F").virtual_host, "/");
        assert!(!url("rabbit://a/?ssl=0").tls);
    }

    #[test]
    fn errors_and_debug_keep_the_password() {
        for bad in ["", "kafka://u:secret@a", "rabbit://u:secret@a:x/", "rabbit://u:secret@/"] {
            let error = bad.parse::<TransportUrl>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(!format!("{:?}", url("rabbit://u:secret@a/")).contains("secret"));
    }
}
