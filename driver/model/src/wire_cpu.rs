//! Numbers of CPUs: single precision in the database, double on the wire. `0.1` stays `0.1`: the shortest decimal that names
//! the one is what the other is made of.

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn serialize<S: Serializer>(cpus: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    let double = cpus.map(|cpus| cpus.to_string().parse::<f64>()).transpose();
    double.map_err(S::Error::custom)?.serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
    Option::deserialize(deserializer)
}
