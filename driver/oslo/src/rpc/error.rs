use std::fmt;

use serde_json::{Map, Value, json};

/// An exception that crosses the wire: the caller's side raises it again if it knows the class.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteError {
    /// The exception's class.
    pub class: String,
    /// The Python module that has it.
    pub module: String,
    /// Its text.
    pub message: String,
    /// Keyword arguments with which the class is made again, and from which it may format its text.
    pub kwargs: Map<String, Value>,
}

impl RemoteError {
    /// An exception of `module`.
    pub fn new(module: &str, class: &str, message: impl Into<String>) -> Self {
        Self { class: class.into(), module: module.into(), message: message.into(), kwargs: Map::new() }
    }

    /// oslo.messaging's answer to a method that the server does not have.
    pub fn no_such_method(method: &str) -> Self {
        let message = format!("Endpoint does not support RPC method {method}");
        let mut error = Self::new("oslo_messaging.rpc.dispatcher", "NoSuchMethod", message);
        error.kwargs.insert("method".into(), json!(method));
        error
    }

    /// oslo.messaging's answer to a version that the server does not speak.
    pub fn unsupported_version(version: &str) -> Self {
        let message = format!("Endpoint does not support RPC version {version}");
        Self::new("oslo_messaging.rpc.dispatcher", "UnsupportedVersion", message)
    }

    /// The failure field of a reply: JSON in a string.
    pub(super) fn to_wire(&self) -> String {
        json!({
            "class": self.class,
            "module": self.module,
            "message": self.message,
            "tb": [],
            "args": [self.message],
            "kwargs": self.kwargs,
        })
        .to_string()
    }

    pub(super) fn from_wire(text: &str) -> Self {
        let fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            class: field("class"),
            module: field("module"),
            message: field("message"),
            kwargs: fields.get("kwargs").and_then(Value::as_object).cloned().unwrap_or_default(),
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for RemoteError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_wire() {
        let mut error = RemoteError::new("zun.common.exception", "Conflict", "no \"room\"");
        error.kwargs.insert("code".into(), json!(409));
        assert_eq!(RemoteError::from_wire(&error.to_wire()), error);
        assert_eq!(RemoteError::from_wire("nonsense").class, "");
    }
}
