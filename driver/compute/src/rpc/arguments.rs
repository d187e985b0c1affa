use model::{Container, ContainerUuid};
use oslo::Call;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A message's arguments by name.
pub struct Arguments(Map<String, Value>);

impl Arguments {
    /// The arguments of a call.
    pub fn of(call: &mut Call) -> Self {
        Self(std::mem::take(&mut call.arguments))
    }

    /// The argument `name`; one that is missing counts as null.
    pub fn get<T: DeserializeOwned>(&self, name: &'static str) -> Result<T> {
        let value = self.0.get(name).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|e| Error::invalid(name, e.to_string()))
    }

    /// The same, or what is meant where it is null.
    pub fn get_or<T: DeserializeOwned>(&self, name: &'static str, default: T) -> Result<T> {
        Ok(self.get::<Option<T>>(name)?.unwrap_or(default))
    }

    /// The argument as it came.
    pub fn raw(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// The container or the capsule that the message is about.
    pub fn row(&self) -> Result<Container> {
        let value = self.raw("container");
        let row = match Container::is_capsule_on_wire(value) {
            true => Container::capsule_from_wire(value)?,
            false => Container::from_wire(value)?,
        };
        Ok(row)
    }

    /// Its identifier, as far as the message can be read.
    pub fn uuid(&self) -> Option<ContainerUuid> {
        self.raw("container").pointer("/zun_object.data/uuid")?.as_str()?.parse().ok()
    }

    /// A number, which the API may send as a text; none where it is null, empty or Python's `None`.
    pub fn number(&self, name: &'static str) -> Result<Option<u64>> {
        match self.raw(name) {
            Value::Null => Ok(None),
            Value::String(text) if matches!(text.as_str(), "" | "None") => Ok(None),
            Value::String(text) => text.parse().map(Some).map_err(|_| not_a_number(name, text)),
            other => other.as_u64().map(Some).ok_or_else(|| not_a_number(name, &other.to_string())),
        }
    }
}

fn not_a_number(name: &'static str, text: &str) -> Error {
    Error::invalid(name, format!("{text:?} is no number"))
}
