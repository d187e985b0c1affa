use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::versioned;

/// CPUs that a container is pinned to. A message has a versioned object, a row has plain fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpuset {
    /// CPU numbers.
    pub cpuset_cpus: Option<Vec<u32>>,
    /// The NUMA node.
    pub cpuset_mems: Option<Value>,
}

impl Serialize for Cpuset {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let data = json!({ "cpuset_cpus": self.cpuset_cpus, "cpuset_mems": self.cpuset_mems });
        versioned::versioned("Cpuset", "1.0", data).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cpuset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            cpuset_cpus: Option<Vec<u32>>,
            cpuset_mems: Option<Value>,
        }
        let value = Value::deserialize(deserializer)?;
        let fields = value.get("zun_object.data").unwrap_or(&value);
        let Fields { cpuset_cpus, cpuset_mems } =
            Fields::deserialize(fields).map_err(serde::de::Error::custom)?;
        Ok(Self { cpuset_cpus, cpuset_mems })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpuset_is_read_from_a_row_too() {
        let row: Cpuset = serde_json::from_value(json!({ "cpuset_cpus": [0, 1], "cpuset_mems": 0 })).unwrap();
        assert_eq!(row.cpuset_cpus, Some(vec![0, 1]));
    }
}
