use std::collections::{HashSet, VecDeque};

use serde_json::{Map, Value};

use super::envelope;
use crate::context::RequestContext;

/// Identifiers that are remembered to tell a message that comes twice: more than can be under way.
const REMEMBERED: usize = 16_384;

/// A message that asks for something.
#[derive(Debug)]
pub struct Call {
    /// Who asks.
    pub context: RequestContext,
    /// What is asked for.
    pub method: String,
    /// Its arguments by name.
    pub arguments: Map<String, Value>,
    /// The namespace of the method; most have none.
    pub namespace: Option<String>,
    /// The version of the interface that the sender has in mind.
    pub version: Version,
    /// Where the answer goes, unless this is a cast.
    pub(super) reply: Option<ReplyTo>,
}

/// The queue of a caller, and the identifier by which it knows its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    pub queue: String,
    pub id: String,
}

/// The version of an RPC interface: a caller's fits where the major number is the same and the minor one not higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Changes of this break callers.
    pub major: u32,
    /// Changes of this add something.
    pub minor: u32,
}

/// An interface that a server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its version.
    pub version: Version,
}

impl Version {
    /// That of a message, or of an endpoint, that names none.
    pub const DEFAULT: Self = Self { major: 1, minor: 0 };

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// Whether an interface of this version serves a caller of `asked`.
    pub fn serves(self, asked: Self) -> bool {
        self.major == asked.major && self.minor >= asked.minor
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Endpoint {
    /// Whether the call is for this interface.
    pub fn serves(&self, call: &Call) -> bool {
        self.namespace == call.namespace && self.version.serves(call.version)
    }
}

impl Call {
    /// A cast of this service's own, of the default version.
    pub fn new(context: RequestContext, method: &str, arguments: Map<String, Value>) -> Self {
        let method = method.to_owned();
        Self { context, method, arguments, namespace: None, version: Version::DEFAULT, reply: None }
    }

    /// Reads the body of a delivery. The error says what is wrong with it, and names the message as far as that is known.
    pub(super) fn read(body: &[u8], seen: &mut Seen) -> Result<Self, Unreadable> {
        let mut message = envelope::open(body).map_err(|e| Unreadable::Malformed(e.to_string()))?;
        let id = text(&mut message, "_unique_id").unwrap_or_default();
        if !id.is_empty() && !seen.is_new(&id) {
            return Err(Unreadable::Twice(id));
        }
        Self::from_message(message).map_err(|reason| Unreadable::Malformed(format!("{id}: {reason}")))
    }

    fn from_message(mut message: Map<String, Value>) -> Result<Self, String> {
        let context = RequestContext::take_from(&mut message).map_err(|e| format!("its context: {e}"))?;
        let method = text(&mut message, "method").ok_or("it names no method")?;
        let arguments = match message.remove("args") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(format!("the arguments of {method} are no object")),
        };
        let reply = text(&mut message, "_reply_q").zip(text(&mut message, "_msg_id"));
        let version = match text(&mut message, "version") {
            None => Version::DEFAULT,
            Some(version) => {
                Version::parse(&version).ok_or_else(|| format!("version {version:?} of {method} is none"))?
            }
        };
        Ok(Self {
            context,
            method,
            arguments,
            namespace: text(&mut message, "namespace"),
            version,
            reply: reply.map(|(queue, id)| ReplyTo { queue, id }),
        })
    }
}

/// Why there is nothing to do for a message.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("{0}")]
    Malformed(String),
    #[error("{0} came twice")]
    Twice(String),
}

fn text(message: &mut Map<String, Value>, name: &str) -> Option<String> {
    match message.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Identifiers of the latest messages.
#[derive(Default)]
pub struct Seen {
    order: VecDeque<String>,
    all: HashSet<String>,
}

impl Seen {
    /// Whether `id` is new; from now on it is not.
    fn is_new(&mut self, id: &str) -> bool {
        if !self.all.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(message: Value) -> Result<Call, String> {
        let Value::Object(message) = message else { unreachable!() };
        Call::from_message(message)
    }

    #[test]
    fn calls_and_casts_are_told_apart() {
        let cast =
            call(json!({ "method": "m", "args": { "a": 1 }, "_context_request_id": "req-1" })).unwrap();
        assert_eq!((cast.method.as_str(), cast.version, cast.reply.is_none()), ("m", Version::DEFAULT, true));
        assert_eq!(cast.context.request_id.as_deref(), Some("req-1"));
        let call = call(json!({ "method": "m", "_msg_id": "i", "_reply_q": "q", "version": "1.1" })).unwrap();
        assert_eq!(call.reply, Some(ReplyTo { queue: "q".into(), id: "i".into() }));
        assert_eq!(call.version.to_string(), "1.1");
    }

    #[test]
    fn malformed_messages_say_why() {
        assert_eq!(call(json!({ "args": {} })).unwrap_err(), "it names no method");
        assert_eq!(
            call(json!({ "method": "m", "args": [] })).unwrap_err(),
            "the arguments of m are no object"
        );
        assert!(call(json!({ "method": "m", "_context_is_admin": "maybe" })).is_err());
        assert_eq!(
            call(json!({ "method": "m", "version": "new" })).unwrap_err(),
            "version \"new\" of m is none"
        );
    }

    #[test]
    fn an_endpoint_serves_older_callers_of_its_own_namespace() {
        let endpoint = |namespace: Option<&str>, major, minor| Endpoint {
            namespace: namespace.map(str::to_owned),
            version: Version { major, minor },
        };
        let asked = |version: &str, namespace: Value| {
            call(json!({ "method": "m", "version": version, "namespace": namespace })).unwrap()
        };
        assert!(endpoint(None, 6, 4).serves(&asked("6.0", Value::Null)));
        assert!(!endpoint(None, 6, 4).serves(&asked("6.5", Value::Null)));
        assert!(!endpoint(None, 6, 4).serves(&asked("5.0", Value::Null)));
        assert!(!endpoint(None, 6, 4).serves(&asked("6.0", json!("baseapi"))));
        assert!(endpoint(Some("baseapi"), 1, 1).serves(&asked("1.1", json!("baseapi"))));
    }

    #[test]
    fn a_message_is_new_once() {
        let mut seen = Seen::default();
        assert!(seen.is_new("a"));
        assert!(!seen.is_new("a"));
        for number in 0..REMEMBERED {
            assert!(seen.is_new(&number.to_string()));
        }
        assert!(seen.is_new("a"), "old identifiers are forgotten");
    }
}
