//! Wire values and JSON values. What has its zero value on the wire is not said in JSON, unless a message says `always`.

use std::collections::HashMap;

use protobuf::{Message, MessageField};
use serde_json::{Map, Value};

/// A wire value that is a JSON value in the specification.
pub trait Json: Default {
    /// The wire form of `value`, whose type is right.
    fn from_json(value: &Value) -> Self;
    /// The JSON form.
    fn to_json(&self) -> Value;
    /// Whether the specification need not say it.
    fn is_unsaid(&self) -> bool;
}

macro_rules! plain {
    ($type:ty, $read:ident) => {
        impl Json for $type {
            fn from_json(value: &Value) -> Self {
                value.$read().and_then(|read| read.try_into().ok()).unwrap_or_default()
            }
            fn to_json(&self) -> Value {
                self.clone().into()
            }
            fn is_unsaid(&self) -> bool {
                *self == Self::default()
            }
        }
    };
}

plain!(bool, as_bool);
plain!(i64, as_i64);
plain!(u32, as_u64);
plain!(u64, as_u64);
plain!(String, as_str);

impl<T: Json> Json for Vec<T> {
    fn from_json(value: &Value) -> Self {
        value.as_array().into_iter().flatten().map(T::from_json).collect()
    }
    fn to_json(&self) -> Value {
        self.iter().map(T::to_json).collect()
    }
    fn is_unsaid(&self) -> bool {
        self.is_empty()
    }
}

impl Json for HashMap<String, String> {
    fn from_json(value: &Value) -> Self {
        let entries = value.as_object().into_iter().flatten();
        entries.map(|(key, value)| (key.clone(), String::from_json(value))).collect()
    }
    fn to_json(&self) -> Value {
        self.iter().map(|(key, value)| (key.clone(), value.to_json())).collect::<Map<_, _>>().into()
    }
    fn is_unsaid(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Json + Message> Json for MessageField<T> {
    fn from_json(value: &Value) -> Self {
        Self::some(T::from_json(value))
    }
    fn to_json(&self) -> Value {
        self.get_or_default().to_json()
    }
    fn is_unsaid(&self) -> bool {
        self.is_none()
    }
}

/// Says what the fields of a message are called in the specification.
macro_rules! message {
    ($message:ident { $($field:ident: $($always:ident)? $key:literal),* $(,)? }) => {
        impl Json for wire::$message {
            fn from_json(value: &Value) -> Self {
                let mut message = Self::default();
                $(
                    if let Some(value) = value.get($key) {
                        message.$field = Json::from_json(value);
                    }
                )*
                message
            }
            fn to_json(&self) -> Value {
                let mut object = serde_json::Map::new();
                $(
                    if message!(@always $($always)?) || !self.$field.is_unsaid() {
                        object.insert($key.to_owned(), self.$field.to_json());
                    }
                )*
                object.into()
            }
            fn is_unsaid(&self) -> bool {
                false
            }
        }
    };
    (@always always) => { true };
    (@always) => { false };
}

pub(super) use message;
