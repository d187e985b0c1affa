//! `JsonField` of `zun/objects/fields.py`: JSON in a string; a value as it is will also do.

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sqlx::types::Json;

pub fn serialize<T: Serialize, S: Serializer>(
    field: &Option<Json<T>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = field.as_ref().map(|json| serde_json::to_string(&json.0)).transpose();
    text.map_err(S::Error::custom)?.serialize(serializer)
}

pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Json<T>>, D::Error> {
    let value: Result<Option<T>, _> = match Value::deserialize(deserializer)? {
        Value::String(text) => serde_json::from_str(&text),
        value => serde_json::from_value(value),
    };
    Ok(value.map_err(D::Error::custom)?.map(Json))
}
