//! Times as oslo.versionedobjects writes them: UTC, to the second.

use serde::{Deserialize, Deserializer, Serializer};
use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

pub fn serialize<S: Serializer>(time: &Option<PrimitiveDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_str(&time.format(FORMAT).map_err(serde::ser::Error::custom)?),
        None => serializer.serialize_none(),
    }
}

pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PrimitiveDateTime>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| PrimitiveDateTime::parse(&text, FORMAT).map_err(serde::de::Error::custom)).transpose()
}
