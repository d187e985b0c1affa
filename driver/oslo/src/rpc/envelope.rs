//! The outer form of a message: version 2.0 holds the inner message as JSON in a string.

use serde_json::{Map, Value, json};

const VERSION_KEY: &str = "oslo.version";
const MESSAGE_KEY: &str = "oslo.message";
const MAJOR: &str = "2";

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the message is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the message is no object")]
    NotAnObject,
    #[error("envelope version {0} is not supported")]
    Version(String),
}

/// Wraps a message.
pub fn seal(message: &Map<String, Value>) -> Result<Vec<u8>, EnvelopeError> {
    let inner = serde_json::to_string(message)?;
    Ok(serde_json::to_vec(&json!({ VERSION_KEY: "2.0", MESSAGE_KEY: inner }))?)
}

/// Unwraps a message. One without an envelope, as very old senders make it, is taken as it is.
pub fn open(bytes: &[u8]) -> Result<Map<String, Value>, EnvelopeError> {
    let outer = object(serde_json::from_slice(bytes)?)?;
    let Some(version) = outer.get(VERSION_KEY) else { return Ok(outer) };
    let version = version.as_str().unwrap_or_default();
    if version.split('.').next() != Some(MAJOR) {
        return Err(EnvelopeError::Version(version.to_owned()));
    }
    match outer.get(MESSAGE_KEY) {
        Some(Value::String(inner)) => object(serde_json::from_str(inner)?),
        _ => Err(EnvelopeError::NotAnObject),
    }
}

fn object(value: Value) -> Result<Map<String, Value>, EnvelopeError> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(EnvelopeError::NotAnObject),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_its_envelope() {
        let message = object(json!({ "method": "m", "args": { "a": [1, null, "ü"] } })).unwrap();
        assert_eq!(open(&seal(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn any_bytes_are_a_message_or_refused() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = open(bytes);
        });
    }

    #[test]
    fn other_things_are_refused() {
        for bad in
            ["", "[]", "{\"oslo.version\":\"3.0\",\"oslo.message\":\"{}\"}", "{\"oslo.version\":\"2.0\"}"]
        {
            assert!(open(bad.as_bytes()).is_err(), "{bad:?} was taken");
        }
        assert!(open(br#"{"oslo.version":"2.0","oslo.message":"[1]"}"#).is_err());
    }
}
