//! The envelope of oslo.versionedobjects in Zun's namespace.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAME: &str = "zun_object.name";
const NAMESPACE: &str = "zun_object.namespace";
const VERSION: &str = "zun_object.version";
const DATA: &str = "zun_object.data";

/// Why a value is not the object that was expected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DecodeError {
    #[error("a {expected} was expected, this is {found}")]
    Other { expected: &'static str, found: String },
    #[error("version {version} of {name} is not supported")]
    Version { name: &'static str, version: String },
    #[error("the {name} is not valid: {source}")]
    Fields { name: &'static str, source: serde_json::Error },
}

/// Puts fields into an envelope.
pub fn versioned(name: &str, version: &str, data: Value) -> Value {
    json!({ NAME: name, NAMESPACE: "zun", VERSION: version, DATA: data })
}

/// Takes the fields of a `name` out of its envelope; any version of the same major one will do.
pub fn decode<T: DeserializeOwned>(name: &'static str, major: &str, value: &Value) -> Result<T, DecodeError> {
    let field = |key| value.get(key).and_then(Value::as_str).unwrap_or("nothing").to_owned();
    let found = field(NAME);
    if found != name {
        return Err(DecodeError::Other { expected: name, found });
    }
    let version = field(VERSION);
    if version.split('.').next() != Some(major) {
        return Err(DecodeError::Version { name, version });
    }
    let data = value.get(DATA).cloned().unwrap_or_default();
    serde_json::from_value(data).map_err(|source| DecodeError::Fields { name, source })
}

/// Puts an object into an envelope.
pub fn encode(name: &str, version: &str, object: &impl Serialize) -> Result<Value, serde_json::Error> {
    Ok(versioned(name, version, serde_json::to_value(object)?))
}
