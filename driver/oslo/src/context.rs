use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// In a message each field of the context has this before its name.
const PREFIX: &str = "_context_";

/// Who asks, as `oslo.context` says it. Fields that this type does not name are kept and passed on.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct RequestContext {
    /// Names the request in every log.
    pub request_id: Option<String>,
    /// The caller's token.
    pub auth_token: Option<String>,
    /// The caller.
    pub user_id: Option<String>,
    /// The caller's project.
    pub project_id: Option<String>,
    /// Whether policy counts the caller as an administrator.
    pub is_admin: Option<bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl RequestContext {
    /// The request's name; empty where nobody asks.
    pub fn request(&self) -> &str {
        self.request_id.as_deref().unwrap_or_default()
    }

    /// Takes the context's fields out of a message.
    pub fn take_from(message: &mut Map<String, Value>) -> Result<Self, serde_json::Error> {
        let names: Vec<_> = message.keys().filter(|name| name.starts_with(PREFIX)).cloned().collect();
        let fields: Map<String, Value> = names
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(PREFIX)?.to_owned(), message.remove(&name)?)))
            .collect();
        serde_json::from_value(Value::Object(fields))
    }

    /// Puts the context's fields into a message.
    pub fn put_into(&self, message: &mut Map<String, Value>) -> Result<(), serde_json::Error> {
        if let Value::Object(fields) = serde_json::to_value(self)? {
            message.extend(fields.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)));
        }
        Ok(())
    }
}

impl fmt::Debug for RequestContext {
    /// Without the token and whatever else may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext")
            .field("request_id", &self.request_id)
            .field("user_id", &self.user_id)
            .field("project_id", &self.project_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_context_survives_a_message() {
        let Value::Object(message) = json!({
            "method": "m",
            "_context_request_id": "req-1",
            "_context_auth_token": "secret",
            "_context_is_admin": true,
            "_context_roles": ["member"],
        }) else {
            unreachable!()
        };
        let mut rest = message.clone();
        let context = RequestContext::take_from(&mut rest).unwrap();
        assert_eq!(rest.keys().collect::<Vec<_>>(), ["method"]);
        assert!(!format!("{context:?}").contains("secret"));
        context.put_into(&mut rest).unwrap();
        assert_eq!(rest["_context_roles"], message["_context_roles"]);
        assert_eq!(rest["_context_auth_token"], "secret");
    }
}
